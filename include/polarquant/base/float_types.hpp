// The storage types of radii and uncompressed coordinates, and their conversion to and from float.
#pragma once

#include <cstdint>
#include <cstring>

#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// How a floating-point number is stored, little-endian.
enum class FloatType : std::uint8_t {
  kBFloat16 = 0,  // float's range, 8 bits of precision
  kFloat16 = 1,   // up to 65504, 11 bits of precision
  kFloat32 = 2,
  kFloat64 = 3,
};

constexpr int float_type_bytes(FloatType type) {
  return type == FloatType::kFloat64 ? 8 : type == FloatType::kFloat32 ? 4 : 2;
}

constexpr const char* float_type_name(FloatType type) {
  return type == FloatType::kBFloat16  ? "bfloat16"
         : type == FloatType::kFloat16 ? "float16"
         : type == FloatType::kFloat32 ? "float32"
                                       : "float64";
}

namespace detail {

inline std::uint32_t float_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// One of two numbers by a mask of all bits. A compiler moves what only one branch of ?: needs into
// that branch, and with float arithmetic in it g++ then does not vectorise the loop.
inline std::uint32_t select_bits(bool first, std::uint32_t x, std::uint32_t y) {
  const std::uint32_t mask = 0u - static_cast<std::uint32_t>(first);
  return (x & mask) | (y & ~mask);
}
inline std::uint64_t double_bits(double value) {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// By bits: a compiler told -ffinite-math-only may take std::isfinite and comparisons with infinity
// for constants.
inline bool is_finite(float value) { return (float_bits(value) & 0x7f800000u) != 0x7f800000u; }
inline bool is_finite(double value) {
  return (double_bits(value) & 0x7ff0000000000000ULL) != 0x7ff0000000000000ULL;
}
inline bool is_negative_infinity(float value) { return float_bits(value) == 0xff800000u; }
inline bool is_negative_infinity(double value) {
  return double_bits(value) == 0xfff0000000000000ULL;
}
inline bool is_nan(float value) { return (float_bits(value) & 0x7fffffffu) > 0x7f800000u; }
inline bool is_nan(double value) {
  return (double_bits(value) & 0x7fffffffffffffffULL) > 0x7ff0000000000000ULL;
}

// The conversions below meet no subnormal float, as operand or as result of arithmetic: they are
// the same where the program lets the processor flush those to zero (FTZ and DAZ).

// The bits of static_cast<float>(value).
inline std::uint32_t double_to_float_bits(double value) {
  const std::uint64_t bits = double_bits(value);
  const std::uint64_t magnitude = bits & 0x7fffffffffffffffULL;
  // Below 2^-126 a float is a multiple of 2^-149. Adding 2^-97 makes the double's last mantissa bit
  // worth exactly that, so that the addition itself rounds.
  double positive;
  std::memcpy(&positive, &magnitude, sizeof positive);
  const std::uint32_t subnormal =
      static_cast<std::uint32_t>(double_bits(positive + 0x1p-97) - double_bits(0x1p-97));
  return magnitude < 0x3810000000000000ULL
             ? static_cast<std::uint32_t>(bits >> 32 & 0x80000000u) | subnormal
             : float_bits(static_cast<float>(value));
}

// Round to nearest, ties to even. A finite float beyond the range becomes infinity; NaN is not
// expected.
inline std::uint16_t float_bits_to_bfloat16(std::uint32_t bits) {
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline std::uint16_t float_to_bfloat16(float value) {
  return float_bits_to_bfloat16(float_bits(value));
}

inline float bfloat16_to_float(std::uint16_t bits) {
  return float_from_bits(static_cast<std::uint32_t>(bits) << 16);
}

// Round to nearest, ties to even, with subnormals. A finite float beyond 65504 (after rounding)
// becomes infinity; NaN is not expected. Branch-free, so that loops over it vectorise.
inline std::uint16_t float_bits_to_float16(std::uint32_t bits) {
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  // Below 2^-14 a half is a multiple of 2^-24. Adding 0.5 to the magnitude makes the float's last
  // mantissa bit worth exactly 2^-24, so that the addition itself rounds. A subnormal magnitude is
  // as good as 0 here.
  const std::uint32_t subnormal = float_bits(float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  const std::uint32_t normal = (rounded - 0x38000000u) >> 13;
  const std::uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  return static_cast<std::uint16_t>(sign | (magnitude >= 0x47800000u ? 0x7c00u : finite));
}
inline std::uint16_t float_to_float16(float value) {
  return float_bits_to_float16(float_bits(value));
}

// Exact. Branch-free, so that loops over it vectorise; infinities and NaN are not expected.
inline float float16_to_float(std::uint16_t half) {
  // The sign, extended, reaches bit 31 with the shift.
  const std::uint32_t shifted =
      static_cast<std::uint32_t>(static_cast<std::int32_t>(static_cast<std::int16_t>(half))) << 13;
  // The exponent is off by 127 - 15 = 112. A subnormal half, f 2^-14, becomes 2^-15 (1 + f) in that
  // way and lacks as much as this is below 2^-14. All differences are exact.
  const float raised = float_from_bits((shifted & 0x0fffe000u) + 0x38000000u);
  const float below = raised - 0x1p-14f;
  const float magnitude = raised + (below < 0.0f ? below : 0.0f);
  return float_from_bits(float_bits(magnitude) | (shifted & 0x80000000u));
}

// Whether the processor takes subnormal floats for zeros now (DAZ).
inline bool subnormals_are_zeros() {
  const volatile float subnormal = 0x1p-127f;
  return subnormal * 0x1p100f == 0.0f;
}

// The same where it does not, in half the instructions: a product of a subnormal float.
inline float float16_to_float_by_product(std::uint16_t half) {
  const std::uint32_t extended =
      static_cast<std::uint32_t>(static_cast<std::int32_t>(static_cast<std::int16_t>(half)));
  return float_from_bits((extended << 13) & 0x8fffe000u) * 0x1p112f;
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
