// What queries of a window of text look at: squares of softmax weights, and centred keys.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include "polarquant/attention/matrix.hpp"
#include "polarquant/attention/options.hpp"
#include "polarquant/attention/query_row.hpp"
#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/kernels/kernel_table.hpp"
#include "polarquant/storage/removed_tokens.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// Subtracts from rows [num_slots, d] what a cache will: from those of span s, slots 64 s to
// 64 s + 63, the mean of the rows 64 before the span's first to 63 behind it, as far as there
// are.
template <typename A>
void center_by_span(RowMatrix<A>& rows) {
  using Eigen::Index;
  const RowMatrix<A> exact = rows;
  const std::size_t num_slots = static_cast<std::size_t>(rows.rows());
  for (std::size_t begin = 0; begin < num_slots; begin += kSpanTokens) {
    const std::size_t first = begin - (std::min)(begin, kCenterReach);
    const std::size_t end = (std::min)(begin + kCenterReach, num_slots);
    const std::size_t count = (std::min)(kSpanTokens, num_slots - begin);
    for (Index column = 0; column < rows.cols(); ++column) {
      double sum = 0.0;
      for (std::size_t slot = first; slot < end; ++slot) {
        sum += static_cast<double>(exact(static_cast<Index>(slot), column));
      }
      const A center = static_cast<A>(sum / static_cast<double>(end - first));
      for (std::size_t slot = begin; slot < begin + count; ++slot) {
        rows(static_cast<Index>(slot), column) -= center;
      }
    }
  }
}

// Of one KV head of a window.
template <typename A>
class WindowWeights {
 public:
  // num_queries: of the window, its last tokens'; block: at most so many are weighed at a time.
  // keys: [num_tokens, head_dim], as they are.
  WindowWeights(const AttentionOptions<A>& options, const VectorKernels<A>& kernels,
                Eigen::Index num_queries, Eigen::Index block, RowMatrix<A> keys)
      : options_(options),
        kernels_(kernels),
        num_queries_(num_queries),
        keys_(std::move(keys)),
        weights_(block, keys_.rows()) {}

  const RowMatrix<A>& keys() const { return keys_; }

  // p^2 of the last call of weigh, [block, num_tokens].
  const RowMatrix<A>& weights() const { return weights_; }

  // Squares of the softmax weights of a block of one head's queries, `rows`, of which the first is
  // query `first` of the window. Returns the tokens that any of them sees; weights of others are
  // not set. A query whose scores overflow gets NaN.
  TokenSpan weigh(int head, Eigen::Index first, const RowMatrix<A>& rows) {
    using Eigen::Index;
    const std::size_t num_tokens = static_cast<std::size_t>(keys_.rows());
    const std::ptrdiff_t first_position =
        options_.first_position.value_or(keys_.rows() - num_queries_);
    std::vector<QueryRow<A>> states(static_cast<std::size_t>(rows.rows()));
    TokenSpan seen{num_tokens, 0};
    for (std::size_t i = 0; i < states.size(); ++i) {
      QueryRow<A>& state = states[i];
      state.query = static_cast<std::size_t>(first) + i;
      state.head = static_cast<std::size_t>(head);
      state.position = position_of(first_position, state.query);
      state.look(options_, TokenRange{}, num_tokens);
      if (state.visible.is_empty()) continue;
      seen.begin = (std::min)(seen.begin, state.visible.begin);
      seen.end = (std::max)(seen.end, state.visible.end);
    }
    if (seen.is_empty()) return {};
    const Index begin = static_cast<Index>(seen.begin);
    const std::size_t num_slots = seen.end - seen.begin;
    const A scale = options_.scale.value_or(A(1) / square_root(static_cast<A>(keys_.cols())));
    weights_.block(0, begin, rows.rows(), static_cast<Index>(num_slots)).noalias() =
        (scale * rows) * keys_.middleRows(begin, static_cast<Index>(num_slots)).transpose();

    const RemovedTokens none;
    for (std::size_t i = 0; i < states.size(); ++i) {
      QueryRow<A>& state = states[i];
      A* const weights = &weights_(static_cast<Index>(i), begin);
      const TokenSpan span = state.seen(seen.begin, num_slots);
      if (!are_finite(weights + span.begin, span.end - span.begin)) {
        std::fill_n(weights, num_slots, std::numeric_limits<A>::quiet_NaN());
        continue;
      }
      state.finish_logits(kernels_, options_, none, static_cast<std::size_t>(num_queries_),
                          seen.begin, span, {}, weights);
      A all_weights(0);
      state.weigh(kernels_, span, num_slots, {}, false, weights, &all_weights);
      A factor = A(1);
      if (options_.sink_logits != nullptr) {
        factor = state.softmax.add_logit(options_.sink_logits[head]);
      }
      factor *= state.softmax.normalizer();
      for (std::size_t t = 0; t < num_slots; ++t) {
        const A weight = factor * weights[t];
        weights[t] = weight * weight;
      }
    }
    return seen;
  }

 private:
  static bool are_finite(const A* values, std::size_t count) {
    bool result = true;
    for (std::size_t i = 0; i < count; ++i) result &= is_finite(values[i]);
    return result;
  }

  const AttentionOptions<A>& options_;
  const VectorKernels<A>& kernels_;
  Eigen::Index num_queries_;
  RowMatrix<A> keys_;
  RowMatrix<A> weights_;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
