// Attention over the tokens of one KV head.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "polarquant/attention/options.hpp"
#include "polarquant/attention/query_row.hpp"
#include "polarquant/attention/scratch.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/storage/exact_rows.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/storage/head_side.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/storage/kv_storage.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/attention/partial.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/storage/page_pool.hpp"
#include "polarquant/storage/token_segments.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// The queries of the heads that share one KV head. Row r of the group is query r / group_size, head
// kv_head * group_size + r % group_size.
template <typename T>
class HeadAttention {
 public:
  using Accumulator = typename PolarCodec<T>::Accumulator;
  using Options = AttentionOptions<Accumulator>;
  using Scratch = AttentionScratch<T>;

  HeadAttention(const KVStorage<T>& storage, std::size_t kv_head)
      : codec_(*storage.codec()),
        keys_(storage.keys(kv_head)),
        values_(storage.values(kv_head)),
        key_mean_(storage.mean_of(keys_)),
        value_mean_(storage.mean_of(values_)),
        segments_(storage.segments()),
        kv_head_(kv_head),
        group_size_(static_cast<std::size_t>(storage.config().num_query_heads) /
                    storage.num_heads()) {}

  // Writes the columns of the group's heads of output [queries.count, ..]; see KVCache::attend.
  void attend(Rows<const T> queries, const Options& options, Rows<Accumulator> output,
              const Scratch& work) const noexcept {
    run(queries, options, {}, work, [&](std::size_t row, Row& state) {
      Accumulator factor(1);
      if (options.sink_logits != nullptr) {
        factor = state.softmax.add_logit(options.sink_logits[state.head] - state.missing(options));
      }
      write_output(row, state, factor * state.softmax.normalizer(), work, output);
    });
  }

  // The same over some tokens, not normalised; see KVCache::attend_partial.
  void attend_partial(Rows<const T> queries, const Options& options, TokenRange tokens,
                      const PartialRows<Accumulator>& part, const Scratch& work) const noexcept {
    run(queries, options, tokens, work, [&](std::size_t row, Row& state) {
      write_output(row, state, Accumulator(1), work, part.output);
      state.softmax.maximum += state.missing(options);
      if (!state.is_finite) state.softmax.sum = kNaN;
      part.softmax.row(state.query)[state.head] = state.softmax;
    });
  }

  // Writes the rows of the group's heads of scores; see KVCache::attention_scores.
  void scores(Rows<const T> queries, Rows<Accumulator> scores, const Scratch& work) const noexcept {
    const std::size_t num_rows = queries.count * group_size_;
    const std::size_t num_query_heads = queries.count == 0 ? 0 : scores.count / queries.count;
    Row rows[kMaxRows];
    for (std::size_t first = 0; first < num_rows; first += kMaxRows) {
      const std::size_t count = std::min(kMaxRows, num_rows - first);
      prepare_rows(queries, first, count, Accumulator(1), rows, work);
      const auto copy_scores = [&](std::size_t token, std::size_t num_scores, bool are_codes) {
        for (std::size_t row = 0; row < count; ++row) {
          const Accumulator* const from = work.weights + row * kPageTokens;
          Accumulator* const to =
              scores.row(rows[row].query * num_query_heads + rows[row].head) + token;
          const Accumulator shift = are_codes ? rows[row].shift : Accumulator(0);
          for (std::size_t i = 0; i < num_scores; ++i) to[i] = from[i] + shift;
          // Fixed point knows no NaN: it is said here.
          if (!rows[row].is_finite) std::fill_n(to, num_scores, kNaN);
        }
      };
      visit_exact({0, segments_.num_tokens}, [&](const ExactRun& exact) {
        score_exact(exact, count, work);
        copy_scores(exact.token, exact.count, false);
      });
      visit_pages({0, segments_.num_tokens}, [&](const PageRun& page) {
        score_page(page, count, next_page(keys_, page), work);
        copy_scores(page.token, page.count, true);
      });
    }
  }

 private:
  using Row = AttentionRow<Accumulator>;

