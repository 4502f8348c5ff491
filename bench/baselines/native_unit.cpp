// Eigen's exact attention in fp32, and what a core can read, compiled with -march=native.
//
// The linker merges inline functions of one name, and Eigen's differ with the -m flags down to how
// they free memory: here Eigen has another name.
#define Eigen Eigen_for_this_machine
#include <Eigen/Core>

#include "baselines/units.hpp"

namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Map = Eigen::Map<Matrix>;
using ConstMap = Eigen::Map<const Matrix>;
using ConstVector = Eigen::Map<const Eigen::VectorXf>;
using Eigen::Index;

}  // namespace

extern "C" void polarquant_eigen_scores(const float* keys, std::size_t num_tokens,
                                        std::size_t head_dim, const float* queries,
                                        std::size_t num_queries, float* scores) {
  const Index n = static_cast<Index>(num_tokens);
  const Index d = static_cast<Index>(head_dim);
  const ConstMap k(keys, n, d);
  if (num_queries == 1) {
    Eigen::Map<Eigen::VectorXf>(scores, n).noalias() = k * ConstVector(queries, d);
    return;
  }
  const ConstMap q(queries, static_cast<Index>(num_queries), d);
  Map(scores, q.rows(), n).noalias() = q * k.transpose();
}

extern "C" void polarquant_eigen_sums(const float* values, std::size_t num_tokens,
                                      std::size_t head_dim, const float* weights,
                                      std::size_t num_queries, float* sums) {
  const Index n = static_cast<Index>(num_tokens);
  const Index d = static_cast<Index>(head_dim);
  const ConstMap v(values, n, d);
  if (num_queries == 1) {
    Eigen::Map<Eigen::VectorXf>(sums, d).noalias() = v.transpose() * ConstVector(weights, n);
    return;
  }
  const ConstMap w(weights, static_cast<Index>(num_queries), n);
  Map(sums, w.rows(), d).noalias() = w * v;
}

extern "C" void polarquant_eigen_attend(const float* keys, const float* values,
                                        std::size_t num_tokens, std::size_t head_dim,
                                        const float* queries, std::size_t num_queries,
                                        std::size_t num_heads, float scale, float* output) {
  constexpr Index kBlock = 512;  // tokens whose scores stay in the second-level cache
  const Index n = static_cast<Index>(num_tokens);
  const Index d = static_cast<Index>(head_dim);
  const Index rows = static_cast<Index>(num_queries * num_heads);
  const ConstMap q(queries, rows, d);
  Map out(output, rows, d);
  out.setZero();
  Eigen::ArrayXf largest = Eigen::ArrayXf::Constant(rows, -HUGE_VALF);
  Eigen::ArrayXf total = Eigen::ArrayXf::Zero(rows);
  Matrix weights(rows, kBlock);
  for (Index token = 0; token < n; token += kBlock) {
    const Index count = std::min(kBlock, n - token);
    const ConstMap k(keys + token * d, count, d);
    const ConstMap v(values + token * d, count, d);
    auto block = weights.leftCols(count);
    block.noalias() = q * k.transpose();
    for (Index row = 0; row < rows; ++row) {
      // Query i of n sees all tokens but the last n - 1 - i.
      const Index query = row / static_cast<Index>(num_heads);
      const Index hidden = static_cast<Index>(num_queries) - 1 - query;
      const Index visible = std::min(count, std::max<Index>(0, n - hidden - token));
      block.row(row).tail(count - visible).setZero();
      if (visible == 0) continue;
      auto seen = block.row(row).head(visible).array();
      const float maximum = std::max(largest(row), scale * seen.maxCoeff());
      if (maximum > largest(row)) {
        const float shrink = std::exp(largest(row) - maximum);
        out.row(row) *= shrink;
        total(row) *= shrink;
        largest(row) = maximum;
      }
      seen = (scale * seen - maximum).exp();
      total(row) += seen.sum();
    }
    out.noalias() += block * v;
  }
  for (Index row = 0; row < rows; ++row) {
    if (total(row) > 0.0f) out.row(row) /= total(row);
  }
}

// Eight sums of sixteen: nothing but reading limits it.
extern "C" float polarquant_stream_sum(const float* data, std::size_t count,
                                       std::size_t num_ahead) {
  using Line = Eigen::Array<float, 16, 1>;
  Line sums[8];
  for (Line& sum : sums) sum.setZero();
  for (std::size_t i = 0; i + 128 <= count; i += 128) {
    for (std::size_t k = 0; k < 8; ++k) {
      if (num_ahead != 0) __builtin_prefetch(data + i + 16 * k + num_ahead);
      sums[k] += Eigen::Map<const Line>(data + i + 16 * k);
    }
  }
  for (std::size_t k = 1; k < 8; ++k) sums[0] += sums[k];
  return sums[0].sum();
}
