// The distortion that a format promises, against the tables of the paper, against the definition
// and against the codec.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "method_test_codec.hpp"
#include "polarquant/method/polar_format.hpp"

namespace {

using method_test::format_of;
using method_test::gaussian_quality;
using method_test::make_rotation;
using method_test::Mean;
using method_test::Quality;
using polarquant::AngleCodebook;
using polarquant::AngleDistribution;
using polarquant::CodebookSet;
using polarquant::cosine_moments;
using polarquant::CosineMoments;
using polarquant::FloatType;
using polarquant::offline_codebooks;
using polarquant::PolarFormat;
using polarquant::PolarShape;
using polarquant::RadiusMeaning;
using polarquant::RotationKind;

PolarFormat with_meaning(PolarFormat format, RadiusMeaning meaning) {
  format.radius_meaning = meaning;
  return format;
}

// The exact distortion ----------------------------------------------------------------------------

TEST(PolarFormat, expected_relative_mse_is_that_of_the_papers_table) {
  const std::pair<std::vector<int>, double> table[] = {{{4, 2, 2, 2}, .03208},
                                                       {{4, 2, 2, 2, 2, 2, 2}, .03515},
                                                       {{5, 3, 3, 3, 3, 3, 3}, .00943},
                                                       {{5, 4, 4, 4, 4, 4, 4}, .00486}};
  for (const auto& [bits, relative_mse] : table) {
    EXPECT_NEAR(format_of(128, bits).expected_relative_mse(), relative_mse, 5.1e-6);
  }
  EXPECT_NEAR(format_of(128, {3, 1, 1, 1, 1, 1, 1}).expected_relative_mse(), .1242, 5.1e-5);
}

TEST(PolarFormat, rho_of_the_paper_is_that_of_the_table) {
  EXPECT_NEAR(PolarFormat::paper(128).rho(), .98396, 5.1e-6);
}

// With two signed halves of one pair and no bits but level 1's, rho is sin(x) / x.
TEST(PolarFormat, rho_of_one_pair_has_its_closed_form) {
  for (int bits = 1; bits <= 8; ++bits) {
    const double half_cell = method_test::kPi / (1 << bits);
    EXPECT_NEAR(format_of(2, {bits}).rho(), std::sin(half_cell) / half_cell, 1e-14);
  }
}

TEST(PolarFormat, expected_relative_mse_of_each_radius_meaning_is_that_of_the_table) {
  const double paper[] = {.0321, .0329, .0329, .0318};
  const double one_radius[] = {.0318, .0326, .0326, .0315};
  for (int meaning = 0; meaning < 4; ++meaning) {
    const RadiusMeaning which = static_cast<RadiusMeaning>(meaning);
    EXPECT_NEAR(format_of(128, {4, 2, 2, 2}, which).expected_relative_mse(), paper[meaning],
                0.005 * paper[meaning]);
    EXPECT_NEAR(format_of(128, {4, 2, 2, 3, 2, 3, 3}, which).expected_relative_mse(),
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

TEST(PolarFormat, rho_of_joined_parts_is_the_join_formula) {
  for (const int d : {6, 48, 80, 96, 112, 192, 576, 1022}) {
    const PolarFormat format = PolarFormat::full_depth(d, d < 10 ? 6.0 : 3.5);
    EXPECT_NEAR(format.rho(), naive_rho(format), 1e-13) << d;
  }
}

TEST(PolarFormat, uncompressed_has_no_distortion) {
  EXPECT_EQ(PolarFormat::uncompressed(128).expected_relative_mse(), 0.0);
  EXPECT_EQ(PolarFormat::uncompressed(128).rho(), 1.0);
}

// Measured by the definitions alone, without the codec: to_polar, the nearest centroid, from_polar.
Quality exact_radius_quality(const PolarFormat& format, std::size_t count) {
  const PolarShape shape = format.shape();
  const CodebookSet codebooks = offline_codebooks(format);
  const std::size_t d = static_cast<std::size_t>(format.head_dim);
  std::vector<double> radii(d), angles(d), decoded(d);
  Quality quality;
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
    double norm2 = 0.0;
    double error2 = 0.0;
    double product = 0.0;
    for (std::size_t i = 0; i < d; ++i) {
      norm2 += x[i] * x[i];
      error2 += (x[i] - decoded[i]) * (x[i] - decoded[i]);
      product += x[i] * decoded[i];
    }
    quality.relative_mse.add(error2 / norm2);
    quality.alignment.add(product / norm2);
  }
  return quality;
}

// The measured mean is within 0.3 % of the exact value, and that is at least 4 standard errors.
void expect_within_0_3_percent(const Mean& measured, double exact) {
  EXPECT_NEAR(measured.mean(), exact, 0.003 * exact);
  EXPECT_LT(4.0 * measured.standard_error(), 0.003 * exact);
}

class ExactRadius : public testing::TestWithParam<int> {};

TEST_P(ExactRadius, distortion_of_the_definition_is_the_expected_one) {
  PolarFormat format = PolarFormat::full_depth(GetParam(), 3.25);
  format.radius_meaning = RadiusMeaning::kNorm;
  const std::size_t count = static_cast<std::size_t>(5000000 / GetParam());
  expect_within_0_3_percent(exact_radius_quality(format, count).relative_mse,
                            format.expected_relative_mse());
}

INSTANTIATE_TEST_SUITE_P(Widths, ExactRadius, testing::Values(64, 80, 96, 112, 128, 256));

// The figure: 100,000 Gaussian vectors through the codec.
struct Row {
  std::vector<int> bits;
  double printed;  // in paper.md's table
};

class GaussianTable : public testing::TestWithParam<Row> {};

TEST_P(GaussianTable, measured_relative_mse_is_exact) {
  const PolarFormat format = format_of(128, GetParam().bits);
  const Quality quality =
      gaussian_quality(format, make_rotation(RotationKind::kNone, 128, 0), 100000, 31);
  expect_within_0_3_percent(quality.relative_mse, format.expected_relative_mse());
  EXPECT_NEAR(quality.relative_mse.mean(), GetParam().printed, 0.004 * GetParam().printed);
  RecordProperty("relative_mse", std::to_string(quality.relative_mse.mean()));
}

TEST_P(GaussianTable, measured_alignment_is_rho) {
  const PolarFormat format = format_of(128, GetParam().bits);
  const Quality quality =
      gaussian_quality(format, make_rotation(RotationKind::kNone, 128, 0), 20000, 32);
  EXPECT_NEAR(quality.alignment.mean(), format.rho(), 0.002 * format.rho());
  // Sharper than the issue asks: 4 standard errors and what a bfloat16 radius adds.
  EXPECT_NEAR(quality.alignment.mean(), format.rho(),
              4.0 * quality.alignment.standard_error() + 2e-5);
}

INSTANTIATE_TEST_SUITE_P(Rows, GaussianTable,
                         testing::Values(Row{{4, 2, 2, 2}, .03208},
                                         Row{{4, 2, 2, 2, 2, 2, 2}, .03515},
                                         Row{{5, 3, 3, 3, 3, 3, 3}, .00943},
                                         Row{{5, 4, 4, 4, 4, 4, 4}, .00486},
                                         Row{{3, 1, 1, 1, 1, 1, 1}, .1242}));

TEST(GaussianVectors, measured_relative_mse_is_exact_after_a_haar_rotation) {
  const PolarFormat format = format_of(128, {4, 2, 2, 2});
  const Quality quality =
      gaussian_quality(format, make_rotation(RotationKind::kHaar, 128, 42), 100000, 33);
  expect_within_0_3_percent(quality.relative_mse, format.expected_relative_mse());
}

TEST(GaussianVectors, measured_relative_mse_is_exact_after_a_hadamard_rotation) {
  const PolarFormat format = format_of(128, {4, 2, 2, 2});
  const Quality quality =
      gaussian_quality(format, make_rotation(RotationKind::kHadamard, 128, 42), 100000, 34);
  expect_within_0_3_percent(quality.relative_mse, format.expected_relative_mse());
}

class GaussianWidth : public testing::TestWithParam<int> {};

TEST_P(GaussianWidth, measured_relative_mse_of_full_depth_is_exact) {
  const PolarFormat format =
      with_meaning(PolarFormat::full_depth(GetParam(), 3.25), RadiusMeaning::kNorm);
  const std::size_t count = static_cast<std::size_t>(8000000 / GetParam());
  const Quality quality =
      gaussian_quality(format, make_rotation(RotationKind::kNone, GetParam(), 0), count, 35);
  expect_within_0_3_percent(quality.relative_mse, format.expected_relative_mse());
}

INSTANTIATE_TEST_SUITE_P(Widths, GaussianWidth, testing::Values(64, 80, 96, 112, 256));

// What the radius means ---------------------------------------------------------------------------

class Meaning : public testing::TestWithParam<std::tuple<std::vector<int>, RadiusMeaning>> {
 protected:
  PolarFormat format() const {
    return format_of(128, std::get<0>(GetParam()), std::get<1>(GetParam()));
  }
  Quality quality() const {
    return gaussian_quality(format(), make_rotation(RotationKind::kNone, 128, 0), 12000, 41);
  }
};

TEST_P(Meaning, measured_relative_mse_is_within_half_a_percent) {
  const double exact = format().expected_relative_mse();
  EXPECT_NEAR(quality().relative_mse.mean(), exact, 0.005 * exact);
}

// 1 / rho and the projection keep inner products, the norm shrinks them by rho, least squares by
// E g^2 = 1 - relative MSE.
TEST_P(Meaning, measured_alignment_is_what_the_meaning_promises) {
  double exact = 1.0;
  if (format().radius_meaning == RadiusMeaning::kNorm) exact = format().rho();
  if (format().radius_meaning == RadiusMeaning::kLeastSquares) {
    exact = 1.0 - format().expected_relative_mse();
  }
  const Quality measured = quality();
  EXPECT_NEAR(measured.alignment.mean(), exact, 4.0 * measured.alignment.standard_error() + 2e-5);
}

INSTANTIATE_TEST_SUITE_P(
    Formats, Meaning,
    testing::Combine(testing::Values(std::vector<int>{4, 2, 2, 2},
                                     std::vector<int>{4, 2, 2, 3, 2, 3, 3}),
                     testing::Values(RadiusMeaning::kNorm, RadiusMeaning::kUnbiased,
                                     RadiusMeaning::kProjection, RadiusMeaning::kLeastSquares)));

TEST(RadiusMeaning, projection_keeps_the_part_along_the_vector_of_every_vector) {
  PolarFormat format = format_of(128, {4, 2, 2, 2}, RadiusMeaning::kProjection);
  format.radius_type = FloatType::kFloat32;
  const Quality quality =
      gaussian_quality(format, make_rotation(RotationKind::kNone, 128, 0), 1000, 42);
  EXPECT_NEAR(quality.alignment.mean(), 1.0, 1e-6);
  EXPECT_LT(quality.alignment.standard_error(), 1e-8);
}

TEST(RadiusMeaning, least_squares_is_below_every_other_meaning) {
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
