// The distortion of the codec against the exact formulas, from both sides: paper.md's tables, every
// meaning of the radius, random formats.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "polarquant/codec/polar_codec.hpp"
#include "test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

// ---- Distortion: exact formulas, from both sides ----

struct FigureCase {
  const char* name;
  PolarFormat format;
  double relative_mse;  // paper.md's table: radius meaning 1, exact norm
};

PolarFormat norm_format(std::initializer_list<int> level_bits) {
  return with_meaning(format_of(128, level_bits), RadiusMeaning::kNorm);
}

class PolarCodecFigureTest : public testing::TestWithParam<FigureCase> {};

// Within 0.3 % of exact, which is at least four standard errors.
void expect_exact(const Mean& measured, double exact) {
  EXPECT_NEAR(measured.mean(), exact, (kSanitized ? 0.008 : 0.003) * exact);
  EXPECT_LT(4.0 * measured.standard_error(), (kSanitized ? 0.008 : 0.003) * exact);
}

// 100,000 independent Gaussian vectors. The inner product with the vector itself shrinks to rho = 1
// - relative MSE / 2: within 0.2 %, and within four standard errors and what bfloat16 radii add.
TEST_P(PolarCodecFigureTest, GaussianVectorsHaveTheTabulatedDistortion) {
  const PolarFormat& format = GetParam().format;
  const PolarCodec<float> codec(format, make_rotation(RotationKind::kHaar, 128, 7));
  const Distortion measured = gaussian_distortion(codec, kSanitized ? 20000 : 100000, 100);
  expect_exact(measured.relative_mse, format.expected_relative_mse());
  // The tabulated figures are rounded to four digits.
  EXPECT_NEAR(measured.relative_mse.mean() / GetParam().relative_mse, 1.0,
              kSanitized ? 0.008 : 0.004);
  EXPECT_NEAR(measured.alignment.mean() / (1.0 - GetParam().relative_mse / 2.0), 1.0, 0.002);
  EXPECT_NEAR(measured.alignment.mean(), format.rho(),
              4.0 * measured.alignment.standard_error() + 2e-5);
  RecordProperty("relative_mse", std::to_string(measured.relative_mse.mean()));
}

INSTANTIATE_TEST_SUITE_P(
    Formats, PolarCodecFigureTest,
    testing::Values(FigureCase{"Paper", norm_format({4, 2, 2, 2}), 0.03208},
                    FigureCase{"FullDepth3109", norm_format({4, 2, 2, 2, 2, 2, 2}), 0.03515},
                    FigureCase{"FullDepth4102", norm_format({5, 3, 3, 3, 3, 3, 3}), 0.00943},
                    FigureCase{"FullDepth4594", norm_format({5, 4, 4, 4, 4, 4, 4}), 0.00486},
                    FigureCase{"FullDepth2117", norm_format({3, 1, 1, 1, 1, 1, 1}), 0.1242}),
    [](const auto& tested) { return std::string(tested.param.name); });

class PolarCodecWidthTest : public testing::TestWithParam<int> {};

// Widths beside 128, those with joins among them.
TEST_P(PolarCodecWidthTest, FullDepthHasTheExpectedDistortion) {
  const int d = GetParam();
  const PolarFormat format = PolarFormat::full_depth(d, 3.25);
  const PolarCodec<float> codec(format, make_rotation(RotationKind::kNone, d));
  const std::size_t count = static_cast<std::size_t>((kSanitized ? 2000000 : 5000000) / d);
  expect_exact(gaussian_distortion(codec, count, 200).relative_mse, format.expected_relative_mse());
}

INSTANTIATE_TEST_SUITE_P(Widths, PolarCodecWidthTest, testing::Values(64, 80, 96, 112, 256),
                         testing::PrintToStringParamName());

struct MeaningCase {
  const char* name;
  RadiusMeaning meaning;
  PolarFormat format;
  double relative_mse;
  double alignment;
};

class PolarCodecRadiusMeaningTest : public testing::TestWithParam<MeaningCase> {};

// paper.md's table of the four factors on the radii, each figure within 0.5 %. 1 / rho and the
// projection keep inner products, the norm shrinks them by rho, least squares by E g^2 = 1 -
// relative MSE, within four standard errors and what bfloat16 radii add.
TEST_P(PolarCodecRadiusMeaningTest, DistortionAndAlignmentAreTheTabulated) {
  const PolarFormat format = with_meaning(GetParam().format, GetParam().meaning);
  const PolarCodec<float> codec(format, make_rotation(RotationKind::kNone, 128));
  const Distortion measured = gaussian_distortion(codec, kSanitized ? 10000 : 20000, 300);
  EXPECT_NEAR(measured.relative_mse.mean() / GetParam().relative_mse, 1.0,
              kSanitized ? 0.01 : 0.005);
  EXPECT_NEAR(measured.relative_mse.mean() / format.expected_relative_mse(), 1.0,
              kSanitized ? 0.01 : 0.005);
  EXPECT_NEAR(measured.alignment.mean() / GetParam().alignment, 1.0, 0.005);
  double exact = 1.0;
  if (format.radius_meaning == RadiusMeaning::kNorm) exact = format.rho();
  if (format.radius_meaning == RadiusMeaning::kLeastSquares) {
    exact = 1.0 - format.expected_relative_mse();
  }
  EXPECT_NEAR(measured.alignment.mean(), exact, 4.0 * measured.alignment.standard_error() + 2e-5);
}

