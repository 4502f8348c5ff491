#include "polarquant/calibration/key_matrix.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <Eigen/LU>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "polarquant/base/random.hpp"
#include "test_util.hpp"

namespace {

using Eigen::Index;
using polarquant::key_matrix;
using polarquant::KeyMatrixMoments;
using polarquant::KeyMatrixOptions;
using polarquant::Random;
using polarquant_test::expect_invalid;
using polarquant_test::gaussian_matrix;
using Matrix = polarquant::RowMatrix<double>;

constexpr KeyMatrixOptions kExact{0.0, 0.0};

// Of rows whose channels differ in size and depend on each other.
Matrix random_moments(std::uint64_t seed, Index d) {
  Matrix mix = gaussian_matrix<double>(d, d, seed, 0.4 / std::sqrt(static_cast<double>(d)));
  mix += Matrix::Identity(d, d);
  for (Index i = 0; i < d; ++i) mix.col(i) *= std::exp(std::sin(static_cast<double>(i + 1)));
  const Matrix rows = gaussian_matrix<double>(4 * d, d, seed + 1) * mix;
  return rows.transpose() * rows;
}

// What one step minimises: the sums weigh rows as at G = 1.
double objective(const KeyMatrixMoments& moments, const Matrix& matrix) {
  const Matrix squared = matrix * matrix;
  return (moments.keys * squared).trace() * (moments.queries * squared.inverse()).trace();
}

TEST(KeyMatrixTest, ItsSquareIsTheGeometricMeanOfQueriesAndTheInverseOfKeys) {
  for (const Index d : {1, 2, 5, 16, 40}) {
    const KeyMatrixMoments moments{random_moments(1, d), random_moments(3, d)};
    const Matrix matrix = key_matrix(moments, kExact);
    EXPECT_LE((matrix - matrix.transpose()).cwiseAbs().maxCoeff(), 1e-9 * matrix.norm());
    const Matrix squared = matrix * matrix;
    Matrix turned = squared * moments.keys * squared;
    turned *= moments.queries.trace() / turned.trace();
    EXPECT_LE((turned - moments.queries).norm(), 1e-7 * moments.queries.norm()) << d;
    EXPECT_NEAR(matrix.determinant(), 1.0, 1e-7);
    EXPECT_GT(Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(matrix).eigenvalues().minCoeff(), 0.0);
  }
}

TEST(KeyMatrixTest, NoNeighbourIsBetter) {
  const KeyMatrixMoments moments{random_moments(5, 8), random_moments(7, 8)};
  const Matrix matrix = key_matrix(moments, kExact);
  const double best = objective(moments, matrix);
  EXPECT_LT(best, objective(moments, Matrix::Identity(8, 8)));
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Matrix change = gaussian_matrix<double>(8, 8, 100 + seed, 0.02);
    change = (Matrix::Identity(8, 8) + change + change.transpose()).eval();
    EXPECT_GT(objective(moments, change * matrix * change), best);
  }
}

// Of diagonal moments: s_i^4 = q_i / k_i, as one round of channel_scales.
TEST(KeyMatrixTest, DiagonalMomentsGiveScales) {
  KeyMatrixMoments moments{Matrix::Zero(3, 3), Matrix::Zero(3, 3)};
  moments.queries.diagonal() << 16.0, 1.0, 1.0;
  moments.keys.diagonal() << 1.0, 16.0, 1.0;
  const Matrix matrix = key_matrix(moments, kExact);
  const Eigen::Vector3d expected(2.0, 0.5, 1.0);
  EXPECT_LE((matrix - Matrix(expected.asDiagonal())).cwiseAbs().maxCoeff(), 1e-12);
}

TEST(KeyMatrixTest, SizesOfQueriesAndKeysDoNotMatter) {
  const KeyMatrixMoments moments{random_moments(9, 6), random_moments(11, 6)};
  const Matrix matrix = key_matrix(moments);
  for (const double factor : {1e-290, 1e-6, 1e6, 1e290}) {
    const Matrix other = key_matrix({factor * moments.queries, moments.keys / factor});
    EXPECT_LE((matrix - other).cwiseAbs().maxCoeff(), 1e-9);
  }
}

