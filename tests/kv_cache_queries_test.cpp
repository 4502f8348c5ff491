// What a cache does with queries that are not numbers, and with a part of its heads.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <polarquant/polarquant.hpp>
#include <stdexcept>
#include <string>

#include "test_util.hpp"

namespace {

using polarquant::Arithmetic;
using polarquant::KVCache;
using polarquant::KVCacheConfig;
using polarquant::PolarFormat;
using polarquant::RowMatrix;
using polarquant::Rows;
using polarquant_test::gaussian_vector;
using polarquant_test::message_of;

constexpr int kWidth = 64;

RowMatrix<float> gaussian(Eigen::Index rows, Eigen::Index columns, std::uint64_t seed) {
  const std::vector<float> values =
      gaussian_vector<float>(static_cast<std::size_t>(rows * columns), seed);
  return Eigen::Map<const RowMatrix<float>>(values.data(), rows, columns);
}

Rows<float> rows_of(RowMatrix<float>& matrix) {
  return {matrix.data(), static_cast<std::size_t>(matrix.rows()),
          static_cast<std::size_t>(matrix.cols())};
}

class KVCacheQueriesTest : public ::testing::TestWithParam<Arithmetic> {
 protected:
  // Two KV heads, two query heads each, 70 tokens.
  KVCacheQueriesTest() : cache_(config()) {
    cache_.append(gaussian(70, 2 * kWidth, 1), gaussian(70, 2 * kWidth, 2));
  }

  static KVCacheConfig config() {
    KVCacheConfig config;
    config.num_kv_heads = 2;
    config.num_query_heads = 4;
    config.key_format = PolarFormat::paper(kWidth);
    config.value_format = PolarFormat::full_depth(kWidth, 4.25);
    config.arithmetic = GetParam();
    polarquant_test::encode_all(config);
    return config;
  }

  KVCache<float> cache_;
  polarquant::AlignedBuffer scratch_{cache_.scratch_bytes()};
};

TEST_P(KVCacheQueriesTest, MatricesWithANaNOrInfinityAreRefusedAndTheEntryNamed) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    RowMatrix<float> queries = gaussian(3, 4 * kWidth, 3);
    queries(1, 70) = bad;
    const auto attend = [&] { cache_.attend(queries); };
    const auto scores = [&] { cache_.attention_scores(queries); };
    for (const std::string& message :
         {message_of<std::invalid_argument>(attend), message_of<std::invalid_argument>(scores)}) {
      EXPECT_NE(message.find("query 1"), std::string::npos) << message;
      EXPECT_NE(message.find("column 70"), std::string::npos) << message;
    }
  }
}

TEST_P(KVCacheQueriesTest, OnRowsANaNOrInfinityGivesNaNForItsHeadAlone) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    RowMatrix<float> queries = gaussian(3, 4 * kWidth, 3);
    const RowMatrix<float> expected = cache_.attend(queries);
    const RowMatrix<float> expected_scores = cache_.attention_scores(queries);
    queries(1, 70) = bad;  // query 1, head 1
    RowMatrix<float> output(3, 4 * kWidth);
    RowMatrix<float> scores(3 * 4, 70);
    cache_.attend(rows_of(queries), rows_of(output), scratch_.data());
    cache_.attention_scores(rows_of(queries), rows_of(scores), scratch_.data());
    for (Eigen::Index query = 0; query < 3; ++query) {
      for (Eigen::Index head = 0; head < 4; ++head) {
        const auto own = output.block(query, head * kWidth, 1, kWidth);
        const auto own_scores = scores.row(query * 4 + head);
        if (query == 1 && head == 1) {
          EXPECT_TRUE(own.array().isNaN().all());
          EXPECT_TRUE(own_scores.array().isNaN().all());
        } else {
          EXPECT_EQ(own, expected.block(query, head * kWidth, 1, kWidth));
          EXPECT_EQ(own_scores, expected_scores.row(query * 4 + head));
        }
      }
    }
  }
}

TEST_P(KVCacheQueriesTest, ARangeOfHeadsWritesItsColumnsAndNoOthers) {
  RowMatrix<float> queries = gaussian(2, 4 * kWidth, 4);
  const RowMatrix<float> expected = cache_.attend(queries);
  RowMatrix<float> output = RowMatrix<float>::Constant(2, 4 * kWidth, 7.0f);
  cache_.attend(rows_of(queries), rows_of(output), scratch_.data(), {1, 1});
  EXPECT_EQ(output.rightCols(2 * kWidth), expected.rightCols(2 * kWidth));
  EXPECT_TRUE((output.leftCols(2 * kWidth).array() == 7.0f).all());
  cache_.attend(rows_of(queries), rows_of(output), scratch_.data(), {0, 1});
  EXPECT_EQ(output, expected);
  output.setConstant(7.0f);
  cache_.attend(rows_of(queries), rows_of(output), scratch_.data(), {2, 0});
  EXPECT_TRUE((output.array() == 7.0f).all());
}

INSTANTIATE_TEST_SUITE_P(Arithmetics, KVCacheQueriesTest,
                         ::testing::Values(Arithmetic::kExact, Arithmetic::kFixedPoint));

TEST(KVCacheReserve, RefusesMoreTokensThanAnyMachineHolds) {
  KVCacheConfig config;
  KVCache<float> cache(config);
  const std::size_t huge = std::numeric_limits<std::size_t>::max();
  const std::string message = message_of<std::invalid_argument>([&] { cache.reserve(huge); });
  EXPECT_NE(message.find(std::to_string(huge)), std::string::npos) << message;
  EXPECT_EQ(cache.capacity(), 0u);
}

TEST(KVCacheConfigArithmetic, IsCheckedByName) {
  KVCacheConfig config;
  config.arithmetic = static_cast<Arithmetic>(9);
  const std::string message =
      message_of<std::invalid_argument>([&] { KVCache<float> cache(config); });
  EXPECT_NE(message.find("arithmetic is 9"), std::string::npos) << message;
}

TEST(PolarFormatEquality, IgnoresWhatNoCodeDependsOn) {
  PolarFormat format = PolarFormat::paper(kWidth);
  format.level_bits[7] = 3;  // beyond the four levels
  EXPECT_EQ(format, PolarFormat::paper(kWidth));
  format.level_bits[3] = 3;
  EXPECT_NE(format, PolarFormat::paper(kWidth));
  PolarFormat uncompressed = PolarFormat::uncompressed(kWidth);
  uncompressed.radius_meaning = polarquant::RadiusMeaning::kNorm;
  EXPECT_EQ(uncompressed, PolarFormat::uncompressed(kWidth));
}

}  // namespace
