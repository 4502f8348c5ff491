// What a cache does to one layer: errors of keys, values, scores and of attention's output.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "baselines/exact_attention.hpp"
#include "sample.hpp"

namespace polarquant_demo {

// Exact attention of one layer, in double from the loaded keys and values.
struct Reference {
  RowMatrix<double> scores;  // [num_queries * num_query_heads, num_tokens], unscaled
  RowMatrix<double> output;  // [num_queries, num_query_heads * value_dim]

  Reference(const HeadShape& shape, const Layer& layer)
      : scores(polarquant_baselines::exact_scores(shape, layer.queries, layer.keys)),
        output(polarquant_baselines::exact_attention(shape, scores, layer.values)) {}
};

struct Quality {
  double key_mse = 0.0;         // mean over vectors of ||x - x'||^2 / ||x||^2
  double value_mse = 0.0;       // the same for values
  double score_error = 0.0;     // RMS of (q.k' - q.k) / sqrt(key_dim) over what is visible
  double output_error = 0.0;    // mean over queries and heads of ||o' - o|| / ||o||
  double same_strongest = 0.0;  // share of queries and heads whose strongest key stays so
  std::size_t memory_bytes = 0;
};

// Mean over the rows of ||x - x'||^2 / ||x||^2; zero rows do not count.
template <typename Exact, typename Decoded>
double mean_relative_mse(const Exact& exact, const Decoded& decoded) {
  double total = 0.0;
  Eigen::Index count = 0;
  for (Eigen::Index row = 0; row < exact.rows(); ++row) {
    const double norm2 = exact.row(row).template cast<double>().squaredNorm();
    if (!(norm2 > 0.0)) continue;
    const double error2 = (exact.row(row) - decoded.row(row)).template cast<double>().squaredNorm();
    total += error2 / norm2;
    ++count;
  }
  return count == 0 ? 0.0 : total / static_cast<double>(count);
}

// Measures a cache that holds the layer's keys and values. Cache: KVCache<float> or a baseline.
template <typename Cache>
Quality measure_quality(const Cache& cache, const HeadShape& shape, const Layer& layer,
                        const Reference& exact) {
  Quality quality;
  quality.memory_bytes = cache.memory_bytes();
  for (int head = 0; head < shape.num_kv_heads; ++head) {
    const auto keys = layer.keys.middleCols(Eigen::Index{head} * shape.key_dim, shape.key_dim);
    const auto values =
        layer.values.middleCols(Eigen::Index{head} * shape.value_dim, shape.value_dim);
    quality.key_mse += mean_relative_mse(keys, cache.decode_keys(head)) / shape.num_kv_heads;
    quality.value_mse += mean_relative_mse(values, cache.decode_values(head)) / shape.num_kv_heads;
  }

  const RowMatrix<float> scores = cache.attention_scores(layer.queries);
  const RowMatrix<float> output = cache.attend(layer.queries);
  const Eigen::Index num_queries = layer.queries.rows();
  double score_error2 = 0.0;
  double num_scores = 0.0;
  double num_outputs = 0.0;
  for (Eigen::Index query = 0; query < num_queries; ++query) {
    const Eigen::Index visible =
        polarquant_baselines::num_visible(layer.keys.rows(), query, num_queries);
    for (int head = 0; head < shape.num_query_heads; ++head) {
      const Eigen::Index row = query * shape.num_query_heads + head;
      const auto exact_row = exact.scores.row(row).head(visible);
      const auto row_scores = scores.row(row).head(visible);
      score_error2 +=
          (row_scores.template cast<double>() - exact_row).squaredNorm() / shape.key_dim;
      num_scores += static_cast<double>(visible);
      Eigen::Index strongest = 0;
      Eigen::Index exact_strongest = 0;
      row_scores.maxCoeff(&strongest);
      exact_row.maxCoeff(&exact_strongest);
      quality.same_strongest += strongest == exact_strongest ? 1.0 : 0.0;

      const Eigen::Index first = Eigen::Index{head} * shape.value_dim;
      const auto exact_output = exact.output.row(query).segment(first, shape.value_dim);
      const auto head_output = output.row(query).segment(first, shape.value_dim);
      const double norm = exact_output.norm();
      if (norm > 0.0) {
        quality.output_error += (head_output.template cast<double>() - exact_output).norm() / norm;
        num_outputs += 1.0;
      }
    }
  }
  quality.score_error = std::sqrt(score_error2 / num_scores);
  quality.output_error /= std::max(num_outputs, 1.0);
  quality.same_strongest /= static_cast<double>(num_queries) * shape.num_query_heads;
  return quality;
}

// The mean of all layers (of the score error: the root of the mean square), and all their bytes.
inline Quality average(const std::vector<Quality>& layers) {
  Quality mean;
  for (const Quality& layer : layers) {
    mean.key_mse += layer.key_mse;
    mean.value_mse += layer.value_mse;
    mean.score_error += layer.score_error * layer.score_error;
    mean.output_error += layer.output_error;
    mean.same_strongest += layer.same_strongest;
    mean.memory_bytes += layer.memory_bytes;
  }
  const double count = static_cast<double>(layers.size());
  mean.key_mse /= count;
  mean.value_mse /= count;
  mean.score_error = std::sqrt(mean.score_error / count);
  mean.output_error /= count;
  mean.same_strongest /= count;
  return mean;
}

}  // namespace polarquant_demo
