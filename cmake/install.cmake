# `cmake --install`: the headers, and a package that find_package(polarquant) finds.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(POLARQUANT_PACKAGE_DIR "${CMAKE_INSTALL_DATADIR}/cmake/polarquant")

install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/polarquant"
        DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
        FILES_MATCHING PATTERN "*.hpp" PATTERN "*.inl")
install(TARGETS polarquant EXPORT polarquantTargets
        INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT polarquantTargets NAMESPACE polarquant:: DESTINATION "${POLARQUANT_PACKAGE_DIR}")

configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/polarquantConfig.cmake.in"
                              "${PROJECT_BINARY_DIR}/polarquantConfig.cmake"
                              INSTALL_DESTINATION "${POLARQUANT_PACKAGE_DIR}"
                              NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/polarquantConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/polarquantConfig.cmake"
              "${PROJECT_BINARY_DIR}/polarquantConfigVersion.cmake"
        DESTINATION "${POLARQUANT_PACKAGE_DIR}")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")
