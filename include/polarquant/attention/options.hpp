// What attention may be asked beyond softmax(q . k / sqrt(head_dim)) V.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <string>

#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/storage/removed_tokens.hpp"

POLARQUANT_BEGIN_NAMESPACE

// What of a call's work to do, so that threads can share it: some KV heads, some tokens. As it
// comes, all.
struct Part {
  int first_kv_head = 0;
  int num_kv_heads = (std::numeric_limits<int>::max)();  // as far as the cache has them
  TokenRange token_range;

  static Part heads(int first, int count) { return {first, count, {}}; }
  static Part tokens(std::size_t first, std::size_t count) {
    Part part;
    part.token_range = {first, count};
    return part;
  }
};

// Options of one call. The logit of query i of head h, at position p = first_position + i, and
// token j is
//
//   cap(scale q . k_j) + alibi_slopes[h] (j - p) + mask(i, h, j),  cap(x) = soft_cap tanh(x /
//   soft_cap)
//
// over the tokens j that are visible: j <= p if causal, and p - j < window or j < window_sinks. A
// visible token whose mask is -infinity is hidden too, and so is one that was removed. A query that
// sees no token gets zeros. A is the cache's Accumulator. An option left as it is costs nothing.
// Pointers are to the caller's memory.
template <typename A>
struct AttentionOptions {
  std::optional<A> scale;  // empty: 1 / sqrt(key head_dim)
  bool causal = true;

  // Position of the first query, as a token of the cache, counted from 0; may lie before the first
  // or behind the last token. Empty: num_tokens - num_queries, so that the last query stands at the
  // last token.
  std::optional<std::ptrdiff_t> first_position;

  std::size_t window = 0;        // tokens that a query sees at most, itself included; 0: all
  std::size_t window_sinks = 0;  // the first tokens, which a window does not hide
  A soft_cap = A(0);             // 0: none

  const A* alibi_slopes = nullptr;  // [num_query_heads]

  // A learned logit per head that takes a share of the softmax and has no value. -infinity: none.
  const A* sink_logits = nullptr;  // [num_query_heads]

  // Added to the logits: [num_queries, num_tokens] for all heads, or
  // [num_queries * num_query_heads, num_tokens], query by query. Finite or -infinity.
  Rows<const A> mask;

  // Throws std::invalid_argument, naming the value and the rule.
  void validate(std::size_t num_queries, std::size_t num_query_heads,
                std::size_t num_tokens) const {
    if (scale) expect_rule("scale", *scale, detail::is_finite(*scale), "finite");
    expect_rule("soft_cap", soft_cap, detail::is_finite(soft_cap) && soft_cap >= A(0),
                "finite, at least 0");
    for (std::size_t head = 0; head < num_query_heads; ++head) {
      if (alibi_slopes != nullptr) {
        expect_rule("an ALiBi slope", alibi_slopes[head], detail::is_finite(alibi_slopes[head]),
                    "finite");
      }
      if (sink_logits != nullptr) {
        expect_rule("a sink logit", sink_logits[head], is_logit(sink_logits[head]), kLogitRule);
      }
    }
    if (mask.data == nullptr) return;
    if (mask.count != num_queries && mask.count != num_queries * num_query_heads) {
      detail::throw_invalid_argument(
          {"the mask has ", mask.count, " rows, must have one per query, ", num_queries,
           ", or one per query and query head, ", num_queries * num_query_heads});
    }
    if (mask.count > 1 && mask.stride < num_tokens) {
      detail::throw_invalid_argument({"the mask's rows are ", mask.stride,
                                      " apart, must be at least the number of tokens, ",
                                      num_tokens});
    }
    for (std::size_t row = 0; row < mask.count; ++row) {
      for (std::size_t token = 0; token < num_tokens; ++token) {
        const A value = mask.row(row)[token];
        if (is_logit(value)) continue;
        expect_rule(detail::message({"the mask in row ", row, " of token ", token}), value, false,
                    kLogitRule);
      }
    }
  }

 private:
  static constexpr const char* kLogitRule = "finite or -infinity";

  static bool is_logit(A value) {
    return detail::is_finite(value) || detail::is_negative_infinity(value);
  }

  static void expect_rule(const std::string& what, A value, bool holds, const char* rule) {
    if (holds) return;
    detail::throw_invalid_argument({what, " is ", value, ", must be ", rule});
  }
};

POLARQUANT_END_NAMESPACE
