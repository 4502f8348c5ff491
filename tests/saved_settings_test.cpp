// What a saved cache says of itself, and what the cache that it is loaded into must have in common.
#include "polarquant/saving/saved_settings.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "saving_test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

// 3.5 bits of keys, so that the formats' names are told apart from those of make_config().
KVCacheConfig config_of() {
  KVCacheConfig config = make_config();
  config.key_format = polarquant_test::format_of(32, {4, 2, 2, 2, 2});
  return config;
}

// The format of the values, changed.
KVCacheConfig with_values(const std::function<void(PolarFormat&)>& change) {
  KVCacheConfig config = config_of();
  PolarFormat format = PolarFormat::paper(48);
  change(format);
  config.value_format = format;
  return config;
}

TEST(SavedSettingsTest, ADifferenceIsNamedWithBothValues) {
  KVCache<float> cache(config_of());
  polarquant_test::append_random(cache, 3, 1);
  const Bytes bytes = saved(cache);
  const auto expect_config = [&bytes](const KVCacheConfig& config, const std::string& what) {
    const std::string message = loading_error(bytes, KVCache<float>(config));
    EXPECT_NE(message.find("loading: the saved cache has " + what), std::string::npos) << message;
  };
  const auto expect = [&](const std::function<void(KVCacheConfig&)>& change,
                          const std::string& what) {
    KVCacheConfig config = config_of();
    change(config);
    expect_config(config, what);
  };
  expect([](KVCacheConfig& config) { config.num_kv_heads = 3; },
         "num_kv_heads 2, this cache has 3");
  expect([](KVCacheConfig& config) { config.num_sink_tokens = 1; },
         "num_sink_tokens 0, this cache has 1");
  expect([](KVCacheConfig& config) { config.num_recent_tokens = 64; },
         "num_recent_tokens 0, this cache has 64");
  expect([](KVCacheConfig& config) { config.exact_type = FloatType::kBFloat16; },
         "exact_type float32, this cache has bfloat16");
  expect([](KVCacheConfig& config) { config.centering = Centering::kLocal; },
         "centering kNone, this cache has kLocal");
  expect([](KVCacheConfig& config) { config.key_format = PolarFormat::paper(64); },
         "keys in polar 4/2/2/2/2 1 bfloat16 at head_dim 32, this cache has "
         "polar 4/2/2/2 4 bfloat16 at head_dim 64");
  expect([](KVCacheConfig& config) { config.key_format = PolarFormat::uncompressed(32); },
         "keys in polar 4/2/2/2/2 1 bfloat16 at head_dim 32, this cache has "
         "uncompressed 32 float16 at head_dim 32");
  expect([](KVCacheConfig& config) { config.key_format = plain_8bit(32); },
         "keys in polar 4/2/2/2/2 1 bfloat16 at head_dim 32, this cache has "
         "a format of the family \"plain\"");
  expect_config(with_values([](PolarFormat& format) { format.level_bits[1] = 3; }),
                "values in polar 4/2/2/2 3 bfloat16 at head_dim 48, this cache has "
                "polar 4/3/2/2 3 bfloat16 at head_dim 48");
  expect_config(with_values([](PolarFormat& format) { format.radius_type = FloatType::kFloat16; }),
                "values in polar 4/2/2/2 3 bfloat16 at head_dim 48, this cache has "
                "polar 4/2/2/2 3 float16 at head_dim 48");
  expect_config(with_values([](PolarFormat& format) {
                  format.radius_meaning = polarquant::RadiusMeaning::kLeastSquares;
                }),
                "values in polar 4/2/2/2 3 bfloat16 at head_dim 48, this cache has "
                "polar 4/2/2/2 3 bfloat16 of least squares at head_dim 48");
  const auto with_codebooks = [](double shift) {
    return [shift](PolarFormat& format) {
      auto codebooks =
          std::make_shared<polarquant::CodebookSet>(polarquant::offline_codebooks(format));
      std::vector<double> centroids = codebooks->levels[2].centroids();
      centroids[1] += shift;
      codebooks->levels[2] = polarquant::AngleCodebook::from_centroids(centroids, false);
      format.codebooks = codebooks;
    };
  };
  expect_config(with_values(with_codebooks(1e-9)),
                "values in polar 4/2/2/2 3 bfloat16 at head_dim 48, this cache has "
                "polar 4/2/2/2 3 bfloat16 at head_dim 48, given codebooks");
  expect([](KVCacheConfig& config) { config.rotation = RotationKind::kHadamard; },
         "a key rotation kHaar of seed 3, this cache has kHadamard of seed 3");
  expect([](KVCacheConfig& config) { config.seed = 4; },
         "a key rotation kHaar of seed 3, this cache has kHaar of seed 4");
  // Codebooks are what they hold, whoever gave them; two sets of given ones have the same name.
  KVCache<float> given(with_values(with_codebooks(0.0)));
  EXPECT_EQ(polarquant::load(bytes.data(), bytes.size(), given), bytes.size());
  KVCache<float> other(with_values(with_codebooks(1e-9)));
  EXPECT_EQ(loading_error(saved(other), KVCache<float>(with_values(with_codebooks(2e-9)))),
            "polarquant: loading: the values of the saved cache have other codebooks or another "
            "rotation than this cache's, though their names are the same");
}

