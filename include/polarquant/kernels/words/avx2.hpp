// 32 vectors side by side on AVX2: words of 16 bits, bytes, floats, and look-ups by bytes.
//
// neon_words.hpp has the same names; the kernels on tiles are written on them once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "polarquant/base/isa.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/codes/tile_tables.hpp"

#if POLARQUANT_X86
#include <immintrin.h>

#define POLARQUANT_WORDS_TARGET POLARQUANT_TARGET_AVX2
#define POLARQUANT_WORDS_INLINE POLARQUANT_TARGET_AVX2 __attribute__((always_inline)) inline

POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace words {

// Query rows, or coordinates, whose sums share the registers.
inline constexpr std::size_t kSharedSums = 4;

// A word of each of 32 vectors: 0 to 15, 16 to 31.
struct Words {
  __m256i halves[2];
};

// A byte of each of 32 vectors, in the order 0-7, 16-23, 8-15, 24-31: that of packing two halves.
struct Bytes {
  __m256i bytes;
};

// A float of each of 32 vectors, or a 32-bit sum, in the order of unpacking words: 0-3 and 8-11,
// 4-7 and 12-15, ..
struct Floats {
  __m256 quarters[4];
};

// Sums of products of neighbouring words.
struct Sums {
  __m256i halves[2];
};

// ---- Words ----

POLARQUANT_WORDS_INLINE Words load(const void* words) {
  const __m256i* const halves = static_cast<const __m256i*>(words);
  return {{_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)}};
}
POLARQUANT_WORDS_INLINE Words load(const Lanes& lanes) { return load(lanes.values); }
POLARQUANT_WORDS_INLINE void store(Lanes& lanes, Words words) {
  __m256i* const halves = reinterpret_cast<__m256i*>(lanes.values);
  _mm256_store_si256(halves, words.halves[0]);
  _mm256_store_si256(halves + 1, words.halves[1]);
}
POLARQUANT_WORDS_INLINE Words broadcast_word(int value) {
  const __m256i half = _mm256_set1_epi16(static_cast<short>(value));
  return {{half, half}};
}
// The 32-bit pair of words at `pair`, in every pair of words.
POLARQUANT_WORDS_INLINE Words broadcast_pair(const float* pair) {
  const __m256i half = _mm256_castps_si256(_mm256_broadcast_ss(pair));
  return {{half, half}};
}
// 32 bytes as words.
POLARQUANT_WORDS_INLINE Words widen(const std::byte* bytes) {
  const __m128i* const halves = reinterpret_cast<const __m128i*>(bytes);
  return {{_mm256_cvtepu8_epi16(_mm_loadu_si128(halves)),
           _mm256_cvtepu8_epi16(_mm_loadu_si128(halves + 1))}};
}
POLARQUANT_WORDS_INLINE Words add(Words a, Words b) {
  return {{_mm256_add_epi16(a.halves[0], b.halves[0]), _mm256_add_epi16(a.halves[1], b.halves[1])}};
}
POLARQUANT_WORDS_INLINE Words subtract(Words a, Words b) {
  return {{_mm256_sub_epi16(a.halves[0], b.halves[0]), _mm256_sub_epi16(a.halves[1], b.halves[1])}};
}
POLARQUANT_WORDS_INLINE Words bits_and(Words a, Words b) {
  return {{_mm256_and_si256(a.halves[0], b.halves[0]), _mm256_and_si256(a.halves[1], b.halves[1])}};
}
// Unsigned.
POLARQUANT_WORDS_INLINE Words largest(Words a, Words b) {
  return {{_mm256_max_epu16(a.halves[0], b.halves[0]), _mm256_max_epu16(a.halves[1], b.halves[1])}};
}
POLARQUANT_WORDS_INLINE Words smallest(Words a, Words b) {
  return {{_mm256_min_epu16(a.halves[0], b.halves[0]), _mm256_min_epu16(a.halves[1], b.halves[1])}};
}
// The product of fractions of 2^15, rounded.
POLARQUANT_WORDS_INLINE Words times(Words a, Words b) {
  return {{_mm256_mulhrs_epi16(a.halves[0], b.halves[0]),
           _mm256_mulhrs_epi16(a.halves[1], b.halves[1])}};
}
// first, second = the words of a and b in turns: of vectors 0 to 15, of 16 to 31, each in the order
// of Floats.
POLARQUANT_WORDS_INLINE void interleave(Words a, Words b, Words& first, Words& second) {
  first = {{_mm256_unpacklo_epi16(a.halves[0], b.halves[0]),
            _mm256_unpackhi_epi16(a.halves[0], b.halves[0])}};
  second = {{_mm256_unpacklo_epi16(a.halves[1], b.halves[1]),
             _mm256_unpackhi_epi16(a.halves[1], b.halves[1])}};
}

