// Attention on codes against softmax attention in double over the decoded keys and values.
#include "polarquant/attention/query_group.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <string>
#include <vector>

#include "kv_cache_test_util.hpp"
#include "plain_attention.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using namespace polarquant_test;

KVCacheConfig config_of(const CodecFormat& keys, const CodecFormat& values, int num_kv_heads = 1,
                        int group_size = 1, RotationKind rotation = RotationKind::kHaar) {
  KVCacheConfig config;
  config.num_kv_heads = num_kv_heads;
  config.num_query_heads = num_kv_heads * group_size;
  config.key_format = keys;
  config.value_format = values;
  config.rotation = rotation;
  config.seed = 5;
  config.arithmetic = polarquant::Arithmetic::kExact;
  polarquant_test::encode_all(config);
  return config;
}

template <typename T>
KVCache<T> filled(const KVCacheConfig& config, Index num_tokens) {
  return polarquant_test::filled_cache<T>(num_tokens, config);
}

// Fills a cache, attends, and compares with the definition: 1e-5 of the norm of a value.
template <typename T>
void expect_attention_of_decoded(const KVCacheConfig& config, Index num_tokens, Index num_queries) {
  const KVCache<T> cache = filled<T>(config, num_tokens);
  const RowMatrix<T> queries = random_queries<T>(config, num_queries);
  const RowMatrix<double> output = cache.attend(queries).template cast<double>();
  const RowMatrix<double> expected = polarquant_test::plain_attention(cache, queries);
  ASSERT_EQ(output.rows(), expected.rows());
  ASSERT_EQ(output.cols(), expected.cols());
  EXPECT_LE((output - expected).cwiseAbs().maxCoeff(),
            polarquant_test::attention_tolerance<T>(config.value_format.head_dim()))
      << num_tokens << " tokens, " << num_queries << " queries, " << config.num_query_heads
      << " heads, keys " << config.key_format.description() << ", values "
      << config.value_format.description();
  if (num_tokens > 0) {
    EXPECT_GT(expected.bottomRows(1).cwiseAbs().maxCoeff(), 0.01);
  }
}

template <typename T>
class AttentionTest : public testing::Test {};
TYPED_TEST_SUITE(AttentionTest,
                 polarquant_test::ElementTypes, );  // clang++ wants the empty argument in C++17.

TYPED_TEST(AttentionTest, IsSoftmaxAttentionOverDecodedForEveryLength) {
  for (const Index num_tokens : {0, 1, 31, 32, 33, 511, 512, 513, 1100}) {
    expect_attention_of_decoded<TypeParam>(
        config_of(PolarFormat::paper(64), PolarFormat::full_depth(64, 3.25), 2, 2), num_tokens, 2);
  }
}

TYPED_TEST(AttentionTest, IsSoftmaxAttentionOverDecodedForEveryGroupSize) {
  for (const int group_size : {1, 2, 3, 4, 7, 8}) {
    expect_attention_of_decoded<TypeParam>(
        config_of(PolarFormat::full_depth(64, 4.25), PolarFormat::paper(64), 2, group_size), 550,
        3);
  }
}

TYPED_TEST(AttentionTest, IsSoftmaxAttentionOverDecodedForEveryNumberOfQueries) {
  for (const Index num_queries : {1, 2, 16, 17, 40}) {
    expect_attention_of_decoded<TypeParam>(
        config_of(PolarFormat::paper(32), PolarFormat::paper(32), 1, 3), 530, num_queries);
  }
}

TYPED_TEST(AttentionTest, IsSoftmaxAttentionOverDecodedForKeysAndValuesOfDifferentWidths) {
  expect_attention_of_decoded<TypeParam>(
      config_of(PolarFormat::paper(96), PolarFormat::full_depth(40, 3.25), 2, 2), 40, 3);
  expect_attention_of_decoded<TypeParam>(
      config_of(PolarFormat::full_depth(22, 4.0), PolarFormat::paper(256), 2, 2), 40, 3);
}

