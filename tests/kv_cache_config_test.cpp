#include "polarquant/storage/config.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "polarquant/method/online_codebooks.hpp"
#include "test_util.hpp"

namespace {

using polarquant::KVCacheConfig;
using polarquant::KVCodec;
using polarquant::PolarFormat;
using polarquant::RotationKind;
using polarquant::RowMatrix;
using polarquant::RowMatrixRef;
using polarquant_test::encode_rows;
using polarquant_test::gaussian_vector;

TEST(KVCacheConfigTest, DefaultIsValidAndUncompressed) {
  const KVCacheConfig config;
  config.validate();
  EXPECT_TRUE(config.key_format.is_uncompressed());
  EXPECT_TRUE(config.value_format.is_uncompressed());
}

TEST(KVCodecTest, KeysAndValuesOfEqualWidthShareTheRotation) {
  KVCacheConfig config;
  config.key_format = PolarFormat::paper(64);
  config.value_format = PolarFormat::full_depth(64, 3.25);
  const KVCodec<float> codec(config);
  EXPECT_EQ(&codec.keys().rotation(), &codec.values().rotation());
}

TEST(KVCodecTest, KeysAndValuesOfDifferentWidthsHaveRotationsOfTheSameKindAndSeed) {
  KVCacheConfig config;
  config.key_format = PolarFormat::paper(64);
  config.value_format = PolarFormat::paper(96);
  config.rotation = RotationKind::kHadamard;
  config.seed = 77;
  const KVCodec<float> codec(config);
  EXPECT_EQ(codec.keys().rotation().head_dim(), 64);
  EXPECT_EQ(codec.values().rotation().head_dim(), 96);
  for (const auto* side : {&codec.keys, &codec.values}) {
    EXPECT_EQ(side->rotation().kind(), RotationKind::kHadamard);
    EXPECT_EQ(side->rotation().seed(), 77u);
  }
}

TEST(KVCodecTest, MemoryCountsASharedRotationOnce) {
  KVCacheConfig config;
  config.key_format = PolarFormat::paper(64);
  config.value_format = PolarFormat::full_depth(64, 3.25);
  const KVCodec<float> shared(config);
  EXPECT_EQ(shared.memory_bytes() + shared.keys().rotation().memory_bytes(),
            shared.keys().memory_bytes() + shared.values().memory_bytes());
  config.value_format = PolarFormat::paper(96);
  const KVCodec<float> separate(config);
  EXPECT_EQ(separate.memory_bytes(), separate.keys().memory_bytes() + separate.values().memory_bytes());
}

TEST(KVCodecTest, TheArithmeticOfTheConfigIsThatOfBothSides) {
  KVCacheConfig config;
  EXPECT_EQ(config.arithmetic, polarquant::Arithmetic::kFixedPoint);
  config.arithmetic = polarquant::Arithmetic::kExact;
  const KVCodec<float> codec(config);
  EXPECT_EQ(codec.keys().arithmetic(), polarquant::Arithmetic::kExact);
  EXPECT_EQ(codec.values().arithmetic(), polarquant::Arithmetic::kExact);
}

TEST(KVCodecTest, TheSeedDecidesTheCodes) {
  KVCacheConfig config;
  config.key_format = PolarFormat::paper(64);
  config.value_format = PolarFormat::paper(64);
  const std::vector<float> rows = gaussian_vector<float>(64, 1);
  const std::vector<std::byte> codes = encode_rows(KVCodec<float>(config).keys, rows);
  EXPECT_EQ(encode_rows(KVCodec<float>(config).keys, rows), codes);
  config.seed = 1;
  EXPECT_NE(encode_rows(KVCodec<float>(config).keys, rows), codes);
}

TEST(KVCodecTest, GivenCodebooksAreUsedOnTheirSideAlone) {
  KVCacheConfig config;
  config.key_format = PolarFormat::paper(64);
  config.value_format = PolarFormat::paper(64);
  const std::vector<float> rows = gaussian_vector<float>(64 * 100, 1);
  const KVCodec<float> offline(config);
  config.key_codebooks =
      std::make_shared<const polarquant::CodebookSet>(polarquant::online_codebooks<float>(
          config.key_format, offline.keys().rotation(), {rows.data(), 100, 64}));
  const KVCodec<float> online(config);
  EXPECT_NE(encode_rows(online.keys, rows), encode_rows(offline.keys, rows));
  EXPECT_EQ(encode_rows(online.values, rows), encode_rows(offline.values, rows));
}

// paper, section 4.1: online codebooks fit the prompt at least as well as the law's.
TEST(KVCodecTest, OnlineCodebooksOfUnrotatedSparseKeysBeatTheOfflineOnes) {
  KVCacheConfig config;
  config.key_format = PolarFormat::paper(64);
  config.value_format = PolarFormat::paper(64);
  config.rotation = RotationKind::kNone;
  std::vector<float> rows = gaussian_vector<float>(64 * 500, 1);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] += i % 2 == 0 ? 3.0f : 0.0f;
  const KVCodec<float> offline(config);
  config.key_codebooks =
      std::make_shared<const polarquant::CodebookSet>(polarquant::online_codebooks<float>(
          config.key_format, offline.keys().rotation(), {rows.data(), 500, 64}));
  const KVCodec<float> online(config);
  EXPECT_LT(polarquant_test::measure_distortion(online.keys, rows).relative_mse.mean(),
            0.8 * polarquant_test::measure_distortion(offline.keys, rows).relative_mse.mean());
}

