// Attention in plain double precision, straight from its definition: what the cache is held
// against.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <polarquant/polarquant.hpp>
#include <vector>

#include "test_util.hpp"

namespace polarquant_test {

// The options of one call with memory of its own.
struct PlainOptions {
  std::optional<double> scale;
  bool causal = true;
  std::optional<std::ptrdiff_t> first_position;
  std::size_t window = 0;
  std::size_t window_sinks = 0;
  double soft_cap = 0.0;
  std::vector<double> alibi_slopes;    // [num_query_heads] or empty
  std::vector<double> sink_logits;     // [num_query_heads] or empty
  polarquant::RowMatrix<double> mask;  // [num_queries (* num_query_heads), num_tokens] or empty
};

// The same as the library takes it. Lives as long as the views it hands out.
template <typename A>
class OptionsOf {
 public:
  explicit OptionsOf(const PlainOptions& plain)
      : plain_(plain),
        alibi_slopes_(plain.alibi_slopes.begin(), plain.alibi_slopes.end()),
        sink_logits_(plain.sink_logits.begin(), plain.sink_logits.end()),
        mask_(plain.mask.template cast<A>()) {}

  polarquant::AttentionOptions<A> get() const {
    polarquant::AttentionOptions<A> options;
    if (plain_.scale) options.scale = static_cast<A>(*plain_.scale);
    options.causal = plain_.causal;
    options.first_position = plain_.first_position;
    options.window = plain_.window;
    options.window_sinks = plain_.window_sinks;
    options.soft_cap = static_cast<A>(plain_.soft_cap);
    if (!alibi_slopes_.empty()) options.alibi_slopes = alibi_slopes_.data();
    if (!sink_logits_.empty()) options.sink_logits = sink_logits_.data();
    if (mask_.size() > 0) {
      options.mask = {mask_.data(), static_cast<std::size_t>(mask_.rows()),
                      static_cast<std::size_t>(mask_.cols())};
    }
    return options;
  }