TYPED_TEST(AttentionTest, IsSoftmaxAttentionOverDecodedWithEitherSideUncompressed) {
  const PolarFormat paper = PolarFormat::paper(48);
  for (const FloatType type :
       {FloatType::kBFloat16, FloatType::kFloat16, FloatType::kFloat32, FloatType::kFloat64}) {
    const PolarFormat plain = PolarFormat::uncompressed(64, type);
    expect_attention_of_decoded<TypeParam>(config_of(plain, paper, 2, 2), 40, 3);
    expect_attention_of_decoded<TypeParam>(config_of(paper, plain, 2, 2), 40, 3);
    expect_attention_of_decoded<TypeParam>(config_of(plain, plain, 2, 2), 40, 3);
  }
}

TYPED_TEST(AttentionTest, IsSoftmaxAttentionOverDecodedForRandomFormats) {
  Random random(7);
  for (int trial = 0; trial < 12; ++trial) {
    const PolarFormat keys = random_format(random, 256);
    const PolarFormat values = random_format(random, 256);
    const RotationKind rotation = trial % 3 == 0   ? RotationKind::kNone
                                  : trial % 3 == 1 ? RotationKind::kHadamard
                                                   : RotationKind::kHaar;
    expect_attention_of_decoded<TypeParam>(config_of(keys, values, 2, 2, rotation), 37, 2);
  }
}

TYPED_TEST(AttentionTest, QueriesThatSeeNoTokenGiveZeros) {
  KVCache<TypeParam> cache(config_of(PolarFormat::paper(32), PolarFormat::paper(32), 1, 2));
  cache.append(gaussian_matrix<TypeParam>(5, 32, 1), gaussian_matrix<TypeParam>(5, 32, 2));
  const RowMatrix<TypeParam> queries = gaussian_matrix<TypeParam>(24, 64, 3);
  const auto output = cache.attend(queries);
  EXPECT_EQ(output.topRows(19).cwiseAbs().maxCoeff(), 0);
  for (Index row = 19; row < 24; ++row) EXPECT_GT(output.row(row).cwiseAbs().maxCoeff(), 0) << row;
}

TYPED_TEST(AttentionTest, AnEmptyCacheGivesZeros) {
  const KVCache<TypeParam> cache(config_of(PolarFormat::paper(32), PolarFormat::paper(64)));
  const auto output = cache.attend(gaussian_matrix<TypeParam>(3, 32, 1));
  EXPECT_EQ(output.rows(), 3);
  EXPECT_EQ(output.cols(), 64);
  EXPECT_EQ(output.cwiseAbs().maxCoeff(), 0);
}

TYPED_TEST(AttentionTest, NoQueriesGiveNoRows) {
  KVCache<TypeParam> cache(config_of(PolarFormat::paper(32), PolarFormat::paper(32)));
  cache.append(gaussian_matrix<TypeParam>(5, 32, 1), gaussian_matrix<TypeParam>(5, 32, 2));
  const RowMatrix<TypeParam> queries(0, 32);
  EXPECT_EQ(cache.attend(queries).rows(), 0);
  EXPECT_EQ(cache.attention_scores(queries).rows(), 0);
}

// The first of two queries must not depend on the last token.
TYPED_TEST(AttentionTest, AQueryDoesNotSeeTheTokensBehindIt) {
  KVCache<TypeParam> cache(config_of(PolarFormat::paper(32), PolarFormat::paper(32)));
  const RowMatrix<TypeParam> keys = gaussian_matrix<TypeParam>(20, 32, 1);
  const RowMatrix<TypeParam> values = gaussian_matrix<TypeParam>(20, 32, 2);
  const RowMatrix<TypeParam> queries = gaussian_matrix<TypeParam>(2, 32, 3);
  cache.append(keys.topRows(19), values.topRows(19));
  const auto before = cache.attend(queries.topRows(1));
  cache.append(keys.bottomRows(1), values.bottomRows(1));
  const auto output = cache.attend(queries);
  EXPECT_EQ((output.row(0) - before.row(0)).cwiseAbs().maxCoeff(), 0);
  EXPECT_GT((output.row(1) - before.row(0)).cwiseAbs().maxCoeff(), 0);
}

