// One query of one head while tokens pass: which it sees, its logits, its softmax.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>

#include "polarquant/attention/online_softmax.hpp"
#include "polarquant/attention/options.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/kernels/kernel_table.hpp"
#include "polarquant/storage/removed_tokens.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// Tokens begin .. end - 1.
struct TokenSpan {
  std::size_t begin = 0;
  std::size_t end = 0;

  bool is_empty() const { return begin >= end; }

  // What of it lies in the `count` tokens from `first` on, counted from there.
  TokenSpan within(std::size_t first, std::size_t count) const {
    const std::size_t low = begin > first ? (std::min)(begin - first, count) : 0;
    const std::size_t high = end > first ? (std::min)(end - first, count) : 0;
    return {(std::min)(low, high), high};
  }
};

// The position of a query, `index` behind the first; the last of the type if there is none behind
// it.
inline std::ptrdiff_t position_of(std::ptrdiff_t first, std::size_t index) {
  constexpr std::ptrdiff_t kLast = (std::numeric_limits<std::ptrdiff_t>::max)();
  const std::ptrdiff_t step = static_cast<std::ptrdiff_t>(index);
  return first > kLast - step ? kLast : first + step;
}

// A is float or double. Logits of codes lack q . mean, which `shift` holds. Adding a constant to
// all logits of a query changes nothing, so the constant is subtracted from the logits of exact
// tokens, which are few, instead of being added to those of codes, which are many. A soft-cap does
// depend on it: under one, the shift is added before and gone afterwards.
template <typename A>
struct QueryRow {
  std::size_t query = 0;
  std::size_t head = 0;  // query head
  std::ptrdiff_t position = 0;
  TokenSpan visible;
  TokenSpan hidden;  // of the visible: between the sinks and the window
  bool is_finite = true;
  A shift = A(0);

  OnlineSoftmax<A> softmax;
  A encoded_weight = A(0);  // what the encoded tokens have of the softmax's sum

  // What it sees of the tokens asked for.
  void look(const AttentionOptions<A>& options, TokenRange asked, std::size_t num_tokens) {
    visible = {asked.first, asked.end_within(num_tokens)};
    if (options.causal) {
      visible.end =
          position < 0 ? 0 : (std::min)(visible.end, static_cast<std::size_t>(position) + 1);
    }
    if (options.window > 0 && position >= 0 &&
        static_cast<std::size_t>(position) >= options.window) {
      const std::size_t first = static_cast<std::size_t>(position) - options.window + 1;
      if (visible.begin < (std::min)(options.window_sinks, visible.end)) {
        hidden = {options.window_sinks, (std::min)(first, visible.end)};
      } else {
        visible.begin = (std::max)(visible.begin, first);
      }
    }
    if (visible.is_empty()) visible = {};
  }

  // What it sees of the `count` tokens from `first` on, counted from there.
  TokenSpan seen(std::size_t first, std::size_t count) const {
    const TokenSpan span = visible.within(first, count);
    if (hidden.is_empty()) return span;
    const TokenSpan lost = hidden.within(first, count);
    return lost.begin <= span.begin && span.end <= lost.end ? TokenSpan{} : span;
  }

  // Makes logits of the scores of the tokens `seen`, counted from `token`, as AttentionOptions
  // says.
  void finish_logits(const VectorKernels<A>& kernels, const AttentionOptions<A>& options,
                     const RemovedTokens& removed, std::size_t num_queries, std::size_t token,
                     TokenSpan seen, bool are_codes, A* scores) const noexcept {
    if (seen.is_empty()) return;
    A* const logits = scores + seen.begin;
    const std::size_t first = token + seen.begin;
    const std::size_t count = seen.end - seen.begin;
    if (options.soft_cap != A(0)) {
      kernels.cap_logits(logits, count, options.soft_cap, are_codes ? shift : A(0));
    } else if (!are_codes && shift != A(0)) {
      for (std::size_t i = 0; i < count; ++i) logits[i] -= shift;
    }
    if (options.alibi_slopes != nullptr) {
      const A slope = options.alibi_slopes[head];
      const A distance = static_cast<A>(static_cast<double>(first) - static_cast<double>(position));
      for (std::size_t i = 0; i < count; ++i) logits[i] += slope * (distance + static_cast<A>(i));
    }
    if (options.mask.data != nullptr) {
      const std::size_t rows_per_query = options.mask.count / num_queries;
      const A* const mask =
          options.mask.row(query * rows_per_query + head % rows_per_query) + first;
      for (std::size_t i = 0; i < count; ++i) logits[i] += mask[i];
    }
    const auto hide = [logits](std::size_t begin, std::size_t length) {
      std::fill_n(logits + begin, length, -std::numeric_limits<A>::infinity());
    };
    removed.for_each_within(first, count, hide);
    const TokenSpan lost = hidden.within(first, count);
    if (!lost.is_empty()) hide(lost.begin, lost.end - lost.begin);
  }

  // What the logits of this row still lack.
  A missing(const AttentionOptions<A>& options) const {
    return options.soft_cap != A(0) ? A(0) : shift;
  }

  // Turns the logits of the tokens `seen` into softmax weights and those of the other slots into 0.
  // Returns the factor by which what has been summed so far shrinks.
  A weigh(const VectorKernels<A>& kernels, TokenSpan seen, std::size_t num_slots, bool are_codes,
          A* logits) noexcept {
    std::fill(logits, logits + seen.begin, A(0));
    std::fill(logits + seen.end, logits + num_slots, A(0));
    if (seen.is_empty()) return A(1);
    A* const weights = logits + seen.begin;
    const std::size_t count = seen.end - seen.begin;
    const A factor = softmax.raise_maximum(kernels.maximum(weights, count));
    if (is_negative_infinity(softmax.maximum)) {  // All of them are masked.
      std::fill_n(weights, count, A(0));
      return A(1);
    }
    const A sum = kernels.exponentiate(weights, count, softmax.maximum);
    softmax.sum += sum;
    encoded_weight = factor * encoded_weight + (are_codes ? sum : A(0));
    return factor;
  }
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
