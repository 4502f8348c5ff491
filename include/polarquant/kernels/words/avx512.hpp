// What the kernels on tiles share on AVX-512: reading the indices of 32 vectors.
//
// They need VBMI2 (a rotation of 16-bit words) and VNNI (products of 16 bits summed in 32) beside
// F, BW, DQ and VL.
#pragma once

#include <cstddef>
#include <cstdint>

#include "polarquant/base/isa.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/codes/tile_tables.hpp"

#if POLARQUANT_X86
#include <immintrin.h>

// g++ 12 takes the deliberately undefined operand inside its own AVX-512 header for a mistake of
// the caller (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#define POLARQUANT_AVX512_BEGIN                                                              \
  _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"") \
      _Pragma("GCC diagnostic ignored \"-Wuninitialized\"")
#define POLARQUANT_AVX512_END _Pragma("GCC diagnostic pop")
#else
#define POLARQUANT_AVX512_BEGIN
#define POLARQUANT_AVX512_END
#endif

#define POLARQUANT_TARGET_AVX512_TILES \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,avx512vnni,avx2,fma")))
#define POLARQUANT_AVX512_INLINE \
  POLARQUANT_TARGET_AVX512_TILES __attribute__((always_inline)) inline

POLARQUANT_AVX512_BEGIN
POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace avx512 {

static_assert(kTileTokens == 32, "a row of a tile is one register of 16-bit words");

POLARQUANT_AVX512_INLINE __m512i load(const Lanes& lanes) {
  return _mm512_load_si512(lanes.values);
}
POLARQUANT_AVX512_INLINE void store(Lanes& lanes, __m512i words) {
  _mm512_store_si512(lanes.values, words);
}

// Tiles that follow each other, aligned, all of their rows of words.
struct WordRun {
  const std::byte* tiles;
  std::size_t tile_size;
  std::size_t count;

  // What is read after this run, in steps of prefetch_step bytes; null if not known.
  const std::byte* next = nullptr;
  std::size_t prefetch_step = 0;

  // Step `index` of those that fetch it into the second-level cache.
  POLARQUANT_AVX512_INLINE void prefetch(std::size_t index) const {
    if (next == nullptr) return;
    const char* const from = reinterpret_cast<const char*>(next + index * prefetch_step);
    for (std::size_t k = 0; k < prefetch_step; k += 64) _mm_prefetch(from + k, _MM_HINT_T1);
  }
};

// A run of tiles as the kernels read them. Codes with an odd number of bytes are copied to `copy`,
// [count * num_words], with their last row of bytes widened.
POLARQUANT_AVX512_INLINE WordRun run_of(const TileTables& tile_tables, const std::byte* tiles,
                                        std::size_t tile_size, std::size_t count, Lanes* copy) {
  if (!tile_tables.has_byte_row) return {tiles, tile_size, count};
  const std::size_t last = tile_tables.num_words - 1;
  Lanes* next = copy;
  for (std::size_t n = 0; n < count; ++n) {
    const std::byte* const tile = tiles + n * tile_size;
    for (std::size_t row = 0; row < last; ++row) {
      store(*next++, _mm512_loadu_si512(tile + row * 64));
    }
    store(*next++, _mm512_cvtepu8_epi16(
                       _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + last * 64))));
  }
  return {reinterpret_cast<const std::byte*>(copy), (last + 1) * 64, count};
}

// The run after which `next` comes, of tiles of tile_size bytes, to be fetched while the blocks of
// this one are worked through, once each.
POLARQUANT_AVX512_INLINE WordRun with_next(WordRun run, const TileTables& tile_tables,
                                           const std::byte* next, std::size_t tile_size) {
  run.next = next;
  run.prefetch_step = tile_size / tile_tables.num_blocks;
  return run;
}

struct Shifts {
  Lanes lanes[16];

  constexpr Shifts() : lanes() {
    for (int shift = 0; shift < 16; ++shift) {
      for (std::int16_t& lane : lanes[shift].values) lane = static_cast<std::int16_t>(shift);
    }
  }
};
inline constexpr Shifts kShifts;

// Where a window lies in any tile.
struct WindowPlace {
  std::size_t low;
  std::size_t high;
  __m512i shift;

  // The 16 bits from the window's first bit on.
  POLARQUANT_AVX512_INLINE __m512i load(const std::byte* tile) const {
    return _mm512_shrdv_epi16(_mm512_load_si512(tile + low), _mm512_load_si512(tile + high), shift);
  }
};
POLARQUANT_AVX512_INLINE WindowPlace place_of(const TileTables::Window& window) {
  return {window.low, window.high, _mm512_load_si512(kShifts.lanes[window.shift].values)};
}

POLARQUANT_AVX512_INLINE __m512i look_up(__m512i table, __m512i index) {
  return _mm512_permutexvar_epi16(index, table);
}

// Of up to 64 entries.
POLARQUANT_AVX512_INLINE __m512i look_up(const Lanes64& table, __m512i index) {
  return _mm512_permutex2var_epi16(load(table.low), index, load(table.high));
}

POLARQUANT_AVX512_INLINE __m512 low_half(__m512i words) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(words)));
}
POLARQUANT_AVX512_INLINE __m512 high_half(__m512i words) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(words, 1)));
}

// The bfloat16 radii of block `block` of 16 vectors, from vector `first` (0 or 16) on.
POLARQUANT_AVX512_INLINE __m512 load_radii(const std::byte* tile, std::size_t block,
                                           std::size_t first) {
  const __m256i words =
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + block * 64 + first * 2));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
}

}  // namespace avx512
}  // namespace detail
POLARQUANT_END_NAMESPACE
POLARQUANT_AVX512_END
#endif
