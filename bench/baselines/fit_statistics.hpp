// What the baselines that are fitted to a calibration text need of it, in bounded memory.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "polarquant/attention/matrix.hpp"

namespace polarquant_baselines {

// Which channels RoPE turns together: 2i and 2i + 1, as in GGUF files of Llama, or i and
// i + head_dim / 2, as in Hugging Face's (and in GGUF files of Qwen, Phi and others).
enum class RopePairs { kAdjacent, kHalves };

// The channel of RoPE pair `pair` that stands at `place`, 0 or 1.
inline Eigen::Index rope_channel(RopePairs pairs, Eigen::Index head_dim, Eigen::Index pair,
                                 Eigen::Index place) {
  return pairs == RopePairs::kAdjacent ? 2 * pair + place : pair + place * (head_dim / 2);
}

// A piece of a calibration text at one KV head, after RoPE, sinks left out.
struct CalibrationRows {
  polarquant::RowMatrixRef<float> queries;  // [n, head_dim], all query heads of the group
  polarquant::RowMatrixRef<float> keys;     // [m, head_dim], centred as the cache centres them
  polarquant::RowMatrixRef<float> values;   // [m, head_dim], centred likewise

  // [m], the sum over queries of each token's softmax weight (or of its square). Empty: the weights
  // of OSCAR's released code, k_t C k_t^T = sum_q (q . k_t)^2 with C = Q^T Q of this piece.
  std::vector<double> weights = {};
};

// Sums over all pieces: head_dim^2 numbers, however long the text. One KV head.
class FitStatistics {
 public:
  explicit FitStatistics(Eigen::Index head_dim)
      : queries_(Eigen::MatrixXd::Zero(head_dim, head_dim)),
        keys_(Eigen::MatrixXd::Zero(head_dim, head_dim)),
        values_(Eigen::MatrixXd::Zero(head_dim, head_dim)),
        key_maxima_(Eigen::VectorXd::Zero(head_dim)) {}

  // Throws std::invalid_argument for shapes that do not match.
  void add(const CalibrationRows& rows) {
    const Eigen::Index m = rows.keys.rows();
    if (rows.queries.cols() != head_dim() || rows.keys.cols() != head_dim() ||
        rows.values.cols() != head_dim() || rows.values.rows() != m ||
        (!rows.weights.empty() && static_cast<Eigen::Index>(rows.weights.size()) != m)) {
      throw std::invalid_argument("calibration rows must be " + std::to_string(head_dim()) +
                                  " wide, with a key, a value and a weight per token");
    }
    if (m == 0) return;
    const Eigen::MatrixXd queries = rows.queries.cast<double>();
    const Eigen::MatrixXd keys = rows.keys.cast<double>();
    const Eigen::MatrixXd values = rows.values.cast<double>();
    const Eigen::MatrixXd gram = queries.transpose() * queries;
    Eigen::VectorXd weights = ((keys * gram).cwiseProduct(keys)).rowwise().sum();
    for (Eigen::Index t = 0; t < m && !rows.weights.empty(); ++t) {
      weights[t] = rows.weights[static_cast<std::size_t>(t)];
    }
    queries_ += gram;
    keys_ += keys.transpose() * keys;
    values_ += values.transpose() * weights.asDiagonal() * values;
    key_maxima_ = key_maxima_.cwiseMax(keys.cwiseAbs().colwise().maxCoeff().transpose());
    num_queries_ += static_cast<double>(queries.rows());
    num_keys_ += static_cast<double>(m);
    total_weight_ += weights.sum();
  }

  Eigen::Index head_dim() const { return queries_.rows(); }

  // Second moments, about zero: E q^T q, E k^T k and the weighted mean of v^T v.
  Eigen::MatrixXd query_moments() const { return queries_ / std::max(num_queries_, 1.0); }
  Eigen::MatrixXd key_moments() const { return keys_ / std::max(num_keys_, 1.0); }
  Eigen::MatrixXd value_moments() const {
    return total_weight_ > 0.0 ? Eigen::MatrixXd(values_ / total_weight_) : values_;
  }

  // The largest |k_i| of each channel.
  const Eigen::VectorXd& key_maxima() const { return key_maxima_; }

 private:
  Eigen::MatrixXd queries_;
  Eigen::MatrixXd keys_;
  Eigen::MatrixXd values_;
  Eigen::VectorXd key_maxima_;
  double num_queries_ = 0.0;
  double num_keys_ = 0.0;
  double total_weight_ = 0.0;
};

}  // namespace polarquant_baselines