// ---- Shifts, windows ----

// There is no shift of words by a variable without a detour: the high half of a product with
// 2^(16 - shift) is a shift to the right, the low half the rest of one to the left.
struct Powers {
  alignas(32) std::uint16_t factors[17][16];

  constexpr Powers() : factors() {
    for (int shift = 1; shift <= 16; ++shift) {
      for (std::uint16_t& factor : factors[shift]) {
        factor = static_cast<std::uint16_t>(1u << (16 - shift));
      }
    }
  }
};
inline constexpr Powers kPowers;

// To the right, by 1 to 16.
struct Shift {
  __m256i factor;
};
POLARQUANT_WORDS_INLINE Shift shift_of(std::size_t bits) {
  return {_mm256_load_si256(reinterpret_cast<const __m256i*>(kPowers.factors[bits]))};
}
POLARQUANT_WORDS_INLINE Words shift_right(Words words, Shift shift) {
  return {{_mm256_mulhi_epu16(words.halves[0], shift.factor),
           _mm256_mulhi_epu16(words.halves[1], shift.factor)}};
}
// With the bits of `high` coming in.
POLARQUANT_WORDS_INLINE Words shift_right(Words low, Words high, Shift shift) {
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    low.halves[k] = _mm256_or_si256(_mm256_mulhi_epu16(low.halves[k], shift.factor),
                                    _mm256_mullo_epi16(high.halves[k], shift.factor));
  }
  return low;
}

// ---- Bytes ----

POLARQUANT_WORDS_INLINE Bytes low_bytes(Words words) {
  const __m256i mask = _mm256_set1_epi16(0xff);
  return {_mm256_packus_epi16(_mm256_and_si256(words.halves[0], mask),
                              _mm256_and_si256(words.halves[1], mask))};
}
// The low bytes and the high bytes of words.
POLARQUANT_WORDS_INLINE void split(Words words, Bytes& low, Bytes& high) {
  const __m256i order = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0, 2,
                                         4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  const __m256i first = _mm256_shuffle_epi8(words.halves[0], order);
  const __m256i second = _mm256_shuffle_epi8(words.halves[1], order);
  low.bytes = _mm256_unpacklo_epi64(first, second);
  high.bytes = _mm256_unpackhi_epi64(first, second);
}
// The kBits bits of each byte from bit kFrom on, those that it has, moved to bit kTo.
template <int kFrom, int kBits, int kTo>
POLARQUANT_WORDS_INLINE Bytes move_bits(Bytes bytes) {
  constexpr int kMask = (((1 << kBits) - 1) << kTo) & (0xff >> (kFrom > kTo ? kFrom - kTo : 0));
  __m256i moved = bytes.bytes;
  if constexpr (kFrom > kTo) moved = _mm256_srli_epi16(moved, kFrom - kTo);
  if constexpr (kFrom < kTo) moved = _mm256_slli_epi16(moved, kTo - kFrom);
  return {_mm256_and_si256(moved, _mm256_set1_epi8(static_cast<char>(kMask)))};
}
POLARQUANT_WORDS_INLINE Bytes bits_or(Bytes a, Bytes b) {
  return {_mm256_or_si256(a.bytes, b.bytes)};
}
// The lowest kBits bits of each byte.
template <int kBits>
POLARQUANT_WORDS_INLINE Bytes low_bits(Bytes bytes) {
  return {_mm256_and_si256(bytes.bytes, _mm256_set1_epi8((1 << kBits) - 1))};
}
// To the right. The bits that come in from above are of no meaning.
POLARQUANT_WORDS_INLINE Bytes shift_right(Bytes bytes, Shift shift) {
  return {_mm256_mulhi_epu16(bytes.bytes, shift.factor)};
}

