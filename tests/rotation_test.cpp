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

#include "method_test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;
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

class EveryRotationTest : public testing::TestWithParam<std::tuple<RotationKind, int>> {
 protected:
  Rotation rotation() const { return {std::get<0>(GetParam()), std::get<1>(GetParam()), 42}; }
};

// S is stored in float: an entry of about 1/sqrt(d) is off by 2^-25 of itself, d of them add up
// to 3e-8 in a product of rows.
TEST_P(EveryRotationTest, IsOrthogonal) {
  const Matrix s = matrix_of(rotation());
  const Matrix identity = Matrix::Identity(s.rows(), s.rows());
  EXPECT_LT((s * s.transpose() - identity).cwiseAbs().maxCoeff(), 1e-6);
}

template <typename T>
void expect_transpose_inverts(const Rotation& rotation, double tolerance) {
  const std::size_t d = static_cast<std::size_t>(rotation.head_dim());
  const std::vector<T> x = gaussian_vector<T>(d, 1);
  std::vector<T> y(d);
  std::vector<T> z(d);
  rotation.apply(x.data(), y.data());
  rotation.apply_transpose(y.data(), z.data());
  for (std::size_t i = 0; i < d; ++i) {
    ASSERT_NEAR(static_cast<double>(z[i]), static_cast<double>(x[i]), tolerance) << i;
  }
}

TEST_P(EveryRotationTest, IsUndoneByItsTransposeInFloat) {
  expect_transpose_inverts<float>(rotation(), 1e-5);
}

// What is left is the rounding of S to float.
TEST_P(EveryRotationTest, IsUndoneByItsTransposeInDouble) {
  expect_transpose_inverts<double>(rotation(), 3e-6);
}

TEST_P(EveryRotationTest, TurnsOneUnitVectorTowardsAllOthers) {
  const Matrix s = matrix_of(rotation());
  if (rotation().head_dim() < 48) return;
  // The largest of d^2 entries of variance 1/d: 8 standard deviations have probability 1e-15.
  EXPECT_LT(s.cwiseAbs().maxCoeff(), 8.0 / std::sqrt(static_cast<double>(s.rows())));
}

