#include "polarquant/method/k_means.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "codebook_test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

// Mean squared distance of samples from their centroids.
double objective(const std::vector<double>& samples, const std::vector<double>& centroids,
                 bool circular) {
  double total = 0.0;
  for (const double psi : samples) {
    double least = std::numeric_limits<double>::infinity();
    for (const double theta : centroids) {
      const double gap = circular ? circular_distance(psi, theta) : std::abs(psi - theta);
      least = std::min(least, gap * gap);
    }
    total += least;
  }
  return total / static_cast<double>(samples.size());
}

// A set of clumps, the first across the cut at 0: far from uniform.
std::vector<double> clumped_circle(std::size_t count, std::uint64_t seed) {
  Random random(seed);
  const double middles[] = {0.05, 1.0, 1.3, 4.0};
  std::vector<double> angles(count);
  for (std::size_t i = 0; i < count; ++i) {
    angles[i] = middles[i % 4] + 0.15 * random.gaussian();
    if (angles[i] < 0.0) angles[i] += 2.0 * kPi;
  }
  return angles;
}

KMeansOptions k_means_options(int bits, bool circular, std::uint64_t seed) {
  KMeansOptions options;
  options.bits = bits;
  options.circular = circular;
  options.seed = seed;
  return options;
}

// The sample optimum differs from the law's by the noise of cell means, amplified by the inverse
// of Lloyd's Jacobian: with 2 bits by less than 6 for these laws. A mean of n/4 samples of spread
// sigma/4 has a standard error of sigma / (2 sqrt n).
TEST(KMeansTest, SamplesOfALawGiveItsLloydMaxCodebook) {
  constexpr std::size_t kCount = 200000;
  for (int level = 2; level <= 5; ++level) {
    const AngleDistribution law = AngleDistribution::of_level(level);
    const std::vector<double> exact = AngleCodebook::lloyd_max(law, 2).centroids();
    const std::vector<double> fitted =
        AngleCodebook::k_means(samples_of_level(level, kCount, 3), k_means_options(2, false, 1))
            .centroids();
    const double tolerance = 6.0 * 4.0 * std::sqrt(law.variance() / (4.0 * kCount));
    for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(fitted[i], exact[i], tolerance) << level;
  }
}

TEST(KMeansTest, SamplesOfALawGiveItsDistortion) {
  for (const int bits : {1, 2, 3, 4}) {
    const AngleDistribution law = AngleDistribution::of_level(2);
    const std::vector<double> samples = samples_of_level(2, 100000, 4);
    const AngleCodebook fitted = AngleCodebook::k_means(samples, k_means_options(bits, false, 2));
    const double exact = distortion(law, AngleCodebook::lloyd_max(law, bits));
    const double reached = distortion(law, fitted);
    EXPECT_GE(reached, exact * (1.0 - 1e-9)) << bits;
    EXPECT_LE(reached, exact * 1.01) << bits;
  }
}

TEST(KMeansTest, UniformSamplesOnTheCircleGiveAUniformCodebook) {
  const std::vector<double> samples = samples_of_level(1, 200000, 5);
  const AngleCodebook codebook = AngleCodebook::k_means(samples, k_means_options(4, true, 3));
  // The least distortion of 16 arcs is (2 pi / 16)^2 / 12.
  const double exact = kPi * kPi / 64.0 / 12.0;
  const double reached = objective(samples, codebook.centroids(), true);
  EXPECT_GT(reached, 0.99 * exact);
  EXPECT_LT(reached, 1.02 * exact);
}

TEST(KMeansTest, SeparateClustersGiveTheirMeans) {
  const std::vector<double> angles = {0.10, 0.12, 0.50, 0.52, 0.54, 1.0, 1.5, 1.52};
  std::vector<double> found =
      AngleCodebook::k_means(angles, k_means_options(2, false, 4)).centroids();
  const double means[] = {0.11, 0.52, 1.0, 1.51};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(found[i], means[i], 1e-14);
}

TEST(KMeansTest, ClusterAcrossTheCutHasItsMeanOnTheCircle) {
  const double turn = 2.0 * kPi;
  const std::vector<double> angles = {0.05, turn - 0.01, turn - 0.02, 3.0, 3.1};
  const std::vector<double> found =
      AngleCodebook::k_means(angles, k_means_options(1, true, 5)).centroids();
  EXPECT_NEAR(circular_distance(found[0], 0.02 / 3.0), 0.0, 1e-14);
  EXPECT_NEAR(found[1], 3.05, 1e-14);
}

// One further step of Lloyd's iteration, by brute force on the circle, changes nothing.
TEST(KMeansTest, ResultIsAFixedPointOnTheCircle) {
  const std::vector<double> samples = clumped_circle(4000, 6);
  for (const int bits : {1, 2, 3, 4}) {
    KMeansOptions options = k_means_options(bits, true, 6);
    options.max_num_iterations = 10000;
    const AngleCodebook codebook = AngleCodebook::k_means(samples, options);
    const std::vector<double>& theta = codebook.centroids();
    std::vector<double> offset(theta.size(), 0.0);
    std::vector<double> count(theta.size(), 0.0);
    for (const double psi : samples) {
      const std::size_t k = static_cast<std::size_t>(codebook.index(psi));
      offset[k] += std::remainder(psi - theta[k], 2.0 * kPi);
      count[k] += 1.0;
    }
    for (std::size_t k = 0; k < theta.size(); ++k) {
      ASSERT_GT(count[k], 0.0);
      EXPECT_NEAR(offset[k] / count[k], 0.0, 1e-10) << bits << " " << k;
    }
  }
}