TEST(SavedSettingsTest, WidthsOfAnotherFamilyAreToldApart) {
  KVCacheConfig config = make_config<polarquant_test::Plain8BitFamily>();
  const Bytes bytes = saved(filled_cache<float>(3, config));
  config.value_format = plain_8bit(32);
  EXPECT_NE(loading_error(bytes, KVCache<float>(config)), "");
}

// ---- read_saved_info ----

TEST(SavedInfoTest, IsWhatTheCacheHas) {
  KVCacheConfig config = polarquant_test::segments_config(4, 50, Centering::kGiven);
  config.value_mean.assign(polarquant_test::kValueColumns, -1.5f);
  config.seed = 77;
  KVCache<float> cache(config);
  polarquant_test::append_random(cache, 200, 1);
  cache.remove({5, 10});
  const Bytes bytes = saved(cache);
  const polarquant::SavedCacheInfo info = read_saved_info(bytes.data(), bytes.size());
  EXPECT_EQ(info.version, 3u);
  EXPECT_EQ(info.num_bytes, bytes.size());
  EXPECT_EQ(info.num_tokens, 200u);
  EXPECT_EQ(info.key_format, config.key_format.description());
  EXPECT_EQ(info.value_format, config.value_format.description());
  EXPECT_EQ(info.config.num_kv_heads, 2);
  EXPECT_EQ(info.config.num_query_heads, 2);
  EXPECT_EQ(info.config.key_format, config.key_format);
  EXPECT_EQ(info.config.value_format, config.value_format);
  EXPECT_EQ(info.config.rotation, config.rotation);
  EXPECT_EQ(info.config.seed, 77u);
  EXPECT_EQ(info.config.num_sink_tokens, 4u);
  EXPECT_EQ(info.config.num_recent_tokens, 50u);
  EXPECT_EQ(info.config.exact_type, FloatType::kFloat32);
  EXPECT_EQ(info.config.centering, Centering::kGiven);
  EXPECT_EQ(info.config.key_mean, config.key_mean);
  EXPECT_EQ(info.config.value_mean, config.value_mean);
  // From a stream, of which the rest is left.
  std::stringstream stream;
  polarquant::save(cache, stream);
  EXPECT_EQ(read_saved_info(stream).num_tokens, 200u);
  // What was read makes the cache that it loads into.
  KVCache<float> other(info.config);
  polarquant::load(bytes.data(), bytes.size(), other);
  EXPECT_TRUE(polarquant_test::state_of(other) == polarquant_test::state_of(cache));
}

// What the library cannot make by itself is left to the caller, and named.
TEST(SavedInfoTest, AFormatThatIsNotTheLibrarysIsNotSet) {
  KVCacheConfig config = make_config<polarquant_test::Plain8BitFamily>();
  PolarFormat format = PolarFormat::paper(48);
  format.codebooks =
      std::make_shared<const polarquant::CodebookSet>(polarquant::offline_codebooks(format));
  auto codebooks = std::make_shared<polarquant::CodebookSet>(*format.codebooks);
  std::vector<double> centroids = codebooks->levels[1].centroids();
  centroids[0] += 1e-6;
  codebooks->levels[1] = polarquant::AngleCodebook::from_centroids(centroids, false);
  format.codebooks = codebooks;
  config.value_format = format;
  KVCache<float> cache(config);
  polarquant_test::append_random(cache, 40, 1);
  const Bytes bytes = saved(cache);
  polarquant::SavedCacheInfo info = read_saved_info(bytes.data(), bytes.size());
  EXPECT_FALSE(info.config.key_format.is_set());
  EXPECT_EQ(info.key_format, "a format of the family \"plain\"");
  EXPECT_FALSE(info.config.value_format.is_set());
  EXPECT_EQ(info.value_format,
            format.description().insert(0, "polar ") + " at head_dim 48, given codebooks");
  EXPECT_FALSE(polarquant::is_supported(info.config));
  info.config.key_format = config.key_format;
  info.config.value_format = config.value_format;
  KVCache<float> other(info.config);
  polarquant::load(bytes.data(), bytes.size(), other);
  EXPECT_TRUE(polarquant_test::state_of(other) == polarquant_test::state_of(cache));
}

}  // namespace