  // Consecutive exact tokens whose rows lie one behind the other, a page of them at most.
  struct ExactRun {
    std::size_t token;  // the first
    std::size_t count;
    const std::byte* keys;
    const std::byte* values;
  };

  // Consecutive encoded tokens in one page, from the first slot of a tile on.
  struct PageRun {
    std::size_t token;  // the first
    std::size_t count;
    std::size_t tile;
    bool is_last;

    std::size_t num_tiles() const { return (count + kTileTokens - 1) / kTileTokens; }
  };

  static constexpr Accumulator kNaN = std::numeric_limits<Accumulator>::quiet_NaN();

  // ---- The tokens, piece by piece ----

  template <typename Visit>
  void visit_exact(TokenSpan span, const Visit& visit) const noexcept {
    const std::size_t sinks_end = std::min(span.end, segments_.num_sinks());
    for (std::size_t token = span.begin; token < sinks_end;) {
      token += visit_run(keys_.sinks, values_.sinks, token, token, sinks_end - token, visit);
    }
    for (std::size_t token = std::max(span.begin, segments_.first_recent()); token < span.end;) {
      token += visit_run(keys_.recent, values_.recent, segments_.slot(token), token,
                         span.end - token, visit);
    }
  }

  template <typename Visit>
  std::size_t visit_run(const ExactRows& keys, const ExactRows& values, std::size_t index,
                        std::size_t token, std::size_t count, const Visit& visit) const noexcept {
    count = std::min({count, kPageTokens, keys.run_length(index), values.run_length(index)});
    visit(ExactRun{token, count, keys.row(index), values.row(index)});
    return count;
  }

  template <typename Visit>
  void visit_pages(TokenSpan span, const Visit& visit) const noexcept {
    const std::size_t begin = std::max(span.begin, segments_.num_sinks());
    const std::size_t end = std::min(span.end, segments_.first_recent());
    if (begin >= end) return;
    const std::size_t end_slot = segments_.slot(end);
    for (std::size_t tile = segments_.slot(begin) / kTileTokens; tile * kTileTokens < end_slot;) {
      const std::size_t next_page = (tile / kPageTiles + 1) * kPageTiles;
      const std::size_t slot = tile * kTileTokens;
      visit(PageRun{segments_.token_of(slot), std::min(end_slot, next_page * kTileTokens) - slot,
                    tile, next_page * kTileTokens >= end_slot});
      tile = next_page;
    }
  }

  // ---- Scores and weighted sums of one piece ----

  // The queries, rotated and tabulated for codes and as they are for exact rows, and the rows'
  // states.
  void prepare_rows(Rows<const T> queries, std::size_t first, std::size_t count, Accumulator scale,
                    Row* rows, const Scratch& work) const noexcept {
    const PolarCodec<T>& codec = codec_.keys;
    const bool has_exact = segments_.num_exact() > 0;
    const std::size_t width = keys_.recent.width();
    for (std::size_t row = 0; row < count; ++row) {
      Row& state = rows[row] = Row{};
      state.query = (first + row) / group_size_;
      state.head = kv_head_ * group_size_ + (first + row) % group_size_;
      const T* const query = queries.row(state.query) + state.head * codec.head_dim();
      for (std::size_t i = 0; i < codec.head_dim(); ++i) {
        state.is_finite &=
            std::abs(static_cast<Accumulator>(query[i])) <= std::numeric_limits<Accumulator>::max();
      }
      codec.prepare_query(query, work.prepared + row * codec.prepared_size(), work.codec_scratch,
                          scale);
      if (has_exact) {
        Accumulator* const exact = work.exact_queries + row * width;
        std::fill_n(exact, width, Accumulator(0));
        for (std::size_t i = 0; i < codec.head_dim(); ++i) {
          exact[i] = scale * static_cast<Accumulator>(query[i]);
        }
      }
      for (std::size_t i = 0; key_mean_ != nullptr && i < codec.head_dim(); ++i) {
        state.shift += scale * static_cast<Accumulator>(query[i]) * key_mean_[i];
      }
    }
  }