TEST(KeyMatrixTest, OptionsLeadToTheUnitMatrix) {
  const KeyMatrixMoments moments{random_moments(13, 6), random_moments(15, 6)};
  // Without off-diagonals it is diagonal; with much added to the diagonals, nothing.
  const Matrix diagonal = key_matrix(moments, {1.0, 0.0});
  EXPECT_LE((diagonal - Matrix(diagonal.diagonal().asDiagonal())).cwiseAbs().maxCoeff(), 1e-12);
  EXPECT_LE((key_matrix(moments, {0.0, 1e9}) - Matrix::Identity(6, 6)).cwiseAbs().maxCoeff(), 1e-6);
  // In between it changes little by little.
  EXPECT_GT((key_matrix(moments) - key_matrix(moments, kExact)).norm(), 1e-3);
  EXPECT_LT((key_matrix(moments) - key_matrix(moments, kExact)).norm(), 0.3 * diagonal.norm());
}

TEST(KeyMatrixTest, DirectionsThatNeverOccurAreLikeOthers) {
  // One direction of keys, another of queries.
  KeyMatrixMoments moments{Matrix::Zero(4, 4), Matrix::Zero(4, 4)};
  const Eigen::RowVector4d key(1.0, 1.0, 0.0, 0.0), query(0.0, 1.0, 1.0, 0.0);
  moments.keys = key.transpose() * key;
  moments.queries = query.transpose() * query;
  for (const KeyMatrixOptions& options : {KeyMatrixOptions{}, kExact}) {
    const Matrix matrix = key_matrix(moments, options);
    EXPECT_TRUE(matrix.allFinite());
    EXPECT_GT(Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(matrix).eigenvalues().minCoeff(), 0.0);
  }
  // With what is added by default its condition is small.
  const Eigen::VectorXd values =
      Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(key_matrix(moments)).eigenvalues();
  EXPECT_LT(values.maxCoeff() / values.minCoeff(), 30.0);
  for (const bool of_keys : {false, true}) {
    KeyMatrixMoments none = moments;
    (of_keys ? none.keys : none.queries).setZero();
    EXPECT_EQ(key_matrix(none), Matrix(Matrix::Identity(4, 4)));
  }
}

TEST(KeyMatrixTest, BadInputIsNamed) {
  const KeyMatrixMoments good{random_moments(17, 3), random_moments(19, 3)};
  expect_invalid([&] { key_matrix(good, {-0.1, 0.0}); }, {"shrinkage is -0.1", "0 .. 1"});
  expect_invalid([&] { key_matrix(good, {1.5, 0.0}); }, {"shrinkage is 1.5", "0 .. 1"});
  expect_invalid([&] { key_matrix(good, {0.0, -1.0}); }, {"regularization is -1", "at least 0"});
  expect_invalid([&] { key_matrix(good, {0.0, HUGE_VAL}); }, {"regularization is inf"});
  expect_invalid([&] { key_matrix({}); }, {"moments of queries are 0 x 0", "not empty"});
  expect_invalid(
      [&] {
        key_matrix({good.queries, Matrix::Zero(3, 2)});
      },
      {"moments of keys are 3 x 2", "must be square"});
  expect_invalid(
      [&] {
        key_matrix({good.queries, random_moments(1, 4)});
      },
      {"moments of queries are 3 x 3", "of one size"});
  KeyMatrixMoments bad = good;
  bad.keys(1, 1) = -1.0;
  expect_invalid([&] { key_matrix(bad); }, {"moment 1, 1 of keys is -1", "at least 0"});
  bad = good;
  bad.queries(0, 2) = std::numeric_limits<double>::quiet_NaN();
  expect_invalid([&] { key_matrix(bad); }, {"moment 0, 2 of queries is nan", "must be finite"});
}

}  // namespace
