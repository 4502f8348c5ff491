# What our own tests, benchmarks and examples are compiled with. Never installed, never exported.
set(POLARQUANT_WARNINGS -Wall -Wextra -Wpedantic -Wconversion -Wshadow)
if(POLARQUANT_WERROR)
  list(APPEND POLARQUANT_WARNINGS -Werror)
endif()
if(POLARQUANT_SANITIZE)
  set(POLARQUANT_SANITIZE_FLAGS -fsanitize=address,undefined -fno-sanitize-recover=all
                                -fno-omit-frame-pointer)
endif()

function(polarquant_development_flags target scope)
  target_compile_features(${target} ${scope} cxx_std_${POLARQUANT_CXX_STANDARD})
  target_compile_options(${target} ${scope} ${POLARQUANT_WARNINGS} ${POLARQUANT_SANITIZE_FLAGS})
  target_link_options(${target} ${scope} ${POLARQUANT_SANITIZE_FLAGS})
endfunction()

# With the headers alone, for what is built with other flags than the rest.
add_library(polarquant_development_headers INTERFACE)
target_link_libraries(polarquant_development_headers INTERFACE polarquant::polarquant)
polarquant_development_flags(polarquant_development_headers INTERFACE)

# With what the library compiles once, where it is built. A fuzzer must see into all of it.
add_library(polarquant_development INTERFACE)
target_link_libraries(polarquant_development INTERFACE polarquant_development_headers)
if(POLARQUANT_COMPILED_LIBRARY)
  polarquant_development_flags(polarquant_compiled PRIVATE)
endif()
if(POLARQUANT_COMPILED_LIBRARY AND NOT POLARQUANT_BUILD_FUZZ)
  target_link_libraries(polarquant_development INTERFACE polarquant::compiled)
endif()
