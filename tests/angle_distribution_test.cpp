#include "polarquant/method/angle_distribution.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "method_test_util.hpp"
#include "polarquant/method/polar_transform.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

// (a, b) of the laws under test: levels 2 .. 10, then joins of unequal parts.
const std::vector<std::pair<int, int>>& laws() {
  static const std::vector<std::pair<int, int>> kLaws = {
      {2, 2},     {4, 4},     {8, 8},   {16, 16},  {32, 32},  {64, 64},  {128, 128},
      {256, 256}, {512, 512}, {64, 16}, {64, 32},  {512, 64}, {96, 16},  {128, 64},
      {4, 2},     {8, 2},     {2, 8},   {1008, 8}, {512, 2},  {768, 254}};
  return kLaws;
}

std::string name_of(std::pair<int, int> law) {
  return "a = " + std::to_string(law.first) + ", b = " + std::to_string(law.second);
}

// Where the mass is: the mean of tan^2 is b / a, and the width is that of a Gaussian of the
// density's curvature.
double center_of(std::pair<int, int> law) {
  return std::atan2(std::sqrt(law.second), std::sqrt(law.first));
}
double width_of(std::pair<int, int> law) { return 1.0 / std::sqrt(2.0 * (law.first + law.second)); }

// The integral of g times the exact density over [low, high], by Simpson's rule.
template <typename Function>
double quadrature(std::pair<int, int> law, double low, double high, const Function& g) {
  low = std::max(low, center_of(law) - 14.0 * width_of(law));
  high = std::min(high, center_of(law) + 14.0 * width_of(law));
  return simpson(low, high, 4000, [&law, &g](double psi) {
    if (psi <= 0.0 || psi >= 0.5 * kPi) return 0.0;
    return g(psi) * join_density(law.first, law.second, psi);
  });
}

TEST(AngleDistributionTest, VariancesAreThoseOfTheTable) {
  const double table[] = {.116850, .061295, .031091, .015605, .007810, .003906, .001953};
  for (int level = 2; level <= 8; ++level) {
    EXPECT_NEAR(AngleDistribution::of_level(level).variance(), table[level - 2], 5.1e-7) << level;
  }
}

TEST(AngleDistributionTest, Level2HasItsClosedFormVariance) {
  EXPECT_NEAR(AngleDistribution::of_level(2).variance(), kPi * kPi / 16.0 - 0.5, 1e-14);
}

TEST(AngleDistributionTest, Level1IsUniformOnTheCircle) {
  const AngleDistribution law = AngleDistribution::of_level(1);
  EXPECT_TRUE(law.is_circular());
  EXPECT_DOUBLE_EQ(law.upper(), 2.0 * kPi);
  EXPECT_DOUBLE_EQ(law.mean(), kPi);
  EXPECT_DOUBLE_EQ(law.variance(), kPi * kPi / 3.0);
  for (const double psi : {0.0, 0.1, 3.0, 6.28}) {
    EXPECT_DOUBLE_EQ(law.density(psi), 1.0 / (2.0 * kPi));
    EXPECT_DOUBLE_EQ(law.cumulative(psi), psi / (2.0 * kPi));
  }
  EXPECT_DOUBLE_EQ(law.quantile(0.25), 0.5 * kPi);
}

TEST(AngleDistributionTest, LevelIsTheJoinOfEqualHalves) {
  for (int level = 2; level <= 10; ++level) {
    const AngleDistribution law = AngleDistribution::of_level(level);
    EXPECT_FALSE(law.is_circular());
    EXPECT_EQ(law.a(), 1 << (level - 1));
    EXPECT_EQ(law.b(), 1 << (level - 1));
    EXPECT_EQ(law.mean(), polarquant::detail::kPi / 4.0);
  }
}

// paper: Lemma 2, with m = 2^(l-1).
TEST(AngleDistributionTest, LevelDensityIsLemma2) {
  for (int level = 2; level <= 10; ++level) {
    const AngleDistribution law = AngleDistribution::of_level(level);
    const double m = std::exp2(level - 1);
    for (int i = -40; i <= 40; ++i) {
      const double psi = kPi / 4.0 + i * 0.1 / std::sqrt(m);
      if (psi <= 0.0 || psi >= kPi / 2.0) continue;
      const double exact =
          std::exp(std::lgamma(m) - (m - 2.0) * std::log(2.0) - 2.0 * std::lgamma(0.5 * m) +
                   (m - 1.0) * std::log(std::sin(2.0 * psi)));
      ASSERT_NEAR(law.density(psi), exact, 2e-12 * exact) << level << " " << psi;
    }
  }
}

