// From codes to numbers of 16 bits, for AVX2 and NEON: runs of tiles, indices, the weights of
// blocks and the coordinates in them.
//
// Fractions have 15 bits; a vector is decoded to norm 1, beside the float that is its norm.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/codes/tile_tables.hpp"
#include "polarquant/kernels/tiles/fixed_common.hpp"
#include "polarquant/kernels/tiles/fixed_indices.hpp"
#include "polarquant/kernels/words/words.hpp"

#if POLARQUANT_HAS_WORDS
POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace words {

static_assert(kTileTokens == 32, "Words hold a row of a tile");

// Tiles that follow each other, all of their rows of words.
struct WordRun {
  const std::byte* tiles;
  std::size_t tile_size;
  std::size_t count;

  const std::byte* tile(std::size_t n) const { return tiles + n * tile_size; }
};

// Fetches `count` lines from `offset` on, which need not be anyone's memory.
POLARQUANT_WORDS_INLINE void prefetch(const std::byte* base, std::size_t offset,
                                      std::size_t count) {
  const std::uintptr_t first = reinterpret_cast<std::uintptr_t>(base) + offset;
  for (std::size_t k = 0; k < count; ++k) {
    __builtin_prefetch(reinterpret_cast<const void*>(first + k * sizeof(Lanes)));
  }
}

// A run of tiles as the kernels read them. Codes with an odd number of bytes are copied to `copy`,
// [count * num_words], with their last row of bytes widened.
POLARQUANT_WORDS_INLINE WordRun run_of(const TileTables& tile_tables, const std::byte* tiles,
                                       std::size_t tile_size, std::size_t count, Lanes* copy) {
  if (!tile_tables.has_byte_row) return {tiles, tile_size, count};
  const std::size_t last = tile_tables.num_words - 1;
  Lanes* next = copy;
  for (std::size_t n = 0; n < count; ++n) {
    const std::byte* const tile = tiles + n * tile_size;
    for (std::size_t row = 0; row < last; ++row) store(*next++, load(tile + row * sizeof(Lanes)));
    store(*next++, widen(tile + last * sizeof(Lanes)));
  }
  return {reinterpret_cast<const std::byte*>(copy), (last + 1) * sizeof(Lanes), count};
}

// The node above the blocks at a window.
POLARQUANT_WORDS_INLINE void look_up_node(const TileTables& tile_tables,
                                          const TileTables::Node& node, Words window, Words& cosine,
                                          Words& sine) {
  const SplitLanes& cosines = tile_tables.split_cosines[node.table];
  const SplitLanes& sines = tile_tables.split_sines[node.table];
  const Bytes index = low_bytes(window);
  if (node.num_bits <= 4) {
    cosine = look_up<4>(cosines, low_bits<4>(index));
    sine = look_up<4>(sines, low_bits<4>(index));
  } else {
    cosine = look_up<6>(cosines, low_bits<6>(index));
    sine = look_up<6>(sines, low_bits<6>(index));
  }
}

// ---- Weights of blocks ----

// One radius: the trees of a run from the root down to the blocks. weights: [num_blocks,
// run.count]; radii: [run.count, kTileTokens].
POLARQUANT_WORDS_TARGET inline void weigh_blocks_from_root(const TileTables& tile_tables,
                                                           const WordRun& run, Lanes* weights,
                                                           float* radii) {
  for (std::size_t n = 0; n < run.count; ++n) {
    store_floats(radii + n * kTileTokens, from_bfloat16(load(run.tile(n))));
    store(weights[n], broadcast_word(32767));
  }
  for (std::size_t k = tile_tables.nodes.size(); k-- > 0;) {
    const TileTables::Node& node = tile_tables.nodes[k];
    const Place place = place_of(node.window);
    Lanes* const target = weights + node.target * run.count;
    Lanes* const left = weights + node.left * run.count;
    Lanes* const right = weights + node.right * run.count;
    for (std::size_t n = 0; n < run.count; ++n) {
      Words cosine, sine;
      look_up_node(tile_tables, node, load(place, run.tile(n)), cosine, sine);
      const Words weight = load(target[n]);
      store(right[n], times(weight, sine));
      store(left[n], times(weight, cosine));
    }
  }
}

// A radius per block: the radii of one tile over their norm. weights: the block after is `stride`
// on. radii: [kTileTokens], the norms.
POLARQUANT_WORDS_INLINE void weigh_blocks_by_radii(const TileTables& tile_tables,
                                                   const std::byte* tile, Lanes* weights,
                                                   std::size_t stride, float* radii) {
  // Radii are not negative, so their bits compare as they do. The least normal number stands in for
  // vectors of zeros.
  Words most = broadcast_word(0x0080);
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    most = largest(most, load(tile + block * sizeof(Lanes)));
  }
  // Scaled by a power of two whose inverse is one, so that no square over- or underflows.
  const Words power = smallest(bits_and(most, broadcast_word(0x7f80)), broadcast_word(0x7e80));
  const Floats scale = from_bfloat16(subtract(broadcast_word(0x7f00), power));
  Floats norm2 = broadcast(0x1p-126f);
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    const Floats scaled = multiply(from_bfloat16(load(tile + block * sizeof(Lanes))), scale);
    norm2 = multiply_add(scaled, scaled, norm2);
  }
  const Floats norm = square_root(norm2);
  store_floats(radii, multiply(norm, from_bfloat16(power)));
  const Floats factor = divide(multiply(scale, broadcast(32767.0f)), norm);
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    store(weights[block * stride],
          to_words(multiply(from_bfloat16(load(tile + block * sizeof(Lanes))), factor)));
  }
}

