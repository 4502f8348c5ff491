// Attention over parts of the tokens, merged, is attention over all of them.
#include "polarquant/attention/partial_attention.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kv_cache_test_util.hpp"
#include "plain_attention.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using namespace polarquant_test;

constexpr Index kNumTokens = 700;

// All of it codes, or with exact tokens and means.
template <typename Family = polarquant_test::PolarFamily>
KVCacheConfig config_of(bool with_exact) {
  return with_exact ? polarquant_test::segments_config<Family>(4, 50, Centering::kLocal)
                    : polarquant_test::exact_config<Family>();
}

KVCache<float> float_cache(bool with_exact) {
  return polarquant_test::filled_cache<float>(kNumTokens, config_of(with_exact));
}

template <typename Case>
class PartialAttentionTest : public testing::Test {
 protected:
  using T = typename Case::T;

  static KVCache<T> cache_of(bool with_exact, Index num_tokens = kNumTokens) {
    return polarquant_test::filled_cache<T>(num_tokens,
                                            config_of<typename Case::Family>(with_exact));
  }
  static double tolerance() { return attention_tolerance<T>(48); }

  RowMatrix<T> queries_ = random_queries<T>(config_of(false), 5);
};
TYPED_TEST_SUITE(PartialAttentionTest, polarquant_test::CacheCases, );  // clang++ wants the empty.

TYPED_TEST(PartialAttentionTest, OfAllTokensIsTheWhole) {
  for (const bool with_exact : {false, true}) {
    const auto cache = TestFixture::cache_of(with_exact);
    const auto whole = cache.attend(this->queries_);
    const auto output = cache.attend_partial(this->queries_).output();
    EXPECT_LE((output - whole).cwiseAbs().maxCoeff(), TestFixture::tolerance() / 10);
  }
}

TYPED_TEST(PartialAttentionTest, AnyCutsAndOptionsMergeToTheDefinition) {
  using A = typename TypeParam::A;
  Random random(5);
  for (int trial = 0; trial < 60; ++trial) {
    const auto cache = TestFixture::cache_of(trial % 2 == 0);
    const PlainOptions plain = random_options(random, 5, 6, kNumTokens);
    const OptionsOf<A> options(plain);
    std::vector<PartialAttention<A>> parts;
    for (std::size_t first = 0; first < static_cast<std::size_t>(kNumTokens);) {
      const std::size_t count = static_cast<std::size_t>(random_int(random, 1, 400));
      parts.push_back(
          cache.attend_partial(this->queries_, options.get(), Part::tokens(first, count)));
      first += count;
    }
    std::reverse(parts.begin(), parts.end());
    PartialAttention<A> merged(5, cache.config());
    for (const PartialAttention<A>& part : parts) merged.merge(part);
    const RowMatrix<double> output =
        merged.output(options.get().sink_logits).template cast<double>();
    const RowMatrix<double> expected = plain_attention(cache, this->queries_, plain);
    ASSERT_LE((output - expected).cwiseAbs().maxCoeff(), TestFixture::tolerance())
        << "trial " << trial;
  }
}

// A prefix in one cache, its continuation in another of another format: the first part is wholly
// visible, the positions of the second count from its own start.
TYPED_TEST(PartialAttentionTest, PartsOfTwoCachesMerge) {
  using A = typename TypeParam::A;
  const auto prefix = TestFixture::cache_of(true, 300);
  KVCacheConfig config = config_of(false);
  config.key_format = PolarFormat::paper(32);
  config.seed = 9;
  KVCache<typename TypeParam::T> rest(config);
  polarquant_test::append_random(rest, 200, 5);

  polarquant::AttentionOptions<A> all;
  all.causal = false;
  PartialAttention<A> merged = prefix.attend_partial(this->queries_, all);
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
            TestFixture::tolerance());
}

TYPED_TEST(PartialAttentionTest, MaximumSumAndUnnormalisedOutputAreThoseOfTheLogits) {
  using A = typename TypeParam::A;
  for (const bool with_exact : {false, true}) {
    const auto cache = TestFixture::cache_of(with_exact);
    const TokenRange range = {37, 600};
    const PartialAttention<A> part = cache.attend_partial(this->queries_, {}, {0, 2, range});
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
        EXPECT_LE((output - expected).cwiseAbs().maxCoeff(), TestFixture::tolerance() * sum);
      }
    }
  }
}