const PolarFormat kPaper = format_of(128, {4, 2, 2, 2});
const PolarFormat kOneRadius = format_of(128, {4, 2, 2, 3, 2, 3, 3});

INSTANTIATE_TEST_SUITE_P(
    Table, PolarCodecRadiusMeaningTest,
    testing::Values(
        MeaningCase{"NormPaper", RadiusMeaning::kNorm, kPaper, 0.0321, 0.984},
        MeaningCase{"UnbiasedPaper", RadiusMeaning::kUnbiased, kPaper, 0.0329, 1.0},
        MeaningCase{"ProjectionPaper", RadiusMeaning::kProjection, kPaper, 0.0329, 1.0},
        MeaningCase{"LeastSquaresPaper", RadiusMeaning::kLeastSquares, kPaper, 0.0318, 0.968},
        MeaningCase{"NormOneRadius", RadiusMeaning::kNorm, kOneRadius, 0.0318, 0.984},
        MeaningCase{"UnbiasedOneRadius", RadiusMeaning::kUnbiased, kOneRadius, 0.0326, 1.0},
        MeaningCase{"ProjectionOneRadius", RadiusMeaning::kProjection, kOneRadius, 0.0326, 1.0},
        MeaningCase{"LeastSquaresOneRadius", RadiusMeaning::kLeastSquares, kOneRadius, 0.0315,
                    0.968}),
    [](const auto& tested) { return std::string(tested.param.name); });

// Random formats, rotations, seeds and strides. Five standard errors, plus what the formula leaves
// out: the rounding of radii, and for kProjection the terms beyond second order.
TEST(PolarCodecDistortionTest, RandomFormatsObeyTheirExpectedDistortion) {
  Random random(11);
  for (int trial = 0; trial < (kSanitized ? 15 : 40); ++trial) {
    const PolarFormat format = random_format(random);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const RotationKind kind = random_rotation(random, format.head_dim);
    const PolarCodec<float> codec(format, make_rotation(kind, format.head_dim, random.next()));
    SCOPED_TRACE(format.description() + " d " + std::to_string(d) + " meaning " +
                 std::to_string(static_cast<int>(format.radius_meaning)) + " rotation " +
                 std::to_string(static_cast<int>(kind)));
    const std::size_t n = (kSanitized ? 100000 : 400000) / d;
    const std::size_t row_stride = d + static_cast<std::size_t>(random_int(random, 0, 9));
    const std::size_t code_stride =
        codec.bytes_per_vector() + static_cast<std::size_t>(random_int(random, 0, 9));
    const std::vector<float> rows = gaussian_vector<float>(n * row_stride, random.next());
    std::vector<std::byte> codes(n * code_stride);
    std::vector<float> decoded(n * row_stride);
    GuardedBytes scratch(codec.scratch_bytes());
    const EncodeResult result =
        codec.encode({rows.data(), n, row_stride}, {codes.data(), n, code_stride}, scratch.data());
    ASSERT_EQ(result.num_encoded, n);
    codec.decode({codes.data(), n, code_stride}, {decoded.data(), n, row_stride}, scratch.data());

    Distortion distortion;
    for (std::size_t i = 0; i < n; ++i) {
      distortion.add(rows.data() + i * row_stride, decoded.data() + i * row_stride, d);
    }
    const double expected = format.expected_relative_mse();
    double tolerance = 5.0 * distortion.relative_mse.standard_error() +
                       2.0 * radius_rounding_mse(format.radius_type);
    if (format.radius_meaning == RadiusMeaning::kProjection) {
      const polarquant::detail::Alignment g =
          polarquant::detail::format_alignment(format, polarquant::offline_codebooks(format));
      const double variance = g.mean_square / (g.mean * g.mean) - 1.0;
      tolerance += (4.0 * std::pow(variance, 1.5) + 15.0 * variance * variance) / (g.mean * g.mean);
    }
    EXPECT_NEAR(distortion.relative_mse.mean(), expected, tolerance);
    EXPECT_LT(tolerance, 0.1 * expected + 1e-5);  // Or the line above says nothing.
  }
}

// ---- Radius meanings, vector by vector ----

const FloatType kRadiusTypes[] = {FloatType::kBFloat16, FloatType::kFloat16, FloatType::kFloat32};

// Largest relative error of one rounded radius: half a unit of the last of 8, 11 bits.
double radius_error(FloatType type) {
  return type == FloatType::kBFloat16 ? 0x1p-8 : type == FloatType::kFloat16 ? 0x1p-11 : 0.0;
}