// weights: [num_blocks, run.count]; radii: [run.count, kTileTokens], the norms of the vectors.
POLARQUANT_WORDS_TARGET inline void weigh_blocks(const CodecTables& tables, const WordRun& run,
                                                 Lanes* weights, float* radii) {
  if (tables.num_radii() == 1) {
    weigh_blocks_from_root(tables.tile_tables, run, weights, radii);
    return;
  }
  // Radii and the first block of a later tile are fetched meanwhile.
  const std::size_t num_ahead =
      tables.tile_tables.num_blocks + tables.tile_tables.num_words / tables.tile_tables.num_blocks;
  for (std::size_t n = 0; n < run.count; ++n) {
    prefetch(run.tile(n), 4 * run.tile_size, num_ahead);
    weigh_blocks_by_radii(tables.tile_tables, run.tile(n), weights + n, run.count,
                          radii + n * kTileTokens);
  }
}

// ---- Coordinates ----

// The coordinates under one level-1 node, of weight `weight`.
template <typename Shape, int kNode>
POLARQUANT_WORDS_INLINE void expand_pair(const Levels& levels, const Words* block, Words weight,
                                         Lanes* out) {
  constexpr int kBits = Shape::look_up_bits(1);
  const Bytes index = index_of<Shape, 1, kNode>(levels, block);
  store(out[2 * kNode], times(weight, look_up<kBits>(levels.cosines[0], index)));
  store(out[2 * kNode + 1], times(weight, look_up<kBits>(levels.sines[0], index)));
}

// Those under one level-2 node; weight: of the level-3 node above.
template <typename Shape, int kNode>
POLARQUANT_WORDS_INLINE void expand_quarter(const Levels& levels, const Words* block, Words weight,
                                            Lanes* out) {
  Words left, right;
  if constexpr (Shape::kHasQuarters) {
    const Bytes index = quarter_index_of<Shape, kNode>(block);
    left = times(weight, look_up<4>(levels.quarters[kNode % 2 * 2], index));
    right = times(weight, look_up<4>(levels.quarters[kNode % 2 * 2 + 1], index));
  } else {
    const SplitLanes& third = kNode % 2 == 0 ? levels.cosines[2] : levels.sines[2];
    const Words own = times(weight, look_up<Shape::look_up_bits(3)>(
                                        third, index_of<Shape, 3, kNode / 2>(levels, block)));
    constexpr int kBits = Shape::look_up_bits(2);
    const Bytes index = index_of<Shape, 2, kNode>(levels, block);
    left = times(own, look_up<kBits>(levels.cosines[1], index));
    right = times(own, look_up<kBits>(levels.sines[1], index));
  }
  expand_pair<Shape, 2 * kNode>(levels, block, left, out);
  expand_pair<Shape, 2 * kNode + 1>(levels, block, right, out);
}

