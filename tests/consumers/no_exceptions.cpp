// A program built with -fno-exceptions: an error reaches the handler that the user defines, and
// forgetting to define one (POLARQUANT_TEST_WITHOUT_HANDLER) does not compile.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#ifndef POLARQUANT_TEST_WITHOUT_HANDLER
[[noreturn]] inline void on_polarquant_error(const char* message) {
  std::fprintf(stderr, "%s\n", message);
  std::exit(std::strncmp(message, "polarquant: ", 12) == 0 ? 0 : 1);
}
#define POLARQUANT_ON_ERROR(message) on_polarquant_error(message)
#endif

#include "attend_once.hpp"

int main() {
  if (attend_once().empty()) return 1;

  polarquant::KVCacheConfig config;
  config.num_kv_heads = 2;
  config.num_query_heads = 3;  // Not a multiple of num_kv_heads.
  config.key_format = polarquant::PolarFormat::paper(64);
  config.value_format = polarquant::PolarFormat::paper(64);
  polarquant::KVCache<float> cache(config);
  return 1;  // The handler was not called.
}
