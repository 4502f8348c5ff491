# polarquant::compiled, a static library: polarquant::polarquant, whose templates for float and double
# its users do not compile themselves (include/polarquant/compiled.hpp).
file(GLOB POLARQUANT_COMPILED_FILES CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/*.cpp")
add_library(polarquant_compiled STATIC ${POLARQUANT_COMPILED_FILES})
add_library(polarquant::compiled ALIAS polarquant_compiled)
set_target_properties(polarquant_compiled PROPERTIES EXPORT_NAME compiled
                                                     POSITION_INDEPENDENT_CODE ON)
target_link_libraries(polarquant_compiled PUBLIC polarquant::polarquant)
target_compile_definitions(polarquant_compiled PRIVATE POLARQUANT_COMPILE)

# Debug checks have a namespace of their own (version.hpp). Whoever finds the installed library and
# is built with them, but the library is not, or the other way round, takes the headers alone.
set(POLARQUANT_CHECKED $<NOT:$<OR:$<CONFIG:Release>,$<CONFIG:RelWithDebInfo>,$<CONFIG:MinSizeRel>>>)
if(CMAKE_CONFIGURATION_TYPES OR CMAKE_BUILD_TYPE MATCHES "^(Release|RelWithDebInfo|MinSizeRel)$")
  set(POLARQUANT_SAME_CHECKS $<NOT:${POLARQUANT_CHECKED}>)
else()
  set(POLARQUANT_SAME_CHECKS ${POLARQUANT_CHECKED})
endif()
target_compile_definitions(polarquant_compiled INTERFACE
                           $<BUILD_INTERFACE:POLARQUANT_COMPILED>
                           $<INSTALL_INTERFACE:$<${POLARQUANT_SAME_CHECKS}:POLARQUANT_COMPILED>>)
