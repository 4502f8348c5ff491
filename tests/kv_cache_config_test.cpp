#include "polarquant/kv_cache_config.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "polarquant/online_codebooks.hpp"
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
  EXPECT_EQ(&codec.keys.rotation(), &codec.values.rotation());
}

TEST(KVCodecTest, KeysAndValuesOfDifferentWidthsHaveRotationsOfTheSameKindAndSeed) {
  KVCacheConfig config;
  config.key_format = PolarFormat::paper(64);
  config.value_format = PolarFormat::paper(96);
  config.rotation = RotationKind::kHadamard;
  config.seed = 77;
  const KVCodec<float> codec(config);
  EXPECT_EQ(codec.keys.rotation().head_dim(), 64);
  EXPECT_EQ(codec.values.rotation().head_dim(), 96);
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
  EXPECT_EQ(shared.memory_bytes() + shared.keys.rotation().memory_bytes(),
            shared.keys.memory_bytes() + shared.values.memory_bytes());
  config.value_format = PolarFormat::paper(96);
  const KVCodec<float> separate(config);
  EXPECT_EQ(separate.memory_bytes(), separate.keys.memory_bytes() + separate.values.memory_bytes());
}

TEST(KVCodecTest, TheArithmeticOfTheConfigIsThatOfBothSides) {
  KVCacheConfig config;
  EXPECT_EQ(config.arithmetic, polarquant::Arithmetic::kExact);
  config.arithmetic = polarquant::Arithmetic::kFixedPoint;
  const KVCodec<float> codec(config);
  EXPECT_EQ(codec.keys.arithmetic(), polarquant::Arithmetic::kFixedPoint);
  EXPECT_EQ(codec.values.arithmetic(), polarquant::Arithmetic::kFixedPoint);
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
          config.key_format, offline.keys.rotation(), {rows.data(), 100, 64}));
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
          config.key_format, offline.keys.rotation(), {rows.data(), 500, 64}));
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

}  // namespace