TEST(RowMatrixTest, AMapWithAnOuterStrideIsNotCopied) {
  std::vector<float> memory(5 * 12);
  const Eigen::Map<const RowMatrix<float>, 0, Eigen::OuterStride<>> map(memory.data(), 5, 8,
                                                                        Eigen::OuterStride<>(12));
  const RowMatrixRef<float> reference = map;
  EXPECT_EQ(reference.data(), memory.data());
  EXPECT_EQ(reference.outerStride(), 12);
}

TEST(RowMatrixTest, ABlockIsNotCopied) {
  const RowMatrix<float> matrix(5, 12);
  const RowMatrixRef<float> reference = matrix.block(1, 2, 3, 8);
  EXPECT_EQ(reference.data(), matrix.data() + 12 + 2);
  EXPECT_EQ(reference.outerStride(), 12);
}

// ---- is_supported ----

TEST(IsSupportedTest, SaysYesToEveryPreset) {
  for (const int head_dim : {16, 64, 80, 96, 112, 128, 192, 576, 1024}) {
    KVCacheConfig config;
    config.key_format = PolarFormat::full_depth(head_dim, 4.25);
    config.value_format = PolarFormat::uncompressed(head_dim);
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
    EXPECT_EQ(polarquant_test::message_of<std::invalid_argument>([&] { config.validate(); }),
              "polarquant: " + support.reason);
  };
  KVCacheConfig config;
  config.num_kv_heads = 0;
  expect_reason(config, "num_kv_heads is 0, must be at least 1");
  config = {};
  config.num_kv_heads = 2;
  config.num_query_heads = 3;
  expect_reason(config, "num_query_heads is 3, must be a multiple of num_kv_heads = 2");
  config = {};
  config.key_format.head_dim = 100000;
  expect_reason(config, "head_dim is 100000, must be a multiple of 2, at most 1024");
  config = {};
  config.value_format = PolarFormat::paper(64);
  config.value_format.level_bits[2] = 7;
  expect_reason(config, "level 3 has 7 bits, must be 0 .. 6");
  config = {};
  config.num_recent_tokens = KVCacheConfig::kAllTokens + 1;
  expect_reason(config, "must be at most kAllTokens = 2^40");
  config = {};
  config.exact_type = static_cast<polarquant::FloatType>(9);
  expect_reason(config, "exact_type is 9, not a FloatType");
  config = {};
  config.centering = static_cast<polarquant::Centering>(5);
  expect_reason(config, "centering is 5, not a Centering");
  config = {};
  config.centering = polarquant::Centering::kEstimated;
  config.num_centering_tokens = 0;
  expect_reason(config, "num_centering_tokens is 0, must be 1 .. 2^40");
  config = {};
  config.centering = polarquant::Centering::kGiven;
  expect_reason(config, "centering is kGiven, but key_mean and value_mean are empty");
  config.key_mean.assign(100, 0.0f);
  expect_reason(config, "key_mean has 100 entries, must have num_kv_heads * head_dim = 128");
  config.key_mean.assign(128, 0.0f);
  EXPECT_TRUE(polarquant::is_supported(config));
  config.key_mean[3] = std::numeric_limits<float>::infinity();
  expect_reason(config, "key_mean has a NaN or an infinity in entry 3");
  config.key_mean[3] = 0.0f;
  config.centering = polarquant::Centering::kNone;
  expect_reason(config, "key_mean is given, but centering is not kGiven");
}

}  // namespace
