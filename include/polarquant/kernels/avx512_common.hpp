// What the kernels on tiles share on AVX-512: reading the fields of 32 vectors.
//
// They need VBMI2 (a shift across two words) and VNNI (products of 16 bits summed in 32) beside F,
// BW, DQ and VL.
#pragma once

#include <cstddef>
#include <cstdint>

#include "polarquant/kernels/isa.hpp"
#include "polarquant/packed_codes.hpp"
#include "polarquant/tile_tables.hpp"
#include "polarquant/version.hpp"

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

// Word `word` of the 32 vectors of a tile. The last row of an odd code has bytes.
template <bool kOdd>
POLARQUANT_AVX512_INLINE __m512i load_row(const std::byte* tile, std::size_t word,
                                          std::size_t num_words) {
  const std::byte* const row = tile + word * 64;
  if (kOdd && word + 1 == num_words) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row)));
  }
  return _mm512_loadu_si512(row);
}

// Where a field's window lies, ready for use: kept in registers while tiles stream by.
struct Window {
  std::size_t low_word;
  std::size_t high_word;
  __m512i shift;
};

POLARQUANT_AVX512_INLINE Window make_window(const TileTables::Window& window) {
  return {window.low_word, window.high_word, _mm512_set1_epi16(static_cast<short>(window.shift))};
}

// The 16 bits from a field's first bit on, of 32 vectors.
template <bool kOdd>
POLARQUANT_AVX512_INLINE __m512i load_window(const std::byte* tile, const Window& window,
                                             std::size_t num_words) {
  return _mm512_shrdv_epi16(load_row<kOdd>(tile, window.low_word, num_words),
                            load_row<kOdd>(tile, window.high_word, num_words), window.shift);
}

// a cos + b sin, the index taken from the low bits of `window`.
POLARQUANT_AVX512_INLINE __m512i fold(__m512i a, __m512i b, __m512i window, __m512i cosines,
                                      __m512i sines) {
  return _mm512_add_epi16(_mm512_mulhrs_epi16(a, _mm512_permutexvar_epi16(window, cosines)),
                          _mm512_mulhrs_epi16(b, _mm512_permutexvar_epi16(window, sines)));
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
