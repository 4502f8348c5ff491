// The distortion that a format promises, against the tables of the paper and against the
// definition; that codecs keep it is polar_codec_distortion_test's.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "method_test_util.hpp"
#include "polarquant/method/polar_format.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

PolarFormat norm_format(int head_dim, const std::vector<int>& level_bits) {
  return with_meaning(format_of(head_dim, level_bits), RadiusMeaning::kNorm);
}

// The exact distortion ----------------------------------------------------------------------------

TEST(PolarFormatDistortionTest, ExpectedRelativeMseIsThatOfThePapersTable) {
  const std::pair<std::vector<int>, double> table[] = {{{4, 2, 2, 2}, .03208},
                                                       {{4, 2, 2, 2, 2, 2, 2}, .03515},
                                                       {{5, 3, 3, 3, 3, 3, 3}, .00943},
                                                       {{5, 4, 4, 4, 4, 4, 4}, .00486}};
  for (const auto& [bits, relative_mse] : table) {
    EXPECT_NEAR(norm_format(128, bits).expected_relative_mse(), relative_mse, 5.1e-6);
  }
  EXPECT_NEAR(norm_format(128, {3, 1, 1, 1, 1, 1, 1}).expected_relative_mse(), .1242, 5.1e-5);
}

TEST(PolarFormatDistortionTest, RhoOfThePaperIsThatOfTheTable) {
  EXPECT_NEAR(PolarFormat::paper(128).rho(), .98396, 5.1e-6);
}

// With two signed halves of one pair and no bits but level 1's, rho is sin(x) / x.
TEST(PolarFormatDistortionTest, RhoOfOnePairHasItsClosedForm) {
  for (int bits = 1; bits <= 8; ++bits) {
    const double half_cell = polarquant_test::kPi / (1 << bits);
    EXPECT_NEAR(format_of(2, {bits}).rho(), std::sin(half_cell) / half_cell, 1e-14);
  }
}

TEST(PolarFormatDistortionTest, ExpectedRelativeMseOfEachRadiusMeaningIsThatOfTheTable) {
  const double paper[] = {.0321, .0329, .0329, .0318};
  const double one_radius[] = {.0318, .0326, .0326, .0315};
  for (int meaning = 0; meaning < 4; ++meaning) {
    const RadiusMeaning which = static_cast<RadiusMeaning>(meaning);
    EXPECT_NEAR(with_meaning(format_of(128, {4, 2, 2, 2}), which).expected_relative_mse(),
                paper[meaning], 0.005 * paper[meaning]);
    EXPECT_NEAR(with_meaning(format_of(128, {4, 2, 2, 3, 2, 3, 3}), which).expected_relative_mse(),
                one_radius[meaning], 0.005 * one_radius[meaning]);
  }
}

// rho of full depth from cosine moments, by the recursion of paper.md over parts: the largest power
// of two, then everything before joined with the next one.
double naive_rho(const PolarFormat& format) {
  const CodebookSet codebooks = offline_codebooks(format);
  const auto rho_of_block = [&codebooks](int width) {
    double rho = 1.0;
    for (int level = 1; (1 << level) <= width; ++level) {
      const CosineMoments m = cosine_moments(AngleDistribution::of_level(level),
                                             codebooks.levels[static_cast<std::size_t>(level - 1)]);
      rho *= m.cosine + m.sine;
    }
    return rho;
  };
  int rest = format.head_dim;
  int joined = 0;
  double rho = 0.0;
  for (int part = 1024; part > 0; part /= 2) {
    if (part > rest) continue;
    if (joined == 0) {
      rho = rho_of_block(part);
    } else {
      std::size_t join = 0;
      for (int bits = joined; (bits & (bits - 1)) != 0; bits &= bits - 1) ++join;
      const CosineMoments m =
          cosine_moments(AngleDistribution::of_join(joined, part), codebooks.joins[join]);
      rho = rho * m.cosine + rho_of_block(part) * m.sine;
    }
    joined += part;
    rest -= part;
  }
  return rho;
}

TEST(PolarFormatDistortionTest, RhoOfJoinedPartsIsTheJoinFormula) {
  for (const int d : {6, 48, 80, 96, 112, 192, 576, 1022}) {
    const PolarFormat format = PolarFormat::full_depth(d, d < 10 ? 6.0 : 3.5);
    EXPECT_NEAR(format.rho(), naive_rho(format), 1e-13) << d;
  }
}

TEST(PolarFormatDistortionTest, UncompressedHasNoDistortion) {
  EXPECT_EQ(PolarFormat::uncompressed(128).expected_relative_mse(), 0.0);
  EXPECT_EQ(PolarFormat::uncompressed(128).rho(), 1.0);
}

// Measured by the definitions alone, without the codec: to_polar, the nearest centroid, from_polar.
Distortion exact_radius_distortion(const PolarFormat& format, std::size_t count) {
  const PolarShape shape = format.shape();
  const CodebookSet codebooks = offline_codebooks(format);
  const std::size_t d = static_cast<std::size_t>(format.head_dim);
  std::vector<double> radii(d), angles(d), decoded(d);
  Distortion distortion;
  polarquant::Random random(21);
  std::vector<double> x(d);
  for (std::size_t row = 0; row < count; ++row) {
    for (double& value : x) value = random.gaussian();
    to_polar(shape, x.data(), radii.data(), angles.data());
    std::size_t k = 0;
    const auto quantize = [&angles, &k](const AngleCodebook& codebook, int times) {
      for (int i = 0; i < times; ++i, ++k) {
        angles[k] = codebook.centroids()[static_cast<std::size_t>(codebook.index(angles[k]))];
      }
    };
    for (int level = 1; level <= format.levels; ++level) {
      quantize(codebooks.levels[static_cast<std::size_t>(level - 1)], shape.num_angles(level));
    }
    for (const AngleCodebook& codebook : codebooks.joins) quantize(codebook, 1);
    from_polar(shape, radii.data(), angles.data(), decoded.data());
    distortion.add(x.data(), decoded.data(), d);
  }
  return distortion;
}

class ExactRadiusTest : public testing::TestWithParam<int> {};

TEST_P(ExactRadiusTest, DistortionOfTheDefinitionIsTheExpectedOne) {
  const PolarFormat format =
      with_meaning(PolarFormat::full_depth(GetParam(), 3.25), RadiusMeaning::kNorm);
  const std::size_t count = static_cast<std::size_t>(5000000 / GetParam());
  const Mean measured = exact_radius_distortion(format, count).relative_mse;
  const double exact = format.expected_relative_mse();
  EXPECT_NEAR(measured.mean(), exact, 0.003 * exact);
  EXPECT_LT(4.0 * measured.standard_error(), 0.003 * exact);
}

INSTANTIATE_TEST_SUITE_P(Widths, ExactRadiusTest, testing::Values(64, 80, 96, 112, 128, 256));

TEST(PolarFormatDistortionTest, LeastSquaresIsBelowEveryOtherMeaning) {
  for (const int bits : {1, 2, 3}) {
    const PolarFormat format = format_of(64, {bits + 1, bits, bits, bits, bits, bits});
    const double least = with_meaning(format, RadiusMeaning::kLeastSquares).expected_relative_mse();
    for (const RadiusMeaning meaning :
         {RadiusMeaning::kNorm, RadiusMeaning::kUnbiased, RadiusMeaning::kProjection}) {
      EXPECT_LT(least, with_meaning(format, meaning).expected_relative_mse()) << bits;
    }
  }
}

}  // namespace