// What a longer sequence left in the tiles before a truncation must not be seen.
TYPED_TEST(AttentionTest, ForgottenTokensAreNotSeen) {
  KVCache<TypeParam> cache(config_of(PolarFormat::paper(32), PolarFormat::paper(32)));
  const RowMatrix<TypeParam> keys = gaussian_matrix<TypeParam>(30, 32, 1);
  const RowMatrix<TypeParam> values = gaussian_matrix<TypeParam>(30, 32, 2);
  const RowMatrix<TypeParam> queries = gaussian_matrix<TypeParam>(2, 32, 3);
  cache.append(keys.topRows(5), values.topRows(5));
  const auto before = cache.attend(queries);
  cache.append(keys.bottomRows(25), values.bottomRows(25));
  cache.truncate(5);
  EXPECT_EQ((cache.attend(queries) - before).cwiseAbs().maxCoeff(), 0);
}

TYPED_TEST(AttentionTest, ScoresAreInnerProductsWithTheDecodedKeys) {
  using Accumulator = AccumulatorOf<TypeParam>;
  const KVCacheConfig config =
      config_of(PolarFormat::full_depth(80, 3.25), PolarFormat::paper(32), 2, 3);
  for (const Index num_tokens : {0, 1, 32, 511, 513, 1100}) {
    for (const Index num_queries : {1, 7}) {
      KVCache<TypeParam> cache(config);
      cache.append(gaussian_matrix<TypeParam>(num_tokens, 160, 1),
                   gaussian_matrix<TypeParam>(num_tokens, 64, 2));
      const RowMatrix<TypeParam> queries = gaussian_matrix<TypeParam>(num_queries, 480, 3);
      const RowMatrix<Accumulator> scores = cache.attention_scores(queries);
      ASSERT_EQ(scores.rows(), num_queries * 6);
      ASSERT_EQ(scores.cols(), num_tokens);
      if (num_tokens == 0) continue;
      for (Index head = 0; head < 6; ++head) {
        const RowMatrix<double> keys =
            cache.decode_keys(static_cast<int>(head / 3)).template cast<double>();
        for (Index i = 0; i < num_queries; ++i) {
          const Eigen::VectorXd query =
              queries.row(i).segment(head * 80, 80).template cast<double>().transpose();
          const Eigen::VectorXd expected = keys * query;
          EXPECT_LE((scores.row(i * 6 + head).template cast<double>().transpose() - expected)
                        .cwiseAbs()
                        .maxCoeff(),
                    (std::is_same_v<TypeParam, double> ? 1e-13 : 1e-6) * 160.0);
        }
      }
    }
  }
}

// ---- Logits far beyond the range of exp ----

class HugeLogitsTest : public testing::TestWithParam<double> {};

// One key points along the query, the others against it: its value is the output.
TEST_P(HugeLogitsTest, TheStrongestKeyTakesAll) {
  for (const int strongest : {0, 17, 299}) {
    KVCache<float> cache(config_of(PolarFormat::paper(64), PolarFormat::paper(64)));
    const RowMatrix<float> queries = gaussian_matrix<float>(1, 64, 1);
    RowMatrix<float> keys(300, 64);
    for (Index token = 0; token < 300; ++token) {
      const double length = token == strongest ? 1.0 : -1.0 - 0.01 * static_cast<double>(token);
      keys.row(token) = queries.row(0) * static_cast<float>(GetParam() * length);
    }
    cache.append(keys, gaussian_matrix<float>(300, 64, 2));
    const RowMatrix<float> output = cache.attend(queries);
    EXPECT_LE((output.row(0) - cache.decode_values(0).row(strongest)).cwiseAbs().maxCoeff(), 1e-5);
  }
}

