// Attention of the query heads that share a KV head, over tokens wherever they lie.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <type_traits>

#include "polarquant/attention/options.hpp"
#include "polarquant/attention/partial_rows.hpp"
#include "polarquant/attention/query_row.hpp"
#include "polarquant/attention/scratch.hpp"
#include "polarquant/attention/token_pieces.hpp"
#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/storage/kv_codec.hpp"
#include "polarquant/storage/page_pool.hpp"
#include "polarquant/storage/removed_tokens.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// Queries [num_queries, ..] of which the heads first_head .. first_head + group_size - 1 share the
// KV head; head h at columns h * head_dim.
template <typename T>
struct GroupQueries {
  Rows<const T> rows;
  std::size_t first_head = 0;
  std::size_t group_size = 1;
};

// Where results go: output, normalised, or a partial result. The columns of the group's heads are
// written.
template <typename A>
struct AttentionTarget {
  Rows<A> output;
  Rows<OnlineSoftmax<A>> softmax;  // without: output is normalised
};

// Row r of the group is query r / group_size, head first_head + r % group_size. kMaxQueryRows of
// them pass over the tokens together.
template <typename A, typename Tokens>
class QueryGroup {
 public:
  QueryGroup(const KVCodec<A>& codec, const Tokens& tokens, const AttentionScratch<A>& work)
      : keys_(codec.keys()), values_(codec.values()), tokens_(tokens), work_(work) {}

  // See KVCache::attend and attend_partial.
  template <typename T>
  void attend(const GroupQueries<T>& queries, const AttentionOptions<A>& options, TokenRange range,
              const AttentionTarget<A>& target) noexcept;

  // See KVCache::attention_scores. scores: a row per query and query head.
  template <typename T>
  void scores(const GroupQueries<T>& queries, TokenRange range, Rows<A> scores,
              std::size_t num_query_heads) noexcept;

 private:
  static constexpr A kNaN = std::numeric_limits<A>::quiet_NaN();

  // Calls visit() for kMaxQueryRows rows of the group at a time, prepared.
  template <typename T, typename Visit>
  void for_each_batch(const GroupQueries<T>& queries, A scale, const Visit& visit) noexcept {
    const std::size_t num_rows = queries.rows.count * queries.group_size;
    for (std::size_t first = 0; first < num_rows; first += kMaxQueryRows) {
      num_rows_ = (std::min)(kMaxQueryRows, num_rows - first);
      for (std::size_t row = 0; row < num_rows_; ++row) {
        rows_[row] = QueryRow<A>{};
        rows_[row].query = (first + row) / queries.group_size;
        rows_[row].head = queries.first_head + (first + row) % queries.group_size;
        prepare(row, queries.rows.row(rows_[row].query) + rows_[row].head * keys_.head_dim(),
                scale);
      }
      visit();
    }
  }

  // The query, rotated and prepared for codes and as it is for exact rows.
  template <typename T>
  void prepare(std::size_t row, const T* query, A scale) noexcept {
    QueryRow<A>& state = rows_[row];
    A* const exact = work_.exact_queries + row * work_.exact_width;
    std::fill_n(exact, work_.exact_width, A(0));
    for (std::size_t i = 0; i < keys_.head_dim(); ++i) {
      const A entry = static_cast<A>(query[i]);
      state.is_finite &= is_finite(entry);
      exact[i] = scale * entry;
    }
    A* const rotated = work_.rotated_queries + row * work_.exact_width;
    std::copy_n(exact, work_.exact_width, rotated);
    keys_.vectors().uncondition({tokens_.key_transform, nullptr}, keys_.head_dim(), rotated);
    for (std::size_t i = 0; tokens_.key_center != nullptr && i < keys_.head_dim(); ++i) {
      state.given_shift += rotated[i] * tokens_.key_center[i];
    }
    keys_.prepare_query(rotated, work_.prepared + row * keys_.prepared_size(), work_.codec_scratch,
                        A(1), {}, rotated);
  }

