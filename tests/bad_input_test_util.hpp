// What the tests of bad input share.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>

#include "polarquant/polarquant.hpp"
#include "test_util.hpp"

namespace polarquant_test {

// Fails unless `call` throws std::invalid_argument with every one of `parts` in its message.
template <typename Call>
void expect_invalid(Call&& call, std::initializer_list<const char*> parts) {
  const std::string message = message_of<std::invalid_argument>(call);
  EXPECT_EQ(message.rfind("polarquant: ", 0), 0u) << "message: " << message;
  for (const char* const part : parts) {
    EXPECT_NE(message.find(part), std::string::npos)
        << "message: " << message << "\nlacks: " << part;
  }
}

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