TEST(KMeansTest, ResultIsAFixedPointOnTheQuadrant) {
  const std::vector<double> samples = samples_of_level(3, 4000, 7);
  for (const int bits : {0, 1, 2, 3, 4}) {
    KMeansOptions options = k_means_options(bits, false, 7);
    options.max_num_iterations = 10000;
    const AngleCodebook codebook = AngleCodebook::k_means(samples, options);
    std::vector<double> sum(codebook.centroids().size(), 0.0);
    std::vector<double> count(codebook.centroids().size(), 0.0);
    for (const double psi : samples) {
      const std::size_t k = static_cast<std::size_t>(codebook.index(psi));
      sum[k] += psi;
      count[k] += 1.0;
    }
    for (std::size_t k = 0; k < sum.size(); ++k) {
      EXPECT_NEAR(codebook.centroids()[k], sum[k] / count[k], 1e-10) << bits << " " << k;
    }
  }
}

// Arthur and Vassilvitskii bound the expectation by 8 (log k + 2) times the optimum. On clumps a
// good start matters: uniformly drawn starts followed by no iteration are far behind.
TEST(KMeansTest, ObjectiveIsNearTheBestOfManySeeds) {
  const std::vector<double> samples = clumped_circle(2000, 8);
  double best = std::numeric_limits<double>::infinity();
  double worst = 0.0;
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    const double reached = objective(
        samples, AngleCodebook::k_means(samples, k_means_options(2, true, seed)).centroids(), true);
    best = std::min(best, reached);
    worst = std::max(worst, reached);
  }
  // Four clumps of variance 0.0225, two of them overlapping: their optimum is below that.
  EXPECT_LT(best, 0.0225);
  EXPECT_GT(best, 0.0150);
  EXPECT_LT(worst, 8.0 * (std::log(4.0) + 2.0) * best);
}

TEST(KMeansTest, ObjectiveBeatsEveryRandomDrawOfCentroids) {
  const std::vector<double> samples = clumped_circle(2000, 9);
  const double reached = objective(
      samples, AngleCodebook::k_means(samples, k_means_options(3, true, 1)).centroids(), true);
  Random random(10);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<double> drawn(8);
    for (double& theta : drawn) {
      theta =
          samples[static_cast<std::size_t>(random.uniform() * static_cast<double>(samples.size()))];
    }
    EXPECT_GT(objective(samples, drawn, true), reached);
  }
}

TEST(KMeansTest, OrderOfTheSamplesDoesNotMatter) {
  std::vector<double> samples = clumped_circle(1000, 11);
  const AngleCodebook codebook = AngleCodebook::k_means(samples, k_means_options(3, true, 1));
  std::reverse(samples.begin(), samples.end());
  EXPECT_EQ(AngleCodebook::k_means(samples, k_means_options(3, true, 1)).centroids(),
            codebook.centroids());
}

TEST(KMeansTest, EqualSeedsGiveEqualCodebooksAndOthersNeedNot) {
  const std::vector<double> samples = samples_of_level(1, 1000, 12);
  const auto fit = [&samples](std::uint64_t seed) {
    return AngleCodebook::k_means(samples, k_means_options(3, true, seed)).centroids();
  };
  EXPECT_EQ(fit(1), fit(1));
  EXPECT_NE(fit(1), fit(2));
}

TEST(KMeansTest, EqualSamplesGiveEqualCentroids) {
  const AngleCodebook codebook =
      AngleCodebook::k_means(std::vector<double>(100, 0.7), k_means_options(2, false, 1));
  ASSERT_EQ(codebook.centroids().size(), 4u);
  for (const double theta : codebook.centroids()) EXPECT_NEAR(theta, 0.7, 1e-14);
}

TEST(KMeansTest, ImpossibleNumberOfBitsIsAnErrorThatNamesIt) {
  const std::vector<double> samples(1000, 0.5);
  expect_invalid([&] { AngleCodebook::k_means(samples, k_means_options(9, false, 0)); },
                 {"9 bits", "0 .. 8"});
  expect_invalid([&] { AngleCodebook::k_means(samples, k_means_options(-1, false, 0)); },
                 {"-1 bits", "0 .. 8"});
  expect_invalid([&] { AngleCodebook::k_means(samples, k_means_options(0, true, 0)); },
                 {"0 bits", "1 .. 8"});
}

TEST(KMeansTest, TooFewAnglesAreAnErrorThatNamesTheirNumber) {
  expect_invalid(
      [] {
        AngleCodebook::k_means({0.1, 0.2, 0.3}, KMeansOptions{});
      },
      {"4 centroids", "3 angles", "too few"});
}

TEST(KMeansTest, AngleOutOfRangeIsAnErrorThatNamesIt) {
  const KMeansOptions line = k_means_options(0, false, 0);
  const KMeansOptions circle = k_means_options(1, true, 0);
  expect_invalid([&] { AngleCodebook::k_means({1.6}, line); }, {"angle 1.6", "pi/2]"});
  expect_invalid([&] { AngleCodebook::k_means({-0.1}, line); }, {"angle -0.1"});
  expect_invalid([&] { AngleCodebook::k_means({std::nan("")}, line); }, {"nan"});
  expect_invalid([&] { AngleCodebook::k_means({1.0, 6.3}, circle); }, {"angle 6.3", "2 pi)"});
  expect_invalid(
      [&] {
        AngleCodebook::k_means({1.0, polarquant::detail::kTwoPi}, circle);
      },
      {"angle 6.28", "2 pi)"});
}

}  // namespace