TEST_P(EveryRotationTest, InFloatAgreesWithDouble) {
  const Rotation s = rotation();
  const std::size_t d = static_cast<std::size_t>(s.head_dim());
  const std::vector<float> x = gaussian_vector<float>(d, 2);
  const std::vector<double> wide(x.begin(), x.end());
  std::vector<float> y(d);
  std::vector<double> exact(d);
  s.apply(x.data(), y.data());
  s.apply(wide.data(), exact.data());
  for (std::size_t i = 0; i < d; ++i) ASSERT_NEAR(static_cast<double>(y[i]), exact[i], 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Haar, EveryRotationTest,
                         testing::Combine(testing::Values(RotationKind::kHaar),
                                          testing::Values(2, 6, 10, 16, 48, 64, 80, 96, 112, 128,
                                                          192, 256, 576)));
INSTANTIATE_TEST_SUITE_P(Hadamard, EveryRotationTest,
                         testing::Combine(testing::Values(RotationKind::kHadamard),
                                          testing::Values(2, 6, 10, 16, 48, 64, 80, 96, 112, 128,
                                                          192, 256, 576, 1024)));

TEST(RotationTest, NoneIsTheIdentity) {
  const Rotation rotation(RotationKind::kNone, 96, 7);
  const std::vector<float> x = gaussian_vector<float>(96, 3);
  std::vector<float> y(96);
  rotation.apply(x.data(), y.data());
  EXPECT_EQ(y, x);
  rotation.apply_transpose(x.data(), y.data());
  EXPECT_EQ(y, x);
}

TEST(RotationTest, RemembersWhatItIsMadeOf) {
  const Rotation rotation(RotationKind::kHadamard, 80, 99);
  EXPECT_EQ(rotation.kind(), RotationKind::kHadamard);
  EXPECT_EQ(rotation.head_dim(), 80);
  EXPECT_EQ(rotation.seed(), 99u);
}

TEST(RotationTest, CountsItsMemory) {
  EXPECT_EQ(Rotation(RotationKind::kNone, 128, 1).memory_bytes(), 0u);
  EXPECT_EQ(Rotation(RotationKind::kHadamard, 128, 1).memory_bytes(), 3u * 128u * 4u);
  EXPECT_EQ(Rotation(RotationKind::kHaar, 128, 1).memory_bytes(), 2u * 128u * 128u * 4u);
}

TEST(RotationTest, HaarMatrixAndItsTransposeAreWhatApplyUses) {
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
TEST(RotationTest, HadamardTransformIsSylvesters) {
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

TEST(HaarRotationTest, EntriesHaveTheFourthMomentOfTheSphere) {
  constexpr double d = kHaarDim;
  expect_haar_mean(3.0 / (d * (d + 2.0)),
                   [](const Matrix& s) { return s.array().square().square().mean(); });
}

TEST(HaarRotationTest, FirstColumnHasTheMomentsOfTheSphere) {
  constexpr double d = kHaarDim;
  expect_haar_mean(3.0 / (d * (d + 2.0)),
                   [](const Matrix& s) { return s.col(0).array().square().square().mean(); });
}

TEST(HaarRotationTest, LastColumnHasTheMomentsOfTheSphere) {
  constexpr double d = kHaarDim;
  expect_haar_mean(3.0 / (d * (d + 2.0)), [](const Matrix& s) {
    return s.col(kHaarDim - 1).array().square().square().mean();
  });
}

// Without the sign fix of QR the diagonal has a sign of its own.
TEST(HaarRotationTest, TraceHasMeanZero) {
  expect_haar_mean(0.0, [](const Matrix& s) { return s.trace(); });
}

TEST(HaarRotationTest, TraceHasMeanSquareOne) {
  expect_haar_mean(1.0, [](const Matrix& s) { return s.trace() * s.trace(); });
}

TEST(HaarRotationTest, LastDiagonalEntryHasMeanZero) {
  expect_haar_mean(0.0, [](const Matrix& s) { return s(kHaarDim - 1, kHaarDim - 1); });
}

TEST(HaarRotationTest, TwoByTwoMinorsHaveTheMomentOfTheOrthogonalGroup) {
  constexpr double d = kHaarDim;
  expect_haar_mean(-1.0 / (d * (d - 1.0) * (d + 2.0)),
                   [](const Matrix& s) { return s(0, 0) * s(1, 1) * s(0, 1) * s(1, 0); });
}

TEST(HaarRotationTest, DeterminantHasBothSignsEquallyOften) {
  expect_haar_mean(0.0, [](const Matrix& s) { return s.determinant(); });
}

// Determinism -------------------------------------------------------------------------------------

TEST(RotationTest, EqualSeedsGiveEqualRotationsAndOthersDoNot) {
  for (const RotationKind kind : {RotationKind::kHadamard, RotationKind::kHaar}) {
    EXPECT_EQ(Rotation(kind, 80, 1).checksum(), Rotation(kind, 80, 1).checksum());
    EXPECT_NE(Rotation(kind, 80, 1).checksum(), Rotation(kind, 80, 2).checksum());
  }
}

TEST(RotationTest, ChecksumDependsOnEveryEntry) {
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
TEST(RotationTest, BitsAreTheSameEverywhere) {
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

// Errors ------------------------------------------------------------------------------------------

TEST(RotationTest, WidthOutOfRangeIsAnErrorThatNamesIt) {
  for (const int d : {-4, 0, 1, 7, 1026}) {
    const std::string text = "head_dim is " + std::to_string(d);
    expect_invalid([d] { Rotation(RotationKind::kHaar, d, 0); }, {text.c_str(), "even, 2 .. 1024"});
  }
}

TEST(RotationTest, UnknownKindIsAnErrorThatNamesIt) {
  expect_invalid([] { Rotation(static_cast<RotationKind>(9), 128, 0); },
                 {"rotation kind is 9", "kNone, kHadamard or kHaar"});
}

}  // namespace