TEST(AngleDistributionTest, JoinDensityIsTheFormula) {
  for (const auto& [a, b] : laws()) {
    const AngleDistribution law = AngleDistribution::of_join(a, b);
    for (int i = -80; i <= 80; ++i) {
      const double psi = center_of({a, b}) + i * 0.1 * width_of({a, b});
      if (psi <= 0.0 || psi >= kPi / 2.0) continue;
      const double exact = join_density(a, b, psi);
      ASSERT_NEAR(law.density(psi), exact, 2e-11 * exact) << name_of({a, b}) << " " << psi;
    }
  }
}

TEST(AngleDistributionTest, DensityIsZeroOutsideTheSupport) {
  for (int level = 1; level <= 3; ++level) {
    const AngleDistribution law = AngleDistribution::of_level(level);
    EXPECT_EQ(law.density(-1e-9), 0.0);
    EXPECT_EQ(law.density(law.upper() + 1e-9), 0.0);
  }
}

TEST(AngleDistributionTest, CumulativeIsTheIntegralOfTheDensity) {
  for (const auto& law : laws()) {
    const AngleDistribution distribution = AngleDistribution::of_join(law.first, law.second);
    for (int i = -6; i <= 6; ++i) {
      const double psi = center_of(law) + i * width_of(law);
      if (psi <= 0.0 || psi >= kPi / 2.0) continue;
      const double exact = quadrature(law, 0.0, psi, [](double) { return 1.0; });
      ASSERT_NEAR(distribution.cumulative(psi), exact, 2e-11) << name_of(law) << " " << psi;
    }
  }
}

// A tail is a probability that may be tiny, and must be right relative to itself.
TEST(AngleDistributionTest, LowerTailIsRightRelativeToItself) {
  for (int level = 2; level <= 10; ++level) {
    const int m = 1 << (level - 1);
    const AngleDistribution law = AngleDistribution::of_level(level);
    const double psi = std::max(0.05, kPi / 4.0 - 8.0 * width_of({m, m}));
    const double exact =
        simpson(0.0, psi, 20000, [m](double x) { return x > 0.0 ? join_density(m, m, x) : 0.0; });
    EXPECT_LT(exact, 0.01);
    EXPECT_NEAR(law.cumulative(psi), exact, 1e-9 * exact) << level;
  }
}

TEST(AngleDistributionTest, CumulativeIsZeroBelowAndOneAboveTheSupport) {
  for (int level = 1; level <= 10; ++level) {
    const AngleDistribution law = AngleDistribution::of_level(level);
    EXPECT_EQ(law.cumulative(-1.0), 0.0);
    EXPECT_EQ(law.cumulative(0.0), 0.0);
    EXPECT_EQ(law.cumulative(law.upper()), 1.0);
    EXPECT_EQ(law.cumulative(7.0), 1.0);
  }
}

TEST(AngleDistributionTest, QuantileInvertsCumulative) {
  for (const auto& [a, b] : laws()) {
    const AngleDistribution law = AngleDistribution::of_join(a, b);
    for (const double p : {1e-12, 1e-6, 0.01, 0.3, 0.5, 0.77, 0.999, 1.0 - 1e-9}) {
      ASSERT_NEAR(law.cumulative(law.quantile(p)), p, 1e-9 * p + 1e-13) << name_of({a, b}) << p;
    }
  }
}

TEST(AngleDistributionTest, CumulativeInvertsQuantile) {
  for (const auto& law : laws()) {
    const AngleDistribution distribution = AngleDistribution::of_join(law.first, law.second);
    for (int i = -3; i <= 3; ++i) {
      const double psi = center_of(law) + 0.7 * i * width_of(law);
      if (psi <= 0.0 || psi >= kPi / 2.0) continue;
      ASSERT_NEAR(distribution.quantile(distribution.cumulative(psi)), psi, 1e-13) << name_of(law);
    }
  }
}

TEST(AngleDistributionTest, MomentsAreThoseOfTheDensity) {
  for (const auto& law : laws()) {
    const AngleDistribution distribution = AngleDistribution::of_join(law.first, law.second);
    const double mean = quadrature(law, 0.0, kPi / 2.0, [](double psi) { return psi; });
    const double variance =
        quadrature(law, 0.0, kPi / 2.0, [mean](double psi) { return (psi - mean) * (psi - mean); });
    EXPECT_NEAR(distribution.mean(), mean, 1e-11) << name_of(law);
    EXPECT_NEAR(distribution.variance(), variance, 1e-10 * variance) << name_of(law);
  }
}

