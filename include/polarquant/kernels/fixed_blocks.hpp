// From codes to numbers of 16 bits, for AVX2 and NEON: runs of tiles, indices, the weights of
// blocks and the coordinates in them.
//
// Fractions have 15 bits; a vector is decoded to norm 1, beside the float that is its norm.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "polarquant/codec_tables.hpp"
#include "polarquant/kernels/words.hpp"
#include "polarquant/packed_codes.hpp"
#include "polarquant/tile_tables.hpp"
#include "polarquant/version.hpp"

#if POLARQUANT_HAS_WORDS
POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace words {

static_assert(kTileTokens == 32, "Words hold a row of a tile");

inline constexpr std::size_t kRun = TileTables::kMaxRun;  // tiles at a time

// Working memory, TileScratch::kernel.
struct Scratch {
  Scratch(const TileTables& tile_tables, std::byte* base) {
    Lanes* next = reinterpret_cast<Lanes*>(base);
    const auto take = [&next](std::size_t count) {
      Lanes* const piece = next;
      next += count;
      return piece;
    };
    copy = take(tile_tables.has_byte_row ? kRun * tile_tables.num_words : 0);
    radii = reinterpret_cast<float*>(take(2 * kRun));
    weights = take(tile_tables.num_blocks * kRun);
    vectors = take(2 * 16 * kRun);
    sums = take(2 * TileTables::kMaxRows * kRun);
    num_lanes = static_cast<std::size_t>(next - reinterpret_cast<Lanes*>(base));
  }

  Lanes* copy;     // [kRun, num_words], of codes with an odd number of bytes
  float* radii;    // [kRun, kTileTokens], in the order of Floats
  Lanes* weights;  // [num_blocks, kRun], of blocks
  Lanes* vectors;  // [kRun, 2, 16]: a block decoded, or two
  Lanes* sums;     // [rows, kRun, 2]: of scores so far; [rows, kRun]: weights of tokens
  std::size_t num_lanes;
};

// Tiles that follow each other, all of their rows of words.
struct TileRun {
  const std::byte* tiles;
  std::size_t tile_size;
  std::size_t count;

  const std::byte* tile(std::size_t n) const { return tiles + n * tile_size; }
};

// A run of tiles as the kernels read them. Codes with an odd number of bytes are copied to `copy`,
// [count * num_words], with their last row of bytes widened.
POLARQUANT_WORDS_INLINE TileRun run_of(const TileTables& tile_tables, const std::byte* tiles,
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

// Which look-ups levels 1 to 4 need, in bits of an index, 4 or 5, and whether the windows of two
// levels hold all there is to a block: both indices of either half in a byte, the second one's
// followed by the index of the node that comes next in the order of codes, of level 3 or 4.
template <int kFirst, int kRest, bool kPackedWindows>
struct BlockShape {
  static constexpr int kFirstBits = kFirst;
  static constexpr int kRestBits = kRest;
  static constexpr bool kPacked = kPackedWindows;
};

// Calls `run`<shape>(..) with the least shape that holds the format.
#define POLARQUANT_DISPATCH_BLOCK_SHAPE(tile_tables, run, ...) \
  do {                                                         \
    if ((tile_tables).rest_bits > 4) {                         \
      run<BlockShape<5, 5, false>>(__VA_ARGS__);               \
    } else if (!(tile_tables).packed) {                        \
      run<BlockShape<5, 4, false>>(__VA_ARGS__);               \
    } else if ((tile_tables).first_bits > 4) {                 \
      run<BlockShape<5, 4, true>>(__VA_ARGS__);                \
    } else {                                                   \
      run<BlockShape<4, 4, true>>(__VA_ARGS__);                \
    }                                                          \
  } while (false)

// Cosines and sines of levels 1 to 4, and how far the indices of a subtree of two levels lie from
// its window's first bit: that of level 2, then the second of level 1.
struct Levels {
  const SplitLanes* cosines;
  const SplitLanes* sines;
  Shift second;
  Shift third;
};
POLARQUANT_WORDS_INLINE Levels levels_of(const TileTables& tile_tables) {
  return {tile_tables.split_cosines.data(), tile_tables.split_sines.data(),
          shift_of(tile_tables.first_bits),
          shift_of(tile_tables.first_bits + tile_tables.second_bits)};
}

template <int kBits>
POLARQUANT_WORDS_INLINE Words look_up(const SplitLanes& table, Bytes index) {
  return look_up<kBits>(table.low, table.high, index);
}

// a cos + b sin.
template <int kBits>
POLARQUANT_WORDS_INLINE Words fold(Words a, Words b, const Levels& levels, std::size_t level,
                                   Bytes index) {
  return add(times(a, look_up<kBits>(levels.cosines[level - 1], index)),
             times(b, look_up<kBits>(levels.sines[level - 1], index)));
}

// The indices in a subtree of two levels, and of the node that follows it if windows are packed.
struct SubtreeIndices {
  Bytes first;
  Bytes second;
  Bytes third;
  Bytes next;
};
template <typename Shape>
POLARQUANT_WORDS_INLINE SubtreeIndices indices_of(const Levels& levels, Words window) {
  const Bytes low = low_bytes(window);
  const Bytes rest = low_bytes(shift_right(window, levels.third));
  SubtreeIndices indices;
  indices.first = low_bits<Shape::kFirstBits>(low);
  indices.third = low_bits<Shape::kFirstBits>(rest);
  if constexpr (Shape::kPacked) {
    indices.second = low_bits<Shape::kRestBits>(shift_right(low, levels.second));
    indices.next = low_bits<Shape::kRestBits>(shift_right(rest, levels.second));
  } else {
    indices.second = low_bits<Shape::kRestBits>(low_bytes(shift_right(window, levels.second)));
    indices.next = indices.second;  // Not read.
  }
  return indices;
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
                                                           const TileRun& run, Lanes* weights,
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
POLARQUANT_WORDS_TARGET inline void weigh_blocks(const CodecTables& tables, const TileRun& run,
                                                 Lanes* weights, float* radii) {
  if (tables.num_radii() == 1) {
    weigh_blocks_from_root(tables.tile_tables, run, weights, radii);
    return;
  }
  for (std::size_t n = 0; n < run.count; ++n) {
    weigh_blocks_by_radii(tables.tile_tables, run.tile(n), weights + n, run.count,
                          radii + n * kTileTokens);
  }
}

// ---- Coordinates ----

// The windows of a block that are read.
template <typename Shape>
inline constexpr std::size_t kNumWindows = Shape::kPacked ? 4 : TileTables::kWindowsPerBlock;

// out[i] = coordinate i of a block of 16: its weight times the cosines and sines down to it. The
// block's windows: four subtrees of two levels, two nodes of level 3, one of level 4.
template <typename Shape>
POLARQUANT_WORDS_INLINE void expand_block(const Levels& levels, const Words* windows, Words weight,
                                          Lanes* out) {
  constexpr int kRest = Shape::kRestBits;
  SubtreeIndices subtrees[4];
#pragma GCC unroll 4
  for (std::size_t k = 0; k < 4; ++k) subtrees[k] = indices_of<Shape>(levels, windows[k]);
  Bytes upper[3];  // level 3, left and right; level 4
#pragma GCC unroll 3
  for (std::size_t k = 0; k < 3; ++k) {
    if constexpr (Shape::kPacked) {
      upper[k] = subtrees[k == 0 ? 0 : 3 - k].next;
    } else {
      upper[k] = low_bits<kRest>(low_bytes(windows[4 + k]));
    }
  }
  const Words halves[2] = {times(weight, look_up<kRest>(levels.cosines[3], upper[2])),
                           times(weight, look_up<kRest>(levels.sines[3], upper[2]))};
#pragma GCC unroll 4
  for (std::size_t k = 0; k < 4; ++k) {
    const SplitLanes& third = k % 2 == 0 ? levels.cosines[2] : levels.sines[2];
    const Words quarter = times(halves[k / 2], look_up<kRest>(third, upper[k / 2]));
    const Words left = times(quarter, look_up<kRest>(levels.cosines[1], subtrees[k].second));
    const Words right = times(quarter, look_up<kRest>(levels.sines[1], subtrees[k].second));
    constexpr int kFirst = Shape::kFirstBits;
    store(out[4 * k], times(left, look_up<kFirst>(levels.cosines[0], subtrees[k].first)));
    store(out[4 * k + 1], times(left, look_up<kFirst>(levels.sines[0], subtrees[k].first)));
    store(out[4 * k + 2], times(right, look_up<kFirst>(levels.cosines[0], subtrees[k].third)));
    store(out[4 * k + 3], times(right, look_up<kFirst>(levels.sines[0], subtrees[k].third)));
  }
}

// Where the windows of a block lie.
struct BlockPlaces {
  Place windows[TileTables::kWindowsPerBlock];
};
POLARQUANT_WORDS_INLINE BlockPlaces places_of(const TileTables& tile_tables, std::size_t block) {
  BlockPlaces places;
#pragma GCC unroll 7
  for (std::size_t k = 0; k < TileTables::kWindowsPerBlock; ++k) {
    places.windows[k] = place_of(tile_tables.windows[block * TileTables::kWindowsPerBlock + k]);
  }
  return places;
}

// Decodes a block of a run: out[16 n + i] = coordinate i. weights: [run.count], its own.
template <typename Shape>
POLARQUANT_WORDS_TARGET void expand_blocks(const TileTables& tile_tables, const TileRun& run,
                                           std::size_t block, const Lanes* weights, Lanes* out) {
  const BlockPlaces places = places_of(tile_tables, block);
  const Levels levels = levels_of(tile_tables);
  for (std::size_t n = 0; n < run.count; ++n) {
    Words windows[kNumWindows<Shape>];
#pragma GCC unroll 7
    for (std::size_t k = 0; k < kNumWindows<Shape>; ++k) {
      windows[k] = load(places.windows[k], run.tile(n));
    }
    expand_block<Shape>(levels, windows, load(weights[n]), out + 16 * n);
  }
}

// Decodes two blocks of a run, their words interleaved: out[(2 n + half) 16 + i] = coordinate i of
// block `even` in even words, of block `odd` in odd ones, of half of the 32 vectors.
template <typename Shape>
POLARQUANT_WORDS_TARGET void expand_block_pairs(const TileTables& tile_tables, const TileRun& run,
                                                std::size_t even, std::size_t odd,
                                                const Lanes* weights, Lanes* out) {
  const BlockPlaces even_places = places_of(tile_tables, even);
  const BlockPlaces odd_places = places_of(tile_tables, odd);
  const Levels levels = levels_of(tile_tables);
  for (std::size_t n = 0; n < run.count; ++n) {
    Words first[kNumWindows<Shape>];
    Words second[kNumWindows<Shape>];
#pragma GCC unroll 7
    for (std::size_t k = 0; k < kNumWindows<Shape>; ++k) {
      interleave(load(even_places.windows[k], run.tile(n)),
                 load(odd_places.windows[k], run.tile(n)), first[k], second[k]);
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
