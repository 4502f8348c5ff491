// Whole tiles to rows of codes and back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "polarquant/base/error.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"

POLARQUANT_BEGIN_NAMESPACE

// Tiles that a kernel takes at a time.
inline constexpr std::size_t kRunTiles = 16;

namespace detail {

// Transposes a 4 x 4 matrix of 16-bit words: row i is in[i * in_stride], four words in a 64-bit
// number, and becomes column i of out. Strides in bytes.
inline void transpose_words(const std::byte* in, std::size_t in_stride, std::byte* out,
                            std::size_t out_stride) noexcept {
  constexpr std::uint64_t kEven = 0x0000ffff0000ffffULL;
  constexpr std::uint64_t kLow = 0x00000000ffffffffULL;
  std::uint64_t row[4];
  for (std::size_t i = 0; i < 4; ++i) std::memcpy(&row[i], in + i * in_stride, 8);
  // Pairs of words, then pairs of pairs.
  const std::uint64_t even01 = (row[0] & kEven) | ((row[1] & kEven) << 16);
  const std::uint64_t odd01 = ((row[0] >> 16) & kEven) | (row[1] & ~kEven);
  const std::uint64_t even23 = (row[2] & kEven) | ((row[3] & kEven) << 16);
  const std::uint64_t odd23 = ((row[2] >> 16) & kEven) | (row[3] & ~kEven);
  const std::uint64_t column[4] = {(even01 & kLow) | (even23 << 32), (odd01 & kLow) | (odd23 << 32),
                                   (even01 >> 32) | (even23 & ~kLow),
                                   (odd01 >> 32) | (odd23 & ~kLow)};
  for (std::size_t i = 0; i < 4; ++i) std::memcpy(out + i * out_stride, &column[i], 8);
}

static_assert(kTileTokens % 4 == 0, "a tile is transposed four slots at a time");

// Copies the codes of the first codes.count slots, num_bytes bytes each, out of a tile: what
// read_tile_slot does slot by slot, ten times as fast for a whole tile.
inline void read_tile_rows(const std::byte* tile, std::size_t num_bytes,
                           Rows<std::byte> codes) noexcept {
  POLARQUANT_DCHECK(codes.count <= kTileTokens);
  const std::size_t num_words = num_bytes / 2;
  if (codes.count < kTileTokens || num_words < 4) {
    for (std::size_t slot = 0; slot < codes.count; ++slot) {
      read_tile_slot(tile, num_bytes, slot, codes.row(slot));
    }
    return;
  }
  for (std::size_t next = 0; next < num_words; next += 4) {
    const std::size_t word = next + 4 <= num_words ? next : num_words - 4;  // The last overlaps.
    for (std::size_t slot = 0; slot < kTileTokens; slot += 4) {
      transpose_words(tile + (word * kTileTokens + slot) * 2, kTileTokens * 2,
                      codes.row(slot) + word * 2, codes.stride);
    }
  }
  if (num_bytes % 2 == 0) return;
  for (std::size_t slot = 0; slot < kTileTokens; ++slot) {
    codes.row(slot)[num_bytes - 1] = tile[kTileTokens * (num_bytes - 1) + slot];
  }
}

// Copies codes, num_bytes bytes each, into the first codes.count slots of a tile; others stay.
inline void write_tile_rows(std::byte* tile, std::size_t num_bytes,
                            Rows<const std::byte> codes) noexcept {
  POLARQUANT_DCHECK(codes.count <= kTileTokens);
  const std::size_t num_words = num_bytes / 2;
  if (codes.count < kTileTokens || num_words < 4) {
    for (std::size_t slot = 0; slot < codes.count; ++slot) {
      write_tile_slot(tile, num_bytes, slot, codes.row(slot));
    }
    return;
  }
  for (std::size_t next = 0; next < num_words; next += 4) {
    const std::size_t word = next + 4 <= num_words ? next : num_words - 4;
    for (std::size_t slot = 0; slot < kTileTokens; slot += 4) {
      transpose_words(codes.row(slot) + word * 2, codes.stride,
                      tile + (word * kTileTokens + slot) * 2, kTileTokens * 2);
    }
  }
  if (num_bytes % 2 == 0) return;
  for (std::size_t slot = 0; slot < kTileTokens; ++slot) {
    tile[kTileTokens * (num_bytes - 1) + slot] = codes.row(slot)[num_bytes - 1];
  }
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