  // Whether a row may see one of the `count` tokens from `token` on.
  bool is_seen(std::size_t token, std::size_t count) const noexcept {
    bool is_removed = false;
    tokens_.removed->for_each_within(
        token, count, [&](std::size_t, std::size_t size) { is_removed |= size == count; });
    return !is_removed && std::any_of(rows_, rows_ + num_rows_, [&](const QueryRow<A>& row) {
      return !row.seen(token, count).is_empty();
    });
  }

  // work.weights[row] = scores of the piece's tokens. next: codes that will be read after them.
  void score_piece(const TilePiece& piece, const std::byte* next) noexcept {
    keys_.score_tiles({work_.prepared, num_rows_, keys_.prepared_size()}, piece.keys,
                      piece.num_tiles(), {work_.weights, num_rows_, kPageTokens},
                      work_.codec_scratch, next);
  }

  // What the scores of a piece lack, for every row.
  void find_shifts(const TilePiece& piece) noexcept {
    if (piece.key_centers == nullptr) {
      for (std::size_t row = 0; row < num_rows_; ++row) {
        std::fill_n(shifts_[row], kPageSpans, rows_[row].given_shift);
      }
      return;
    }
    keys_.vectors().dot_centers({piece.key_centers, piece.num_spans(), keys_.center_bytes()},
                                keys_.head_dim(),
                                {work_.rotated_queries, num_rows_, work_.exact_width},
                                work_.centers, {shifts_[0], num_rows_, kPageSpans});
  }
  SpanShifts<A> shifts_of(std::size_t row, const TilePiece& piece) const noexcept {
    return {shifts_[row], kSpanTokens - piece.span_offset};
  }

  // center_sums += the centres of a piece's values, by the weights of its spans.
  void add_centers(const TilePiece& piece) noexcept {
    if (piece.value_centers == nullptr) return;
    has_center_sums_ = true;
    values_.vectors().add_centers({piece.value_centers, piece.num_spans(), values_.center_bytes()},
                                  values_.head_dim(), {span_weights_[0], num_rows_, kPageSpans},
                                  work_.centers, {work_.center_sums, num_rows_, work_.exact_width});
  }

  void score_exact(const ExactRun& run) noexcept {
    const std::size_t width = loops::padded_width(keys_.head_dim());
    for_blocks(run.keys, run.count, width, [&](std::size_t first, Rows<const A> block) {
      for (std::size_t row = 0; row < num_rows_; ++row) {
        keys_.vectors().dot_rows(work_.exact_queries + row * work_.exact_width, block, width,
                                 work_.weights + row * kPageTokens + first);
      }
    });
  }

  void add_exact(const ExactRun& run) noexcept {
    const std::size_t width = loops::padded_width(values_.head_dim());
    for_blocks(run.values, run.count, width, [&](std::size_t first, Rows<const A> block) {
      for (std::size_t row = 0; row < num_rows_; ++row) {
        values_.vectors().add_rows(work_.weights + row * kPageTokens + first, block, width,
                                   work_.exact_sums + row * work_.exact_width);
      }
    });
  }

  // Calls use(index of the first, rows) for the rows from `stored` on, a tile of them at a time,
  // expanded once for all queries.
  template <typename Use>
  void for_blocks(const std::byte* stored, std::size_t count, std::size_t width,
                  const Use& use) noexcept {
    constexpr FloatType kOwnType =
        std::is_same_v<A, double> ? FloatType::kFloat64 : FloatType::kFloat32;
    const FloatType type = tokens_.exact_type;
    const std::size_t row_bytes = width * static_cast<std::size_t>(float_type_bytes(type));
    for (std::size_t first = 0; first < count; first += kTileTokens) {
      Rows<const A> block = {work_.exact_rows, (std::min)(kTileTokens, count - first), width};
      const std::byte* const source = stored + first * row_bytes;
      if (type == kOwnType) {
        block.data = reinterpret_cast<const A*>(source);
      } else {
        keys_.vectors().expand(type, source, block.count * width, work_.exact_rows);
      }
      use(first, block);
    }
  }