  // The codes of the page after, on one side.
  static const std::byte* next_page(const HeadSide<T>& side, const PageRun& page) noexcept {
    return page.is_last ? nullptr : side.pages.tile((page.tile / kPageTiles + 1) * kPageTiles);
  }

  // work.weights[row] = scores of the page's tokens. next: codes that will be read after them.
  void score_page(const PageRun& page, std::size_t count, const std::byte* next,
                  const Scratch& work) const noexcept {
    const PolarCodec<T>& codec = codec_.keys;
    loops::TileScratch<Accumulator> tile = work.tile;
    tile.next = next;
    codec.kernels().score_tiles(codec.tables(), keys_.pages.tile(page.tile), page.num_tiles(),
                                {work.prepared, count, codec.prepared_size()}, tile,
                                {work.weights, count, kPageTokens});
  }

  void add_page(const PageRun& page, std::size_t count, const Scratch& work) const noexcept {
    const PolarCodec<T>& codec = codec_.values;
    loops::TileScratch<Accumulator> tile = work.tile;
    tile.next = next_page(keys_, page);
    codec.kernels().accumulate_tiles(codec.tables(), values_.pages.tile(page.tile),
                                     page.num_tiles(), {work.weights, count, kPageTokens}, tile,
                                     {work.sums, count, sums_size()});
  }

  void score_exact(const ExactRun& run, std::size_t count, const Scratch& work) const noexcept {
    const std::size_t width = keys_.recent.width();
    for_blocks(keys_.recent, run.keys, run.count, work, [&](std::size_t first, auto block) {
      for (std::size_t row = 0; row < count; ++row) {
        codec_.keys.kernels().dot_rows(work.exact_queries + row * width, block, width,
                                       work.weights + row * kPageTokens + first);
      }
    });
  }

  void add_exact(const ExactRun& run, std::size_t count, const Scratch& work) const noexcept {
    const std::size_t width = values_.recent.width();
    for_blocks(values_.recent, run.values, run.count, work, [&](std::size_t first, auto block) {
      for (std::size_t row = 0; row < count; ++row) {
        codec_.values.kernels().add_rows(work.weights + row * kPageTokens + first, block, width,
                                         work.exact_sums + row * width);
      }
    });
  }

  // Calls use(index of the first, rows) for the rows from `stored` on, a tile of them at a time,
  // expanded once for all queries.
  template <typename Use>
  void for_blocks(const ExactRows& like, const std::byte* stored, std::size_t count,
                  const Scratch& work, const Use& use) const noexcept {
    for (std::size_t first = 0; first < count; first += kTileTokens) {
      Rows<const Accumulator> block = {work.exact_rows, std::min(kTileTokens, count - first),
                                       like.width()};
      const std::byte* const source = stored + first * like.row_bytes();
      if (like.type() == kOwnType) {
        block.data = reinterpret_cast<const Accumulator*>(source);
      } else {
        codec_.keys.kernels().expand(like.type(), source, block.count * like.width(),
                                     work.exact_rows);
      }
      use(first, block);
    }
  }

  // ---- The whole ----

