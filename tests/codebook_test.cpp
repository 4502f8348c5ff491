#include "polarquant/codebook.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "method_test_util.hpp"

namespace {

using method_test::expect_invalid_argument;
using method_test::join_density;
using method_test::kPi;
using method_test::Mean;
using method_test::simpson;
using polarquant::AngleCodebook;
using polarquant::AngleDistribution;
using polarquant::cosine_moments;
using polarquant::CosineMoments;
using polarquant::KMeansOptions;
using polarquant::Random;

// Laws of the formats in use: levels 2 .. 8 and some joins.
std::vector<AngleDistribution> laws() {
  std::vector<AngleDistribution> result;
  for (int level = 2; level <= 8; ++level) result.push_back(AngleDistribution::of_level(level));
  for (const auto& [a, b] : {std::pair<int, int>{64, 16}, {512, 64}, {4, 2}, {64, 32}}) {
    result.push_back(AngleDistribution::of_join(a, b));
  }
  return result;
}

std::string name_of(const AngleDistribution& law, int bits) {
  return "a = " + std::to_string(law.a()) + ", b = " + std::to_string(law.b()) + ", " +
         std::to_string(bits) + " bits";
}

// The integral of psi^power times the exact density over a cell.
double cell_moment(const AngleDistribution& law, double low, double high, int power) {
  const double width = 1.0 / std::sqrt(2.0 * (law.a() + law.b()));
  const double center = std::atan2(std::sqrt(law.b()), std::sqrt(law.a()));
  low = std::max(low, center - 14.0 * width);
  high = std::min(high, center + 14.0 * width);
  return simpson(low, high, 500, [&law, power](double psi) {
    if (psi <= 0.0 || psi >= 0.5 * kPi) return 0.0;
    return std::pow(psi, power) * join_density(law.a(), law.b(), psi);
  });
}

std::vector<double> edges_of(const AngleCodebook& codebook) {
  std::vector<double> edges = codebook.boundaries();
  edges.insert(edges.begin(), 0.0);
  edges.push_back(0.5 * kPi);
  return edges;
}

// E (psi - theta)^2.
double distortion(const AngleDistribution& law, const AngleCodebook& codebook) {
  const std::vector<double> edges = edges_of(codebook);
  double total = 0.0;
  for (std::size_t i = 0; i < codebook.centroids().size(); ++i) {
    const double theta = codebook.centroids()[i];
    total += cell_moment(law, edges[i], edges[i + 1], 2) -
             2.0 * theta * cell_moment(law, edges[i], edges[i + 1], 1) +
             theta * theta * cell_moment(law, edges[i], edges[i + 1], 0);
  }
  return total;
}

double circular_distance(double x, double y) {
  const double gap = std::fmod(std::abs(x - y), 2.0 * kPi);
  return std::min(gap, 2.0 * kPi - gap);
}

// Lloyd-Max ---------------------------------------------------------------------------------------

TEST(LloydMax, every_centroid_is_the_mean_of_its_cell) {
  for (const AngleDistribution& law : laws()) {
    for (int bits = 0; bits <= 6; ++bits) {
      const AngleCodebook codebook = AngleCodebook::lloyd_max(law, bits);
      const std::vector<double> edges = edges_of(codebook);
      ASSERT_EQ(codebook.centroids().size(), std::size_t{1} << bits);
      for (std::size_t i = 0; i < codebook.centroids().size(); ++i) {
        const double mass = cell_moment(law, edges[i], edges[i + 1], 0);
        const double mean = cell_moment(law, edges[i], edges[i + 1], 1) / mass;
        ASSERT_NEAR(codebook.centroids()[i], mean, 1e-9) << name_of(law, bits) << " " << i;
      }
    }
  }
}

TEST(LloydMax, boundaries_are_the_midpoints_of_centroids) {
  for (const AngleDistribution& law : laws()) {
    for (int bits = 0; bits <= 6; ++bits) {
      const AngleCodebook codebook = AngleCodebook::lloyd_max(law, bits);
      ASSERT_EQ(codebook.boundaries().size(), codebook.centroids().size() - 1);
      for (std::size_t i = 0; i < codebook.boundaries().size(); ++i) {
        ASSERT_LT(codebook.centroids()[i], codebook.centroids()[i + 1]);
        ASSERT_DOUBLE_EQ(codebook.boundaries()[i],
                         0.5 * (codebook.centroids()[i] + codebook.centroids()[i + 1]));
      }
    }
  }
}

TEST(LloydMax, codebook_of_a_symmetric_law_is_symmetric) {
  for (int level = 2; level <= 10; ++level) {
    for (int bits = 0; bits <= 6; ++bits) {
      const AngleCodebook codebook =
          AngleCodebook::lloyd_max(AngleDistribution::of_level(level), bits);
      const std::vector<double>& theta = codebook.centroids();
      for (std::size_t i = 0; i < theta.size(); ++i) {
        ASSERT_NEAR(theta[i] + theta[theta.size() - 1 - i], kPi / 2.0, 1e-15);
      }
    }
  }
}

TEST(LloydMax, no_bits_is_the_mean) {
  for (const AngleDistribution& law : laws()) {
    const AngleCodebook codebook = AngleCodebook::lloyd_max(law, 0);
    EXPECT_EQ(codebook.centroids(), std::vector<double>{law.mean()});
    EXPECT_EQ(codebook.index(0.1), 0);
    EXPECT_NEAR(distortion(law, codebook), law.variance(), 1e-9 * law.variance());
  }
}

// Level 2 with one bit has a closed form: the density sin 2 psi on [0, pi/4] has mean 1/2.
TEST(LloydMax, one_bit_at_level_2_is_one_half_and_its_mirror) {
  const AngleCodebook codebook = AngleCodebook::lloyd_max(AngleDistribution::of_level(2), 1);
  EXPECT_NEAR(codebook.centroids()[0], 0.5, 1e-12);
  EXPECT_NEAR(codebook.centroids()[1], kPi / 2.0 - 0.5, 1e-12);
  EXPECT_NEAR(codebook.boundaries()[0], kPi / 4.0, 1e-15);
}

TEST(LloydMax, every_bit_divides_the_distortion_by_two_to_four_point_two) {
  for (const AngleDistribution& law : laws()) {
    double previous = law.variance();
    for (int bits = 1; bits <= 6; ++bits) {
      const double now = distortion(law, AngleCodebook::lloyd_max(law, bits));
      EXPECT_GT(previous / now, 2.0) << name_of(law, bits);
      EXPECT_LT(previous / now, 4.2) << name_of(law, bits);
      previous = now;
    }
  }
}

// Panter and Dite: N^-2 (integral of density^(1/3))^3 / 12 for many cells.
TEST(LloydMax, eight_bits_reach_the_asymptotic_distortion) {
  for (int level = 2; level <= 7; ++level) {
    const AngleDistribution law = AngleDistribution::of_level(level);
    const double root = simpson(0.0, kPi / 2.0, 20000, [&law](double psi) {
      if (psi <= 0.0 || psi >= 0.5 * kPi) return 0.0;
      return std::cbrt(join_density(law.a(), law.b(), psi));
    });
    const double asymptotic = root * root * root / 12.0 / (256.0 * 256.0);
    const double ratio = distortion(law, AngleCodebook::lloyd_max(law, 8)) / asymptotic;
    EXPECT_GT(ratio, 0.98) << level;
    EXPECT_LT(ratio, 1.0) << level;
  }
}

TEST(LloydMax, level_1_is_exactly_uniform) {
  for (int bits = 1; bits <= 8; ++bits) {
    const AngleCodebook codebook = AngleCodebook::lloyd_max(AngleDistribution::of_level(1), bits);
    const int count = 1 << bits;
    ASSERT_EQ(codebook.boundaries().size(), static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) {
      const std::size_t k = static_cast<std::size_t>(i);
      EXPECT_DOUBLE_EQ(codebook.centroids()[k], (i + 0.5) * 2.0 * kPi / count);
      EXPECT_DOUBLE_EQ(codebook.boundaries()[k], i * 2.0 * kPi / count);
      // A boundary belongs to the cell above.
      EXPECT_EQ(codebook.index(codebook.boundaries()[k]), i);
      EXPECT_EQ(codebook.index(codebook.centroids()[k]), i);
    }
    EXPECT_EQ(codebook.boundaries()[0], 0.0);
    EXPECT_EQ(codebook.index(std::nextafter(2.0 * kPi, 0.0)), count - 1);
  }
}

TEST(LloydMax, index_is_that_of_the_nearest_centroid) {
  Random random(1);
  for (const AngleDistribution& law : laws()) {
    const AngleCodebook codebook = AngleCodebook::lloyd_max(law, 3);
    for (int i = 0; i < 1000; ++i) {
      const double psi = random.uniform() * kPi / 2.0;
      const double chosen = codebook.centroids()[static_cast<std::size_t>(codebook.index(psi))];
      for (const double theta : codebook.centroids()) {
        ASSERT_LE(std::abs(psi - chosen), std::abs(psi - theta));
      }
    }
  }
}

TEST(LloydMax, codebooks_are_the_same_bits_everywhere) {
  method_test::Fingerprint fingerprint;
  for (int bits = 0; bits <= 6; ++bits) {
    for (int level = 2; level <= 10; ++level) {
      const AngleCodebook codebook =
          AngleCodebook::lloyd_max(AngleDistribution::of_level(level), bits);
      for (const double theta : codebook.centroids()) fingerprint.add(theta);
      for (const double beta : codebook.boundaries()) fingerprint.add(beta);
    }
    for (const AngleDistribution& law : laws()) {
      const AngleCodebook codebook = AngleCodebook::lloyd_max(law, bits);
      for (const double theta : codebook.centroids()) fingerprint.add(theta);
    }
  }
  EXPECT_EQ(fingerprint.value(), 0xa17e03cfe0fb10afULL);
}

TEST(LloydMax, impossible_number_of_bits_is_an_error_that_names_it) {
  const AngleDistribution circle = AngleDistribution::of_level(1);
  const AngleDistribution law = AngleDistribution::of_level(2);
  expect_invalid_argument([&] { AngleCodebook::lloyd_max(law, -1); }, {"-1 bits", "0 .. 8"});
  expect_invalid_argument([&] { AngleCodebook::lloyd_max(law, 9); }, {"9 bits", "0 .. 8"});
  expect_invalid_argument([&] { AngleCodebook::lloyd_max(circle, 0); }, {"0 bits", "1 .. 8"});
}

// Given centroids ---------------------------------------------------------------------------------

TEST(FromCentroids, index_is_that_of_the_nearest_centroid_on_the_circle) {
  Random random(2);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<double> centroids(std::size_t{1} << (1 + trial % 5));
    for (double& theta : centroids) theta = random.uniform() * 2.0 * kPi;
    std::sort(centroids.begin(), centroids.end());
    const AngleCodebook codebook = AngleCodebook::from_centroids(centroids, true);
    ASSERT_TRUE(std::is_sorted(codebook.boundaries().begin(), codebook.boundaries().end()));
    for (int i = 0; i < 500; ++i) {
      const double psi = random.uniform() * 2.0 * kPi;
      const double chosen = centroids[static_cast<std::size_t>(codebook.index(psi))];
      for (const double theta : centroids) {
        ASSERT_LE(circular_distance(psi, chosen), circular_distance(psi, theta) + 1e-14);
      }
    }
  }
}

