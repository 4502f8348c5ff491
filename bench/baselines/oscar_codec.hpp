// OSCAR (arXiv 2605.17757, "Offline Spectral Covariance-Aware Rotation for 2-bit KV Cache
// Quantization").
//
// Sources: the paper's abstract, its authors' page on the rotation (oscar-quantize.github.io) and
// their released code (github.com/FutureMLS-Lab/OSCAR: README, calibration, INT2 kernel); the body
// of the paper was not at hand. Written from these, no line taken over.
//
// From them: rows are encoded as x R, R = U H P; U holds the eigenvectors of Q^T Q for keys and of
// V^T diag(w) V for values, H is the orthonormal Hadamard matrix, P a bit-reversed order of
// channels, so that neighbours land in different groups; every token is clipped to a quantile of
// its own magnitudes (0.96 for keys, 0.92 for values), then 2-bit integers with scale and zero
// point per token and group of 128. w = k C k^T in the released code; in the formula of the page,
// V^T S^T S V, it is the sum of squared scores.
//
// Ours: one R per KV head (the released default averages the covariance of a layer's heads: per
// head is the finer fit); moments of centred keys and values, because that is what is encoded;
// halves for scale and zero point at head_dim 128 (2.25 bits; their configuration with two floats
// would be 2.5), bytes at 64. Nothing is published for 3 bits: there the quantile is 0.98, which is
// near the best for entries of a normal law and of Student's law with 6 degrees of freedom alike.
#pragma once

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <cmath>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>

#include "baselines/fit_statistics.hpp"
#include "baselines/group_codec.hpp"
#include "baselines/vector_codec.hpp"

namespace polarquant_baselines {

// H P: column j of the orthonormal Hadamard matrix goes where the bits of head_dim - 1 - j,
// reversed, say: the eigenvalues of U ascend, and the largest comes first. Throws
// std::invalid_argument unless head_dim is a power of two.
inline Eigen::MatrixXd oscar_mixing(Eigen::Index head_dim) {
  if (head_dim < 2 || (head_dim & (head_dim - 1)) != 0) {
    throw std::invalid_argument("OSCAR's Hadamard matrix: head_dim is " + std::to_string(head_dim) +
                                ", must be a power of two");
  }
  Eigen::MatrixXd mixing(head_dim, head_dim);
  for (Eigen::Index j = 0; j < head_dim; ++j) {
    Eigen::Index place = 0;
    for (Eigen::Index bit = 1; bit < head_dim; bit *= 2) {
      place = 2 * place + (((head_dim - 1 - j) & bit) != 0 ? 1 : 0);
    }
    for (Eigen::Index i = 0; i < head_dim; ++i) {
      int ones = 0;
      for (Eigen::Index both = i & j; both != 0; both &= both - 1) ++ones;
      mixing(i, place) = (ones % 2 == 0 ? 1.0 : -1.0) / std::sqrt(static_cast<double>(head_dim));
    }
  }
  return mixing;
}

// U H P. All diagonal entries of R^T C R are equal: tr C / head_dim.
inline Eigen::MatrixXd oscar_rotation(const Eigen::MatrixXd& moments) {
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(moments);
  return solver.eigenvectors() * oscar_mixing(moments.rows());
}

inline double oscar_clip_ratio(bool is_value, int bits) {
  if (bits == 2) return is_value ? 0.92 : 0.96;
  return bits == 3 ? 0.98 : 1.0;
}

// moments: query_moments() for keys, value_moments() for values.
inline std::unique_ptr<VectorCodec> make_oscar_codec(const Eigen::MatrixXd& moments,
                                                     GroupFormat format, double clip_ratio) {
  const Eigen::MatrixXd rotation = oscar_rotation(moments);
  return std::make_unique<LinearCodec>(
      std::make_unique<GroupCodec>(static_cast<std::size_t>(moments.rows()), format, clip_ratio),
      rotation, rotation.transpose());
}

}  // namespace polarquant_baselines
