// Reading the indices of a block of 16 coordinates, for AVX2 and NEON: where the bits of levels 1
// to 4 are known when compiling, and where they are not.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/codes/tile_tables.hpp"
#include "polarquant/kernels/words/words.hpp"

#if POLARQUANT_HAS_WORDS
POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace words {

// What all blocks share: the tables of cosines and sines by level, and how far the indices of a
// subtree of two levels lie from its first bit: that of level 2, then the second of level 1.
struct Levels {
  const SplitLanes* cosines;
  const SplitLanes* sines;
  const SplitLanes* quarters;
  Shift second;
  Shift third;
};
POLARQUANT_WORDS_INLINE Levels levels_of(const TileTables& tile_tables) {
  const std::size_t first_bits = static_cast<std::size_t>(tile_tables.first_bits);
  const std::size_t second_bits = static_cast<std::size_t>(tile_tables.second_bits);
  return {tile_tables.split_cosines.data(), tile_tables.split_sines.data(),
          tile_tables.quarters.data(), shift_of(first_bits), shift_of(first_bits + second_bits)};
}

// Bits of the look-up that an index needs.
constexpr int look_up_bits(int index_bits) { return index_bits <= 4 ? 4 : index_bits; }

// ---- Bits known when compiling ----

// kFirst to kFourth: of levels 1 to 4. A block is read as kNumWords words from its first bit on.
template <int kFirst, int kSecond, int kThird, int kFourth>
struct ExactShape {
  static constexpr bool kIsExact = true;
  static constexpr int kBits[4] = {kFirst, kSecond, kThird, kFourth};
  static constexpr int kNumBits = 8 * kFirst + 4 * kSecond + 2 * kThird + kFourth;
  static constexpr int kNumWords = (kNumBits + 15) / 16;
  // Levels 2 and 3 in one look-up: quarters of TileTables.
  static constexpr bool kHasQuarters = kSecond + kThird <= 4;

  static constexpr int look_up_bits(int level) { return words::look_up_bits(kBits[level - 1]); }

  // The place of a node's index in the block: codes go left to right.
  static constexpr int position(int level, int node) {
    constexpr int kSubtree = 2 * kFirst + kSecond;
    if (level == 4) return 2 * kSubtree + kThird;
    if (level == 3) return node == 0 ? kSubtree : 3 * kSubtree + kThird + kFourth;
    const int k = level == 2 ? node : node / 2;
    const int start = k * kSubtree + (k + 1) / 2 * kThird + k / 2 * kFourth;
    return level == 2 ? start + kFirst : start + node % 2 * (kFirst + kSecond);
  }

  static bool holds(const TileTables& tile_tables) {
    for (int k = 0; k < 4; ++k) {
      if (tile_tables.block_bits[k] != kBits[k]) return false;
    }
    return true;
  }
};

// The kBits bits of a block from bit kFrom on, moved to bit kTo of a byte.
template <int kFrom, int kBits, int kTo>
POLARQUANT_WORDS_INLINE Bytes bits_of(const Words* block) {
  constexpr int kByte = kFrom / 8;
  constexpr int kShift = kFrom % 8;
  Bytes bytes[4];
  split(block[kByte / 2], bytes[0], bytes[1]);
  if constexpr (kShift + kBits <= 8) {
    return move_bits<kShift, kBits, kTo>(bytes[kByte % 2]);
  } else {
    constexpr int kHere = 8 - kShift;
    if constexpr (kByte % 2 == 1) split(block[kByte / 2 + 1], bytes[2], bytes[3]);
    return bits_or(move_bits<kShift, kHere, kTo>(bytes[kByte % 2]),
                   move_bits<0, kBits - kHere, kTo + kHere>(bytes[kByte % 2 + 1]));
  }
}

// ---- Bits not known when compiling ----

// kFirst, kRest: bits of the look-ups of level 1 and of levels 2 to 4. kIsPacked: the windows of
// two levels hold all there is to a block, both indices of either half in a byte, the second one's
// followed by the index of the node that comes next in the order of codes, of level 3 or 4.
template <int kFirst, int kRest, bool kIsPacked>
struct AnyShape {
  static constexpr bool kIsExact = false;
  static constexpr bool kPacked = kIsPacked;
  static constexpr bool kHasQuarters = false;
  static constexpr int kNumWords = kPacked ? 4 : static_cast<int>(TileTables::kWindowsPerBlock);

  static constexpr int look_up_bits(int level) { return level == 1 ? kFirst : kRest; }
};

// ---- Both ----

// Words from a bit on: of the rows at `low` and `high` of any tile. A shift by 0 is one by 16 of
// the row before, which may be any.
struct Place {
  std::size_t low;
  std::size_t high;
  std::size_t shift;
};
POLARQUANT_WORDS_INLINE Place place_of(const TileTables::Window& window) {
  const bool is_aligned = window.shift == 0;
  return {window.low, is_aligned ? window.low : window.high, is_aligned ? 16 : window.shift};
}
POLARQUANT_WORDS_INLINE Words load(const Place& place, const std::byte* tile) {
  return shift_right(load(tile + place.low), load(tile + place.high), shift_of(place.shift));
}

// The words of a block that its indices are taken from: windows, or all from its first bit on.
template <typename Shape, bool kIsExact = Shape::kIsExact>
struct BlockPlace {
  Place windows[Shape::kNumWords];
};
template <typename Shape>
struct BlockPlace<Shape, true> {
  std::size_t rows[Shape::kNumWords + 1];
  std::size_t shift;
};
template <typename Shape>
POLARQUANT_WORDS_INLINE BlockPlace<Shape> place_of(const TileTables& tile_tables,
                                                   std::size_t block) {
  const TileTables::Window* const windows =
      tile_tables.windows.data() + block * TileTables::kWindowsPerBlock;
  BlockPlace<Shape> place;
  if constexpr (Shape::kIsExact) {
    const std::size_t last = (tile_tables.num_words - 1) * sizeof(Lanes);
    // Row 0 has a radius: a block always has a row before it.
    std::size_t row = windows[0].low - (windows[0].shift == 0 ? sizeof(Lanes) : 0);
    for (std::size_t& next : place.rows) {
      next = (std::min)(row, last);
      row += sizeof(Lanes);
    }
    place.shift = windows[0].shift == 0 ? 16 : windows[0].shift;
  } else {
    for (std::size_t k = 0; k < Shape::kNumWords; ++k) place.windows[k] = place_of(windows[k]);
  }
  return place;
}
template <typename Shape>
POLARQUANT_WORDS_INLINE void load_block(const BlockPlace<Shape>& place, const std::byte* tile,
                                        Words* block) {
  if constexpr (Shape::kIsExact) {
    const Shift shift = shift_of(place.shift);
    Words low = load(tile + place.rows[0]);
#pragma GCC unroll 7
    for (std::size_t k = 0; k < Shape::kNumWords; ++k) {
      const Words high = load(tile + place.rows[k + 1]);
      block[k] = shift_right(low, high, shift);
      low = high;
    }
  } else {
#pragma GCC unroll 7
    for (std::size_t k = 0; k < Shape::kNumWords; ++k) block[k] = load(place.windows[k], tile);
  }
}

// The index of node `kNode` of level kLevel of a block.
template <typename Shape, int kLevel, int kNode>
POLARQUANT_WORDS_INLINE Bytes index_of(const Levels& levels, const Words* block) {
  if constexpr (Shape::kIsExact) {
    return bits_of<Shape::position(kLevel, kNode), Shape::kBits[kLevel - 1], 0>(block);
  } else {
    constexpr int kBits = Shape::look_up_bits(kLevel);
    if constexpr (kLevel == 1) {
      const Words window = block[kNode / 2];
      return low_bits<kBits>(
          low_bytes(kNode % 2 == 0 ? window : shift_right(window, levels.third)));
    } else if constexpr (kLevel == 2) {
      if constexpr (Shape::kPacked) {
        return low_bits<kBits>(shift_right(low_bytes(block[kNode]), levels.second));
      } else {
        return low_bits<kBits>(low_bytes(shift_right(block[kNode], levels.second)));
      }
    } else if constexpr (Shape::kPacked) {
      constexpr int kBefore = kLevel == 4 ? 1 : 2 * kNode;  // the subtree that comes before
      return low_bits<kBits>(
          shift_right(low_bytes(shift_right(block[kBefore], levels.third)), levels.second));
    } else {
      return low_bits<kBits>(low_bytes(block[kLevel == 4 ? 6 : 4 + kNode]));
    }
  }
}

// Of quarter `kNode`: of its level-2 node and of the level-3 node above.
template <typename Shape, int kNode>
POLARQUANT_WORDS_INLINE Bytes quarter_index_of(const Words* block) {
  constexpr int kSecond = Shape::kBits[1];
  return bits_or(bits_of<Shape::position(2, kNode), kSecond, 0>(block),
                 bits_of<Shape::position(3, kNode / 2), Shape::kBits[2], kSecond>(block));
}

template <int kBits>
POLARQUANT_WORDS_INLINE Words look_up(const SplitLanes& table, Bytes index) {
  return look_up<kBits>(table.low, table.high, index);
}

// Calls `run`<shape>(..) with the least shape that holds the format.
#define POLARQUANT_DISPATCH_SHAPE(tile_tables, run, ...) \
  do {                                                   \
    if (ExactShape<4, 2, 2, 2>::holds(tile_tables)) {    \
      run<ExactShape<4, 2, 2, 2>>(__VA_ARGS__);          \
    } else if ((tile_tables).rest_bits > 4) {            \
      run<AnyShape<5, 5, false>>(__VA_ARGS__);           \
    } else if (!(tile_tables).packed) {                  \
      run<AnyShape<5, 4, false>>(__VA_ARGS__);           \
    } else if ((tile_tables).first_bits > 4) {           \
      run<AnyShape<5, 4, true>>(__VA_ARGS__);            \
    } else {                                             \
      run<AnyShape<4, 4, true>>(__VA_ARGS__);            \
    }                                                    \
  } while (false)

}  // namespace words
}  // namespace detail
POLARQUANT_END_NAMESPACE
#endif