// ---- Look-ups ----

POLARQUANT_WORDS_INLINE __m256i load_table(const std::uint8_t* entries) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(entries)));
}

// The fractions of a table of 2^kBits entries, 4 <= kBits <= 6, of which low and high are the
// bytes, at indices of kBits bits.
template <int kBits>
POLARQUANT_WORDS_INLINE Words look_up(const std::uint8_t* low, const std::uint8_t* high,
                                      Bytes index) {
  __m256i low_byte, high_byte;
  if constexpr (kBits == 4) {
    low_byte = _mm256_shuffle_epi8(load_table(low), index.bytes);
    high_byte = _mm256_shuffle_epi8(load_table(high), index.bytes);
  } else {
    // A shuffle gives 0 where the index has its highest bit set: saturating addition of 0x70 sets
    // it in those beyond the first 16, subtraction of 16 k in those before table k.
    const __m256i above = _mm256_set1_epi8(0x70);
    low_byte = high_byte = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int k = 0; k < 1 << (kBits - 4); ++k) {
      const __m256i own = _mm256_sub_epi8(index.bytes, _mm256_set1_epi8(static_cast<char>(16 * k)));
      const __m256i at = k + 1 < 1 << (kBits - 4) ? _mm256_adds_epu8(own, above) : own;
      low_byte = _mm256_or_si256(low_byte, _mm256_shuffle_epi8(load_table(low + 16 * k), at));
      high_byte = _mm256_or_si256(high_byte, _mm256_shuffle_epi8(load_table(high + 16 * k), at));
    }
  }
  return {{_mm256_unpacklo_epi8(low_byte, high_byte), _mm256_unpackhi_epi8(low_byte, high_byte)}};
}

// ---- Floats ----

POLARQUANT_WORDS_INLINE Floats broadcast(float value) {
  const __m256 quarter = _mm256_set1_ps(value);
  return {{quarter, quarter, quarter, quarter}};
}
// In their own order.
POLARQUANT_WORDS_INLINE Floats load_floats(const float* values) {
  return {{_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8), _mm256_loadu_ps(values + 16),
           _mm256_loadu_ps(values + 24)}};
}
POLARQUANT_WORDS_INLINE void store_floats(float* values, Floats floats) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) _mm256_storeu_ps(values + 8 * k, floats.quarters[k]);
}
// From one order to the other.
POLARQUANT_WORDS_INLINE Floats reorder(Floats a) {
  return {{_mm256_permute2f128_ps(a.quarters[0], a.quarters[1], 0x20),
           _mm256_permute2f128_ps(a.quarters[0], a.quarters[1], 0x31),
           _mm256_permute2f128_ps(a.quarters[2], a.quarters[3], 0x20),
           _mm256_permute2f128_ps(a.quarters[2], a.quarters[3], 0x31)}};
}
POLARQUANT_WORDS_INLINE Floats multiply(Floats a, Floats b) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) a.quarters[k] = _mm256_mul_ps(a.quarters[k], b.quarters[k]);
  return a;
}
POLARQUANT_WORDS_INLINE Floats divide(Floats a, Floats b) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) a.quarters[k] = _mm256_div_ps(a.quarters[k], b.quarters[k]);
  return a;
}
POLARQUANT_WORDS_INLINE Floats add(Floats a, Floats b) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) a.quarters[k] = _mm256_add_ps(a.quarters[k], b.quarters[k]);
  return a;
}
// a b + c.
POLARQUANT_WORDS_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    a.quarters[k] = _mm256_fmadd_ps(a.quarters[k], b.quarters[k], c.quarters[k]);
  }
  return a;
}
POLARQUANT_WORDS_INLINE Floats larger(Floats a, Floats b) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) a.quarters[k] = _mm256_max_ps(a.quarters[k], b.quarters[k]);
  return a;
}
POLARQUANT_WORDS_INLINE Floats magnitude(Floats a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) a.quarters[k] = _mm256_andnot_ps(sign, a.quarters[k]);
  return a;
}
POLARQUANT_WORDS_INLINE Floats square_root(Floats a) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) a.quarters[k] = _mm256_sqrt_ps(a.quarters[k]);
  return a;
}

