// What the tests of the cache share: a small one, filled, and all its codes.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <vector>

#include "polarquant/kv_cache.hpp"
#include "test_util.hpp"

namespace polarquant_test {

// Keys 32 wide, values 48, two KV heads, six query heads; odd and even numbers of bytes.
inline polarquant::KVCacheConfig make_config() {
  polarquant::KVCacheConfig config;
  config.num_kv_heads = 2;
  config.num_query_heads = 6;
  config.key_format = polarquant::PolarFormat::full_depth(32, 3.5);
  config.value_format = polarquant::PolarFormat::paper(48);
  config.rotation = polarquant::RotationKind::kHaar;
  config.seed = 3;
  encode_all(config);
  return config;
}

template <typename T>
std::vector<std::byte> all_codes(const polarquant::KVCache<T>& cache) {
  std::vector<std::byte> codes;
  for (std::size_t token = 0; token < cache.num_tokens(); ++token) {
    for (int head = 0; head < cache.config().num_kv_heads; ++head) {
      for (const std::vector<std::byte>& code :
           {cache.key_code(head, token), cache.value_code(head, token)}) {
        codes.insert(codes.end(), code.begin(), code.end());
      }
    }
  }
  return codes;
}

template <typename T>
polarquant::KVCache<T> filled_cache(Eigen::Index num_tokens) {
  polarquant::KVCache<T> cache(make_config());
  cache.append(gaussian_matrix<T>(num_tokens, 64, 1), gaussian_matrix<T>(num_tokens, 96, 2));
  return cache;
}

}  // namespace polarquant_test
