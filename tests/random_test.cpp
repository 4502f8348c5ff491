#include "polarquant/base/random.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "method_test_util.hpp"

namespace {

using polarquant::Random;
using polarquant_test::Fingerprint;
using polarquant_test::kKolmogorovBound;
using polarquant_test::kolmogorov_statistic;

// A sample moment of `count` draws with the given exact mean and variance, within 4 standard
// errors of it.
template <typename Draw>
void expect_mean(int count, double exact, double variance, const Draw& draw) {
  double total = 0.0;
  for (int i = 0; i < count; ++i) total += draw();
  EXPECT_NEAR(total / count, exact, 4.0 * std::sqrt(variance / count));
}

constexpr int kCount = 1000000;

// Published outputs of SplitMix64 for the seed 0.
TEST(RandomTest, FirstNumbersAreThoseOfSplitmix64) {
  Random random(0);
  EXPECT_EQ(random.next(), 0xe220a8397b1dcdafULL);
  EXPECT_EQ(random.next(), 0x6e789e6aa1b965f4ULL);
  EXPECT_EQ(random.next(), 0x06c45d188009454fULL);
}

TEST(RandomTest, EqualSeedsGiveEqualStreams) {
  Random first(77);
  Random second(77);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(first.gaussian(), second.gaussian());
}

TEST(RandomTest, NeighbouringSeedsGiveUnrelatedStreams) {
  Random first(77);
  Random second(78);
  double product = 0.0;
  for (int i = 0; i < kCount; ++i) product += first.gaussian() * second.gaussian();
  EXPECT_NEAR(product / kCount, 0.0, 4.0 / std::sqrt(kCount));
}

TEST(RandomTest, UniformNumbersAreMultiplesOf2ToTheMinus53BelowOne) {
  Random random(1);
  for (int i = 0; i < 100000; ++i) {
    const double u = random.uniform();
    ASSERT_TRUE(u >= 0.0 && u < 1.0) << u;
    const double scaled = std::ldexp(u, 53);
    ASSERT_EQ(scaled, std::floor(scaled));
  }
}

TEST(RandomTest, UniformNumbersUseAll53Bits) {
  Random random(1);
  bool lowest_bit_seen = false;
  for (int i = 0; i < 100; ++i) {
    const double half = std::ldexp(random.uniform(), 52);
    lowest_bit_seen = lowest_bit_seen || half != std::floor(half);
  }
  EXPECT_TRUE(lowest_bit_seen);
}

TEST(RandomTest, UniformNumbersHaveTheUniformMoments) {
  Random random(2);
  expect_mean(kCount, 1.0 / 2.0, 1.0 / 12.0, [&random] { return random.uniform(); });
  expect_mean(kCount, 1.0 / 3.0, 4.0 / 45.0, [&random] {
    const double u = random.uniform();
    return u * u;
  });
}

TEST(RandomTest, UniformNumbersFollowTheUniformLaw) {
  Random random(3);
  std::vector<double> samples(200000);
  for (double& sample : samples) sample = random.uniform();
  EXPECT_LT(kolmogorov_statistic(samples, [](double u) { return u; }), kKolmogorovBound);
}

TEST(RandomTest, ConsecutiveUniformNumbersAreUncorrelated) {
  Random random(4);
  double previous = random.uniform() - 0.5;
  expect_mean(kCount, 0.0, 1.0 / 144.0, [&random, &previous] {
    const double before = previous;
    previous = random.uniform() - 0.5;
    return before * previous;
  });
}

TEST(RandomTest, SignsArePlusAndMinusOneEquallyOften) {
  Random random(5);
  expect_mean(kCount, 0.0, 1.0, [&random] {
    const float sign = random.sign();
    EXPECT_EQ(std::abs(sign), 1.0f);
    return static_cast<double>(sign);
  });
}

// Moments 1, 2, 3, 4 and 6 of a standard normal; the variance of x^k is E x^2k - (E x^k)^2.
TEST(RandomTest, GaussianNumbersHaveTheNormalMoments) {
  const int powers[] = {1, 2, 3, 4, 6};
  const double moments[] = {0.0, 1.0, 0.0, 3.0, 15.0};
  const double variances[] = {1.0, 2.0, 15.0, 96.0, 10395.0 - 225.0};
  for (int i = 0; i < 5; ++i) {
    Random random(6);
    const int power = powers[i];
    expect_mean(kCount, moments[i], variances[i],
                [&random, power] { return std::pow(random.gaussian(), power); });
  }
}

TEST(RandomTest, GaussianNumbersFollowTheNormalLaw) {
  Random random(7);
  std::vector<double> samples(200000);
  for (double& sample : samples) sample = random.gaussian();
  const auto cumulative = [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); };
  EXPECT_LT(kolmogorov_statistic(samples, cumulative), kKolmogorovBound);
}

TEST(RandomTest, GaussianNumbersReachTheTailsAsOftenAsTheyShould) {
  Random random(8);
  const double expected = std::erfc(4.0 / std::sqrt(2.0));  // P(|x| > 4) = 6.3e-5
  int beyond = 0;
  for (int i = 0; i < 4 * kCount; ++i) beyond += std::abs(random.gaussian()) > 4.0;
  const double mean = 4 * kCount * expected;
  EXPECT_NEAR(beyond, mean, 4.0 * std::sqrt(mean));
}

TEST(RandomTest, ConsecutiveGaussianNumbersAreUncorrelated) {
  Random random(9);
  double previous = random.gaussian();
  expect_mean(kCount, 0.0, 1.0, [&random, &previous] {
    const double before = previous;
    previous = random.gaussian();
    return before * previous;
  });
}

TEST(RandomTest, GaussianStreamIsTheSameBitsEverywhere) {
  Random random(42);
  Fingerprint fingerprint;
  for (int i = 0; i < 10000; ++i) fingerprint.add(random.gaussian());
  EXPECT_EQ(fingerprint.value(), 0x7e3f29ecdd016950ULL);
}

}  // namespace
