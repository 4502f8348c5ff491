// 32 vectors side by side on NEON: words of 16 bits, bytes, floats, and look-ups by bytes.
//
// avx2_words.hpp has the same names; the kernels on tiles are written on them once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "polarquant/base/isa.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/codes/tile_tables.hpp"

#if POLARQUANT_NEON
#include <arm_neon.h>

#define POLARQUANT_WORDS_TARGET
#define POLARQUANT_WORDS_INLINE __attribute__((always_inline)) inline

POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace words {

// Query rows, or coordinates, whose sums share the registers.
inline constexpr std::size_t kSharedSums = 2;

// A word of each of 32 vectors, in their order.
struct Words {
  int16x8_t quarters[4];
};

// A byte of each.
struct Bytes {
  uint8x16_t halves[2];
};

// A float of each.
struct Floats {
  float32x4_t eighths[8];
};

// Sums of products of words.
struct Sums {
  int32x4_t eighths[8];
};

// ---- Words ----

POLARQUANT_WORDS_INLINE Words load(const void* words) {
  const std::int16_t* const from = static_cast<const std::int16_t*>(words);
  return {{vld1q_s16(from), vld1q_s16(from + 8), vld1q_s16(from + 16), vld1q_s16(from + 24)}};
}
POLARQUANT_WORDS_INLINE Words load(const Lanes& lanes) { return load(lanes.values); }
POLARQUANT_WORDS_INLINE void store(Lanes& lanes, Words words) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) vst1q_s16(lanes.values + 8 * k, words.quarters[k]);
}
POLARQUANT_WORDS_INLINE Words broadcast_word(int value) {
  const int16x8_t quarter = vdupq_n_s16(static_cast<std::int16_t>(value));
  return {{quarter, quarter, quarter, quarter}};
}
// The 32-bit pair of words at `pair`, in every pair of words.
POLARQUANT_WORDS_INLINE Words broadcast_pair(const float* pair) {
  const int16x8_t quarter = vreinterpretq_s16_f32(vld1q_dup_f32(pair));
  return {{quarter, quarter, quarter, quarter}};
}
// 32 bytes as words.
POLARQUANT_WORDS_INLINE Words widen(const std::byte* bytes) {
  Words words;
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    words.quarters[k] = vreinterpretq_s16_u16(
        vmovl_u8(vld1_u8(reinterpret_cast<const std::uint8_t*>(bytes) + 8 * k)));
  }
  return words;
}
POLARQUANT_WORDS_INLINE Words add(Words a, Words b) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) a.quarters[k] = vaddq_s16(a.quarters[k], b.quarters[k]);
  return a;
}
POLARQUANT_WORDS_INLINE Words subtract(Words a, Words b) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) a.quarters[k] = vsubq_s16(a.quarters[k], b.quarters[k]);
  return a;
}
POLARQUANT_WORDS_INLINE Words bits_and(Words a, Words b) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) a.quarters[k] = vandq_s16(a.quarters[k], b.quarters[k]);
  return a;
}
// Unsigned.
POLARQUANT_WORDS_INLINE Words largest(Words a, Words b) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    a.quarters[k] = vreinterpretq_s16_u16(
        vmaxq_u16(vreinterpretq_u16_s16(a.quarters[k]), vreinterpretq_u16_s16(b.quarters[k])));
  }
  return a;
}
POLARQUANT_WORDS_INLINE Words smallest(Words a, Words b) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    a.quarters[k] = vreinterpretq_s16_u16(
        vminq_u16(vreinterpretq_u16_s16(a.quarters[k]), vreinterpretq_u16_s16(b.quarters[k])));
  }
  return a;
}
// The product of fractions of 2^15, rounded.
POLARQUANT_WORDS_INLINE Words times(Words a, Words b) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) a.quarters[k] = vqrdmulhq_s16(a.quarters[k], b.quarters[k]);
  return a;
}
// first, second = the words of a and b in turns: of vectors 0 to 15, of 16 to 31.
POLARQUANT_WORDS_INLINE void interleave(Words a, Words b, Words& first, Words& second) {
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    first.quarters[2 * k] = vzip1q_s16(a.quarters[k], b.quarters[k]);
    first.quarters[2 * k + 1] = vzip2q_s16(a.quarters[k], b.quarters[k]);
    second.quarters[2 * k] = vzip1q_s16(a.quarters[2 + k], b.quarters[2 + k]);
    second.quarters[2 * k + 1] = vzip2q_s16(a.quarters[2 + k], b.quarters[2 + k]);
  }
}

// ---- Shifts, windows ----

