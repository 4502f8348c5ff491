// The measures of the model evaluation, against their definitions in double.
#include "divergence.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <vector>

#include "polarquant/base/random.hpp"

namespace {

std::vector<float> random_logits(std::size_t count, std::uint64_t seed) {
  polarquant::Random random(seed);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = static_cast<float>(3.0 * random.gaussian());
  return logits;
}

std::vector<double> softmax(const float* logits, std::size_t count) {
  std::vector<double> p(count);
  double sum = 0.0;
  for (std::size_t i = 0; i < count; ++i) sum += p[i] = std::exp(static_cast<double>(logits[i]));
  for (double& value : p) value /= sum;
  return p;
}

TEST(DivergenceTest, IsKullbackAndLeiblers) {
  constexpr std::size_t kVocab = 1000;
  const std::vector<float> plain = random_logits(3 * kVocab, 1);
  const std::vector<float> other = random_logits(3 * kVocab, 2);
  const ReferenceDistribution reference(plain.data(), 3, kVocab);
  ASSERT_EQ(reference.num_tokens(), 3u);
  for (std::size_t token = 0; token < 3; ++token) {
    const std::vector<double> p = softmax(plain.data() + token * kVocab, kVocab);
    const std::vector<double> q = softmax(other.data() + token * kVocab, kVocab);
    double expected = 0.0;
    for (std::size_t i = 0; i < kVocab; ++i) expected += p[i] * std::log(p[i] / q[i]);
    const TokenScore score = reference.compare(token, other.data() + token * kVocab, 7);
    EXPECT_NEAR(score.divergence, expected, 1e-5 * expected);
    EXPECT_NEAR(score.surprise, -std::log(q[7]), 1e-5);
  }
}

TEST(DivergenceTest, OfADistributionFromItselfIsZero) {
  const std::vector<float> logits = random_logits(5000, 3);
  const TokenScore score =
      ReferenceDistribution(logits.data(), 1, 5000).compare(0, logits.data(), 0);
  EXPECT_NEAR(score.divergence, 0.0, 1e-6);
  EXPECT_TRUE(score.same_top);
}

TEST(DivergenceTest, AConstantAddedToTheLogitsChangesNothing) {
  const std::vector<float> logits = random_logits(100, 4);
  std::vector<float> shifted = logits;
  for (float& logit : shifted) logit += 16.0f;
  const ReferenceDistribution reference(logits.data(), 1, 100);
  EXPECT_NEAR(reference.compare(0, shifted.data(), 3).divergence, 0.0, 1e-6);
  EXPECT_NEAR(reference.compare(0, shifted.data(), 3).surprise,
              reference.compare(0, logits.data(), 3).surprise, 1e-5);
}

TEST(DivergenceTest, SameTopIsOfTheMostLikelyTokens) {
  const std::vector<float> plain = {0.0f, 2.0f, 1.0f};
  const ReferenceDistribution reference(plain.data(), 1, 3);
  const std::vector<float> same = {1.9f, 2.0f, -5.0f};
  const std::vector<float> other = {2.1f, 2.0f, 1.0f};
  EXPECT_TRUE(reference.compare(0, same.data(), 0).same_top);
  EXPECT_FALSE(reference.compare(0, other.data(), 0).same_top);
}

TEST(DivergenceTest, SummaryIsOfAllTokens) {
  std::vector<TokenScore> scores(200);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    scores[i].divergence = static_cast<double>(i + 1);  // 1 .. 200
    scores[i].surprise = i % 2 == 0 ? 1.0 : 3.0;
    scores[i].same_top = i < 50;
  }
  const DivergenceSummary summary = summarize(scores);
  EXPECT_EQ(summary.num_tokens, 200u);
  EXPECT_DOUBLE_EQ(summary.mean_divergence, 100.5);
  EXPECT_DOUBLE_EQ(summary.percentile99_divergence, 198.0);  // 198 of 200 do not exceed it
  EXPECT_DOUBLE_EQ(summary.percentile999_divergence, 200.0);
  EXPECT_DOUBLE_EQ(summary.perplexity, std::exp(2.0));
  EXPECT_DOUBLE_EQ(summary.same_top, 0.25);
  EXPECT_EQ(summarize({}).num_tokens, 0u);
}

}  // namespace
