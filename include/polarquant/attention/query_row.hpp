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
#include "polarquant/codes/center_code.hpp"
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

// What the scores of consecutive tokens lack: q . c for the c that was subtracted from their keys,
// the same for all tokens of a span.
template <typename A>
struct SpanShifts {
  const A* shifts = nullptr;  // by span; null: they lack nothing
  std::size_t first_end = (std::numeric_limits<std::size_t>::max)();  // where the first span ends

  A shift(std::size_t span) const { return shifts == nullptr ? A(0) : shifts[span]; }

  // Calls visit(span, begin, end) for what each span has of some of the tokens.
  template <typename Visit>
  void for_each(TokenSpan tokens, const Visit& visit) const noexcept {
    for (std::size_t begin = tokens.begin; begin < tokens.end;) {
      const std::size_t span = begin < first_end ? 0 : 1 + (begin - first_end) / kSpanTokens;
      const std::size_t end = (std::min)(tokens.end, first_end + span * kSpanTokens);
      visit(span, begin, end);
      begin = end;
    }
  }
};

// A is float or double. A shift is never added to logits but where a soft-cap wants them true: it
// comes to the maximum of a span's and is gone again from what their exponentials are relative to.
template <typename A>
struct QueryRow {
  std::size_t query = 0;
  std::size_t head = 0;  // query head
  std::ptrdiff_t position = 0;
  TokenSpan visible;
  TokenSpan hidden;  // of the visible: between the sinks and the window
  bool is_finite = true;
  A given_shift = A(0);  // q . c for the centre that all codes share

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
                     TokenSpan seen, const SpanShifts<A>& spans, A* scores) const noexcept {
    if (seen.is_empty()) return;
    A* const logits = scores + seen.begin;
    const std::size_t first = token + seen.begin;
    const std::size_t count = seen.end - seen.begin;
    if (options.soft_cap != A(0)) {
      spans.for_each(seen, [&](std::size_t span, std::size_t begin, std::size_t end) {
        kernels.cap_logits(scores + begin, end - begin, options.soft_cap, spans.shift(span));
      });
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

  // Turns the logits of the tokens `seen` into softmax weights and those of the other slots into 0;
  // weights of whole spans to span_weights. Returns the factor by which what has been summed so far
  // shrinks.
  A weigh(const VectorKernels<A>& kernels, TokenSpan seen, std::size_t num_slots,
          const SpanShifts<A>& spans, bool are_codes, A* logits, A* span_weights) noexcept {
    std::fill(logits, logits + seen.begin, A(0));
    std::fill(logits + seen.end, logits + num_slots, A(0));
    if (seen.is_empty()) return A(1);
    A largest = -std::numeric_limits<A>::infinity();
    spans.for_each(seen, [&](std::size_t span, std::size_t begin, std::size_t end) {
      largest =
          (std::max)(largest, kernels.maximum(logits + begin, end - begin) + spans.shift(span));
    });
    const A factor = softmax.raise_maximum(largest);
    if (is_negative_infinity(softmax.maximum)) {  // All of them are masked.
      std::fill(logits + seen.begin, logits + seen.end, A(0));
      return A(1);
    }
    A sum(0);
    spans.for_each(seen, [&](std::size_t span, std::size_t begin, std::size_t end) {
      span_weights[span] =
          kernels.exponentiate(logits + begin, end - begin, softmax.maximum - spans.shift(span));
      sum += span_weights[span];
    });
    softmax.sum += sum;
    encoded_weight = factor * encoded_weight + (are_codes ? sum : A(0));
    return factor;
  }
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
