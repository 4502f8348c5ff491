// A matrix for one KV head's keys from how queries look at them.
#pragma once

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <cmath>

#include "polarquant/attention/matrix.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

struct KeyMatrixOptions {
  // Off-diagonal moments count this much less: a text shows fewer of their numbers than it shows of
  // the diagonal's.
  double shrinkage = 0.1;

  // What is added to the diagonal, of its mean: a direction that hardly occurs in the calibration
  // text, but may in another, is treated like the others.
  double regularization = 0.01;
};

// C_q and C_k of key_matrix, [head_dim, head_dim] each.
struct KeyMatrixMoments {
  RowMatrix<double> queries;
  RowMatrix<double> keys;
};

namespace detail {

// Moments with their off-diagonals shrunk and their diagonals raised; symmetric.
template <typename Number>
Eigen::Matrix<Number, Eigen::Dynamic, Eigen::Dynamic> regularized(const RowMatrix<Number>& moments,
                                                                  const KeyMatrixOptions& options) {
  Eigen::Matrix<Number, Eigen::Dynamic, Eigen::Dynamic> result =
      (0.5 * (1.0 - options.shrinkage)) * (moments + moments.transpose());
  result.diagonal() = moments.diagonal();
  result.diagonal().array() += options.regularization * moments.diagonal().mean();
  return result;
}

// Of a symmetric, positive definite matrix, which rounding may have made singular.
template <typename Number>
class MatrixPowers {
  using Matrix = Eigen::Matrix<Number, Eigen::Dynamic, Eigen::Dynamic>;
  using Vector = Eigen::Matrix<Number, Eigen::Dynamic, 1>;

 public:
  explicit MatrixPowers(const Matrix& matrix)
      : solver_(Matrix(0.5 * (matrix + matrix.transpose()))) {
    constexpr double kLeastShare = 1e-12;
    const double least = kLeastShare * solver_.eigenvalues().maxCoeff();
    values_ = solver_.eigenvalues().cwiseMax(least);
  }
  Matrix power(double exponent) const {
    const Vector powers = values_.array().pow(exponent);
    return solver_.eigenvectors() * powers.asDiagonal() * solver_.eigenvectors().transpose();
  }
  double log_determinant() const { return values_.array().log().sum(); }

 private:
  Eigen::SelfAdjointEigenSolver<Matrix> solver_;
  Vector values_;
};

}  // namespace detail

// The matrix S of one KV head's keys: what channel_scales does with a diagonal, with all of S. With
// G = S^2, keys k S and queries q S^-1 have, for the same code, the squared error
//
//   F(G) = sum_{q,t} p_qt^2 (q G^-1 q^T) (k_t G k_t^T).
//
// Where its gradient vanishes, G C_k G = C_q with C_q = sum_q b_q q^T q, C_k = sum_t a_t k_t^T k_t,
// b_q = sum_t p_qt^2 (k_t G k_t^T) and a_t = sum_q p_qt^2 (q G^-1 q^T): G is the geometric mean of
// C_q and the inverse of C_k,
//
//   G = C_k^-1/2 (C_k^1/2 C_q C_k^1/2)^1/2 C_k^-1/2.
//
// moments: C_q and C_k for G = 1. One step from there is all: further ones lower F on the text
// itself, and helped no other (docs/design.md, "Dead ends"). Factors common to all entries of
// either make no difference. Returns S, [d, d], symmetric, positive definite, of determinant 1; the
// unit matrix if either is 0. Throws std::invalid_argument for moments or options that break a
// rule. Cost: four eigenvalue decompositions.
//
// A template, always of double, so that only files that call it compile the decompositions.
template <typename Number = double>
RowMatrix<Number> key_matrix(const KeyMatrixMoments& moments,
                             const KeyMatrixOptions& options = {}) {
  using Square = Eigen::Matrix<Number, Eigen::Dynamic, Eigen::Dynamic>;
  using Powers = detail::MatrixPowers<Number>;
  using detail::throw_invalid_argument;
  using Eigen::Index;
  const Index d = moments.keys.rows();
  if (!detail::is_finite(options.shrinkage) || options.shrinkage < 0.0 || options.shrinkage > 1.0) {
    throw_invalid_argument({"shrinkage is ", options.shrinkage, ", must be 0 .. 1"});
  }
  if (!detail::is_finite(options.regularization) || options.regularization < 0.0) {
    throw_invalid_argument(
        {"regularization is ", options.regularization, ", must be finite, at least 0"});
  }
  for (const RowMatrix<double>* const matrix : {&moments.queries, &moments.keys}) {
    const char* const name = matrix == &moments.keys ? "keys" : "queries";
    if (d < 1 || matrix->rows() != d || matrix->cols() != d) {
      throw_invalid_argument({"moments of ", name, " are ", matrix->rows(), " x ", matrix->cols(),
                              ", must be square, of one size and not empty"});
    }
    for (Index i = 0; i < d; ++i) {
      for (Index j = 0; j < d; ++j) {
        const double moment = (*matrix)(i, j);
        if (detail::is_finite(moment) && (i != j || moment >= 0.0)) continue;
        throw_invalid_argument({"moment ", i, ", ", j, " of ", name, " is ", moment,
                                ", must be finite, and on the diagonal at least 0"});
      }
    }
    if (matrix->diagonal().maxCoeff() == 0.0) return RowMatrix<double>::Identity(d, d);
  }
  const auto scaled = [&options](const RowMatrix<double>& matrix) {
    return detail::regularized<Number>(matrix / matrix.diagonal().maxCoeff(), options);
  };
  const Powers keys(scaled(moments.keys));
  const Square root = keys.power(0.5), inverse_root = keys.power(-0.5);
  const Powers inner(root * scaled(moments.queries) * root);
  const Powers squared(inverse_root * inner.power(0.5) * inverse_root);
  const Number factor = std::exp(-0.5 * squared.log_determinant() / static_cast<double>(d));
  return factor * squared.power(0.5);
}

POLARQUANT_END_NAMESPACE
