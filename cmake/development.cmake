# What our own tests, benchmarks and examples are compiled with. Never installed, never exported.
add_library(polarquant_development INTERFACE)
target_link_libraries(polarquant_development INTERFACE polarquant::polarquant)
target_compile_features(polarquant_development INTERFACE cxx_std_${POLARQUANT_CXX_STANDARD})

set(POLARQUANT_WARNINGS -Wall -Wextra -Wpedantic -Wconversion -Wshadow)
target_compile_options(polarquant_development INTERFACE ${POLARQUANT_WARNINGS})
if(POLARQUANT_WERROR)
  target_compile_options(polarquant_development INTERFACE -Werror)
endif()

if(POLARQUANT_SANITIZE)
  set(POLARQUANT_SANITIZE_FLAGS -fsanitize=address,undefined -fno-sanitize-recover=all
                                -fno-omit-frame-pointer)
  target_compile_options(polarquant_development INTERFACE ${POLARQUANT_SANITIZE_FLAGS})
  target_link_options(polarquant_development INTERFACE ${POLARQUANT_SANITIZE_FLAGS})
endif()