// To the right, by 1 to 16; of bytes by 1 to 8.
struct Shift {
  int bits;
};
POLARQUANT_WORDS_INLINE Shift shift_of(std::size_t bits) { return {static_cast<int>(bits)}; }
POLARQUANT_WORDS_INLINE Words shift_right(Words words, Shift shift) {
  const int16x8_t left = vdupq_n_s16(static_cast<std::int16_t>(-shift.bits));
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    words.quarters[k] =
        vreinterpretq_s16_u16(vshlq_u16(vreinterpretq_u16_s16(words.quarters[k]), left));
  }
  return words;
}
// With the bits of `high` coming in.
POLARQUANT_WORDS_INLINE Words shift_right(Words low, Words high, Shift shift) {
  const int16x8_t right = vdupq_n_s16(static_cast<std::int16_t>(-shift.bits));
  const int16x8_t left = vdupq_n_s16(static_cast<std::int16_t>(16 - shift.bits));
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    low.quarters[k] =
        vreinterpretq_s16_u16(vorrq_u16(vshlq_u16(vreinterpretq_u16_s16(low.quarters[k]), right),
                                        vshlq_u16(vreinterpretq_u16_s16(high.quarters[k]), left)));
  }
  return low;
}

// ---- Bytes ----

POLARQUANT_WORDS_INLINE Bytes low_bytes(Words words) {
  Bytes bytes;
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    bytes.halves[k] = vuzp1q_u8(vreinterpretq_u8_s16(words.quarters[2 * k]),
                                vreinterpretq_u8_s16(words.quarters[2 * k + 1]));
  }
  return bytes;
}
// The low bytes and the high bytes of words.
POLARQUANT_WORDS_INLINE void split(Words words, Bytes& low, Bytes& high) {
  low = low_bytes(words);
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    high.halves[k] = vuzp2q_u8(vreinterpretq_u8_s16(words.quarters[2 * k]),
                               vreinterpretq_u8_s16(words.quarters[2 * k + 1]));
  }
}
// The kBits bits of each byte from bit kFrom on, those that it has, moved to bit kTo.
template <int kFrom, int kBits, int kTo>
POLARQUANT_WORDS_INLINE Bytes move_bits(Bytes bytes) {
  const uint8x16_t mask = vdupq_n_u8(static_cast<std::uint8_t>(((1 << kBits) - 1) << kTo));
#pragma GCC unroll 2
  for (uint8x16_t& half : bytes.halves) {
    if constexpr (kFrom > kTo) half = vshrq_n_u8(half, kFrom - kTo);
    if constexpr (kFrom < kTo) half = vshlq_n_u8(half, kTo - kFrom);
    half = vandq_u8(half, mask);
  }
  return bytes;
}
POLARQUANT_WORDS_INLINE Bytes bits_or(Bytes a, Bytes b) {
  return {{vorrq_u8(a.halves[0], b.halves[0]), vorrq_u8(a.halves[1], b.halves[1])}};
}
// The lowest kBits bits of each byte.
template <int kBits>
POLARQUANT_WORDS_INLINE Bytes low_bits(Bytes bytes) {
  const uint8x16_t mask = vdupq_n_u8((1 << kBits) - 1);
  return {{vandq_u8(bytes.halves[0], mask), vandq_u8(bytes.halves[1], mask)}};
}
// To the right.
POLARQUANT_WORDS_INLINE Bytes shift_right(Bytes bytes, Shift shift) {
  const int8x16_t left = vdupq_n_s8(static_cast<std::int8_t>(-shift.bits));
  return {{vshlq_u8(bytes.halves[0], left), vshlq_u8(bytes.halves[1], left)}};
}

// ---- Look-ups ----

template <int kBits>
POLARQUANT_WORDS_INLINE uint8x16_t look_up_bytes(const std::uint8_t* entries, uint8x16_t index) {
  if constexpr (kBits == 4) {
    return vqtbl1q_u8(vld1q_u8(entries), index);
  } else if constexpr (kBits == 5) {
    return vqtbl2q_u8({{vld1q_u8(entries), vld1q_u8(entries + 16)}}, index);
  } else {
    return vqtbl4q_u8({{vld1q_u8(entries), vld1q_u8(entries + 16), vld1q_u8(entries + 32),
                        vld1q_u8(entries + 48)}},
                      index);
  }
}

// The fractions of a table of 2^kBits entries, 4 <= kBits <= 6, of which low and high are the
// bytes, at indices of kBits bits.
template <int kBits>
POLARQUANT_WORDS_INLINE Words look_up(const std::uint8_t* low, const std::uint8_t* high,
                                      Bytes index) {
  Words words;
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    const uint8x16_t low_byte = look_up_bytes<kBits>(low, index.halves[k]);
    const uint8x16_t high_byte = look_up_bytes<kBits>(high, index.halves[k]);
    words.quarters[2 * k] = vreinterpretq_s16_u8(vzip1q_u8(low_byte, high_byte));
    words.quarters[2 * k + 1] = vreinterpretq_s16_u8(vzip2q_u8(low_byte, high_byte));
  }
  return words;
}

// ---- Floats ----

