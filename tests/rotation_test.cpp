#include "polarquant/method/rotation.hpp"

#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "method_test_codec.hpp"

namespace {

using method_test::expect_invalid_argument;
using method_test::gaussian_rows;
using method_test::Mean;
using method_test::Quality;
using polarquant::PolarCodec;
using polarquant::PolarFormat;
using polarquant::RadiusMeaning;
using polarquant::Random;
using polarquant::Rotation;
using polarquant::RotationKind;
using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// S, row by row, from the images of the unit vectors.
Matrix matrix_of(const Rotation& rotation) {
  const Eigen::Index d = rotation.head_dim();
  Matrix s(d, d);
  std::vector<double> unit(static_cast<std::size_t>(d), 0.0);
  for (Eigen::Index i = 0; i < d; ++i) {
    unit[static_cast<std::size_t>(i)] = 1.0;
    rotation.apply(unit.data(), s.row(i).data());
    unit[static_cast<std::size_t>(i)] = 0.0;
  }
  return s;
}

class EveryRotation : public testing::TestWithParam<std::tuple<RotationKind, int>> {
 protected:
  Rotation rotation() const { return {std::get<0>(GetParam()), std::get<1>(GetParam()), 42}; }
};

// S is stored in float: an entry of about 1/sqrt(d) is off by 2^-25 of itself, d of them add up
// to 3e-8 in a product of rows.
TEST_P(EveryRotation, is_orthogonal) {
  const Matrix s = matrix_of(rotation());
  const Matrix identity = Matrix::Identity(s.rows(), s.rows());
  EXPECT_LT((s * s.transpose() - identity).cwiseAbs().maxCoeff(), 1e-6);
}

template <typename T>
void expect_transpose_inverts(const Rotation& rotation, double tolerance) {
  const std::size_t d = static_cast<std::size_t>(rotation.head_dim());
  const std::vector<T> x = gaussian_rows<T>(1, d, 1);
  std::vector<T> y(d);
  std::vector<T> z(d);
  rotation.apply(x.data(), y.data());
  rotation.apply_transpose(y.data(), z.data());
  for (std::size_t i = 0; i < d; ++i) {
    ASSERT_NEAR(static_cast<double>(z[i]), static_cast<double>(x[i]), tolerance) << i;
  }
}

TEST_P(EveryRotation, is_undone_by_its_transpose_in_float) {
  expect_transpose_inverts<float>(rotation(), 1e-5);
}

// What is left is the rounding of S to float.
TEST_P(EveryRotation, is_undone_by_its_transpose_in_double) {
  expect_transpose_inverts<double>(rotation(), 3e-6);
}

TEST_P(EveryRotation, turns_one_unit_vector_towards_all_others) {
  const Matrix s = matrix_of(rotation());
  if (rotation().head_dim() < 48) return;
  // The largest of d^2 entries of variance 1/d: 8 standard deviations have probability 1e-15.
  EXPECT_LT(s.cwiseAbs().maxCoeff(), 8.0 / std::sqrt(static_cast<double>(s.rows())));
}

TEST_P(EveryRotation, in_float_agrees_with_double) {
  const Rotation s = rotation();
  const std::size_t d = static_cast<std::size_t>(s.head_dim());
  const std::vector<float> x = gaussian_rows<float>(1, d, 2);
  const std::vector<double> wide(x.begin(), x.end());
  std::vector<float> y(d);
  std::vector<double> exact(d);
  s.apply(x.data(), y.data());
  s.apply(wide.data(), exact.data());
  for (std::size_t i = 0; i < d; ++i) ASSERT_NEAR(static_cast<double>(y[i]), exact[i], 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Haar, EveryRotation,
                         testing::Combine(testing::Values(RotationKind::kHaar),
                                          testing::Values(2, 6, 10, 16, 48, 64, 80, 96, 112, 128,
                                                          192, 256, 576)));
INSTANTIATE_TEST_SUITE_P(Hadamard, EveryRotation,
                         testing::Combine(testing::Values(RotationKind::kHadamard),
                                          testing::Values(2, 6, 10, 16, 48, 64, 80, 96, 112, 128,
                                                          192, 256, 576, 1024)));

TEST(Rotation, none_is_the_identity) {
  const Rotation rotation(RotationKind::kNone, 96, 7);
  const std::vector<float> x = gaussian_rows<float>(1, 96, 3);
  std::vector<float> y(96);
  rotation.apply(x.data(), y.data());
  EXPECT_EQ(y, x);
  rotation.apply_transpose(x.data(), y.data());
  EXPECT_EQ(y, x);
}

TEST(Rotation, remembers_what_it_is_made_of) {
  const Rotation rotation(RotationKind::kHadamard, 80, 99);
  EXPECT_EQ(rotation.kind(), RotationKind::kHadamard);
  EXPECT_EQ(rotation.head_dim(), 80);
  EXPECT_EQ(rotation.seed(), 99u);
}

TEST(Rotation, counts_its_memory) {
  EXPECT_EQ(Rotation(RotationKind::kNone, 128, 1).memory_bytes(), 0u);
  EXPECT_EQ(Rotation(RotationKind::kHadamard, 128, 1).memory_bytes(), 3u * 128u * 4u);
  EXPECT_EQ(Rotation(RotationKind::kHaar, 128, 1).memory_bytes(), 2u * 128u * 128u * 4u);
}

TEST(Rotation, haar_matrix_and_its_transpose_are_what_apply_uses) {
  const Rotation rotation(RotationKind::kHaar, 10, 5);
  const Matrix s = matrix_of(rotation);
  for (Eigen::Index i = 0; i < 10; ++i) {
    for (Eigen::Index j = 0; j < 10; ++j) {
      EXPECT_EQ(static_cast<double>(rotation.haar()[i * 10 + j]), s(i, j));
      EXPECT_EQ(static_cast<double>(rotation.haar_transposed()[j * 10 + i]), s(i, j));
    }
  }
}

// One fixed Hadamard transform: y_j = sum_i x_i (-1)^popcount(i & j).
TEST(Rotation, hadamard_transform_is_sylvesters) {
  double x[8] = {3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, -6.0};
  double expected[8] = {};
  for (unsigned j = 0; j < 8; ++j) {
    for (unsigned i = 0; i < 8; ++i) {
      int ones = 0;
      for (unsigned both = i & j; both != 0; both /= 2) ones += static_cast<int>(both % 2);
      expected[j] += ones % 2 != 0 ? -x[i] : x[i];
    }
  }
  polarquant::detail::hadamard_transform(x, 8, 1);
  for (int j = 0; j < 8; ++j) EXPECT_EQ(x[j], expected[j]);
}

// Haar's law --------------------------------------------------------------------------------------

constexpr int kHaarDim = 6;
constexpr std::uint64_t kNumHaar = 20000;

// The mean over many rotations of a function of S agrees with its exact value to 4 standard errors.
template <typename Function>
void expect_haar_mean(double exact, const Function& function) {
  Mean mean;
  for (std::uint64_t seed = 0; seed < kNumHaar; ++seed) {
    mean.add(function(matrix_of(Rotation(RotationKind::kHaar, kHaarDim, seed))));
  }
  EXPECT_NEAR(mean.mean(), exact, 4.0 * mean.standard_error());
  EXPECT_LT(mean.standard_error(), 0.05);
}

TEST(HaarRotation, entries_have_the_fourth_moment_of_the_sphere) {
  constexpr double d = kHaarDim;
  expect_haar_mean(3.0 / (d * (d + 2.0)),
                   [](const Matrix& s) { return s.array().square().square().mean(); });
}

TEST(HaarRotation, first_column_has_the_moments_of_the_sphere) {
  constexpr double d = kHaarDim;
  expect_haar_mean(3.0 / (d * (d + 2.0)),
                   [](const Matrix& s) { return s.col(0).array().square().square().mean(); });
}

TEST(HaarRotation, last_column_has_the_moments_of_the_sphere) {
  constexpr double d = kHaarDim;
  expect_haar_mean(3.0 / (d * (d + 2.0)), [](const Matrix& s) {
    return s.col(kHaarDim - 1).array().square().square().mean();
  });
}

// Without the sign fix of QR the diagonal has a sign of its own.
TEST(HaarRotation, trace_has_mean_zero) {
  expect_haar_mean(0.0, [](const Matrix& s) { return s.trace(); });
}

TEST(HaarRotation, trace_has_mean_square_one) {
  expect_haar_mean(1.0, [](const Matrix& s) { return s.trace() * s.trace(); });
}

TEST(HaarRotation, last_diagonal_entry_has_mean_zero) {
  expect_haar_mean(0.0, [](const Matrix& s) { return s(kHaarDim - 1, kHaarDim - 1); });
}

TEST(HaarRotation, two_by_two_minors_have_the_moment_of_the_orthogonal_group) {
  constexpr double d = kHaarDim;
  expect_haar_mean(-1.0 / (d * (d - 1.0) * (d + 2.0)),
                   [](const Matrix& s) { return s(0, 0) * s(1, 1) * s(0, 1) * s(1, 0); });
}

TEST(HaarRotation, determinant_has_both_signs_equally_often) {
  expect_haar_mean(0.0, [](const Matrix& s) { return s.determinant(); });
}

// Determinism -------------------------------------------------------------------------------------

TEST(Rotation, equal_seeds_give_equal_rotations_and_others_do_not) {
  for (const RotationKind kind : {RotationKind::kHadamard, RotationKind::kHaar}) {
    EXPECT_EQ(Rotation(kind, 80, 1).checksum(), Rotation(kind, 80, 1).checksum());
    EXPECT_NE(Rotation(kind, 80, 1).checksum(), Rotation(kind, 80, 2).checksum());
  }
}

TEST(Rotation, checksum_depends_on_every_entry) {
  EXPECT_NE(Rotation(RotationKind::kHaar, 16, 1).checksum(),
            Rotation(RotationKind::kHadamard, 16, 1).checksum());
  EXPECT_NE(Rotation(RotationKind::kHadamard, 16, 1).checksum(),
            Rotation(RotationKind::kHadamard, 32, 1).checksum());
}

struct Golden {
  RotationKind kind;
  int head_dim;
  std::uint64_t seed;
  std::uint64_t checksum;
};

// A saved cache is read back with a rotation made anew from its seed: a change here is a change of
// the file format.
TEST(Rotation, bits_are_the_same_everywhere) {
  const Golden goldens[] = {
      {RotationKind::kHaar, 2, 1, 0x1fc677a3b6f9c951ULL},
      {RotationKind::kHaar, 6, 2, 0x2a21973d0777cf03ULL},
      {RotationKind::kHaar, 64, 42, 0xac04bf3b7aa10ebaULL},
      {RotationKind::kHaar, 80, 42, 0x92b542bdb3e081faULL},
      {RotationKind::kHaar, 128, 42, 0x2db4255606e327c0ULL},
      {RotationKind::kHaar, 256, 7, 0xf93b9579e3b36847ULL},
      {RotationKind::kHadamard, 6, 2, 0x931c7a5ae0a06b14ULL},
      {RotationKind::kHadamard, 80, 42, 0x48fe54fa2279aa7fULL},
      {RotationKind::kHadamard, 128, 42, 0x7421b3cff60006a5ULL},
      {RotationKind::kHadamard, 576, 42, 0xcf1301d56c4a729cULL},
  };
  for (const Golden& golden : goldens) {
    EXPECT_EQ(Rotation(golden.kind, golden.head_dim, golden.seed).checksum(), golden.checksum)
        << static_cast<int>(golden.kind) << " " << golden.head_dim << std::hex << " 0x"
        << Rotation(golden.kind, golden.head_dim, golden.seed).checksum();
  }
}

// What a rotation is for --------------------------------------------------------------------------

enum class Input { kGaussian, kOneHot, kTwoHot, kOutliers };

std::vector<float> rows_of(Input input, std::size_t count, std::size_t d, std::uint64_t seed) {
  Random random(seed + 1000);
  const auto position = [&random, d] {
    return static_cast<std::size_t>(random.uniform() * static_cast<double>(d));
  };
  std::vector<float> rows(count * d, 0.0f);
  if (input == Input::kGaussian || input == Input::kOutliers) {
    rows = gaussian_rows<float>(count, d, seed);
  }
  const std::size_t outliers[] = {position(), position(), position()};
  for (std::size_t row = 0; row < count; ++row) {
    float* const x = rows.data() + row * d;
    if (input == Input::kOneHot) x[row % d] = 1.0f;
    if (input == Input::kTwoHot) {
      x[row % d] = 1.0f;
      x[(row + 1 + position() % (d - 1)) % d] = random.sign();
    }
    if (input == Input::kOutliers) {
      for (const std::size_t channel : outliers) x[channel] *= 20.0f;
    }
  }
  return rows;
}

// Relative MSE of paper(128) with the norm as radius, over many rotations.
Quality paper_quality(RotationKind kind, Input input, std::uint64_t num_seeds, std::size_t rows) {
  PolarFormat format = PolarFormat::paper(128);
  format.radius_meaning = RadiusMeaning::kNorm;
  Quality quality;
  for (std::uint64_t seed = 0; seed < num_seeds; ++seed) {
    const PolarCodec<float> codec(format, method_test::make_rotation(kind, 128, seed));
    quality.add(codec, rows_of(input, rows, 128, seed));
  }
  return quality;
}

constexpr double kLaw = 0.03208;

void expect_hadamard(Input input, double low, double high) {
  const Quality quality = paper_quality(RotationKind::kHadamard, input, 64, 256);
  EXPECT_GT(quality.relative_mse.mean(), low * kLaw);
  EXPECT_LT(quality.relative_mse.mean(), high * kLaw);
  testing::Test::RecordProperty("relative_mse", std::to_string(quality.relative_mse.mean()));
}

// A single round would give 2.5 times the law on one-hot and 4.2 times on two-hot vectors, and two
// rounds more than 15 % on some widths; see CodecSparseTest for the widths beside 128.
TEST(HadamardRotation, gaussian_vectors_cost_what_the_law_says) {
  expect_hadamard(Input::kGaussian, 0.99, 1.01);
}

TEST(HadamardRotation, one_hot_vectors_cost_at_most_15_percent_more) {
  expect_hadamard(Input::kOneHot, 0.95, 1.15);
}

TEST(HadamardRotation, two_hot_vectors_cost_at_most_15_percent_more) {
  expect_hadamard(Input::kTwoHot, 0.95, 1.15);
}

TEST(HadamardRotation, outlier_channels_cost_at_most_15_percent_more) {
  expect_hadamard(Input::kOutliers, 0.95, 1.15);
}

void expect_haar(Input input) {
  const Quality quality = paper_quality(RotationKind::kHaar, input, 160, 128);
  EXPECT_NEAR(quality.relative_mse.mean(), kLaw, 0.01 * kLaw);
  testing::Test::RecordProperty("relative_mse", std::to_string(quality.relative_mse.mean()));
}

TEST(HaarRotation, gaussian_vectors_cost_what_the_law_says) { expect_haar(Input::kGaussian); }
TEST(HaarRotation, one_hot_vectors_cost_what_the_law_says) { expect_haar(Input::kOneHot); }
TEST(HaarRotation, two_hot_vectors_cost_what_the_law_says) { expect_haar(Input::kTwoHot); }
TEST(HaarRotation, outlier_channels_cost_what_the_law_says) { expect_haar(Input::kOutliers); }

// The measure can tell: without a rotation the same vectors are not of the law.
TEST(HadamardRotation, outlier_channels_need_one) {
  const Quality quality = paper_quality(RotationKind::kNone, Input::kOutliers, 8, 256);
  EXPECT_GT(std::abs(quality.relative_mse.mean() / kLaw - 1.0), 0.15);
}

// Errors ------------------------------------------------------------------------------------------

TEST(Rotation, width_out_of_range_is_an_error_that_names_it) {
  for (const int d : {-4, 0, 1, 7, 1026}) {
    const std::string text = "head_dim is " + std::to_string(d);
    expect_invalid_argument([d] { Rotation(RotationKind::kHaar, d, 0); },
                            {text.c_str(), "even, 2 .. 1024"});
  }
}

TEST(Rotation, unknown_kind_is_an_error_that_names_it) {
  expect_invalid_argument([] { Rotation(static_cast<RotationKind>(9), 128, 0); },
                          {"rotation kind is 9", "kNone, kHadamard or kHaar"});
}

}  // namespace
