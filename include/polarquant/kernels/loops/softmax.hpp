// Maxima and exponentials of scores, in plain loops.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace loops {

// exp(x) for x <= 0, to 2 ULP; 0 below -87. A loop over it vectorises.
POLARQUANT_ALWAYS_INLINE float exp_nonpositive(float x) {
  // x is clamped, and what is beyond made 0, by integers, which order like magnitudes: of
  // conditions on x g++ makes a branch around all of this, and no vectors.
  constexpr std::uint32_t kLimit = 0xc2ae0000u;  // -87
  const std::uint32_t bits = float_bits(x) | 0x80000000u;
  const float clamped = float_from_bits(bits < kLimit ? bits : kLimit);
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
  const float shifted = clamped * 1.44269504f + 12582912.0f;
#if POLARQUANT_DETAIL_SUMS_ARE_KEPT
  const float n = shifted - 12582912.0f;
#else  // The same from the bits, one instruction more: a compiler might fold the difference.
  const float n = static_cast<float>(static_cast<std::int32_t>(float_bits(shifted)) - 0x4b400000);
#endif
  const float f = fused(n, -1.42860677e-6f, fused(n, -0.693145752f, clamped));
  float series = 1.0f / 5040.0f;
  series = fused(series, f, 1.0f / 720.0f);
  series = fused(series, f, 1.0f / 120.0f);
  series = fused(series, f, 1.0f / 24.0f);
  series = fused(series, f, 1.0f / 6.0f);
  series = fused(series, f, 0.5f);
  series = fused(series, f, 1.0f);
  series = fused(series, f, 1.0f);
  const std::uint32_t exponent = (float_bits(shifted) + 127u) << 23;
  const std::uint32_t mask =
      static_cast<std::uint32_t>(static_cast<std::int32_t>(bits - kLimit) >> 31);
  return float_from_bits(float_bits(series * float_from_bits(exponent)) & mask);
}
POLARQUANT_ALWAYS_INLINE double exp_nonpositive(double x) { return std::exp(x); }

// The sum of kCount numbers, a power of two, by halves.
template <std::size_t kCount, typename T>
POLARQUANT_ALWAYS_INLINE T sum_by_halves(const T* numbers) {
  if constexpr (kCount == 1) {
    return numbers[0];
  } else {
    T halves[kCount / 2];
    for (std::size_t j = 0; j < kCount / 2; ++j) halves[j] = numbers[j] + numbers[j + kCount / 2];
    return sum_by_halves<kCount / 2>(halves);
  }
}

// The largest of kCount numbers, a power of two, by halves.
template <std::size_t kCount, typename T>
POLARQUANT_ALWAYS_INLINE T maximum_by_halves(const T* numbers) {
  if constexpr (kCount == 1) {
    return numbers[0];
  } else {
    T halves[kCount / 2];
    for (std::size_t j = 0; j < kCount / 2; ++j) {
      halves[j] = numbers[j + kCount / 2] > numbers[j] ? numbers[j + kCount / 2] : numbers[j];
    }
    return maximum_by_halves<kCount / 2>(halves);
  }
}

// The largest of `count` values, count > 0.
template <typename T>
POLARQUANT_ALWAYS_INLINE T maximum(const T* values, std::size_t count) {
  T lanes[kTileTokens];
  for (T& lane : lanes) lane = values[0];
  std::size_t i = 0;
  for (; i + kTileTokens <= count; i += kTileTokens) {
    for (std::size_t t = 0; t < kTileTokens; ++t) {
      lanes[t] = values[i + t] > lanes[t] ? values[i + t] : lanes[t];
    }
  }
  T result = maximum_by_halves<kTileTokens>(lanes);
  for (; i < count; ++i) result = values[i] > result ? values[i] : result;
  return result;
}

// values[i] = exp(values[i] - largest) for i < count, none of them above `largest`; returns their
// sum. The scale of the logits is not applied here: a compiler that fuses it with the difference
// would leave the rounding of a huge `largest` over, and exp of that is anything from 0 to
// infinity.
template <typename T>
POLARQUANT_ALWAYS_INLINE T exponentiate(T* values, std::size_t count, T largest) {
  T lanes[kTileTokens] = {};
  std::size_t i = 0;
  for (; i + kTileTokens <= count; i += kTileTokens) {
    for (std::size_t t = 0; t < kTileTokens; ++t) {
      const T weight = exp_nonpositive(values[i + t] - largest);
      values[i + t] = weight;
      lanes[t] += weight;
    }
  }
  T total = sum_by_halves<kTileTokens>(lanes);
  for (; i < count; ++i) {
    values[i] = exp_nonpositive(values[i] - largest);
    total += values[i];
  }
  return total;
}

}  // namespace loops
}  // namespace detail
POLARQUANT_END_NAMESPACE
