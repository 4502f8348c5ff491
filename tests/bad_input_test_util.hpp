// What the tests of bad input share.
#pragma once

#include "polarquant/polarquant.hpp"
#include "test_util.hpp"

namespace polarquant_test {

inline polarquant::KVCacheConfig small_config() {
  polarquant::KVCacheConfig config;
  config.num_kv_heads = 2;
  config.num_query_heads = 6;
  config.key_format = polarquant::PolarFormat::paper(32);
  config.value_format = polarquant::PolarFormat::paper(48);
  config.seed = 3;
  polarquant_test::encode_all(config);
  return config;
}

}  // namespace polarquant_test
