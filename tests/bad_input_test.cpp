// Every configuration of a cache that must be refused: one exception whose message names the value
// and the rule.
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "bad_input_test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

TEST(BadConfigTest, NumKVHeads) {
  for (const int heads : {0, -1}) {
    KVCacheConfig config = small_config();
    config.num_kv_heads = heads;
    expect_invalid([&] { KVCache<float> cache(config); },
                   {("num_kv_heads is " + std::to_string(heads)).c_str(), "at least 1"});
  }
}

TEST(BadConfigTest, NumQueryHeadsIsNotAMultiple) {
  for (const int heads : {-2, 0, 1, 7}) {
    KVCacheConfig config = small_config();
    config.num_query_heads = heads;
    expect_invalid(
        [&] { KVCache<float> cache(config); },
        {("num_query_heads is " + std::to_string(heads)).c_str(), "multiple of num_kv_heads = 2"});
  }
}

TEST(BadConfigTest, AnInvalidFormatOnEitherSide) {
  KVCacheConfig config = small_config();
  PolarFormat format = *config.key_format.polar();
  format.level_bits[0] = 9;
  config.key_format = format;
  expect_invalid([&] { KVCache<float> cache(config); }, {"key_format: level 1 has 9 bits"});
  config = small_config();
  format = *config.value_format.polar();
  format.level_bits[2] = 7;
  config.value_format = format;
  expect_invalid([&] { KVCache<float> cache(config); }, {"value_format: level 3 has 7 bits"});
}

TEST(BadConfigTest, AnUnknownRotation) {
  KVCacheConfig config = small_config();
  config.rotation = static_cast<RotationKind>(7);
  expect_invalid([&] { KVCache<float> cache(config); }, {"rotation is 7, not a RotationKind"});
}

TEST(BadConfigTest, CodebooksOfAnotherFormat) {
  KVCacheConfig config = small_config();
  PolarFormat format = *config.value_format.polar();
  format.codebooks = std::make_shared<const polarquant::CodebookSet>(
      polarquant::offline_codebooks(format_of(48, {4, 2})));
  config.value_format = format;
  expect_invalid([&] { KVCache<float> cache(config); },
                 {"value_format: ", "codebooks for 2 levels, the format has 4"});
}

TEST(BadConfigTest, ASharedCodecThatIsNull) {
  expect_invalid([] { KVCache<float> cache(small_config(), nullptr); }, {"without a codec"});
}

TEST(BadConfigTest, ASharedCodecOfAnotherFormat) {
  KVCacheConfig config = small_config();
  const auto codec = std::make_shared<const polarquant::KVCodec<float>>(config);
  PolarFormat format = *config.key_format.polar();
  format.radius_meaning = RadiusMeaning::kNorm;
  config.key_format = format;
  expect_invalid([&] { KVCache<float> cache(config, codec); },
                 {"the shared codec was made for keys in polar ", "the configuration has polar "});
  config = small_config();
  config.value_format = PolarFormat::paper(64);
  expect_invalid([&] { KVCache<float> cache(config, codec); },
                 {"the shared codec was made for values in ", "at head_dim 64"});
}

TEST(BadConfigTest, ASharedCodecOfAnotherRotationOrSeed) {
  const auto codec = std::make_shared<const polarquant::KVCodec<float>>(small_config());
  KVCacheConfig config = small_config();
  config.seed = 4;
  expect_invalid([&] { KVCache<float> cache(config, codec); }, {"another rotation or seed"});
  config = small_config();
  config.rotation = RotationKind::kHadamard;
  expect_invalid([&] { KVCache<float> cache(config, codec); }, {"another rotation or seed"});
}

TEST(BadConfigTest, ASharedCodecOfAnotherArithmetic) {
  const auto codec = std::make_shared<const polarquant::KVCodec<float>>(small_config());
  KVCacheConfig config = small_config();
  config.arithmetic = polarquant::Arithmetic::kExact;
  expect_invalid([&] { KVCache<float> cache(config, codec); },
                 {"the shared codec was made for another arithmetic"});
}

TEST(BadConfigTest, ASharedCodecDoesNotExcuseTheRest) {
  const auto codec = std::make_shared<const polarquant::KVCodec<float>>(small_config());
  KVCacheConfig config = small_config();
  config.num_query_heads = 7;
  expect_invalid([&] { KVCache<float> cache(config, codec); }, {"num_query_heads is 7"});
}

}  // namespace
