// Attention over the tiles of one KV head.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "polarquant/codec.hpp"
#include "polarquant/kv_cache_config.hpp"
#include "polarquant/online_softmax.hpp"
#include "polarquant/packed_codes.hpp"
#include "polarquant/rows.hpp"
#include "polarquant/tile_pages.hpp"
#include "polarquant/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// Some of the KV heads, so that threads can share the work of one call.
struct HeadRange {
  std::size_t first = 0;
  std::size_t count = 0;
};

namespace detail {

// Query rows (a query and one of the heads that share a KV head) that share one pass over the
// tiles.
inline constexpr std::size_t kMaxRows = 16;

// The caller's scratch memory, divided up.
template <typename T>
struct AttentionScratch {
  using Accumulator = typename PolarCodec<T>::Accumulator;

  AttentionScratch(const KVCodec<T>& codec, std::byte* base) {
    ScratchArena arena(base);
    const std::size_t width = std::max(codec.keys.head_dim(), codec.values.head_dim());
    prepared = arena.take<Accumulator>(kMaxRows * codec.keys.prepared_size());
    weights = arena.take<Accumulator>(kMaxRows * kPageTokens);
    sums = arena.take<Accumulator>(kMaxRows * codec.values.head_dim() * kTileTokens);
    total = arena.take<Accumulator>(codec.values.head_dim());
    tile = {arena.take<Accumulator>(kTileTokens * width),
            arena.take<Accumulator>(kTileTokens * width),
            arena.take<std::uint8_t>(kTileTokens * width),
            arena.take<std::byte>(std::max(codec.keys.tables().kernel_scratch_bytes(),
                                           codec.values.tables().kernel_scratch_bytes()))};
    codec_scratch =
        arena.take<std::byte>(std::max(codec.keys.scratch_bytes(), codec.values.scratch_bytes()));
    num_bytes = arena.used();
  }

  Accumulator* prepared;  // [kMaxRows, prepared_size]
  Accumulator* weights;   // [kMaxRows, kPageTokens]: scores, then softmax weights
  Accumulator* sums;      // [kMaxRows, value head_dim, kTileTokens], in the rotated basis
  Accumulator* total;     // [value head_dim]
  loops::TileScratch<Accumulator> tile;
  std::byte* codec_scratch;
  std::size_t num_bytes;
};

// The queries of one group of heads against the first num_tokens tokens of the KV head they share.
// Row r of the group is query r / group_size, head kv_head * group_size + r % group_size.
template <typename T>
class HeadAttention {
 public:
  using Accumulator = typename PolarCodec<T>::Accumulator;

  HeadAttention(const KVCodec<T>& codec, const TilePages& keys, const TilePages& values,
                std::size_t num_tokens, std::size_t kv_head, std::size_t group_size)
      : codec_(codec),
        keys_(keys),
        values_(values),
        num_tokens_(num_tokens),
        kv_head_(kv_head),
        group_size_(group_size) {}

  // Writes the columns of the group's heads of output [queries.count, ..]; see KVCache::attend.
  void attend(Rows<const T> queries, Rows<Accumulator> output,
              const AttentionScratch<T>& work) const noexcept {
    const std::size_t num_rows = queries.count * group_size_;
    for (std::size_t first = 0; first < num_rows; first += kMaxRows) {
      attend_rows(queries, first, std::min(kMaxRows, num_rows - first), work, output);
    }
  }

  // Writes the rows of the group's heads of scores; see KVCache::attention_scores.
  void scores(Rows<const T> queries, Rows<Accumulator> scores,
              const AttentionScratch<T>& work) const noexcept {
    const std::size_t num_rows = queries.count * group_size_;
    const std::size_t num_query_heads = queries.count == 0 ? 0 : scores.count / queries.count;
    for (std::size_t first = 0; first < num_rows; first += kMaxRows) {
      const std::size_t count = std::min(kMaxRows, num_rows - first);
      prepare_rows(queries, first, count, Accumulator(1), work);
      for (std::size_t token = 0; token < num_tokens_; token += kPageTokens) {
        const std::size_t num_scores = std::min(kPageTokens, num_tokens_ - token);
        score_page(token, num_scores, count, work);
        for (std::size_t row = 0; row < count; ++row) {
          std::copy_n(
              work.weights + row * kPageTokens, num_scores,
              scores.row(query_of(first + row) * num_query_heads + head_of(first + row)) + token);
        }
      }
      // Fixed point knows no NaN: it is said here.
      for (std::size_t row = first; row < first + count; ++row) {
        if (is_finite(queries, row)) continue;
        std::fill_n(scores.row(query_of(row) * num_query_heads + head_of(row)), num_tokens_,
                    std::numeric_limits<Accumulator>::quiet_NaN());
      }
    }
  }

 private:
  std::size_t query_of(std::size_t row) const { return row / group_size_; }
  std::size_t head_of(std::size_t row) const { return kv_head_ * group_size_ + row % group_size_; }

