# Flags that let a compiler change float arithmetic, C++23, and what runs before main. Included by
# CMakeLists.txt.

# Each compiles the library once more: -O1 is enough to go wrong.
set(float_flags_of_plain "")
set(float_flags_of_fast -Ofast)
set(float_flags_of_associative -fassociative-math -fno-signed-zeros -fno-trapping-math)
set(float_flags_of_finite -ffinite-math-only)
set(float_flags_of_rounding -frounding-math)
set(float_flags_of_cxx23 -std=c++2b)  # clang 14 misaligned over-aligned members here
set(isas "best")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(isas scalar avx2 avx512)
endif()
foreach(kind plain fast associative finite rounding cxx23)
  set(name float_flags_${kind})
  add_executable(${name} float_flags.cpp)
  target_link_libraries(${name} PRIVATE polarquant_development)
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1> ${float_flags_of_${kind}})
  foreach(isa IN LISTS isas)
    add_test(NAME consumer.${name}.${isa} COMMAND ${name})
    set_tests_properties(consumer.${name}.${isa} PROPERTIES SKIP_REGULAR_EXPRESSION
                         "which this machine or build does not have")
    if(NOT isa STREQUAL "best")
      set_tests_properties(consumer.${name}.${isa} PROPERTIES ENVIRONMENT POLARQUANT_ISA=${isa})
    endif()
  endforeach()
endforeach()

# A plain unit beside one with the flag, which comes first: its inline functions must not be those
# that the plain unit gets.
add_executable(float_flags_units float_flags_other.cpp float_flags.cpp)
target_link_libraries(float_flags_units PRIVATE polarquant_development)
set_source_files_properties(float_flags_other.cpp PROPERTIES COMPILE_OPTIONS -ffast-math)
add_test(NAME consumer.float_flags_units COMMAND float_flags_units)

add_executable(before_main before_main.cpp)
target_link_libraries(before_main PRIVATE polarquant_development)
add_test(NAME consumer.before_main COMMAND before_main)

# What cannot work is refused with a sentence.
function(polarquant_refuses name flags sentence)
  add_test(NAME consumer.refuses_${name}
           COMMAND "${CMAKE_CXX_COMPILER}" ${flags} -fsyntax-only "-I${PROJECT_SOURCE_DIR}/include"
                   -x c++ "${PROJECT_SOURCE_DIR}/include/polarquant/method/rotation.hpp")
  set_tests_properties(consumer.refuses_${name} PROPERTIES PASS_REGULAR_EXPRESSION "${sentence}")
endfunction()
polarquant_refuses(cxx14 "-std=c++14" "polarquant needs C\\+\\+17")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  polarquant_refuses(x87 "-std=c++17;-mfpmath=387" "polarquant needs float arithmetic in float")
endif()