// Words followed by 16 zero bits: bfloat16 numbers as floats.
POLARQUANT_WORDS_INLINE Sums high_words(__m256i half) {
  const __m256i zero = _mm256_setzero_si256();
  return {{_mm256_unpacklo_epi16(zero, half), _mm256_unpackhi_epi16(zero, half)}};
}
POLARQUANT_WORDS_INLINE Floats from_bfloat16(Words words) {
  Floats floats;
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    floats.quarters[k] = _mm256_castsi256_ps(high_words(words.halves[k / 2]).halves[k % 2]);
  }
  return floats;
}
// 2^16 times the words.
POLARQUANT_WORDS_INLINE Floats to_floats(Words words) {
  Floats floats;
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    floats.quarters[k] = _mm256_cvtepi32_ps(high_words(words.halves[k / 2]).halves[k % 2]);
  }
  return floats;
}
// Rounded to the nearest.
POLARQUANT_WORDS_INLINE Words to_words(Floats a) {
  Words words;
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    words.halves[k] = _mm256_packs_epi32(_mm256_cvtps_epi32(a.quarters[2 * k]),
                                         _mm256_cvtps_epi32(a.quarters[2 * k + 1]));
  }
  return words;
}

// ---- Sums ----

POLARQUANT_WORDS_INLINE Sums zero_sums() {
  return {{_mm256_setzero_si256(), _mm256_setzero_si256()}};
}
// Plus the products of words, each added to its neighbour's.
POLARQUANT_WORDS_INLINE Sums multiply_add(Words a, Words b, Sums sums) {
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    sums.halves[k] = _mm256_add_epi32(sums.halves[k], _mm256_madd_epi16(a.halves[k], b.halves[k]));
  }
  return sums;
}
// total += sums.
POLARQUANT_WORDS_INLINE void add_to(Lanes& total, Sums sums) {
  const Words old = load(total);
  store(total, Words{{_mm256_add_epi32(old.halves[0], sums.halves[0]),
                      _mm256_add_epi32(old.halves[1], sums.halves[1])}});
}
// Totals of words interleaved, as floats.
POLARQUANT_WORDS_INLINE Floats to_floats(const Lanes& first, const Lanes& second) {
  const Words halves[2] = {load(first), load(second)};
  Floats floats;
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    floats.quarters[k] = _mm256_cvtepi32_ps(halves[k / 2].halves[k % 2]);
  }
  return floats;
}
// out[0 .. 16) += factor * sums.
POLARQUANT_WORDS_INLINE void add_scaled(Sums sums, float factor, float* out) {
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    _mm256_storeu_ps(out + 8 * k,
                     _mm256_fmadd_ps(_mm256_set1_ps(factor), _mm256_cvtepi32_ps(sums.halves[k]),
                                     _mm256_loadu_ps(out + 8 * k)));
  }
}

}  // namespace words
}  // namespace detail
POLARQUANT_END_NAMESPACE
#endif
