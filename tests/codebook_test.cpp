#include "polarquant/method/codebook.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "codebook_test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

std::string name_of(const AngleDistribution& law, int bits) {
  return "a = " + std::to_string(law.a()) + ", b = " + std::to_string(law.b()) + ", " +
         std::to_string(bits) + " bits";
}

// Lloyd-Max ---------------------------------------------------------------------------------------

TEST(LloydMaxTest, EveryCentroidIsTheMeanOfItsCell) {
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

TEST(LloydMaxTest, BoundariesAreTheMidpointsOfCentroids) {
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

TEST(LloydMaxTest, CodebookOfASymmetricLawIsSymmetric) {
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

TEST(LloydMaxTest, NoBitsIsTheMean) {
  for (const AngleDistribution& law : laws()) {
    const AngleCodebook codebook = AngleCodebook::lloyd_max(law, 0);
    EXPECT_EQ(codebook.centroids(), std::vector<double>{law.mean()});
    EXPECT_EQ(codebook.index(0.1), 0);
    EXPECT_NEAR(distortion(law, codebook), law.variance(), 1e-9 * law.variance());
  }
}

// Level 2 with one bit has a closed form: the density sin 2 psi on [0, pi/4] has mean 1/2.
TEST(LloydMaxTest, OneBitAtLevel2IsOneHalfAndItsMirror) {
  const AngleCodebook codebook = AngleCodebook::lloyd_max(AngleDistribution::of_level(2), 1);
  EXPECT_NEAR(codebook.centroids()[0], 0.5, 1e-12);
  EXPECT_NEAR(codebook.centroids()[1], kPi / 2.0 - 0.5, 1e-12);
  EXPECT_NEAR(codebook.boundaries()[0], kPi / 4.0, 1e-15);
}

TEST(LloydMaxTest, EveryBitDividesTheDistortionByTwoToFourPointTwo) {
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
TEST(LloydMaxTest, EightBitsReachTheAsymptoticDistortion) {
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

TEST(LloydMaxTest, Level1IsExactlyUniform) {
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

TEST(LloydMaxTest, IndexIsThatOfTheNearestCentroid) {
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

TEST(LloydMaxTest, CodebooksAreTheSameBitsEverywhere) {
  polarquant_test::Fingerprint fingerprint;
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

TEST(LloydMaxTest, ImpossibleNumberOfBitsIsAnErrorThatNamesIt) {
  const AngleDistribution circle = AngleDistribution::of_level(1);
  const AngleDistribution law = AngleDistribution::of_level(2);
  expect_invalid([&] { AngleCodebook::lloyd_max(law, -1); }, {"-1 bits", "0 .. 8"});
  expect_invalid([&] { AngleCodebook::lloyd_max(law, 9); }, {"9 bits", "0 .. 8"});
  expect_invalid([&] { AngleCodebook::lloyd_max(circle, 0); }, {"0 bits", "1 .. 8"});
}

// Given centroids ---------------------------------------------------------------------------------

TEST(FromCentroidsTest, IndexIsThatOfTheNearestCentroidOnTheCircle) {
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

TEST(FromCentroidsTest, CellAcrossTheCutMayBeginOnEitherSideOfIt) {
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

TEST(FromCentroidsTest, WrongNumberIsAnErrorThatNamesIt) {
  expect_invalid([] { AngleCodebook::from_centroids({}, false); }, {"0 centroids"});
  expect_invalid(
      [] {
        AngleCodebook::from_centroids({.1, .2, .3}, false);
      },
      {"3 centroids", "power of two"});
  expect_invalid([] { AngleCodebook::from_centroids({.1}, true); },
                 {"1 centroids", "2 or more on the circle"});
  expect_invalid([] { AngleCodebook::from_centroids(std::vector<double>(512, 0.1), false); },
                 {"512 centroids", "256"});
}

TEST(FromCentroidsTest, WrongCentroidIsAnErrorThatNamesIt) {
  expect_invalid(
      [] {
        AngleCodebook::from_centroids({0.1, 1.6}, false);
      },
      {"centroid 1 is 1.6", "pi/2]"});
  expect_invalid(
      [] {
        AngleCodebook::from_centroids({0.1, 6.3}, true);
      },
      {"centroid 1 is 6.3", "2 pi)"});
  expect_invalid([] { AngleCodebook::from_centroids({-0.1, 1.0}, false); }, {"centroid 0 is -0.1"});
  expect_invalid(
      [] {
        AngleCodebook::from_centroids({0.4, 0.3}, false);
      },
      {"centroid 1 is 0.3", "must not decrease"});
  expect_invalid(
      [] {
        AngleCodebook::from_centroids({std::nan(""), 0.3}, false);
      },
      {"centroid 0 is", "nan"});
}

// Moments -----------------------------------------------------------------------------------------

TEST(CosineMomentsTest, CircleHasItsClosedForm) {
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

TEST(CosineMomentsTest, NoBitsHasItsClosedForm) {
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

TEST(CosineMomentsTest, LevelsAgreeWithSamples) {
  for (const int level : {2, 3, 5}) {
    for (const int bits : {0, 1, 3}) {
      const AngleDistribution law = AngleDistribution::of_level(level);
      const AngleCodebook codebook = AngleCodebook::lloyd_max(law, bits);
      expect_sampled_moments(cosine_moments(law, codebook), codebook,
                             samples_of_level(level, 100000, 13));
    }
  }
}

TEST(CosineMomentsTest, AnyCodebookOnTheCircleAgreesWithSamples) {
  const AngleDistribution law = AngleDistribution::of_level(1);
  const std::vector<double> samples = samples_of_level(1, 200000, 14);
  for (const std::vector<double>& centroids :
       {std::vector<double>{0.5, 1.0}, {3.0, 6.0}, {0.1, 0.2, 3.0, 6.2}, {2.0, 2.1, 2.2, 2.3}}) {
    const AngleCodebook codebook = AngleCodebook::from_centroids(centroids, true);
    expect_sampled_moments(cosine_moments(law, codebook), codebook, samples);
  }
}

TEST(CosineMomentsTest, CircularAndOtherDoNotMix) {
  const AngleDistribution circle = AngleDistribution::of_level(1);
  const AngleDistribution law = AngleDistribution::of_level(2);
  expect_invalid([&] { cosine_moments(law, AngleCodebook::lloyd_max(circle, 2)); }, {"circular"});
  expect_invalid([&] { cosine_moments(circle, AngleCodebook::lloyd_max(law, 2)); }, {"circular"});
}

}  // namespace