  // Scores to softmax weights, for every row. piece: that of the codes; null: these are exact.
  void weigh(const AttentionOptions<A>& options, std::size_t num_queries, std::size_t token,
             std::size_t num_tokens, std::size_t num_slots, const TilePiece* piece) noexcept {
    for (std::size_t row = 0; row < num_rows_; ++row) {
      QueryRow<A>& state = rows_[row];
      A* const weights = work_.weights + row * kPageTokens;
      const TokenSpan seen = state.seen(token, num_tokens);
      SpanShifts<A> spans;
      if (piece != nullptr) spans = shifts_of(row, *piece);
      state.finish_logits(keys_.vectors(), options, *tokens_.removed, num_queries, token, seen,
                          spans, weights);
      if (options.soft_cap != A(0)) spans.shifts = nullptr;  // It has taken them in.
      const A sum_of_codes = state.encoded_weight;
      std::fill_n(span_weights_[row], kPageSpans, A(0));
      const A factor = state.weigh(keys_.vectors(), seen, num_slots, spans, piece != nullptr,
                                   weights, span_weights_[row]);
      if (factor == A(1)) continue;
      scale(factor, work_.exact_sums + row * work_.exact_width, work_.exact_width);
      if (sum_of_codes == A(0)) continue;
      scale(factor, work_.sums + row * values_.tile_sum_size(), values_.tile_sum_size());
      scale(factor, work_.center_sums + row * work_.exact_width, work_.exact_width);
    }
  }

  static void scale(A factor, A* numbers, std::size_t count) noexcept {
    for (std::size_t i = 0; i < count; ++i) numbers[i] *= factor;
  }

  void finish(std::size_t row, const AttentionOptions<A>& options,
              const AttentionTarget<A>& target) noexcept {
    QueryRow<A>& state = rows_[row];
    if (target.softmax.data != nullptr) {
      write_output(row, A(1), target.output);
      if (!state.is_finite) state.softmax.sum = kNaN;
      target.softmax.row(state.query)[state.head] = state.softmax;
      return;
    }
    A factor(1);
    if (options.sink_logits != nullptr) {
      factor = state.softmax.add_logit(options.sink_logits[state.head]);
    }
    write_output(row, factor * state.softmax.normalizer(), target.output);
  }

  // output = factor * sum of w_j v_j, turned back from the rotated basis, the centres added.
  void write_output(std::size_t row, A factor, Rows<A> output) noexcept {
    const QueryRow<A>& state = rows_[row];
    const std::size_t head_dim = values_.head_dim();
    A* const out = output.row(state.query) + state.head * head_dim;
    // Fixed point knows no NaN, and a softmax of NaN has no weights: it is said here.
    if (!state.is_finite) factor = kNaN;
    values_.finish_tiles(work_.sums + row * values_.tile_sum_size(), factor, out,
                         work_.codec_scratch,
                         has_center_sums_ ? work_.center_sums + row * work_.exact_width : nullptr);
    if (tokens_.num_exact > 0) {
      const A* const exact_sums = work_.exact_sums + row * work_.exact_width;
      for (std::size_t i = 0; i < head_dim; ++i) out[i] += factor * exact_sums[i];
    }
    if (tokens_.value_center != nullptr) {
      const A share = factor * state.encoded_weight;
      for (std::size_t i = 0; i < head_dim; ++i) out[i] += share * tokens_.value_center[i];
    }
  }

  const Codec<A>& keys_;
  const Codec<A>& values_;
  const Tokens& tokens_;
  const AttentionScratch<A>& work_;
  std::size_t num_rows_ = 0;
  bool has_center_sums_ = false;
  QueryRow<A> rows_[kMaxQueryRows];
  A shifts_[kMaxQueryRows][kPageSpans];        // of the piece at hand
  A span_weights_[kMaxQueryRows][kPageSpans];  // of the piece at hand
};

