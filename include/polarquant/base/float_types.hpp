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

inline bool is_finite(float x) { return (float_bits(x) & 0x7f800000u) != 0x7f800000u; }
inline bool is_finite(double x) {
  std::uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return (bits & 0x7ff0000000000000u) != 0x7ff0000000000000u;
}

inline bool is_negative_infinity(float x) { return float_bits(x) == 0xff800000u; }
inline bool is_negative_infinity(double x) {
  std::uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits == 0xfff0000000000000u;
}

// Round to nearest, ties to even. A finite float beyond the range becomes infinity; NaN is not
// expected.
inline std::uint16_t float_to_bfloat16(float value) {
  const std::uint32_t bits = float_bits(value);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float bfloat16_to_float(std::uint16_t bits) {
  return float_from_bits(static_cast<std::uint32_t>(bits) << 16);
}

// Round to nearest, ties to even, with subnormals. A finite float beyond 65504 (after rounding)
// becomes infinity; NaN is not expected. Branch-free, so that loops over it vectorise.
inline std::uint16_t float_to_float16(float value) {
  const std::uint32_t bits = float_bits(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  // Below 2^-14 a half is a multiple of 2^-24. Adding 0.5 to the magnitude makes the float's last
  // mantissa bit worth exactly 2^-24, so that the addition itself rounds.
  const std::uint32_t subnormal = float_bits(float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  const std::uint32_t normal = (rounded - 0x38000000u) >> 13;
  const std::uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  return static_cast<std::uint16_t>(sign | (magnitude >= 0x47800000u ? 0x7c00u : finite));
}

// Exact. Branch-free, so that loops over it vectorise; infinities and NaN are not expected.
inline float float16_to_float(std::uint16_t half) {
  // The sign, extended, reaches bit 31 with the shift; the mask leaves it and the magnitude.
  const std::uint32_t extended =
      static_cast<std::uint32_t>(static_cast<std::int32_t>(static_cast<std::int16_t>(half)));
  // The exponent is off by 127 - 15 = 112; the product with 2^112 is exact, subnormals included.
  return float_from_bits((extended << 13) & 0x8fffe000u) * 0x1.0p112f;
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