TYPED_TEST(PartialAttentionTest, APartThatSeesNothingChangesNothing) {
  using A = typename TypeParam::A;
  const auto cache = TestFixture::cache_of(true);
  PartialAttention<A> part = cache.attend_partial(this->queries_);
  const auto before = part.output();
  for (const TokenRange range : {TokenRange{700, 10}, TokenRange{3, 0}, TokenRange{9999, 9999}}) {
    const PartialAttention<A> nothing = cache.attend_partial(this->queries_, {}, {0, 2, range});
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
  using A = typename TypeParam::A;
  const auto cache = TestFixture::cache_of(true);
  PartialAttention<A> parts[] = {{5, cache.config()}, {5, cache.config()}};
  std::vector<std::thread> threads;
  for (const std::size_t i : {0u, 1u}) {
    threads.emplace_back([&, i] {
      polarquant::AlignedBuffer scratch(cache.scratch_bytes());
      for (const int head : {0, 1}) {
        cache.attend_partial({this->queries_.data(), 5, 192}, parts[i].rows(), scratch.data(), {},
                             {head, 1, {350 * i, 350}});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  polarquant::merge(parts[0].rows(), parts[1].rows());
  RowMatrix<A> output(5, 288);
  polarquant::finish(parts[0].rows(), {output.data(), 5, 288});
  EXPECT_LE((output - cache.attend(this->queries_)).cwiseAbs().maxCoeff(),
            TestFixture::tolerance());
}

TEST(PartialAttentionShapeTest, AMergeOfOtherShapesIsRefused) {
  KVCacheConfig config = config_of(false);
  PartialAttention<float> part(5, config);
  config.num_query_heads = 4;
  const std::string message =
      message_of<std::invalid_argument>([&] { part.merge(PartialAttention<float>(5, config)); });
  EXPECT_NE(message.find("merge of 5 queries, 6 heads of 48 with 5 queries, 4 heads of 48"),
            std::string::npos)
      << message;
}

// Removed tokens are in no part, wherever the cuts are.
TEST(PartialAttentionShapeTest, RemovedTokensAreInNoPart) {
  KVCache<float> cache = float_cache(true);
  cache.remove({2, 1});
  cache.remove({300, 200});
  cache.remove({690, 10});
  const RowMatrix<float> queries = random_queries<float>(cache.config(), 2);
  const RowMatrix<double> expected = plain_attention(cache, queries);
  for (const std::size_t length : {1u, 7u, 100u, 350u, 701u}) {
    PartialAttention<float> merged(2, cache.config());
    for (std::size_t first = 0; first < cache.num_tokens(); first += length) {
      merged.merge(cache.attend_partial(queries, {}, Part::tokens(first, length)));
    }
    EXPECT_LE((merged.output().cast<double>() - expected).cwiseAbs().maxCoeff(),
              attention_tolerance<float>(48));
  }
  const PartialAttention<float> nothing = cache.attend_partial(queries, {}, Part::tokens(300, 200));
  EXPECT_EQ(nothing.softmax(0, 0).sum, 0.0f);
  EXPECT_EQ(nothing.output().cwiseAbs().maxCoeff(), 0.0f);
}

TEST(PartialAttentionShapeTest, AQueryOfNaNGivesNaNThroughAMerge) {
  const KVCache<float> cache = float_cache(true);
  RowMatrix<float> queries = random_queries<float>(cache.config(), 1);
  queries(0, 40) = std::numeric_limits<float>::quiet_NaN();
  PartialAttention<float> parts[] = {{1, cache.config()}, {1, cache.config()}};
  polarquant::AlignedBuffer scratch(cache.scratch_bytes());
  for (const std::size_t i : {0u, 1u}) {
    cache.attend_partial({queries.data(), 1, 192}, parts[i].rows(), scratch.data(), {},
                         Part::tokens(350 * i, 350));
  }
  parts[0].merge(parts[1]);
  const RowMatrix<float> output = parts[0].output();
  EXPECT_TRUE(output.middleCols(48, 48).array().isNaN().all());
  EXPECT_TRUE(output.leftCols(48).array().isFinite().all());
}

}  // namespace
