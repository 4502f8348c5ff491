// Weights of a softmax, and the soft-cap of logits, on every instruction set.
#include "polarquant/kernels/loops/softmax.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <type_traits>
#include <vector>

#include "polarquant/kernels/dispatch.hpp"
#include "test_util.hpp"

namespace {

using polarquant::Isa;
using polarquant::detail::choose_vector_kernels;
using polarquant::detail::VectorKernels;
using polarquant_test::gaussian_vector;

class SoftmaxTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!polarquant::isa_is_available(GetParam())) {
      GTEST_SKIP() << polarquant::isa_name(GetParam()) << " is not on this machine";
    }
  }
};

std::string case_name(const testing::TestParamInfo<Isa>& tested) {
  return polarquant::isa_name(tested.param);
}
INSTANTIATE_TEST_SUITE_P(Isas, SoftmaxTest, testing::ValuesIn(polarquant_test::kIsas), case_name);

// ---- Weights ----

// Weights exp(v - largest) and their sum, for every length of a tail.
template <typename T>
void expect_exponentials(Isa isa) {
  const VectorKernels<T> kernels = choose_vector_kernels<T>(isa);
  for (std::size_t count = 1; count <= 50; ++count) {
    std::vector<T> values = gaussian_vector<T>(count + 1, count, 10.0);
    const T guard = values[count];
    const T largest = kernels.maximum(values.data(), count);
    EXPECT_EQ(largest, *std::max_element(values.begin(), values.end() - 1));
    const std::vector<T> given = values;
    const T sum = kernels.exponentiate(values.data(), count, largest);
    double expected_sum = 0.0;
    const double ulp = std::is_same_v<T, double> ? 1e-14 : 2e-6;
    for (std::size_t i = 0; i < count; ++i) {
      const double weight = std::exp(static_cast<double>(given[i]) - static_cast<double>(largest));
      EXPECT_NEAR(values[i], weight, ulp * weight) << count;
      expected_sum += weight;
    }
    EXPECT_NEAR(sum, expected_sum, ulp * expected_sum) << count;
    EXPECT_EQ(values[count], guard);
  }
}

TEST_P(SoftmaxTest, WeightsOfFloatsAreExponentials) { expect_exponentials<float>(GetParam()); }
TEST_P(SoftmaxTest, WeightsOfDoublesAreExponentials) { expect_exponentials<double>(GetParam()); }

// The documented accuracy: 2 ULP from -87 to 0, and 0 below.
TEST_P(SoftmaxTest, FloatExponentialIsWithinTwoUlp) {
  const VectorKernels<float> kernels = choose_vector_kernels<float>(GetParam());
  std::vector<float> given;
  for (float x = 0.0f; x > -86.99f; x -= 0.000913f) given.push_back(x);
  std::vector<float> values = given;
  kernels.exponentiate(values.data(), values.size(), 0.0f);
  for (std::size_t i = 0; i < given.size(); ++i) {
    const double exact = std::exp(static_cast<double>(given[i]));
    const float ulp = std::nextafter(static_cast<float>(exact), 2.0f) - static_cast<float>(exact);
    ASSERT_LE(std::abs(static_cast<double>(values[i]) - exact), 2.0 * static_cast<double>(ulp))
        << given[i];
  }
}

TEST_P(SoftmaxTest, FloatExponentialOfVeryNegativeLogitsIsZero) {
  const VectorKernels<float> kernels = choose_vector_kernels<float>(GetParam());
  std::vector<float> values = {-87.5f, -100.0f, -1e6f, -1e38f};
  EXPECT_EQ(kernels.exponentiate(values.data(), values.size(), 0.0f), 0.0f);
  EXPECT_EQ(values, std::vector<float>(4, 0.0f));
}

// However large the logits are, the largest has the weight 1. A scale fused with the difference
// would leave the rounding of `largest` over.
TEST_P(SoftmaxTest, TheLargestOfHugeLogitsHasTheWeightOne) {
  const VectorKernels<float> kernels = choose_vector_kernels<float>(GetParam());
  for (const float logit : {1e4f, 1e7f, 1e12f, 1e20f, 1e30f}) {
    std::vector<float> values(20, 0.5f * logit);
    values[7] = values[19] = logit;
    EXPECT_EQ(kernels.exponentiate(values.data(), 20, logit), 2.0f) << logit;
    EXPECT_EQ(values[7], 1.0f) << logit;
    EXPECT_EQ(values[19], 1.0f) << logit;
    EXPECT_EQ(values[0], 0.0f) << logit;
  }
}

// ---- Soft-caps ----

std::vector<double> logits_up_to(double largest) {
  std::vector<double> logits = {0.0};
  for (double x = largest; x > 1e-6; x *= 0.83) {
    logits.push_back(x);
    logits.push_back(-x);
  }
  return logits;
}

template <typename T>
std::vector<double> capped(Isa isa, const std::vector<double>& given, double cap, double shift) {
  std::vector<T> logits(given.begin(), given.end());
  choose_vector_kernels<T>(isa).cap_logits(logits.data(), logits.size(), static_cast<T>(cap),
                                           static_cast<T>(shift));
  return std::vector<double>(logits.begin(), logits.end());
}

template <typename T>
void expect_capped(Isa isa, double cap, double relative_error) {
  SCOPED_TRACE(cap);
  const std::vector<double> given = logits_up_to(60.0);
  const std::vector<double> result = capped<T>(isa, given, cap, 0.0);
  for (std::size_t i = 0; i < given.size(); ++i) {
    const double x = static_cast<double>(static_cast<T>(given[i]));
    const double right = cap * std::tanh(x / cap);
    ASSERT_NEAR(result[i], right, relative_error * std::abs(right)) << x;
  }
}

TEST_P(SoftmaxTest, ACapIsTanhToARelativeErrorWhateverItIs) {
  for (double cap = 0.5; cap < 2e30; cap *= 7.0) expect_capped<float>(GetParam(), cap, 1.2e-6);
  for (double cap = 0.5; cap < 2e30; cap *= 7.0) expect_capped<double>(GetParam(), cap, 1e-15);
}

TEST_P(SoftmaxTest, ALargeCapLeavesLogitsAsTheyAre) {
  const std::vector<double> given = logits_up_to(60.0);
  for (const double cap : {1e8, 1e12, 1e30, 3e38}) {
    const std::vector<double> result = capped<float>(GetParam(), given, cap, 0.0);
    for (std::size_t i = 0; i < given.size(); ++i) {
      EXPECT_EQ(result[i], static_cast<double>(static_cast<float>(given[i]))) << cap;
    }
  }
}

TEST_P(SoftmaxTest, TheShiftComesFirstAndHugeLogitsReachTheCap) {
  const std::vector<double> result =
      capped<float>(GetParam(), {1.0, 1e30, -1e30, -INFINITY}, 5.0, 0.5);
  EXPECT_NEAR(result[0], 5.0 * std::tanh(0.3), 1e-6);
  EXPECT_EQ(result[1], 5.0);
  EXPECT_EQ(result[2], -5.0);
  EXPECT_EQ(result[3], -5.0);
}

}  // namespace