// cos^2 psi follows Beta(a/2, b/2), whose moments are rational.
TEST(AngleDistributionTest, IntegralsOfPowersOfTheCosineAreThoseOfTheBetaLaw) {
  for (const auto& [a, b] : laws()) {
    const AngleDistribution law = AngleDistribution::of_join(a, b);
    const auto expectation = [&law](auto g) { return law.integrate(0.0, law.upper(), g); };
    const double n = a + b;
    EXPECT_NEAR(expectation([](double, double, double) { return 1.0; }), 1.0, 1e-13);
    EXPECT_NEAR(expectation([](double, double, double c) { return c * c; }), a / n, 1e-13);
    EXPECT_NEAR(expectation([](double, double, double c) { return c * c * c * c; }),
                a * (a + 2.0) / (n * (n + 2.0)), 1e-13);
    EXPECT_NEAR(expectation([](double, double s, double) { return s * s; }), b / n, 1e-13);
  }
}

TEST(AngleDistributionTest, ExchangingTheSidesMirrorsTheLaw) {
  const AngleDistribution law = AngleDistribution::of_join(64, 16);
  const AngleDistribution mirrored = AngleDistribution::of_join(16, 64);
  EXPECT_NEAR(law.mean() + mirrored.mean(), kPi / 2.0, 1e-14);
  EXPECT_NEAR(law.variance(), mirrored.variance(), 1e-15);
  for (const double psi : {0.2, 0.4, 0.6}) {
    EXPECT_NEAR(law.density(psi), mirrored.density(kPi / 2.0 - psi), 1e-12);
    EXPECT_NEAR(law.cumulative(psi), 1.0 - mirrored.cumulative(kPi / 2.0 - psi), 1e-13);
  }
}

// The angles of Gaussian vectors, one per vector and angle of the tree.
std::vector<std::vector<double>> sampled_angles(int head_dim, int levels, std::size_t count) {
  const PolarShape shape{head_dim, levels};
  const std::size_t d = static_cast<std::size_t>(head_dim);
  const std::vector<double> rows = gaussian_vector<double>(count * d, 5);
  std::vector<std::vector<double>> angles(static_cast<std::size_t>(shape.num_angles()));
  std::vector<double> radii(d);
  std::vector<double> psi(d);
  for (std::size_t row = 0; row < count; ++row) {
    polarquant::to_polar(shape, rows.data() + row * d, radii.data(), psi.data());
    for (std::size_t k = 0; k < angles.size(); ++k) angles[k].push_back(psi[k]);
  }
  return angles;
}

double statistic_of(const std::vector<double>& samples, const AngleDistribution& law) {
  return kolmogorov_statistic(samples, [&law](double psi) { return law.cumulative(psi); });
}

TEST(AngleDistributionTest, AnglesOfGaussianVectorsFollowTheLawOfTheirLevel) {
  const PolarShape shape{128, 7};
  const std::vector<std::vector<double>> angles = sampled_angles(128, 7, 10000);
  for (int level = 1; level <= 7; ++level) {
    const std::vector<double>& samples =
        angles[static_cast<std::size_t>(shape.first_angle(level + 1) - 1)];
    EXPECT_LT(statistic_of(samples, AngleDistribution::of_level(level)), kKolmogorovBound) << level;
    // The test can tell: the next level's law does not fit.
    EXPECT_GT(statistic_of(samples, AngleDistribution::of_level(level + 1)), 5.0) << level;
  }
}

TEST(AngleDistributionTest, AnglesOfJoinsFollowTheLawOfTheirSides) {
  for (const auto& [head_dim, levels] : {std::pair<int, int>{80, 6}, {96, 6}, {112, 6}, {576, 9}}) {
    const PolarShape shape{head_dim, levels};
    const std::vector<std::vector<double>> angles = sampled_angles(head_dim, levels, 5000);
    for (int join = 0; join < shape.num_joins(); ++join) {
      const std::vector<double>& samples =
          angles[static_cast<std::size_t>(shape.first_angle(levels + 1) + join)];
      const int a = shape.join_left(join);
      const int b = shape.join_right(join);
      EXPECT_LT(statistic_of(samples, AngleDistribution::of_join(a, b)), kKolmogorovBound)
          << name_of({a, b});
      EXPECT_GT(statistic_of(samples, AngleDistribution::of_join(b, a)), 5.0) << name_of({a, b});
    }
  }
}

