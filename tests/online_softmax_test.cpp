#include "polarquant/attention/online_softmax.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "test_util.hpp"

namespace {

using polarquant::OnlineSoftmax;

// sum_i softmax(logits)_i values_i, the logits coming in blocks of `block`.
double blockwise_average(const std::vector<double>& logits, const std::vector<double>& values,
                         std::size_t block) {
  OnlineSoftmax<double> softmax;
  double average = 0.0;
  for (std::size_t first = 0; first < logits.size(); first += block) {
    const std::size_t end = std::min(logits.size(), first + block);
    double largest = logits[first];
    for (std::size_t i = first; i < end; ++i) largest = std::max(largest, logits[i]);
    average *= softmax.raise_maximum(largest);
    for (std::size_t i = first; i < end; ++i) {
      const double weight = std::exp(logits[i] - softmax.maximum);
      average += weight * values[i];
      softmax.sum += weight;
    }
  }
  return average * softmax.normalizer();
}

TEST(OnlineSoftmaxTest, FirstBlockDropsWhatWasThereBefore) {
  OnlineSoftmax<float> softmax;
  EXPECT_EQ(softmax.raise_maximum(-5.0f), 0.0f);
  EXPECT_EQ(softmax.maximum, -5.0f);
}

TEST(OnlineSoftmaxTest, LowerMaximumChangesNothing) {
  OnlineSoftmax<float> softmax;
  softmax.raise_maximum(2.0f);
  softmax.sum = 3.0f;
  EXPECT_EQ(softmax.raise_maximum(1.0f), 1.0f);
  EXPECT_EQ(softmax.raise_maximum(2.0f), 1.0f);
  EXPECT_EQ(softmax.maximum, 2.0f);
  EXPECT_EQ(softmax.sum, 3.0f);
}

TEST(OnlineSoftmaxTest, HigherMaximumShrinksTheSumByTheReturnedFactor) {
  OnlineSoftmax<double> softmax;
  softmax.raise_maximum(1.0);
  softmax.sum = 4.0;
  EXPECT_DOUBLE_EQ(softmax.raise_maximum(3.0), std::exp(-2.0));
  EXPECT_DOUBLE_EQ(softmax.sum, 4.0 * std::exp(-2.0));
  EXPECT_EQ(softmax.maximum, 3.0);
}

TEST(OnlineSoftmaxTest, NormalizerOfNoTokenIsZero) {
  EXPECT_EQ(OnlineSoftmax<float>().normalizer(), 0.0f);
}

TEST(OnlineSoftmaxTest, MaskedBlockIsIgnored) {
  OnlineSoftmax<double> softmax;
  EXPECT_EQ(softmax.raise_maximum(-std::numeric_limits<double>::infinity()), 1.0);
  EXPECT_EQ(softmax.sum, 0.0);
}

TEST(OnlineSoftmaxTest, AnyDivisionIntoBlocksGivesTheSoftmaxOfTheWhole) {
  const std::vector<double> logits = polarquant_test::gaussian_vector<double>(97, 1, 20.0);
  const std::vector<double> values = polarquant_test::gaussian_vector<double>(97, 2);
  long double numerator = 0.0L;
  long double denominator = 0.0L;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const long double weight = std::exp(static_cast<long double>(logits[i]));
    numerator += weight * static_cast<long double>(values[i]);
    denominator += weight;
  }
  const double exact = static_cast<double>(numerator / denominator);
  for (const std::size_t block : {1u, 2u, 7u, 16u, 96u, 97u}) {
    EXPECT_NEAR(blockwise_average(logits, values, block), exact, 1e-14) << block;
  }
}

TEST(OnlineSoftmaxTest, LogitsBeyondTheRangeOfExpDoNotOverflow) {
  for (const double offset : {-1e6, 1e6}) {
    const std::vector<double> logits = {offset, offset + 1.0, offset};
    const double e = std::exp(1.0);
    EXPECT_NEAR(blockwise_average(logits, {1.0, 2.0, 3.0}, 1), (1.0 + 2.0 * e + 3.0) / (2.0 + e),
                1e-12)
        << offset;
  }
}

TEST(OnlineSoftmaxTest, ALogitWithoutAValueTakesAShare) {
  OnlineSoftmax<double> softmax;
  softmax.raise_maximum(1.0);
  softmax.sum = 1.0;
  EXPECT_EQ(softmax.add_logit(-std::numeric_limits<double>::infinity()), 1.0);
  EXPECT_EQ(softmax.sum, 1.0);
  EXPECT_EQ(softmax.add_logit(3.0), std::exp(-2.0));
  EXPECT_EQ(softmax.maximum, 3.0);
  EXPECT_DOUBLE_EQ(softmax.sum, std::exp(-2.0) + 1.0);
  OnlineSoftmax<double> nothing;
  nothing.add_logit(-std::numeric_limits<double>::infinity());
  EXPECT_EQ(nothing.normalizer(), 0.0);
}

}  // namespace
