// What a configuration may be, and that is_supported says exactly what the constructor does.
#include <gtest/gtest.h>

#include <cstddef>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kv_cache_test_util.hpp"
#include "polarquant/polarquant.hpp"
#include "polarquant/storage/config.hpp"
#include "test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

TEST(KVCacheConfigTest, AFormatIsToBeAskedFor) {
  KVCacheConfig config;
  EXPECT_FALSE(config.key_format.is_set());
  EXPECT_EQ(
      config.problem(),
      "key_format: no format is set: take PolarFormat::paper(head_dim), "
      "full_depth(head_dim, bits) or uncompressed(head_dim), or TrellisFormat(head_dim, bits)");
  EXPECT_THROW(config.key_columns(), std::invalid_argument);
  config.key_format = PolarFormat::paper(64);
  EXPECT_EQ(config.problem().rfind("value_format: no format is set", 0), 0u) << config.problem();
  config.value_format = PolarFormat::uncompressed(48);
  EXPECT_EQ(config.problem(), "");
}

TEST(KVCacheConfigTest, ColumnsAreHeadsTimesTheirWidth) {
  KVCacheConfig config = config_with(PolarFormat::paper(64), PolarFormat::paper(96));
  config.num_kv_heads = 2;
  config.num_query_heads = 6;
  EXPECT_EQ(config.key_columns(), 128u);
  EXPECT_EQ(config.value_columns(), 192u);
  EXPECT_EQ(config.query_columns(), 384u);
  EXPECT_EQ(config.output_columns(), 576u);
}

// ---- is_supported ----

TEST(IsSupportedTest, SaysYesToEveryPreset) {
  for (const int head_dim : {16, 64, 80, 96, 112, 128, 192, 576, 1024}) {
    KVCacheConfig config =
        config_with(PolarFormat::full_depth(head_dim, 4.25), PolarFormat::uncompressed(head_dim));
    config.num_sink_tokens = 4;
    config.num_recent_tokens = KVCacheConfig::kAllTokens;
    EXPECT_TRUE(polarquant::is_supported(config)) << polarquant::is_supported(config).reason;
  }
}

// The reason is what the constructor's exception says.
TEST(IsSupportedTest, NamesTheValueAndTheRule) {
  const auto expect_reason = [](const KVCacheConfig& config, const std::string& reason) {
    const polarquant::Support support = polarquant::is_supported(config);
    EXPECT_FALSE(support);
    EXPECT_NE(support.reason.find(reason), std::string::npos) << support.reason;
    EXPECT_EQ(message_of<std::invalid_argument>([&] { config.validate(); }),
              "polarquant: " + support.reason);
    EXPECT_EQ(message_of<std::invalid_argument>([&] { KVCache<float> cache(config); }),
              "polarquant: " + support.reason);
  };
  const std::string most = std::to_string(KVCacheConfig::kAllTokens);
  KVCacheConfig config = paper_64();
  config.num_kv_heads = 0;
  expect_reason(config, "num_kv_heads is 0, must be at least 1");
  config = paper_64();
  config.num_kv_heads = 2;
  config.num_query_heads = 3;
  expect_reason(config, "num_query_heads is 3, must be a multiple of num_kv_heads = 2");
  config = paper_64();
  PolarFormat format = PolarFormat::paper(64);
  format.head_dim = 100000;
  config.key_format = format;
  expect_reason(config, "key_format: head_dim is 100000, must be a multiple of 2, at most 1024");
  config = paper_64();
  format = PolarFormat::paper(64);
  format.level_bits[2] = 7;
  config.value_format = format;
  expect_reason(config, "value_format: level 3 has 7 bits, must be 0 .. 6");
  config = paper_64();
  config.key_format = polarquant_test::plain_8bit(3);
  expect_reason(config, "key_format: plain 8 bits: head_dim is 3");
  config = paper_64();
  config.num_recent_tokens = KVCacheConfig::kAllTokens + 1;
  expect_reason(config, "num_recent_tokens is " + std::to_string(KVCacheConfig::kAllTokens + 1) +
                            ", must be at most kAllTokens = " + most);
  config = paper_64();
  config.num_sink_tokens = static_cast<std::size_t>(-1);
  expect_reason(config, "num_sink_tokens is " + std::to_string(config.num_sink_tokens) +
                            ", must be at most ");
  config = paper_64();
  config.exact_type = static_cast<polarquant::FloatType>(9);
  expect_reason(config, "exact_type is 9, not a FloatType");
  config = paper_64();
  config.rotation = static_cast<RotationKind>(9);
  expect_reason(config, "rotation is 9, not a RotationKind");
  config = paper_64();
  config.arithmetic = static_cast<polarquant::Arithmetic>(9);
  expect_reason(config, "arithmetic is 9, not an Arithmetic");
  config = paper_64();
  config.centering = static_cast<Centering>(5);
  expect_reason(config, "centering is 5, not a Centering");
  config.centering = static_cast<Centering>(2);  // an estimated mean, of saved caches only
  expect_reason(config, "centering is 2, not a Centering");
  config = paper_64();
  config = paper_64();
  config.centering = Centering::kGiven;
  expect_reason(config, "centering is kGiven, but key_mean and value_mean are empty");
  config.key_mean.assign(100, 0.0f);
  expect_reason(config, "key_mean has 100 entries, must have num_kv_heads * head_dim = 64");
  config.key_mean.assign(64, 0.0f);
  EXPECT_TRUE(polarquant::is_supported(config));
  config.key_mean[3] = std::numeric_limits<float>::infinity();
  expect_reason(config, "key_mean has a NaN or an infinity in entry 3");
  config.key_mean[3] = 0.0f;
  config.centering = Centering::kNone;
  expect_reason(config, "key_mean is given, but centering is not kGiven");
}