TEST_P(HugeLogitsTest, EqualKeysShareEqually) {
  for (const float sign : {1.0f, -1.0f}) {
    KVCache<float> cache(config_of(PolarFormat::paper(64), PolarFormat::paper(64)));
    const RowMatrix<float> queries = gaussian_matrix<float>(1, 64, 1);
    const RowMatrix<float> keys =
        queries.replicate(300, 1) * (sign * static_cast<float>(GetParam()));
    cache.append(keys, gaussian_matrix<float>(300, 64, 2));
    const Eigen::RowVectorXf mean = cache.decode_values(0).colwise().mean();
    EXPECT_LE((cache.attend(queries).row(0) - mean).cwiseAbs().maxCoeff(), 1e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(Lengths, HugeLogitsTest, testing::Values(1e2, 1e4, 1e7, 1e12, 1e20, 1e30));

// ---- Order of tokens ----

TEST(AttentionOrderTest, PermutingTokensPermutesTheScoresAndKeepsTheOutput) {
  const KVCacheConfig config = config_of(PolarFormat::paper(64), PolarFormat::paper(64), 2, 2);
  const RowMatrix<float> keys = gaussian_matrix<float>(300, 128, 1);
  const RowMatrix<float> values = gaussian_matrix<float>(300, 128, 2);
  const RowMatrix<float> queries = gaussian_matrix<float>(1, 256, 3);
  RowMatrix<float> permuted_keys(300, 128), permuted_values(300, 128);
  const auto place = [](Index token) { return token * 77 % 300; };  // 77 and 300 are coprime.
  for (Index token = 0; token < 300; ++token) {
    permuted_keys.row(place(token)) = keys.row(token);
    permuted_values.row(place(token)) = values.row(token);
  }
  KVCache<float> cache(config), permuted(config);
  cache.append(keys, values);
  permuted.append(permuted_keys, permuted_values);
  EXPECT_LE((cache.attend(queries) - permuted.attend(queries)).cwiseAbs().maxCoeff(), 1e-5);
  const RowMatrix<float> scores = cache.attention_scores(queries);
  const RowMatrix<float> permuted_scores = permuted.attention_scores(queries);
  for (Index token = 0; token < 300; ++token) {
    EXPECT_EQ(scores.col(token), permuted_scores.col(place(token))) << token;
    for (const int head : {0, 1}) {
      EXPECT_EQ(cache.key_code(head, static_cast<std::size_t>(token)),
                permuted.key_code(head, static_cast<std::size_t>(place(token))));
      EXPECT_EQ(cache.value_code(head, static_cast<std::size_t>(token)),
                permuted.value_code(head, static_cast<std::size_t>(place(token))));
    }
  }
}

// Many queries at once are the queries one by one.
TEST(AttentionOrderTest, QueriesTogetherGiveWhatTheyGiveAlone) {
  KVCache<float> cache(config_of(PolarFormat::paper(64), PolarFormat::paper(64), 2, 3));
  const RowMatrix<float> keys = gaussian_matrix<float>(290, 128, 1);
  const RowMatrix<float> values = gaussian_matrix<float>(290, 128, 2);
  const RowMatrix<float> queries = gaussian_matrix<float>(20, 384, 3);
  cache.append(keys, values);
  const RowMatrix<float> together = cache.attend(queries);
  for (Index i = 19; i >= 0; --i) {
    cache.truncate(static_cast<std::size_t>(271 + i));
    EXPECT_LE((cache.attend(queries.row(i)) - together.row(i)).cwiseAbs().maxCoeff(), 1e-6) << i;
  }
}

// Query head h reads KV head h / group size.
TEST(AttentionOrderTest, EachGroupReadsItsOwnKVHead) {
  KVCache<float> cache(config_of(PolarFormat::paper(32), PolarFormat::paper(32), 3, 2));
  RowMatrix<float> values(4, 96);
  for (Index head = 0; head < 3; ++head) {
    values.middleCols(head * 32, 32).setConstant(static_cast<float>(head + 1));
  }
  cache.append(gaussian_matrix<float>(4, 96, 1), values);
  const RowMatrix<float> output = cache.attend(gaussian_matrix<float>(1, 192, 2));
  for (Index head = 0; head < 6; ++head) {
    EXPECT_NEAR(output.row(0).segment(head * 32, 32).norm() / std::sqrt(32.0),
                static_cast<double>(head / 2 + 1), 0.15 * static_cast<double>(head / 2 + 1));
  }
}

}  // namespace
