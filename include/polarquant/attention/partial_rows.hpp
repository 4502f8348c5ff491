// Attention over a part of the tokens, to be joined with that over other parts; in the caller's
// memory.
#pragma once

#include <cmath>
#include <cstddef>

#include "polarquant/attention/online_softmax.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// A partial result in the caller's memory. For every query and query head
//   softmax: maximum m of the logits l_j seen, sum of exp(l_j - m)   (-infinity and 0 if none)
//   output:  sum of exp(l_j - m) v_j, not normalised
// so that parts merge whatever cache, format or thread they come from.
template <typename A>
struct PartialRows {
  Rows<A> output;                  // [num_queries, num_heads * value_dim]
  Rows<OnlineSoftmax<A>> softmax;  // [num_queries, num_heads]
  std::size_t num_heads = 0;       // query heads
  std::size_t value_dim = 0;       // width of a head of the output
};

namespace detail {

// One query and head of merge. output, addend: [value_dim].
template <typename A>
void merge_head(OnlineSoftmax<A>& softmax, A* output, const OnlineSoftmax<A>& added,
                const A* addend, std::size_t value_dim) noexcept {
  if (added.sum == A(0)) return;
  const A own_factor = softmax.raise_maximum(added.maximum);
  const A factor = std::exp(added.maximum - softmax.maximum);
  softmax.sum += factor * added.sum;
  for (std::size_t i = 0; i < value_dim; ++i) {
    output[i] = own_factor * output[i] + factor * addend[i];
  }
}

// One query and head of finish; a copy of its softmax. sum, output: [value_dim].
template <typename A>
void finish_head(OnlineSoftmax<A> softmax, const A* sum, const A* sink_logit, A* output,
                 std::size_t value_dim) noexcept {
  const A factor = sink_logit == nullptr ? A(1) : softmax.add_logit(*sink_logit);
  const A normalizer = factor * softmax.normalizer();
  for (std::size_t i = 0; i < value_dim; ++i) output[i] = normalizer * sum[i];
}

}  // namespace detail

// into becomes the partial result over the tokens of both. Both of one shape, not overlapping.
// Cost: one pass over the outputs. The order of merging changes the result by rounding alone.
template <typename A>
void merge(const PartialRows<A>& into, const PartialRows<A>& other) noexcept {
  POLARQUANT_DCHECK(into.output.count == other.output.count);
  POLARQUANT_DCHECK(into.num_heads == other.num_heads && into.value_dim == other.value_dim);
  for (std::size_t query = 0; query < into.output.count; ++query) {
    for (std::size_t head = 0; head < into.num_heads; ++head) {
      const std::size_t column = head * into.value_dim;
      detail::merge_head(into.softmax.row(query)[head], into.output.row(query) + column,
                         other.softmax.row(query)[head], other.output.row(query) + column,
                         into.value_dim);
    }
  }
}

// output = the attention that the merged parts amount to, [num_queries, num_heads * value_dim]; may
// be part.output itself. sink_logits: [num_heads] or null, as in AttentionOptions.
template <typename A>
void finish(const PartialRows<A>& part, Rows<A> output, const A* sink_logits = nullptr) noexcept {
  POLARQUANT_DCHECK(part.output.count == output.count);
  for (std::size_t query = 0; query < output.count; ++query) {
    for (std::size_t head = 0; head < part.num_heads; ++head) {
      const std::size_t column = head * part.value_dim;
      detail::finish_head(part.softmax.row(query)[head], part.output.row(query) + column,
                          sink_logits == nullptr ? nullptr : sink_logits + head,
                          output.row(query) + column, part.value_dim);
    }
  }
}

POLARQUANT_END_NAMESPACE