POLARQUANT_WORDS_INLINE Floats broadcast(float value) {
  const float32x4_t eighth = vdupq_n_f32(value);
  return {{eighth, eighth, eighth, eighth, eighth, eighth, eighth, eighth}};
}
POLARQUANT_WORDS_INLINE Floats load_floats(const float* values) {
  Floats floats;
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) floats.eighths[k] = vld1q_f32(values + 4 * k);
  return floats;
}
POLARQUANT_WORDS_INLINE void store_floats(float* values, Floats floats) {
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) vst1q_f32(values + 4 * k, floats.eighths[k]);
}
// From their own order to that of vectors, or back: here they are one.
POLARQUANT_WORDS_INLINE Floats reorder(Floats a) { return a; }
POLARQUANT_WORDS_INLINE Floats multiply(Floats a, Floats b) {
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) a.eighths[k] = vmulq_f32(a.eighths[k], b.eighths[k]);
  return a;
}
POLARQUANT_WORDS_INLINE Floats divide(Floats a, Floats b) {
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) a.eighths[k] = vdivq_f32(a.eighths[k], b.eighths[k]);
  return a;
}
POLARQUANT_WORDS_INLINE Floats add(Floats a, Floats b) {
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) a.eighths[k] = vaddq_f32(a.eighths[k], b.eighths[k]);
  return a;
}
// a b + c.
POLARQUANT_WORDS_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) a.eighths[k] = vfmaq_f32(c.eighths[k], a.eighths[k], b.eighths[k]);
  return a;
}
POLARQUANT_WORDS_INLINE Floats larger(Floats a, Floats b) {
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) a.eighths[k] = vmaxq_f32(a.eighths[k], b.eighths[k]);
  return a;
}
POLARQUANT_WORDS_INLINE Floats magnitude(Floats a) {
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) a.eighths[k] = vabsq_f32(a.eighths[k]);
  return a;
}
POLARQUANT_WORDS_INLINE Floats square_root(Floats a) {
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) a.eighths[k] = vsqrtq_f32(a.eighths[k]);
  return a;
}

// Half of a quarter, each word followed by 16 zero bits.
POLARQUANT_WORDS_INLINE int32x4_t high_words(Words words, int eighth) {
  const int16x8_t quarter = words.quarters[eighth / 2];
  return eighth % 2 == 0 ? vshlq_n_s32(vmovl_s16(vget_low_s16(quarter)), 16)
                         : vshlq_n_s32(vmovl_high_s16(quarter), 16);
}
// Bfloat16 numbers as floats.
POLARQUANT_WORDS_INLINE Floats from_bfloat16(Words words) {
  Floats floats;
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) floats.eighths[k] = vreinterpretq_f32_s32(high_words(words, k));
  return floats;
}
// 2^16 times the words.
POLARQUANT_WORDS_INLINE Floats to_floats(Words words) {
  Floats floats;
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) floats.eighths[k] = vcvtq_f32_s32(high_words(words, k));
  return floats;
}
// Rounded to the nearest.
POLARQUANT_WORDS_INLINE Words to_words(Floats a) {
  Words words;
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    words.quarters[k] = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(a.eighths[2 * k])),
                                     vqmovn_s32(vcvtnq_s32_f32(a.eighths[2 * k + 1])));
  }
  return words;
}

// ---- Sums ----

POLARQUANT_WORDS_INLINE Sums zero_sums() {
  const int32x4_t zero = vdupq_n_s32(0);
  return {{zero, zero, zero, zero, zero, zero, zero, zero}};
}
// Plus the products of words, neighbours apart.
POLARQUANT_WORDS_INLINE Sums multiply_add(Words a, Words b, Sums sums) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    sums.eighths[2 * k] =
        vmlal_s16(sums.eighths[2 * k], vget_low_s16(a.quarters[k]), vget_low_s16(b.quarters[k]));
    sums.eighths[2 * k + 1] = vmlal_high_s16(sums.eighths[2 * k + 1], a.quarters[k], b.quarters[k]);
  }
  return sums;
}
// Of neighbours together.
POLARQUANT_WORDS_INLINE int32x4_t pair_sums(Sums sums, int k) {
  return vpaddq_s32(sums.eighths[2 * k], sums.eighths[2 * k + 1]);
}
// total += sums, neighbours together.
POLARQUANT_WORDS_INLINE void add_to(Lanes& total, Sums sums) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const int32x4_t old = vreinterpretq_s32_s16(vld1q_s16(total.values + 8 * k));
    vst1q_s16(total.values + 8 * k, vreinterpretq_s16_s32(vaddq_s32(old, pair_sums(sums, k))));
  }
}
// Totals of words interleaved, as floats.
POLARQUANT_WORDS_INLINE Floats to_floats(const Lanes& first, const Lanes& second) {
  Floats floats;
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    floats.eighths[k] = vcvtq_f32_s32(vreinterpretq_s32_s16(vld1q_s16(first.values + 8 * k)));
    floats.eighths[4 + k] = vcvtq_f32_s32(vreinterpretq_s32_s16(vld1q_s16(second.values + 8 * k)));
  }
  return floats;
}
// out[0 .. 16) += factor * sums, neighbours together.
POLARQUANT_WORDS_INLINE void add_scaled(Sums sums, float factor, float* out) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    vst1q_f32(out + 4 * k,
              vfmaq_n_f32(vld1q_f32(out + 4 * k), vcvtq_f32_s32(pair_sums(sums, k)), factor));
  }
}

}  // namespace words
}  // namespace detail
POLARQUANT_END_NAMESPACE
#endif
