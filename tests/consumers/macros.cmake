# Names that headers of others define as macros hit no name of ours: it compiles.
add_executable(macros macros.cpp)
target_link_libraries(macros PRIVATE polarquant_development_headers)
target_compile_options(macros PRIVATE -O0)
add_test(NAME consumer.macros COMMAND macros)
