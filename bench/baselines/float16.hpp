// IEEE half precision in a 16-bit integer, without compiler support.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace polarquant_baselines {

// Exact, subnormals, infinities and NaN included.
inline float float16_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fu;
  const std::uint32_t mantissa = half & 0x3ffu;
  std::uint32_t bits = sign | ((exponent + 112u) << 23) | (mantissa << 13);
  if (exponent == 31u) {
    bits = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent == 0u) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Rounds to nearest, ties to even; what lies beyond 65504 after rounding becomes infinity.
inline std::uint16_t float_to_float16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const float magnitude = std::fabs(value);
  std::uint32_t half = 0x7c00u;
  if (std::isnan(value)) {
    half = 0x7e00u;
  } else if (magnitude < 0x1p-14f) {
    // A multiple of 2^-24; 1024 of them carry into the first normal number by themselves.
    half = static_cast<std::uint32_t>(std::nearbyint(magnitude * 0x1p24f));
  } else if (magnitude < 65520.0f) {
    // The mantissa may carry into the exponent, which is then right as well.
    const std::uint32_t rounded = (bits & 0x7fffffffu) + 0xfffu + ((bits >> 13) & 1u);
    half = (rounded >> 13) - (112u << 10);
  }
  return static_cast<std::uint16_t>(sign | half);
}

}  // namespace polarquant_baselines
