// The working memory of one call of attention.
#pragma once

#include <algorithm>
#include <cstddef>

#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/storage/exact_rows.hpp"
#include "polarquant/storage/kv_codec.hpp"
#include "polarquant/storage/page_pool.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// Query rows (a query and one of the heads that share a KV head) that share one pass over the
// tokens.
inline constexpr std::size_t kMaxQueryRows = 32;

// The caller's scratch memory, divided up.
template <typename A>
struct AttentionScratch {
  AttentionScratch(const KVCodec<A>& codec, std::byte* base) {
    ScratchArena arena(base);
    exact_width =
        loops::padded_width((std::max)(codec.keys().head_dim(), codec.values().head_dim()));
    prepared = arena.template take<A>(kMaxQueryRows * codec.keys().prepared_size());
    weights = arena.template take<A>(kMaxQueryRows * kPageTokens);
    sums = arena.template take<A>(kMaxQueryRows * codec.values().tile_sum_size());
    exact_queries = arena.template take<A>(kMaxQueryRows * exact_width);
    exact_sums = arena.template take<A>(kMaxQueryRows * exact_width);
    rotated_queries = arena.template take<A>(kMaxQueryRows * exact_width);
    center_sums = arena.template take<A>(kMaxQueryRows * exact_width);
    centers = arena.template take<A>(kPageSpans * exact_width);
    exact_rows = arena.template take<A>(kTileTokens * exact_width);
    codec_scratch = arena.template take<std::byte>(
        (std::max)(codec.keys().scratch_bytes(), codec.values().scratch_bytes()));
    num_bytes = arena.used();
  }

  std::size_t exact_width;  // of keys and of values, the wider
  A* prepared;              // [kMaxQueryRows, prepared_size]
  A* weights;               // [kMaxQueryRows, kPageTokens]: scores, then softmax weights
  A* sums;                  // [kMaxQueryRows, tile_sum_size]: of codes
  A* exact_queries;         // [kMaxQueryRows, exact_width]
  A* exact_sums;            // [kMaxQueryRows, exact_width]: of exact values
  A* rotated_queries;       // [kMaxQueryRows, exact_width]
  A* center_sums;           // [kMaxQueryRows, exact_width]: of centres of values, rotated
  A* centers;               // [kPageSpans, exact_width]: scratch of the kernels of centres
  A* exact_rows;            // [kTileTokens, exact_width], expanded
  std::byte* codec_scratch;
  std::size_t num_bytes;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
