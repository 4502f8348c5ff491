// Attention over parts of the tokens, merged, is attention over all of them.
#include "polarquant/attention/partial.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "plain_attention.hpp"

namespace {

using Eigen::Index;
using polarquant::KVCache;
using polarquant::KVCacheConfig;
using polarquant::OnlineSoftmax;
using polarquant::PartialAttention;
using polarquant::PartialRows;
using polarquant::PolarFormat;
using polarquant::Random;
using polarquant::RowMatrix;
using polarquant::TokenRange;
using polarquant_test::AccumulatorOf;
using polarquant_test::attention_tolerance;
using polarquant_test::gaussian_matrix;
using polarquant_test::message_of;
using polarquant_test::OptionsOf;
using polarquant_test::plain_attention;
using polarquant_test::PlainOptions;
using polarquant_test::random_int;
using polarquant_test::random_options;

constexpr Index kNumTokens = 700;

KVCacheConfig make_config(bool with_exact) {
  KVCacheConfig config;
  config.num_kv_heads = 2;
  config.num_query_heads = 6;
  config.key_format = PolarFormat::full_depth(32, 4.25);
  config.value_format = PolarFormat::paper(48);
  config.arithmetic = polarquant::Arithmetic::kExact;
  polarquant_test::encode_all(config);
  if (with_exact) {
    config.num_sink_tokens = 4;
    config.num_recent_tokens = 50;
    config.centering = polarquant::Centering::kEstimated;
  }
  return config;
}

template <typename T>
KVCache<T> make_cache(bool with_exact, Index num_tokens = kNumTokens, std::uint64_t seed = 1) {
  KVCache<T> cache(make_config(with_exact));
  cache.append(gaussian_matrix<T>(num_tokens, 64, seed),
               gaussian_matrix<T>(num_tokens, 96, seed + 1));
  return cache;
}

template <typename T>
class PartialAttentionTest : public testing::Test {
 protected:
  RowMatrix<T> queries_ = gaussian_matrix<T>(5, 192, 3);
};
using ElementTypes = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(PartialAttentionTest, ElementTypes, );  // clang++ wants the empty argument.

TYPED_TEST(PartialAttentionTest, OfAllTokensIsTheWhole) {
  for (const bool with_exact : {false, true}) {
    const KVCache<TypeParam> cache = make_cache<TypeParam>(with_exact);
    const auto whole = cache.attend(this->queries_);
    const auto output = cache.attend_partial(this->queries_).output();
    EXPECT_LE((output - whole).cwiseAbs().maxCoeff(), attention_tolerance<TypeParam>(48) / 10);
  }
}

TYPED_TEST(PartialAttentionTest, AnyCutsAndOptionsMergeToTheDefinition) {
  using A = AccumulatorOf<TypeParam>;
  Random random(5);
  for (int trial = 0; trial < 60; ++trial) {
    const KVCache<TypeParam> cache = make_cache<TypeParam>(trial % 2 == 0);
    const PlainOptions plain = random_options(random, 5, 6, kNumTokens);
    const OptionsOf<A> options(plain);
    std::vector<PartialAttention<A>> parts;
    for (std::size_t first = 0; first < static_cast<std::size_t>(kNumTokens);) {
      const std::size_t count = static_cast<std::size_t>(random_int(random, 1, 400));
      parts.push_back(cache.attend_partial(this->queries_, {first, count}, options.get()));
      first += count;
    }
    std::reverse(parts.begin(), parts.end());
    PartialAttention<A> merged(5, cache.config());
    for (const PartialAttention<A>& part : parts) merged.merge(part);
    const RowMatrix<double> output =
        merged.output(options.get().sink_logits).template cast<double>();
    const RowMatrix<double> expected = plain_attention(cache, this->queries_, plain);
    ASSERT_LE((output - expected).cwiseAbs().maxCoeff(), attention_tolerance<TypeParam>(48))
        << "trial " << trial;
  }
}

// A prefix in one cache, its continuation in another of another format: the first part is wholly
// visible, the positions of the second count from its own start.
TYPED_TEST(PartialAttentionTest, PartsOfTwoCachesMerge) {
  using A = AccumulatorOf<TypeParam>;
  const KVCache<TypeParam> prefix = make_cache<TypeParam>(true, 300, 1);
  KVCacheConfig config = make_config(false);
  config.key_format = PolarFormat::paper(32);
  config.seed = 9;
  KVCache<TypeParam> rest(config);
  rest.append(gaussian_matrix<TypeParam>(200, 64, 5), gaussian_matrix<TypeParam>(200, 96, 6));

  polarquant::AttentionOptions<A> all;
  all.causal = false;
  PartialAttention<A> merged = prefix.attend_partial(this->queries_, {}, all);
  merged.merge(rest.attend_partial(this->queries_));
  std::vector<RowMatrix<double>> keys, values;
  for (const int head : {0, 1}) {
    keys.emplace_back(500, 32);
    values.emplace_back(500, 48);
    keys.back() << prefix.decode_keys(head).template cast<double>(),
        rest.decode_keys(head).template cast<double>();
    values.back() << prefix.decode_values(head).template cast<double>(),
        rest.decode_values(head).template cast<double>();
  }
  const RowMatrix<double> expected =
      plain_attention(keys, values, this->queries_.template cast<double>(), {});
  EXPECT_LE((merged.output().template cast<double>() - expected).cwiseAbs().maxCoeff(),
            attention_tolerance<TypeParam>(48));
}

TYPED_TEST(PartialAttentionTest, MaximumSumAndUnnormalisedOutputAreThoseOfTheLogits) {
  using A = AccumulatorOf<TypeParam>;
  for (const bool with_exact : {false, true}) {
    const KVCache<TypeParam> cache = make_cache<TypeParam>(with_exact);
    const TokenRange range = {37, 600};
    const PartialAttention<A> part = cache.attend_partial(this->queries_, range);
    const auto scores = cache.attention_scores(this->queries_);
    RowMatrix<double> values[2];
    for (Index head = 0; head < 2; ++head) {
      values[head] =
          cache.decode_values(static_cast<int>(head)).middleRows(37, 600).template cast<double>();
    }
    for (Index query = 0; query < 5; ++query) {
      for (Index head = 0; head < 6; ++head) {
        const Eigen::VectorXd logits =
            scores.row(query * 6 + head).segment(37, 600).transpose().template cast<double>() /
            std::sqrt(32.0);
        const OnlineSoftmax<A>& softmax =
            part.softmax(static_cast<std::size_t>(query), static_cast<std::size_t>(head));
        EXPECT_NEAR(static_cast<double>(softmax.maximum), logits.maxCoeff(), 1e-5);
        const Eigen::VectorXd weights = (logits.array() - logits.maxCoeff()).exp();
        const double sum = weights.sum();
        EXPECT_NEAR(static_cast<double>(softmax.sum), sum, 2e-5 * sum);
        const Eigen::RowVectorXd output =
            part.unnormalised().block(query, head * 48, 1, 48).template cast<double>();
        const Eigen::RowVectorXd expected = weights.transpose() * values[head / 3];
        EXPECT_LE((output - expected).cwiseAbs().maxCoeff(),
                  attention_tolerance<TypeParam>(48) * sum);
      }
    }
  }
}

TYPED_TEST(PartialAttentionTest, APartThatSeesNothingChangesNothing) {
  using A = AccumulatorOf<TypeParam>;
  const KVCache<TypeParam> cache = make_cache<TypeParam>(true);
  PartialAttention<A> part = cache.attend_partial(this->queries_);
  const auto before = part.output();
  for (const TokenRange range : {TokenRange{700, 10}, TokenRange{3, 0}, TokenRange{9999, 9999}}) {
    const PartialAttention<A> nothing = cache.attend_partial(this->queries_, range);
    EXPECT_EQ(nothing.softmax(0, 0).sum, A(0));
    EXPECT_EQ(nothing.output().cwiseAbs().maxCoeff(), A(0));
    part.merge(nothing);
    EXPECT_EQ(part.output(), before);
    PartialAttention<A> other = nothing;
    other.merge(part);
    EXPECT_LE((other.output() - before).cwiseAbs().maxCoeff(), A(1e-6));
  }
}

// On rows, heads and tokens shared between two threads.
TYPED_TEST(PartialAttentionTest, ThreadsShareTheTokens) {
  using A = AccumulatorOf<TypeParam>;
  const KVCache<TypeParam> cache = make_cache<TypeParam>(true);
  PartialAttention<A> parts[] = {{5, cache.config()}, {5, cache.config()}};
  std::vector<std::thread> threads;
  for (const std::size_t i : {0u, 1u}) {
    threads.emplace_back([&, i] {
      polarquant::AlignedBuffer scratch(cache.scratch_bytes());
      for (const std::size_t head : {0u, 1u}) {
        cache.attend_partial({this->queries_.data(), 5, 192}, parts[i].rows(), scratch.data(),
                             {350 * i, 350}, {head, 1});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  polarquant::merge(parts[0].rows(), parts[1].rows());
  RowMatrix<A> output(5, 288);
  polarquant::finish(parts[0].rows(), {output.data(), 5, 288});
  EXPECT_LE((output - cache.attend(this->queries_)).cwiseAbs().maxCoeff(),
            attention_tolerance<TypeParam>(48));
}

TEST(PartialAttentionShapeTest, AMergeOfOtherShapesIsRefused) {
  KVCacheConfig config = make_config(false);
  PartialAttention<float> part(5, config);
  config.num_query_heads = 4;
  const std::string message =
      message_of<std::invalid_argument>([&] { part.merge(PartialAttention<float>(5, config)); });
  EXPECT_NE(message.find("merge of 5 queries, 6 heads of 48 with 5 queries, 4 heads of 48"),
            std::string::npos)
      << message;
}

TEST(PartialAttentionShapeTest, AQueryOfNaNGivesNaNThroughAMerge) {
  const KVCache<float> cache = make_cache<float>(true);
  RowMatrix<float> queries = gaussian_matrix<float>(1, 192, 3);
  queries(0, 40) = std::numeric_limits<float>::quiet_NaN();
  PartialAttention<float> parts[] = {{1, cache.config()}, {1, cache.config()}};
  polarquant::AlignedBuffer scratch(cache.scratch_bytes());
  for (const std::size_t i : {0u, 1u}) {
    cache.attend_partial({queries.data(), 1, 192}, parts[i].rows(), scratch.data(), {350 * i, 350});
  }
  parts[0].merge(parts[1]);
  const RowMatrix<float> output = parts[0].output();
  EXPECT_TRUE(output.middleCols(48, 48).array().isNaN().all());
  EXPECT_TRUE(output.leftCols(48).array().isFinite().all());
}

}  // namespace
