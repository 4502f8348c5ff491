# The export sets, and `cmake --install`: the headers, and a package that find_package(polarquant)
# finds. A project that contains us can export a target of its own that links ours; without
# POLARQUANT_INSTALL its installation gets nothing from here, and its package finds ours by itself.
include(GNUInstallDirs)

set(POLARQUANT_PACKAGE_DIR "${CMAKE_INSTALL_DATADIR}/cmake/polarquant")
if(POLARQUANT_INSTALL)
  set(POLARQUANT_OPTIONAL)
else()
  set(POLARQUANT_OPTIONAL EXCLUDE_FROM_ALL)
endif()

install(TARGETS polarquant EXPORT polarquantTargets
        INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT polarquantTargets NAMESPACE polarquant:: DESTINATION "${POLARQUANT_PACKAGE_DIR}"
        ${POLARQUANT_OPTIONAL})
export(EXPORT polarquantTargets NAMESPACE polarquant::
       FILE "${PROJECT_BINARY_DIR}/polarquantTargets.cmake")
if(POLARQUANT_COMPILED_LIBRARY)
  install(TARGETS polarquant_compiled EXPORT polarquantCompiledTargets
          ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" ${POLARQUANT_OPTIONAL})
  install(EXPORT polarquantCompiledTargets NAMESPACE polarquant::
          DESTINATION "${POLARQUANT_PACKAGE_DIR}" ${POLARQUANT_OPTIONAL})
  export(EXPORT polarquantCompiledTargets NAMESPACE polarquant::
         FILE "${PROJECT_BINARY_DIR}/polarquantCompiledTargets.cmake")
endif()

if(NOT POLARQUANT_INSTALL)
  return()
endif()

include(CMakePackageConfigHelpers)
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/polarquant"
        DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
        FILES_MATCHING PATTERN "*.hpp" PATTERN "*.inl")
configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/polarquantConfig.cmake.in"
                              "${PROJECT_BINARY_DIR}/polarquantConfig.cmake"
                              INSTALL_DESTINATION "${POLARQUANT_PACKAGE_DIR}"
                              NO_SET_AND_CHECK_MACRO)
set(POLARQUANT_ARCH ARCH_INDEPENDENT)
if(POLARQUANT_COMPILED_LIBRARY)
  set(POLARQUANT_ARCH)
endif()
write_basic_package_version_file("${PROJECT_BINARY_DIR}/polarquantConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion ${POLARQUANT_ARCH})
# Beside the other two: the folder of a build is a package, too.
configure_file("${CMAKE_CURRENT_LIST_DIR}/polarquantEigen.cmake"
               "${PROJECT_BINARY_DIR}/polarquantEigen.cmake" COPYONLY)
install(FILES "${PROJECT_BINARY_DIR}/polarquantConfig.cmake"
              "${PROJECT_BINARY_DIR}/polarquantConfigVersion.cmake"
              "${PROJECT_BINARY_DIR}/polarquantEigen.cmake"
        DESTINATION "${POLARQUANT_PACKAGE_DIR}")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")
