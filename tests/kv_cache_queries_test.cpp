// What a cache does with queries that are not numbers, and with a part of its heads.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <polarquant/polarquant.hpp>
#include <stdexcept>
#include <string>

#include "kv_cache_test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

Rows<float> rows_of(RowMatrix<float>& matrix) {
  return {matrix.data(), matrix.rows(), matrix.cols()};
}

polarquant::KVCacheConfig config_of(Arithmetic arithmetic) {
  polarquant::KVCacheConfig config = make_config();
  config.arithmetic = arithmetic;
  return config;
}

// 70 tokens, the last 40 of them exact in the last of the configurations.
class KVCacheQueriesTest : public ::testing::TestWithParam<polarquant::KVCacheConfig> {
 protected:
  KVCache<float> cache_ = polarquant_test::filled_cache<float>(70, GetParam());
  polarquant::AlignedBuffer scratch_{cache_.scratch_bytes()};
  RowMatrix<float> queries_ = random_queries<float>(cache_.config(), 3);
};

TEST_P(KVCacheQueriesTest, MatricesWithANaNOrInfinityAreRefusedAndTheEntryNamed) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    RowMatrix<float> queries = queries_;
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
    RowMatrix<float> queries = queries_;
    const RowMatrix<float> expected = cache_.attend(queries);
    const RowMatrix<float> expected_scores = cache_.attention_scores(queries);
    queries(1, 70) = bad;  // query 1, head 2
    RowMatrix<float> output(3, 6 * 48);
    RowMatrix<float> scores(3 * 6, 70);
    cache_.attend(rows_of(queries), rows_of(output), scratch_.data());
    cache_.attention_scores(rows_of(queries), rows_of(scores), scratch_.data());
    for (Eigen::Index query = 0; query < 3; ++query) {
      for (Eigen::Index head = 0; head < 6; ++head) {
        const auto own = output.block(query, head * 48, 1, 48);
        const auto own_scores = scores.row(query * 6 + head);
        if (query == 1 && head == 2) {
          EXPECT_TRUE(own.array().isNaN().all());
          EXPECT_TRUE(own_scores.array().isNaN().all());
        } else {
          EXPECT_EQ(own, expected.block(query, head * 48, 1, 48));
          EXPECT_EQ(own_scores, expected_scores.row(query * 6 + head));
        }
      }
    }
  }
}

TEST_P(KVCacheQueriesTest, APartOfTheHeadsWritesItsColumnsAndNoOthers) {
  const RowMatrix<float> expected = cache_.attend(queries_);
  RowMatrix<float> output = RowMatrix<float>::Constant(3, 6 * 48, 7.0f);
  const auto attend = [&](const Part& part) {
    cache_.attend(rows_of(queries_), rows_of(output), scratch_.data(), {}, part);
  };
  attend(Part::heads(1, 1));
  EXPECT_EQ(output.rightCols(3 * 48), expected.rightCols(3 * 48));
  EXPECT_TRUE((output.leftCols(3 * 48).array() == 7.0f).all());
  attend(Part::heads(0, 1));
  EXPECT_EQ(output, expected);
  output.setConstant(7.0f);
  attend(Part::heads(2, 0));
  EXPECT_TRUE((output.array() == 7.0f).all());
  attend(Part::heads(0, 1000));
  EXPECT_EQ(output, expected);
}

TEST_P(KVCacheQueriesTest, APartOfTheScoresIsWrittenAndNoOthers) {
  const RowMatrix<float> expected = cache_.attention_scores(queries_);
  for (const Part& part : {Part{}, Part::heads(0, 1), Part::heads(1, 1), Part::heads(1, 0),
                           Part::tokens(0, 70), Part::tokens(5, 40), Part::tokens(33, 1),
                           Part::tokens(60, 1000), Part::tokens(70, 1), Part{1, 1, {20, 30}}}) {
    RowMatrix<float> scores = RowMatrix<float>::Constant(3 * 6, 70, 7.0f);
    cache_.attention_scores(rows_of(queries_), rows_of(scores), scratch_.data(), part);
    const polarquant::TokenRange range = part.token_range;
    for (Eigen::Index row = 0; row < scores.rows(); ++row) {
      const int kv_head = static_cast<int>(row) % 6 / 3;
      for (Eigen::Index token = 0; token < 70; ++token) {
        const bool is_asked = kv_head >= part.first_kv_head &&
                              kv_head - part.first_kv_head < part.num_kv_heads &&
                              static_cast<std::size_t>(token) >= range.first &&
                              static_cast<std::size_t>(token) < range.end_within(70);
        ASSERT_EQ(scores(row, token), is_asked ? expected(row, token) : 7.0f)
            << row << ", " << token;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Configs, KVCacheQueriesTest,
    ::testing::Values(config_of(Arithmetic::kExact), config_of(Arithmetic::kFixedPoint),
                      make_config<polarquant_test::Plain8BitFamily>(),
                      polarquant_test::segments_config(3, 9, polarquant::Centering::kLocal)));

TEST(KVCacheReserveTest, RefusesMoreTokensThanAnyMachineHolds) {
  KVCache<float> cache = polarquant_test::make_cache<float>(make_config());
  const std::size_t huge = std::numeric_limits<std::size_t>::max();
  const std::string message = message_of<std::invalid_argument>([&] { cache.reserve(huge); });
  EXPECT_NE(message.find(std::to_string(huge)), std::string::npos) << message;
  EXPECT_EQ(cache.capacity(), 0u);
}

TEST(PolarFormatEqualityTest, IgnoresWhatNoCodeDependsOn) {
  using polarquant::PolarFormat;
  PolarFormat format = PolarFormat::paper(64);
  format.level_bits[7] = 3;  // beyond the four levels
  EXPECT_EQ(format, PolarFormat::paper(64));
  format.level_bits[3] = 3;
  EXPECT_NE(format, PolarFormat::paper(64));
  PolarFormat uncompressed = PolarFormat::uncompressed(64);
  uncompressed.radius_meaning = polarquant::RadiusMeaning::kNorm;
  EXPECT_EQ(uncompressed, PolarFormat::uncompressed(64));
}

}  // namespace
