// A program built with -fno-exceptions: everything works, an error reaches the handler that the
// user defines, and forgetting to define one (POLARQUANT_TEST_WITHOUT_HANDLER) does not compile.
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

#include <sstream>
#include <string>
#include <vector>

#include "attend_once.hpp"

namespace {

// A copy that grows, a front that is dropped, and a cache that is saved and loaded.
bool copy_save_and_load() {
  polarquant::KVCacheConfig config;
  config.key_format = config.value_format = polarquant::PolarFormat::paper(16);
  polarquant::KVCache<float> cache(config);
  polarquant::RowMatrix<float> rows(300, 16);
  fill(rows, 4);
  cache.append(rows, rows);
  polarquant::KVCache<float> copy = cache.copy();
  copy.append(rows, rows);
  copy.drop_front(100);
  std::vector<std::byte> bytes(polarquant::saved_bytes(copy));
  polarquant::save(copy, bytes.data(), bytes.size());
  polarquant::load(bytes.data(), bytes.size(), cache);
  return cache.num_tokens() == copy.num_tokens() && cache.decode_keys(0) == copy.decode_keys(0);
}

}  // namespace

// The argument says which error to make: of a configuration, or of loading.
int main(int argc, char** argv) {
  if (attend_once().empty() || !copy_save_and_load()) return 1;

  polarquant::KVCacheConfig config;
  config.key_format = config.value_format = polarquant::PolarFormat::paper(64);
  if (argc > 1 && std::string(argv[1]) == "load") {
    polarquant::KVCache<float> cache(config);
    std::istringstream stream("no saved cache, but long enough to be one");
    polarquant::load(stream, cache);
  }
  config.num_kv_heads = 2;
  config.num_query_heads = 3;  // Not a multiple of num_kv_heads.
  polarquant::KVCache<float> cache(config);
  return 1;  // The handler was not called.
}