// Codebooks that do not fit their format: too few, of other bits, level 1 not on the circle.
TEST(IsSupportedTest, NamesWhatIsWrongWithCodebooks) {
  const polarquant::CodebookSet right = polarquant::offline_codebooks(PolarFormat::paper(64));
  const auto reason_of = [](const polarquant::CodebookSet& codebooks) {
    PolarFormat format = PolarFormat::paper(64);
    format.codebooks = std::make_shared<const polarquant::CodebookSet>(codebooks);
    KVCacheConfig config = paper_64();
    config.value_format = format;
    const std::string reason = polarquant::is_supported(config).reason;
    EXPECT_EQ(message_of<std::invalid_argument>([&] { KVCache<float> cache(config); }),
              reason.empty() ? "" : "polarquant: " + reason);
    return reason;
  };
  EXPECT_EQ(reason_of(right), "");
  EXPECT_EQ(reason_of({}), "value_format: codebooks for 0 levels, the format has 4");
  polarquant::CodebookSet wrong = right;
  wrong.levels[2] = wrong.levels[0];
  EXPECT_NE(reason_of(wrong).find("the codebook of level number 2 has 4 bits on the circle"),
            std::string::npos);
  wrong = right;
  std::vector<double> centroids;  // four bits on the quarter circle
  for (int i = 0; i < 16; ++i) centroids.push_back(0.1 * i);
  wrong.levels[0] = polarquant::AngleCodebook::from_centroids(centroids, false);
  EXPECT_NE(reason_of(wrong).find("and be circular"), std::string::npos);
  wrong = right;
  wrong.joins.push_back(right.levels[1]);
  EXPECT_NE(reason_of(wrong).find("codebooks for 1 joins"), std::string::npos);
}

TEST(IsSupportedTest, NamesAnInstructionSetThatIsNotThere) {
  KVCacheConfig config = paper_64();
  for (const Isa isa : polarquant_test::kIsas) {
    config.isa = isa;
    const std::string reason = polarquant::is_supported(config).reason;
    EXPECT_EQ(reason.empty(), polarquant::isa_is_available(isa)) << reason;
    if (reason.empty()) {
      EXPECT_EQ(KVCache<float>(config).codec()->keys().isa(), isa);
    }
  }
  config.isa = {};
  const ScopedIsa scoped("sse9");
  EXPECT_EQ(polarquant::is_supported(config).reason,
            "POLARQUANT_ISA is sse9, must be scalar, avx2, avx512 or neon");
  config.isa = Isa::kScalar;  // Asked for by name, the environment is not.
  EXPECT_TRUE(polarquant::is_supported(config));
}

// ---- Random configurations, whole and broken: is_supported is what the constructor does ----

std::shared_ptr<const polarquant::CodebookSet> random_codebooks(polarquant::Random& random,
                                                                const PolarFormat& format) {
  if (random_int(random, 0, 3) == 0) return std::make_shared<const polarquant::CodebookSet>();
  // Those of a valid format near it, one of them replaced.
  static const polarquant::CodebookSet paper =
      polarquant::offline_codebooks(PolarFormat::paper(64));
  static const polarquant::CodebookSet joined =
      polarquant::offline_codebooks(PolarFormat::full_depth(24, 3.5));
  auto codebooks =
      std::make_shared<polarquant::CodebookSet>(format.head_dim % 16 == 0 ? paper : joined);
  if (random_int(random, 0, 1) == 0) {
    const auto at = static_cast<std::size_t>(random_int(random, 0, 3));
    codebooks->levels[at] = codebooks->levels[static_cast<std::size_t>(random_int(random, 0, 3))];
  }
  if (random_int(random, 0, 4) == 0) codebooks->levels.pop_back();
  if (random_int(random, 0, 4) == 0) codebooks->joins.push_back(paper.levels[1]);
  return codebooks;
}