TEST(FromCentroids, cell_across_the_cut_may_begin_on_either_side_of_it) {
  // Midway between 6.0 and 0.5 + 2 pi is 6.39, past the cut; between 5.0 and 0.5 it is before.
  const AngleCodebook after = AngleCodebook::from_centroids({0.5, 6.0}, true);
  EXPECT_EQ(after.index(0.01), 1);
  EXPECT_EQ(after.index(0.2), 0);
  EXPECT_EQ(after.index(6.2), 1);
  const AngleCodebook before = AngleCodebook::from_centroids({0.5, 5.0}, true);
  EXPECT_EQ(before.index(0.01), 0);
  EXPECT_EQ(before.index(5.8), 1);
  EXPECT_EQ(before.index(6.0), 0);
}

TEST(FromCentroids, wrong_number_is_an_error_that_names_it) {
  expect_invalid_argument([] { AngleCodebook::from_centroids({}, false); }, {"0 centroids"});
  expect_invalid_argument(
      [] {
        AngleCodebook::from_centroids({.1, .2, .3}, false);
      },
      {"3 centroids", "power of two"});
  expect_invalid_argument([] { AngleCodebook::from_centroids({.1}, true); },
                          {"1 centroids", "2 or more on the circle"});
  expect_invalid_argument(
      [] { AngleCodebook::from_centroids(std::vector<double>(512, 0.1), false); },
      {"512 centroids", "256"});
}