// paper: Lemma 2. All pairs among the angles of one block of 16, and their squares: independence
// would show as a correlation of about 1/sqrt(n).
TEST(AngleDistributionTest, AnglesOfOneVectorAreUncorrelated) {
  constexpr std::size_t kCount = 40000;
  std::vector<std::vector<double>> variables = sampled_angles(16, 4, kCount);
  const std::size_t num_angles = variables.size();
  for (std::size_t k = 0; k < num_angles; ++k) {
    const double center = k < 8 ? kPi : kPi / 4.0;
    std::vector<double> squares;
    for (const double psi : variables[k]) squares.push_back((psi - center) * (psi - center));
    variables.push_back(squares);
  }
  for (std::vector<double>& variable : variables) {
    double mean = 0.0;
    double square = 0.0;
    for (const double value : variable) mean += value / kCount;
    for (double& value : variable) value -= mean;
    for (const double value : variable) square += value * value / kCount;
    for (double& value : variable) value /= std::sqrt(square);
  }
  // 4.5 standard errors for 435 pairs; a variable and its own square are left out.
  for (std::size_t i = 0; i < variables.size(); ++i) {
    for (std::size_t j = i + 1; j < variables.size(); ++j) {
      if (j == i + num_angles) continue;
      double correlation = 0.0;
      for (std::size_t n = 0; n < kCount; ++n) correlation += variables[i][n] * variables[j][n];
      EXPECT_LT(std::abs(correlation / kCount), 4.5 / std::sqrt(kCount)) << i << " " << j;
    }
  }
}

TEST(AngleDistributionTest, ResultsAreTheSameBitsEverywhere) {
  polarquant_test::Fingerprint fingerprint;
  for (const auto& [a, b] : laws()) {
    const AngleDistribution law = AngleDistribution::of_join(a, b);
    fingerprint.add(law.mean());
    fingerprint.add(law.variance());
    for (int i = -4; i <= 4; ++i) {
      // An fma of our own: a compiler may fuse a sum of products or not.
      const double psi = polarquant::detail::fused(i, std::sqrt(law.variance()), law.mean());
      fingerprint.add(law.density(psi));
      fingerprint.add(law.cumulative(psi));
    }
    fingerprint.add(law.quantile(0.3));
  }
  EXPECT_EQ(fingerprint.value(), 0x7ab6965ee260380dULL);
}

TEST(AngleDistributionTest, LevelOutOfRangeIsAnErrorThatNamesIt) {
  expect_invalid([] { AngleDistribution::of_level(0); }, {"level is 0", "1 .. 10"});
  expect_invalid([] { AngleDistribution::of_level(11); }, {"level is 11", "1 .. 10"});
}

TEST(AngleDistributionTest, ImpossibleJoinIsAnErrorThatNamesIt) {
  expect_invalid([] { AngleDistribution::of_join(0, 2); }, {"0 and 2", "even"});
  expect_invalid([] { AngleDistribution::of_join(64, 15); }, {"64 and 15", "even"});
  expect_invalid([] { AngleDistribution::of_join(1026, 2); }, {"1026 and 2", "1024"});
}

TEST(AngleDistributionTest, ProbabilityOutOfRangeIsAnErrorThatNamesIt) {
  const AngleDistribution law = AngleDistribution::of_level(2);
  expect_invalid([&law] { law.quantile(-0.5); }, {"probability is -0.5", "0 .. 1"});
  expect_invalid([&law] { law.quantile(1.5); }, {"probability is 1.5", "0 .. 1"});
  expect_invalid([&law] { law.quantile(std::nan("")); }, {"probability is", "nan"});
}

TEST(AngleDistributionTest, MomentsAreTheSameBitsAsOneIntegralEach) {
  const AngleDistribution distributions[] = {AngleDistribution::of_level(2),
                                             AngleDistribution::of_level(7),
                                             AngleDistribution::of_join(64, 16)};
  for (const AngleDistribution& law : distributions) {
    for (const auto& [low, high] : {std::pair<double, double>{0.0, 1.6}, {0.3, 0.9}, {1.5, 1.2}}) {
      const AngleDistribution::Moments moments = law.moments(low, high);
      const auto integral = [&, low = low, high = high](auto g) {
        return law.integrate(low, high, g);
      };
      EXPECT_EQ(moments.mass, integral([](double, double, double) { return 1.0; }));
      EXPECT_EQ(moments.angle, integral([](double psi, double, double) { return psi; }));
      EXPECT_EQ(moments.cosine, integral([](double, double, double c) { return c; }));
      EXPECT_EQ(moments.sine, integral([](double, double s, double) { return s; }));
      EXPECT_EQ(moments.cosine_squared, integral([](double, double, double c) { return c * c; }));
      EXPECT_EQ(moments.cross, integral([](double, double s, double c) { return s * c; }));
    }
  }
}

}  // namespace