  // Calls finish_row(row, its state) for each row, its place among kMaxRows, when its sums over the
  // visible of `tokens` are complete.
  template <typename FinishRow>
  void run(Rows<const T> queries, const Options& options, TokenRange tokens, const Scratch& work,
           const FinishRow& finish_row) const noexcept {
    const Accumulator scale = options.scale.value_or(
        Accumulator(1) / std::sqrt(static_cast<Accumulator>(codec_.keys.head_dim())));
    const std::ptrdiff_t first_position =
        options.first_position.value_or(static_cast<std::ptrdiff_t>(segments_.num_tokens) -
                                        static_cast<std::ptrdiff_t>(queries.count));
    const std::size_t num_rows = queries.count * group_size_;
    Row rows[kMaxRows];
    for (std::size_t first = 0; first < num_rows; first += kMaxRows) {
      const std::size_t count = std::min(kMaxRows, num_rows - first);
      prepare_rows(queries, first, count, scale, rows, work);
      TokenSpan span = {segments_.num_tokens, 0};
      for (std::size_t row = 0; row < count; ++row) {
        Row& state = rows[row];
        state.position = first_position + static_cast<std::ptrdiff_t>(state.query);
        state.visible = visible_tokens(options, tokens, state.position, segments_.num_tokens);
        if (state.visible.is_empty()) continue;
        span = {std::min(span.begin, state.visible.begin), std::max(span.end, state.visible.end)};
      }
      std::fill_n(work.sums, count * sums_size(), Accumulator(0));
      std::fill_n(work.exact_sums, count * values_.recent.width(), Accumulator(0));
      const auto weigh = [&](std::size_t token, std::size_t num_tokens, std::size_t num_slots,
                             bool are_codes) {
        for (std::size_t row = 0; row < count; ++row) {
          Accumulator* const weights = work.weights + row * kPageTokens;
          const TokenSpan seen = rows[row].visible.within(token, num_tokens);
          rows[row].finish_logits(codec_.keys.kernels(), options, queries.count, token, seen,
                                  are_codes, weights);
          const Accumulator sum_of_codes = rows[row].encoded_weight;
          const Accumulator factor =
              rows[row].weigh(codec_.keys.kernels(), seen, num_slots, are_codes, weights);
          if (factor != Accumulator(1)) shrink_sums(row, factor, sum_of_codes, work);
        }
      };
      // Exact tokens first: while they come there are no sums of codes, which take longer to
      // shrink.
      visit_exact(span, [&](const ExactRun& exact) {
        score_exact(exact, count, work);
        weigh(exact.token, exact.count, exact.count, false);
        add_exact(exact, count, work);
      });
      visit_pages(span, [&](const PageRun& page) {
        score_page(page, count, values_.pages.tile(page.tile), work);
        weigh(page.token, page.count, page.num_tiles() * kTileTokens, true);
        add_page(page, count, work);
      });
      for (std::size_t row = 0; row < count; ++row) finish_row(row, rows[row]);
    }
  }

  void shrink_sums(std::size_t row, Accumulator factor, Accumulator sum_of_codes,
                   const Scratch& work) const noexcept {
    Accumulator* const exact_sums = work.exact_sums + row * values_.recent.width();
    for (std::size_t i = 0; i < values_.recent.width(); ++i) exact_sums[i] *= factor;
    if (sum_of_codes == Accumulator(0)) return;
    Accumulator* const sums = work.sums + row * sums_size();
    for (std::size_t i = 0; i < sums_size(); ++i) sums[i] *= factor;
  }

  // output = factor * sum of w_j v_j, turned back from the rotated basis, the mean added.
  void write_output(std::size_t row, const Row& state, Accumulator factor, const Scratch& work,
                    Rows<Accumulator> output) const noexcept {
    const PolarCodec<T>& codec = codec_.values;
    Accumulator* const out = output.row(state.query) + state.head * codec.head_dim();
    // Fixed point knows no NaN, and a softmax of NaN has no weights: it is said here.
    if (!state.is_finite) factor = kNaN;
    codec.kernels().reduce_lanes(work.sums + row * sums_size(), codec.head_dim(), factor,
                                 work.total);
    codec.finish(work.total, out);
    if (segments_.num_exact() > 0) {
      const Accumulator* const exact_sums = work.exact_sums + row * values_.recent.width();
      for (std::size_t i = 0; i < codec.head_dim(); ++i) out[i] += factor * exact_sums[i];
    }
    if (value_mean_ != nullptr) {
      const Accumulator share = factor * state.encoded_weight;
      for (std::size_t i = 0; i < codec.head_dim(); ++i) out[i] += share * value_mean_[i];
    }
  }

  std::size_t sums_size() const { return codec_.values.head_dim() * kTileTokens; }

  static constexpr FloatType kOwnType =
      std::is_same_v<Accumulator, double> ? FloatType::kFloat64 : FloatType::kFloat32;

  const KVCodec<T>& codec_;
  const HeadSide<T>& keys_;
  const HeadSide<T>& values_;
  const Accumulator* key_mean_;
  const Accumulator* value_mean_;
  const TokenSegments& segments_;
  std::size_t kv_head_;
  std::size_t group_size_;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
