// Causal attention in double: what every cache is measured against.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "polarquant/attention/matrix.hpp"

namespace polarquant_baselines {

// Heads lie side by side in a row; query head h reads KV head h / (num_query_heads / num_kv_heads).
struct HeadShape {
  int num_kv_heads = 1;
  int num_query_heads = 1;
  int key_dim = 64;
  int value_dim = 64;

  int kv_head_of(int query_head) const { return query_head / (num_query_heads / num_kv_heads); }
};

// Tokens that query `query` of num_queries sees: the last one sees all, the one before it one less.
inline Eigen::Index num_visible(Eigen::Index num_tokens, Eigen::Index query,
                                Eigen::Index num_queries) {
  return std::max<Eigen::Index>(0, num_tokens - (num_queries - 1 - query));
}

// q . k, unscaled and unmasked. queries: [num_queries, num_query_heads * key_dim]; keys:
// [num_tokens, num_kv_heads * key_dim]. Returns [num_queries * num_query_heads, num_tokens].
template <typename Queries, typename Keys>
polarquant::RowMatrix<double> exact_scores(const HeadShape& shape, const Queries& queries,
                                           const Keys& keys) {
  polarquant::RowMatrix<double> scores(queries.rows() * shape.num_query_heads, keys.rows());
  std::vector<double> query(static_cast<std::size_t>(shape.key_dim));
  for (Eigen::Index i = 0; i < queries.rows(); ++i) {
    for (int head = 0; head < shape.num_query_heads; ++head) {
      const Eigen::Index first = Eigen::Index{shape.kv_head_of(head)} * shape.key_dim;
      for (int j = 0; j < shape.key_dim; ++j) {
        query[static_cast<std::size_t>(j)] =
            static_cast<double>(queries(i, Eigen::Index{head} * shape.key_dim + j));
      }
      for (Eigen::Index token = 0; token < keys.rows(); ++token) {
        double sum = 0.0;
        for (int j = 0; j < shape.key_dim; ++j) {
          sum += query[static_cast<std::size_t>(j)] * static_cast<double>(keys(token, first + j));
        }
        scores(i * shape.num_query_heads + head, token) = sum;
      }
    }
  }
  return scores;
}

// softmax(scores / sqrt(key_dim)) V over the tokens that each query sees. scores: as from
// exact_scores; values: [num_tokens, num_kv_heads * value_dim]. Returns
// [num_queries, num_query_heads * value_dim].
template <typename Scores, typename Values>
polarquant::RowMatrix<double> exact_attention(const HeadShape& shape, const Scores& scores,
                                              const Values& values) {
  const Eigen::Index num_queries = scores.rows() / shape.num_query_heads;
  const double scale = 1.0 / std::sqrt(static_cast<double>(shape.key_dim));
  polarquant::RowMatrix<double> output = polarquant::RowMatrix<double>::Zero(
      num_queries, Eigen::Index{shape.num_query_heads} * shape.value_dim);
  for (Eigen::Index i = 0; i < num_queries; ++i) {
    const Eigen::Index visible = num_visible(values.rows(), i, num_queries);
    for (int head = 0; head < shape.num_query_heads && visible > 0; ++head) {
      const auto row = scores.row(i * shape.num_query_heads + head);
      const double largest = static_cast<double>(row.head(visible).maxCoeff());
      const Eigen::Index first = Eigen::Index{shape.kv_head_of(head)} * shape.value_dim;
      double* const out = output.data() + i * output.cols() + Eigen::Index{head} * shape.value_dim;
      double total = 0.0;
      for (Eigen::Index token = 0; token < visible; ++token) {
        const double weight = std::exp(scale * (static_cast<double>(row(token)) - largest));
        total += weight;
        for (int j = 0; j < shape.value_dim; ++j) {
          out[j] += weight * static_cast<double>(values(token, first + j));
        }
      }
      for (int j = 0; j < shape.value_dim; ++j) out[j] /= total;
    }
  }
  return output;
}

}  // namespace polarquant_baselines