  bool is_finite(Rows<const T> queries, std::size_t row) const noexcept {
    const T* const query = queries.row(query_of(row)) + head_of(row) * codec_.keys.head_dim();
    bool finite = true;
    for (std::size_t i = 0; i < codec_.keys.head_dim(); ++i) {
      finite &=
          std::abs(static_cast<Accumulator>(query[i])) <= std::numeric_limits<Accumulator>::max();
    }
    return finite;
  }

  void prepare_rows(Rows<const T> queries, std::size_t first, std::size_t count, Accumulator scale,
                    const AttentionScratch<T>& work) const noexcept {
    const PolarCodec<T>& codec = codec_.keys;
    for (std::size_t row = 0; row < count; ++row) {
      codec.prepare_query(
          queries.row(query_of(first + row)) + head_of(first + row) * codec.head_dim(),
          work.prepared + row * codec.prepared_size(), work.codec_scratch, scale);
    }
  }

  // work.weights[row] = scores of tokens token .. token + num_scores, all in one page.
  void score_page(std::size_t token, std::size_t num_scores, std::size_t count,
                  const AttentionScratch<T>& work) const noexcept {
    const PolarCodec<T>& codec = codec_.keys;
    codec.kernels().score_tiles(codec.tables(), keys_.tile(token / kTileTokens),
                                (num_scores + kTileTokens - 1) / kTileTokens,
                                {work.prepared, count, codec.prepared_size()}, work.tile,
                                {work.weights, count, kPageTokens});
  }

  // Turns the logits of one page into softmax weights, those beyond `visible` into 0, and shrinks
  // what has been summed so far if the maximum rises.
  void weigh_page(OnlineSoftmax<Accumulator>& softmax, std::size_t visible, std::size_t num_slots,
                  Accumulator* weights, Accumulator* sums) const noexcept {
    const PolarCodec<T>& codec = codec_.values;
    std::fill(weights + visible, weights + num_slots, Accumulator(0));
    if (visible == 0) return;
    const Accumulator factor = softmax.raise_maximum(codec.kernels().maximum(weights, visible));
    if (factor != Accumulator(1)) {
      for (std::size_t i = 0; i < codec.head_dim() * kTileTokens; ++i) sums[i] *= factor;
    }
    softmax.sum += codec.kernels().exponentiate(weights, visible, softmax.maximum);
  }

  void attend_rows(Rows<const T> queries, std::size_t first, std::size_t count,
                   const AttentionScratch<T>& work, Rows<Accumulator> output) const noexcept {
    const PolarCodec<T>& codec = codec_.values;
    const std::size_t sums_size = codec.head_dim() * kTileTokens;
    OnlineSoftmax<Accumulator> softmax[kMaxRows];
    std::size_t num_visible[kMaxRows];
    for (std::size_t row = 0; row < count; ++row) {
      // Query i of n sees all tokens but the last n - 1 - i.
      const std::size_t num_hidden = queries.count - 1 - query_of(first + row);
      num_visible[row] = num_tokens_ > num_hidden ? num_tokens_ - num_hidden : 0;
    }
    prepare_rows(queries, first, count,
                 Accumulator(1) / std::sqrt(static_cast<Accumulator>(codec_.keys.head_dim())),
                 work);
    std::fill_n(work.sums, count * sums_size, Accumulator(0));
    const std::size_t end = num_visible[count - 1];  // The last row sees the most.
    for (std::size_t token = 0; token < end; token += kPageTokens) {
      const std::size_t num_scores = std::min(kPageTokens, end - token);
      const std::size_t num_tiles = (num_scores + kTileTokens - 1) / kTileTokens;
      score_page(token, num_scores, count, work);
      for (std::size_t row = 0; row < count; ++row) {
        const std::size_t visible =
            num_visible[row] > token ? std::min(num_scores, num_visible[row] - token) : 0;
        weigh_page(softmax[row], visible, num_tiles * kTileTokens, work.weights + row * kPageTokens,
                   work.sums + row * sums_size);
      }
      codec.kernels().accumulate_tiles(codec.tables(), values_.tile(token / kTileTokens), num_tiles,
                                       {work.weights, count, kPageTokens}, work.tile,
                                       {work.sums, count, sums_size});
    }
    for (std::size_t row = 0; row < count; ++row) {
      // Fixed point knows no NaN, and a softmax of NaN has no weights: it is said here.
      const Accumulator normalizer = is_finite(queries, first + row)
                                         ? softmax[row].normalizer()
                                         : std::numeric_limits<Accumulator>::quiet_NaN();
      codec.kernels().reduce_lanes(work.sums + row * sums_size, codec.head_dim(), normalizer,
                                   work.total);
      codec.finish(work.total,
                   output.row(query_of(first + row)) + head_of(first + row) * codec.head_dim());
    }
  }

  const KVCodec<T>& codec_;
  const TilePages& keys_;
  const TilePages& values_;
  std::size_t num_tokens_;
  std::size_t kv_head_;
  std::size_t group_size_;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