CodecFormat random_side(polarquant::Random& random) {
  static const PolarFormat valid[] = {PolarFormat::paper(64), PolarFormat::full_depth(24, 3.5),
                                      PolarFormat::full_depth(16, 4.25),
                                      PolarFormat::uncompressed(16)};
  switch (random_int(random, 0, 9)) {
    case 0:
      return {};
    case 1:
      return polarquant_test::plain_8bit(random_int(random, 0, 40));
    default:
      break;
  }
  PolarFormat format = valid[random_int(random, 0, 3)];
  const auto garbage = [&random](int one_in) { return random_int(random, 1, one_in) == 1; };
  if (garbage(10)) format.head_dim = random_int(random, -20, 80);
  if (garbage(10)) format.levels = random_int(random, -2, 14);
  if (garbage(10)) {
    format.level_bits[static_cast<std::size_t>(random_int(random, 0, 9))] =
        static_cast<std::uint8_t>(random_int(random, 0, 9));
  }
  if (garbage(10)) format.join_bits[0] = static_cast<std::uint8_t>(random_int(random, 0, 255));
  if (garbage(10)) {
    format.radius_type = static_cast<polarquant::FloatType>(random_int(random, 0, 6));
  }
  if (garbage(10)) {
    format.radius_meaning = static_cast<polarquant::RadiusMeaning>(random_int(random, 0, 6));
  }
  if (garbage(8)) format.codebooks = random_codebooks(random, format);
  return format;
}

KVCacheConfig random_config(polarquant::Random& random) {
  const auto garbage = [&random](int one_in) { return random_int(random, 1, one_in) == 1; };
  KVCacheConfig config = config_with(random_side(random), random_side(random));
  config.num_kv_heads = garbage(12) ? random_int(random, -2, 3) : 1;
  config.num_query_heads = config.num_kv_heads * random_int(random, 1, 2) + (garbage(12) ? 1 : 0);
  config.rotation =
      garbage(12) ? static_cast<RotationKind>(random_int(random, 0, 255)) : RotationKind::kHadamard;
  config.arithmetic =
      static_cast<polarquant::Arithmetic>(random_int(random, 0, garbage(9) ? 3 : 1));
  if (garbage(4)) config.isa = static_cast<Isa>(random_int(random, 0, garbage(9) ? 200 : 3));
  if (garbage(12)) config.allocator.allocate = [](void*, std::size_t) -> void* { return nullptr; };
  const auto count = [&] {
    return garbage(12) ? KVCacheConfig::kAllTokens + static_cast<std::size_t>(garbage(2))
                       : static_cast<std::size_t>(random_int(random, 0, 50));
  };
  config.num_sink_tokens = count();
  config.num_recent_tokens = count();
  if (garbage(3)) {
    config.exact_type =
        static_cast<polarquant::FloatType>(random_int(random, 0, garbage(9) ? 9 : 3));
  }
  config.centering = static_cast<Centering>(random_int(random, 0, garbage(9) ? 5 : 1));
  if (garbage(3)) config.centering = Centering::kLocal;
  const auto mean = [&](const CodecFormat& format) {
    const bool fits = format.is_set() && format.head_dim() > 0 && config.num_kv_heads > 0;
    std::vector<float> entries(
        fits && !garbage(9) ? static_cast<std::size_t>(config.num_kv_heads * format.head_dim())
                            : 7u);
    if (garbage(9)) entries.back() = std::numeric_limits<float>::quiet_NaN();
    return entries;
  };
  if (config.centering == Centering::kGiven ? !garbage(9) : garbage(20)) {
    config.key_mean = mean(config.key_format);
  }
  if (garbage(8)) config.value_mean = mean(config.value_format);
  return config;
}

TEST(IsSupportedTest, IsWhatTheConstructorDoes) {
  polarquant::Random random(29);
  const int num_trials = polarquant_test::kSanitized ? 1000 : 5000;
  int num_supported = 0, num_refused = 0;
  for (int trial = 0; trial < num_trials; ++trial) {
    const char* const names[] = {nullptr, "scalar", "avx512", "neon", "sse9"};
    const ScopedIsa scoped(names[random_int(random, 0, 9) == 0 ? random_int(random, 1, 4) : 0]);
    const KVCacheConfig config = random_config(random);
    const std::string reason = polarquant::is_supported(config).reason;
    std::string message;
    try {
      if (trial % 8 == 0) {
        const KVCache<double> cache(config);
      } else {
        const KVCache<float> cache(config);
      }
    } catch (const std::invalid_argument& error) {
      message = error.what();
    }
    ASSERT_EQ(message, reason.empty() ? "" : "polarquant: " + reason) << "trial " << trial;
    ++(reason.empty() ? num_supported : num_refused);
  }
  EXPECT_GT(num_supported, num_trials / 20);
  EXPECT_GT(num_refused, num_trials / 20);
}

}  // namespace
