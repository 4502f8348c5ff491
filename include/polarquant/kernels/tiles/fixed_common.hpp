// What the kernels on tiles in 16-bit fixed point share on every instruction set.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/codes/tile_tables.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

inline constexpr std::size_t kRun = TileTables::kMaxRun;  // tiles at a time

// Working memory, TileScratch::kernel.
struct FixedScratch {
  FixedScratch(const TileTables& tile_tables, std::byte* base) {
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
  }

  Lanes* copy;     // [kRun, num_words], of codes with an odd number of bytes
  float* radii;    // [kRun, kTileTokens]
  Lanes* weights;  // [num_blocks, kRun], of blocks
  Lanes* vectors;  // [kRun, 2, 16]: a block decoded, or two
  Lanes* sums;     // [rows, kRun, 2]: of scores so far; [rows, kRun]: weights of tokens
};

// A prepared query begins with the inverse of its scale, prepared[0]; from 16 on stand 32-bit pairs
// (q of block i, q of block num_pairs + i, or 0), [16 num_pairs]. Behind them an instruction set
// puts its tables.
inline std::size_t query_tables_offset(const TileTables& tile_tables) {
  return 16 + 16 * tile_tables.num_pairs;
}

// Writes that part and returns the scale: the whole query has norm 32000, so that no sum on the way
// up the tree can overflow.
inline float pair_query(const CodecTables& tables, const float* query, float* prepared) {
  double norm2 = 0.0;  // In float it would overflow for a norm of 2e19.
  for (std::size_t i = 0; i < tables.head_dim(); ++i) {
    norm2 += static_cast<double>(query[i]) * static_cast<double>(query[i]);
  }
  // Beyond 1e37 the scale's inverse, which comes back in, would be subnormal.
  const float scale =
      norm2 > 0.0 ? static_cast<float>((std::min)(32000.0 / square_root(norm2), 1e37)) : 0.0f;
  prepared[0] = norm2 > 0.0 ? 1.0f / scale : 0.0f;
  std::int16_t* const pairs = reinterpret_cast<std::int16_t*>(prepared + 16);
  const std::size_t half = 16 * tables.tile_tables.num_pairs;
  for (std::size_t i = 0; i < half; ++i) {
    const float odd = half + i < tables.head_dim() ? query[half + i] : 0.0f;
    pairs[2 * i] = static_cast<std::int16_t>(std::lrint(query[i] * scale));
    pairs[2 * i + 1] = static_cast<std::int16_t>(std::lrint(odd * scale));
  }
  return scale;
}

// What is added before a weight is rounded: multiples of the golden ratio modulo 1, less a half.
// Each weight is then right on average, so that many tiny ones beside a large one do not all
// vanish. Made of integers: with -frounding-math g++ 12 miscompiles a constexpr conversion of
// double to float that is not exact.
struct Dither {
  float values[kRun * kTileTokens];

  constexpr Dither() : values() {
    std::uint64_t fraction = 0;  // of 2^64
    for (float& entry : values) {
      // Its first 24 bits, the upper half of the range standing for what is below 0.
      const std::int32_t bits = static_cast<std::int32_t>(fraction >> 40);
      entry = static_cast<float>(bits < 0x800000 ? bits : bits - 0x1000000) * 0x1p-24f;
      fraction += 0x9e3779b97f4a7c15ULL;  // 2^64 / golden ratio
    }
  }
};
inline constexpr Dither kDither;

}  // namespace detail
POLARQUANT_END_NAMESPACE