// out[i] = coordinate i of a block of 16: its weight times the cosines and sines down to it.
template <typename Shape>
POLARQUANT_WORDS_INLINE void expand_block(const Levels& levels, const Words* block, Words weight,
                                          Lanes* out) {
  constexpr int kBits = Shape::look_up_bits(4);
  const Bytes index = index_of<Shape, 4, 0>(levels, block);
  const Words left = times(weight, look_up<kBits>(levels.cosines[3], index));
  expand_quarter<Shape, 0>(levels, block, left, out);
  expand_quarter<Shape, 1>(levels, block, left, out);
  const Words right = times(weight, look_up<kBits>(levels.sines[3], index));
  expand_quarter<Shape, 2>(levels, block, right, out);
  expand_quarter<Shape, 3>(levels, block, right, out);
}

// Decodes a block of a run: out[16 n + i] = coordinate i. weights: [run.count], its own.
template <typename Shape>
POLARQUANT_WORDS_TARGET void expand_blocks(const TileTables& tile_tables, const WordRun& run,
                                           std::size_t block, const Lanes* weights, Lanes* out) {
  const BlockPlace<Shape> place = place_of<Shape>(tile_tables, block);
  const Levels levels = levels_of(tile_tables);
  // The next block's words, about, are fetched meanwhile.
  const std::size_t num_ahead = tile_tables.num_words / tile_tables.num_blocks + 1;
  const std::size_t ahead =
      tile_tables.windows[block * TileTables::kWindowsPerBlock].low + num_ahead * sizeof(Lanes);
  for (std::size_t n = 0; n < run.count; ++n) {
    prefetch(run.tile(n), ahead, num_ahead);
    Words own[Shape::kNumWords];
    load_block<Shape>(place, run.tile(n), own);
    expand_block<Shape>(levels, own, load(weights[n]), out + 16 * n);
  }
}

// Decodes two blocks of a run, their words interleaved: out[(2 n + half) 16 + i] = coordinate i of
// block `even` in even words, of block `odd` in odd ones, of half of the 32 vectors.
template <typename Shape>
POLARQUANT_WORDS_TARGET void expand_block_pairs(const TileTables& tile_tables, const WordRun& run,
                                                std::size_t even, std::size_t odd,
                                                const Lanes* weights, Lanes* out) {
  const BlockPlace<Shape> even_place = place_of<Shape>(tile_tables, even);
  const BlockPlace<Shape> odd_place = place_of<Shape>(tile_tables, odd);
  const Levels levels = levels_of(tile_tables);
  for (std::size_t n = 0; n < run.count; ++n) {
    Words first[Shape::kNumWords];
    Words second[Shape::kNumWords];
    load_block<Shape>(even_place, run.tile(n), first);
    load_block<Shape>(odd_place, run.tile(n), second);
#pragma GCC unroll 7
    for (std::size_t k = 0; k < Shape::kNumWords; ++k) {
      interleave(first[k], second[k], first[k], second[k]);
    }
    Words first_weight, second_weight;
    interleave(load(weights[even * run.count + n]), load(weights[odd * run.count + n]),
               first_weight, second_weight);
    expand_block<Shape>(levels, first, first_weight, out + 32 * n);
    expand_block<Shape>(levels, second, second_weight, out + 32 * n + 16);
  }
}

}  // namespace words
}  // namespace detail
POLARQUANT_END_NAMESPACE
#endif