TEST(FromCentroids, wrong_centroid_is_an_error_that_names_it) {
  expect_invalid_argument(
      [] {
        AngleCodebook::from_centroids({0.1, 1.6}, false);
      },
      {"centroid 1 is 1.6", "pi/2]"});
  expect_invalid_argument(
      [] {
        AngleCodebook::from_centroids({0.1, 6.3}, true);
      },
      {"centroid 1 is 6.3", "2 pi)"});
  expect_invalid_argument(
      [] {
        AngleCodebook::from_centroids({-0.1, 1.0}, false);
      },
      {"centroid 0 is -0.1"});
  expect_invalid_argument(
      [] {
        AngleCodebook::from_centroids({0.4, 0.3}, false);
      },
      {"centroid 1 is 0.3", "increasing"});
  expect_invalid_argument(
      [] {
        AngleCodebook::from_centroids({std::nan(""), 0.3}, false);
      },
      {"centroid 0 is", "nan"});
}

// k-means -----------------------------------------------------------------------------------------

// Angles that follow the law of a level: atan2 of the norms of two Gaussian halves.
std::vector<double> samples_of_level(int level, std::size_t count, std::uint64_t seed) {
  Random random(seed);
  const int half = level == 1 ? 1 : 1 << (level - 1);
  std::vector<double> angles(count);
  for (double& angle : angles) {
    if (level == 1) {
      angle = random.uniform() * 2.0 * kPi;
      continue;
    }
    double left = 0.0;
    double right = 0.0;
    for (int i = 0; i < half; ++i) {
      const double x = random.gaussian();
      const double y = random.gaussian();
      left += x * x;
      right += y * y;
    }
    angle = std::atan2(std::sqrt(right), std::sqrt(left));
  }
  return angles;
}

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
TEST(KMeans, samples_of_a_law_give_its_lloyd_max_codebook) {
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

TEST(KMeans, samples_of_a_law_give_its_distortion) {
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

TEST(KMeans, uniform_samples_on_the_circle_give_a_uniform_codebook) {
  const std::vector<double> samples = samples_of_level(1, 200000, 5);
  const AngleCodebook codebook = AngleCodebook::k_means(samples, k_means_options(4, true, 3));
  // The least distortion of 16 arcs is (2 pi / 16)^2 / 12.
  const double exact = kPi * kPi / 64.0 / 12.0;
  const double reached = objective(samples, codebook.centroids(), true);
  EXPECT_GT(reached, 0.99 * exact);
  EXPECT_LT(reached, 1.02 * exact);
}

TEST(KMeans, separate_clusters_give_their_means) {
  const std::vector<double> angles = {0.10, 0.12, 0.50, 0.52, 0.54, 1.0, 1.5, 1.52};
  std::vector<double> found =
      AngleCodebook::k_means(angles, k_means_options(2, false, 4)).centroids();
  const double means[] = {0.11, 0.52, 1.0, 1.51};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(found[i], means[i], 1e-14);
}

TEST(KMeans, cluster_across_the_cut_has_its_mean_on_the_circle) {
  const double turn = 2.0 * kPi;
  const std::vector<double> angles = {0.05, turn - 0.01, turn - 0.02, 3.0, 3.1};
  const std::vector<double> found =
      AngleCodebook::k_means(angles, k_means_options(1, true, 5)).centroids();
  EXPECT_NEAR(circular_distance(found[0], 0.02 / 3.0), 0.0, 1e-14);
  EXPECT_NEAR(found[1], 3.05, 1e-14);
}

// One further step of Lloyd's iteration, by brute force on the circle, changes nothing.
TEST(KMeans, result_is_a_fixed_point_on_the_circle) {
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

TEST(KMeans, result_is_a_fixed_point_on_the_quadrant) {
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
TEST(KMeans, objective_is_near_the_best_of_many_seeds) {
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

TEST(KMeans, objective_beats_every_random_draw_of_centroids) {
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

TEST(KMeans, order_of_the_samples_does_not_matter) {
  std::vector<double> samples = clumped_circle(1000, 11);
  const AngleCodebook codebook = AngleCodebook::k_means(samples, k_means_options(3, true, 1));
  std::reverse(samples.begin(), samples.end());
  EXPECT_EQ(AngleCodebook::k_means(samples, k_means_options(3, true, 1)).centroids(),
            codebook.centroids());
}

TEST(KMeans, equal_seeds_give_equal_codebooks_and_others_need_not) {
  const std::vector<double> samples = samples_of_level(1, 1000, 12);
  const auto fit = [&samples](std::uint64_t seed) {
    return AngleCodebook::k_means(samples, k_means_options(3, true, seed)).centroids();
  };
  EXPECT_EQ(fit(1), fit(1));
  EXPECT_NE(fit(1), fit(2));
}

TEST(KMeans, equal_samples_give_equal_centroids) {
  const AngleCodebook codebook =
      AngleCodebook::k_means(std::vector<double>(100, 0.7), k_means_options(2, false, 1));
  ASSERT_EQ(codebook.centroids().size(), 4u);
  for (const double theta : codebook.centroids()) EXPECT_NEAR(theta, 0.7, 1e-14);
}

TEST(KMeans, impossible_number_of_bits_is_an_error_that_names_it) {
  const std::vector<double> samples(1000, 0.5);
  expect_invalid_argument([&] { AngleCodebook::k_means(samples, k_means_options(9, false, 0)); },
                          {"9 bits", "0 .. 8"});
  expect_invalid_argument([&] { AngleCodebook::k_means(samples, k_means_options(-1, false, 0)); },
                          {"-1 bits", "0 .. 8"});
  expect_invalid_argument([&] { AngleCodebook::k_means(samples, k_means_options(0, true, 0)); },
                          {"0 bits", "1 .. 8"});
}

TEST(KMeans, too_few_angles_are_an_error_that_names_their_number) {
  expect_invalid_argument(
      [] {
        AngleCodebook::k_means({0.1, 0.2, 0.3}, KMeansOptions{});
      },
      {"4 centroids", "3 angles", "too few"});
}

TEST(KMeans, angle_out_of_range_is_an_error_that_names_it) {
  const KMeansOptions line = k_means_options(0, false, 0);
  const KMeansOptions circle = k_means_options(1, true, 0);
  expect_invalid_argument([&] { AngleCodebook::k_means({1.6}, line); }, {"angle 1.6", "pi/2]"});
  expect_invalid_argument([&] { AngleCodebook::k_means({-0.1}, line); }, {"angle -0.1"});
  expect_invalid_argument([&] { AngleCodebook::k_means({std::nan("")}, line); }, {"nan"});
  expect_invalid_argument(
      [&] {
        AngleCodebook::k_means({1.0, 6.3}, circle);
      },
      {"angle 6.3", "2 pi)"});
  expect_invalid_argument(
      [&] {
        AngleCodebook::k_means({1.0, polarquant::detail::kTwoPi}, circle);
      },
      {"angle 6.28", "2 pi)"});
}

// Moments -----------------------------------------------------------------------------------------

TEST(CosineMoments, circle_has_its_closed_form) {
  for (int bits = 1; bits <= 8; ++bits) {
    const AngleDistribution law = AngleDistribution::of_level(1);
    const CosineMoments moments = cosine_moments(law, AngleCodebook::lloyd_max(law, bits));
    const double half_cell = kPi / (1 << bits);
    EXPECT_NEAR(moments.cosine, std::sin(half_cell) / half_cell, 1e-14);
    EXPECT_NEAR(moments.cosine_squared, 0.5 + 0.5 * std::sin(2.0 * half_cell) / (2.0 * half_cell),
                1e-14);
    EXPECT_EQ(moments.sine, 0.0);
  }
}

// E cos psi of a join by the Beta law of cos^2 psi.
double mean_cosine(double a, double b) {
  return std::exp(std::lgamma(0.5 * (a + 1.0)) + std::lgamma(0.5 * (a + b)) - std::lgamma(0.5 * a) -
                  std::lgamma(0.5 * (a + b + 1.0)));
}

TEST(CosineMoments, no_bits_has_its_closed_form) {
  for (const AngleDistribution& law : laws()) {
    const CosineMoments moments = cosine_moments(law, AngleCodebook::lloyd_max(law, 0));
    const double a = law.a();
    const double b = law.b();
    const double c = std::cos(law.mean());
    const double s = std::sin(law.mean());
    EXPECT_NEAR(moments.cosine, c * mean_cosine(a, b), 1e-12);
    EXPECT_NEAR(moments.sine, s * mean_cosine(b, a), 1e-12);
    EXPECT_NEAR(moments.cosine_squared, c * c * a / (a + b), 1e-12);
    EXPECT_NEAR(moments.sine_squared, s * s * b / (a + b), 1e-12);
    EXPECT_NEAR(moments.cross, c * s * mean_cosine(a, b) * mean_cosine(b, a + 1.0), 1e-12);
  }
}

// The moments of samples through index(), within 4 standard errors.
void expect_sampled_moments(const CosineMoments& exact, const AngleCodebook& codebook,
                            const std::vector<double>& samples) {
  Mean cosine, sine, cosine_squared, sine_squared, cross;
  for (const double psi : samples) {
    const double theta = codebook.centroids()[static_cast<std::size_t>(codebook.index(psi))];
    const bool circular = codebook.is_circular();
    const double c = circular ? std::cos(psi - theta) : std::cos(psi) * std::cos(theta);
    const double s = circular ? 0.0 : std::sin(psi) * std::sin(theta);
    cosine.add(c);
    sine.add(s);
    cosine_squared.add(c * c);
    sine_squared.add(s * s);
    cross.add(c * s);
  }
  EXPECT_NEAR(exact.cosine, cosine.mean(), 4.0 * cosine.standard_error());
  EXPECT_NEAR(exact.sine, sine.mean(), 4.0 * sine.standard_error());
  EXPECT_NEAR(exact.cosine_squared, cosine_squared.mean(), 4.0 * cosine_squared.standard_error());
  EXPECT_NEAR(exact.sine_squared, sine_squared.mean(), 4.0 * sine_squared.standard_error());
  EXPECT_NEAR(exact.cross, cross.mean(), 4.0 * cross.standard_error());
}

TEST(CosineMoments, levels_agree_with_samples) {
  for (const int level : {2, 3, 5}) {
    for (const int bits : {0, 1, 3}) {
      const AngleDistribution law = AngleDistribution::of_level(level);
      const AngleCodebook codebook = AngleCodebook::lloyd_max(law, bits);
      expect_sampled_moments(cosine_moments(law, codebook), codebook,
                             samples_of_level(level, 100000, 13));
    }
  }
}

TEST(CosineMoments, any_codebook_on_the_circle_agrees_with_samples) {
  const AngleDistribution law = AngleDistribution::of_level(1);
  const std::vector<double> samples = samples_of_level(1, 200000, 14);
  for (const std::vector<double>& centroids :
       {std::vector<double>{0.5, 1.0}, {3.0, 6.0}, {0.1, 0.2, 3.0, 6.2}, {2.0, 2.1, 2.2, 2.3}}) {
    const AngleCodebook codebook = AngleCodebook::from_centroids(centroids, true);
    expect_sampled_moments(cosine_moments(law, codebook), codebook, samples);
  }
}

TEST(CosineMoments, circular_and_other_do_not_mix) {
  const AngleDistribution circle = AngleDistribution::of_level(1);
  const AngleDistribution law = AngleDistribution::of_level(2);
  expect_invalid_argument([&] { cosine_moments(law, AngleCodebook::lloyd_max(circle, 2)); },
                          {"circular"});
  expect_invalid_argument([&] { cosine_moments(circle, AngleCodebook::lloyd_max(law, 2)); },
                          {"circular"});
}

}  // namespace
