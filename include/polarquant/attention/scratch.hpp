// The working memory of one call of attention.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "polarquant/codec/codec.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/storage/page_pool.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// Query rows (a query and one of the heads that share a KV head) that share one pass over the
// tiles.
inline constexpr std::size_t kMaxRows = 32;

// The caller's scratch memory, divided up.
template <typename T>
struct AttentionScratch {
  using Accumulator = typename PolarCodec<T>::Accumulator;

  AttentionScratch(const KVCodec<T>& codec, std::byte* base) {
    ScratchArena arena(base);
    const std::size_t width = std::max(codec.keys.head_dim(), codec.values.head_dim());
    const std::size_t exact_width =
        (width + loops::kExactLanes - 1) / loops::kExactLanes * loops::kExactLanes;
    prepared = arena.take<Accumulator>(kMaxRows * codec.keys.prepared_size());
    weights = arena.take<Accumulator>(kMaxRows * kPageTokens);
    sums = arena.take<Accumulator>(kMaxRows * codec.values.head_dim() * kTileTokens);
    total = arena.take<Accumulator>(codec.values.head_dim());
    exact_queries = arena.take<Accumulator>(kMaxRows * exact_width);
    exact_sums = arena.take<Accumulator>(kMaxRows * exact_width);
    exact_rows = arena.take<Accumulator>(kTileTokens * exact_width);
    tile = {arena.take<Accumulator>(kTileTokens * width),
            arena.take<Accumulator>(kTileTokens * width),
            arena.take<std::uint8_t>(kTileTokens * width),
            arena.take<std::byte>(std::max(codec.keys.tables().kernel_scratch_bytes(),
                                           codec.values.tables().kernel_scratch_bytes()))};
    codec_scratch =
        arena.take<std::byte>(std::max(codec.keys.scratch_bytes(), codec.values.scratch_bytes()));
    num_bytes = arena.used();
  }

  Accumulator* prepared;       // [kMaxRows, prepared_size]
  Accumulator* weights;        // [kMaxRows, kPageTokens]: scores, then softmax weights
  Accumulator* sums;           // [kMaxRows, value head_dim, kTileTokens], in the rotated basis
  Accumulator* total;          // [value head_dim]
  Accumulator* exact_queries;  // [kMaxRows, width of exact keys]
  Accumulator* exact_sums;     // [kMaxRows, width of exact values]
  Accumulator* exact_rows;     // [kTileTokens, width], expanded
  loops::TileScratch<Accumulator> tile;
  std::byte* codec_scratch;
  std::size_t num_bytes;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