TEST(PolarCodecDistortionTest, ProjectionMakesTheInnerProductWithTheVectorItselfExact) {
  for (const FloatType type : kRadiusTypes) {
    for (const PolarFormat& base : {PolarFormat::paper(128), format_of(128, {4, 2, 2, 3, 2, 3, 3}),
                                    format_of(80, {4, 2, 2, 2, 2, 2}, {3})}) {
      const PolarFormat format = with_meaning(base, RadiusMeaning::kProjection, type);
      const std::size_t d = static_cast<std::size_t>(format.head_dim);
      const PolarCodec<float> codec(format, make_rotation(RotationKind::kHaar, format.head_dim));
      const std::vector<float> rows = gaussian_vector<float>(200 * d, 9);
      const std::vector<float> decoded = decode_rows(codec, encode_rows(codec, rows));
      ASSERT_EQ(decoded.size(), rows.size());
      for (std::size_t i = 0; i < rows.size(); i += d) {
        EXPECT_NEAR(inner_product(rows.data() + i, decoded.data() + i, d) /
                        inner_product(rows.data() + i, rows.data() + i, d),
                    1.0, radius_error(type) + 3e-6);
      }
    }
  }
}

// The error of the best scale is orthogonal to the reconstruction; with one radius that is what
// least squares means.
TEST(PolarCodecDistortionTest, LeastSquaresLeavesAnErrorOrthogonalToTheReconstruction) {
  for (const PolarFormat& base : {PolarFormat::paper(128), format_of(128, {4, 2, 2, 3, 2, 3, 3}),
                                  format_of(80, {2, 1, 1, 1, 1, 1}, {1})}) {
    const PolarFormat format =
        with_meaning(base, RadiusMeaning::kLeastSquares, FloatType::kFloat32);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<float> codec(format, make_rotation(RotationKind::kHaar, format.head_dim));
    const std::vector<float> rows = gaussian_vector<float>(200 * d, 11);
    const std::vector<float> decoded = decode_rows(codec, encode_rows(codec, rows));
    ASSERT_EQ(decoded.size(), rows.size());
    for (std::size_t i = 0; i < rows.size(); i += d) {
      const double own = inner_product(decoded.data() + i, decoded.data() + i, d);
      EXPECT_NEAR(inner_product(rows.data() + i, decoded.data() + i, d) / own, 1.0, 3e-6);
    }
  }
}

TEST(PolarCodecDistortionTest, NormKeepsTheNormOfEveryVector) {
  for (const FloatType type : kRadiusTypes) {
    const PolarCodec<float> codec(
        with_meaning(format_of(80, {2, 1, 1, 1, 1, 1}, {1}), RadiusMeaning::kNorm, type),
        make_rotation(RotationKind::kHaar, 80));
    const std::vector<float> rows = gaussian_vector<float>(200 * 80, 13);
    const std::vector<float> decoded = decode_rows(codec, encode_rows(codec, rows));
    ASSERT_EQ(decoded.size(), rows.size());
    for (std::size_t i = 0; i < rows.size(); i += 80) {
      EXPECT_NEAR(norm_of(decoded.data() + i, 80) / norm_of(rows.data() + i, 80), 1.0,
                  radius_error(type) + 3e-6);
    }
  }
}

TEST(PolarCodecDistortionTest, UnbiasedDividesEveryNormByRho) {
  const PolarFormat format = with_meaning(format_of(80, {2, 1, 1, 1, 1, 1}, {1}),
                                          RadiusMeaning::kUnbiased, FloatType::kFloat32);
  const PolarCodec<float> codec(format, make_rotation(RotationKind::kHaar, 80));
  const std::vector<float> rows = gaussian_vector<float>(200 * 80, 13);
  const std::vector<float> decoded = decode_rows(codec, encode_rows(codec, rows));
  ASSERT_EQ(decoded.size(), rows.size());
  for (std::size_t i = 0; i < rows.size(); i += 80) {
    EXPECT_NEAR(format.rho() * norm_of(decoded.data() + i, 80) / norm_of(rows.data() + i, 80), 1.0,
                3e-6);
  }
}

// One bit per angle leaves <x,u> anywhere: the factor of kProjection is at most 2.
TEST(PolarCodecDistortionTest, ProjectionNeverMoreThanDoublesTheNorm) {
  const PolarCodec<float> codec(
      with_meaning(format_of(16, {1, 0, 0, 0}), RadiusMeaning::kProjection, FloatType::kFloat32),
      make_rotation(RotationKind::kNone, 16));
  std::vector<float> rows(16 * 16, 0.0f);
  for (std::size_t i = 0; i < 16; ++i) rows[i * 16 + i] = i % 2 == 0 ? 1.0f : -1.0f;
  const std::vector<float> decoded = decode_rows(codec, encode_rows(codec, rows));
  ASSERT_EQ(decoded.size(), rows.size());
  bool any_at_the_limit = false;
  for (std::size_t i = 0; i < rows.size(); i += 16) {
    const double norm = norm_of(decoded.data() + i, 16);
    EXPECT_LE(norm, 2.0 + 1e-5);
    any_at_the_limit |= norm > 2.0 - 1e-5;
  }
  EXPECT_TRUE(any_at_the_limit);
}

}  // namespace