 private:
  PlainOptions plain_;
  std::vector<A> alibi_slopes_;
  std::vector<A> sink_logits_;
  polarquant::RowMatrix<A> mask_;
};

// keys[h], values[h]: [num_tokens, head_dim] of KV head h. queries: [num_queries, num_query_heads *
// key head_dim]. removed: of each token; empty: none.
inline polarquant::RowMatrix<double> plain_attention(
    const std::vector<polarquant::RowMatrix<double>>& keys,
    const std::vector<polarquant::RowMatrix<double>>& values,
    const polarquant::RowMatrix<double>& queries, const PlainOptions& options,
    const std::vector<bool>& removed = {}) {
  using Eigen::Index;
  const Index key_dim = keys[0].cols();
  const Index value_dim = values[0].cols();
  const Index num_tokens = keys[0].rows();
  const Index num_heads = queries.cols() / key_dim;
  const Index group_size = num_heads / static_cast<Index>(keys.size());
  const double scale = options.scale.value_or(1.0 / std::sqrt(static_cast<double>(key_dim)));
  const Index first_position = options.first_position.value_or(num_tokens - queries.rows());
  polarquant::RowMatrix<double> output =
      polarquant::RowMatrix<double>::Zero(queries.rows(), num_heads * value_dim);
  for (Index query = 0; query < queries.rows(); ++query) {
    const Index position = first_position + query;
    for (Index head = 0; head < num_heads; ++head) {
      const auto kv_head = static_cast<std::size_t>(head / group_size);
      std::vector<double> logits;
      std::vector<Index> tokens;
      for (Index token = 0; token < num_tokens; ++token) {
        const std::size_t index = static_cast<std::size_t>(token);
        if (!removed.empty() && removed[index]) continue;
        if (options.causal && token > position) continue;
        if (options.window > 0 && index >= options.window_sinks &&
            position - token >= static_cast<Index>(options.window)) {
          continue;
        }
        double logit = scale * keys[kv_head].row(token).dot(
                                   queries.row(query).segment(head * key_dim, key_dim));
        if (options.soft_cap > 0) logit = options.soft_cap * std::tanh(logit / options.soft_cap);
        if (!options.alibi_slopes.empty()) {
          logit += options.alibi_slopes[static_cast<std::size_t>(head)] *
                   static_cast<double>(token - position);
        }
        if (options.mask.size() > 0) {
          const bool per_head = options.mask.rows() == queries.rows() * num_heads;
          logit += options.mask(per_head ? query * num_heads + head : query, token);
        }
        if (logit == -std::numeric_limits<double>::infinity()) continue;
        logits.push_back(logit);
        tokens.push_back(token);
      }
      if (logits.empty()) continue;
      double largest = *std::max_element(logits.begin(), logits.end());
      double sum = 0.0;
      if (!options.sink_logits.empty()) {
        const double sink = options.sink_logits[static_cast<std::size_t>(head)];
        largest = std::max(largest, sink);
        sum = std::exp(sink - largest);
      }
      Eigen::RowVectorXd weighted = Eigen::RowVectorXd::Zero(value_dim);
      for (std::size_t i = 0; i < logits.size(); ++i) {
        const double weight = std::exp(logits[i] - largest);
        sum += weight;
        weighted += weight * values[kv_head].row(tokens[i]);
      }
      output.row(query).segment(head * value_dim, value_dim) = weighted / sum;
    }
  }
  return output;
}

// The same over what a cache says it holds.
template <typename T>
polarquant::RowMatrix<double> plain_attention(const polarquant::KVCache<T>& cache,
                                              const polarquant::RowMatrix<T>& queries,
                                              const PlainOptions& options = {}) {
  std::vector<polarquant::RowMatrix<double>> keys, values;
  for (int head = 0; head < cache.config().num_kv_heads; ++head) {
    keys.push_back(cache.decode_keys(head).template cast<double>());
    values.push_back(cache.decode_values(head).template cast<double>());
  }
  std::vector<bool> removed(cache.num_tokens());
  for (const polarquant::TokenRange& range : cache.removed_tokens()) {
    for (std::size_t i = 0; i < range.count; ++i) removed[range.first + i] = true;
  }
  return plain_attention(keys, values, queries.template cast<double>(), options, removed);
}

// Random options, each on or off, for queries to a cache of num_tokens tokens.
inline PlainOptions random_options(polarquant::Random& random, Eigen::Index num_queries,
                                   Eigen::Index num_heads, Eigen::Index num_tokens) {
  PlainOptions options;
  const auto coin = [&] { return random_int(random, 0, 2) == 0; };
  const auto numbers = [&](double scale) {
    std::vector<double> result(static_cast<std::size_t>(num_heads));
    for (double& x : result) x = scale * random.gaussian();
    return result;
  };
  if (coin()) options.scale = 0.05 + 0.2 * random.uniform();
  if (coin()) options.causal = false;
  if (coin()) {
    options.first_position = random_int(random, -3, static_cast<int>(num_tokens) + 3);
  }
  if (coin()) options.window = static_cast<std::size_t>(random_int(random, 1, 200));
  if (coin()) options.window_sinks = static_cast<std::size_t>(random_int(random, 0, 300));
  if (coin()) options.soft_cap = 0.5 + 3.0 * random.uniform();
  if (coin()) options.alibi_slopes = numbers(0.02);
  if (coin()) options.sink_logits = numbers(2.0);
  if (coin() && num_tokens > 0 && num_queries > 0) {
    options.mask.resize(coin() ? num_queries * num_heads : num_queries, num_tokens);
    for (Eigen::Index i = 0; i < options.mask.size(); ++i) {
      options.mask.data()[i] =
          coin() ? -std::numeric_limits<double>::infinity() : random.gaussian();
    }
  }
  return options;
}

// Accuracy of attention: of the norm of a value, for entries of about 1.
template <typename T>
double attention_tolerance(int value_dim) {
  return (std::is_same_v<AccumulatorOf<T>, double> ? 1e-12 : 1e-5) *
         std::sqrt(static_cast<double>(value_dim));
}

}  // namespace polarquant_test