template <typename A, typename Tokens>
template <typename T>
void QueryGroup<A, Tokens>::attend(const GroupQueries<T>& queries,
                                   const AttentionOptions<A>& options, TokenRange range,
                                   const AttentionTarget<A>& target) noexcept {
  const A scale = options.scale.value_or(A(1) / square_root(static_cast<A>(keys_.head_dim())));
  const std::ptrdiff_t first_position =
      options.first_position.value_or(static_cast<std::ptrdiff_t>(tokens_.num_tokens) -
                                      static_cast<std::ptrdiff_t>(queries.rows.count));
  for_each_batch(queries, scale, [&] {
    TokenSpan span = {tokens_.num_tokens, 0};
    for (std::size_t row = 0; row < num_rows_; ++row) {
      rows_[row].position = position_of(first_position, rows_[row].query);
      rows_[row].look(options, range, tokens_.num_tokens);
      const TokenSpan visible = rows_[row].visible;
      if (visible.is_empty()) continue;
      span = {(std::min)(span.begin, visible.begin), (std::max)(span.end, visible.end)};
    }
    std::fill_n(work_.sums, num_rows_ * values_.tile_sum_size(), A(0));
    std::fill_n(work_.exact_sums, num_rows_ * work_.exact_width, A(0));
    std::fill_n(work_.center_sums, num_rows_ * work_.exact_width, A(0));
    has_center_sums_ = false;
    // Exact tokens first: while they come there are no sums of codes, which take longer to
    // shrink.
    tokens_.visit_exact(span, [&](const ExactRun& run) {
      if (!is_seen(run.token, run.count)) return;
      score_exact(run);
      weigh(options, queries.rows.count, run.token, run.count, run.count, nullptr);
      add_exact(run);
    });
    tokens_.visit_tiles(span, [&](const TilePiece& piece) {
      if (!is_seen(piece.token, piece.count)) return;
      score_piece(piece, piece.values);
      find_shifts(piece);
      weigh(options, queries.rows.count, piece.token, piece.count, piece.num_tiles() * kTileTokens,
            &piece);
      values_.accumulate_tiles({work_.weights, num_rows_, kPageTokens}, piece.values,
                               piece.num_tiles(), {work_.sums, num_rows_, values_.tile_sum_size()},
                               work_.codec_scratch, piece.next_keys);
      add_centers(piece);
    });
    for (std::size_t row = 0; row < num_rows_; ++row) finish(row, options, target);
  });
}

template <typename A, typename Tokens>
template <typename T>
void QueryGroup<A, Tokens>::scores(const GroupQueries<T>& queries, TokenRange range, Rows<A> scores,
                                   std::size_t num_query_heads) noexcept {
  const TokenSpan span = {range.first, range.end_within(tokens_.num_tokens)};
  for_each_batch(queries, A(1), [&] {
    const auto copy_scores = [&](std::size_t token, std::size_t count, const TilePiece* piece) {
      const TokenSpan asked = span.within(token, count);
      for (std::size_t row = 0; row < num_rows_; ++row) {
        const QueryRow<A>& state = rows_[row];
        const A* const from = work_.weights + row * kPageTokens;
        A* const to = scores.row(state.query * num_query_heads + state.head) + token;
        SpanShifts<A> spans;
        if (piece != nullptr) spans = shifts_of(row, *piece);
        spans.for_each(asked, [&](std::size_t part, std::size_t begin, std::size_t end) {
          const A shift = spans.shift(part);
          for (std::size_t i = begin; i < end; ++i) to[i] = from[i] + shift;
        });
        // Fixed point knows no NaN: it is said here.
        if (!state.is_finite) std::fill(to + asked.begin, to + asked.end, kNaN);
        tokens_.removed->for_each_within(token, count, [&](std::size_t begin, std::size_t size) {
          for (std::size_t i = (std::max)(begin, asked.begin);
               i < (std::min)(begin + size, asked.end); ++i) {
            to[i] = -std::numeric_limits<A>::infinity();
          }
        });
      }
    };
    tokens_.visit_exact(span, [&](const ExactRun& run) {
      score_exact(run);
      copy_scores(run.token, run.count, nullptr);
    });
    tokens_.visit_tiles(span, [&](const TilePiece& piece) {
      score_piece(piece, piece.next_keys);
      find_shifts(piece);
      copy_scores(piece.token, piece.count, &piece);
    });
  });
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
