// Attention on uncompressed rows, and the logit soft-cap, in plain loops.
//
// A row is padded with zeros to a multiple of kExactLanes numbers, so that no loop has a rest.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/kernels/loops/softmax.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace loops {

inline constexpr std::size_t kExactLanes = 16;

// Entries of a padded row.
constexpr std::size_t padded_width(std::size_t head_dim) {
  return (head_dim + kExactLanes - 1) / kExactLanes * kExactLanes;
}

// No lambdas: they do not take on the target of the function they are inlined into.
struct Float16ToFloat {
  POLARQUANT_ALWAYS_INLINE float operator()(std::uint16_t bits) const {
    return float16_to_float(bits);
  }
};
struct Float16ToFloatByProduct {
  POLARQUANT_ALWAYS_INLINE float operator()(std::uint16_t bits) const {
    return float16_to_float_by_product(bits);
  }
};
struct BFloat16ToFloat {
  POLARQUANT_ALWAYS_INLINE float operator()(std::uint16_t bits) const {
    return bfloat16_to_float(bits);
  }
};
struct Same {
  template <typename T>
  POLARQUANT_ALWAYS_INLINE T operator()(T number) const {
    return number;
  }
};

template <typename Stored, typename T, typename Convert>
POLARQUANT_ALWAYS_INLINE void expand_as(const std::byte* stored, std::size_t count, T* out,
                                        const Convert& convert) {
  for (std::size_t i = 0; i < count; ++i) {
    Stored number;
    std::memcpy(&number, stored + i * sizeof number, sizeof number);
    out[i] = static_cast<T>(convert(number));
  }
}

// out[i] = stored number i, i < count.
template <typename T>
POLARQUANT_ALWAYS_INLINE void expand(FloatType type, const std::byte* stored, std::size_t count,
                                     T* out) {
  if (type == FloatType::kFloat16) {
    if (subnormals_are_zeros()) {
      expand_as<std::uint16_t>(stored, count, out, Float16ToFloat{});
    } else {
      expand_as<std::uint16_t>(stored, count, out, Float16ToFloatByProduct{});
    }
  } else if (type == FloatType::kBFloat16) {
    expand_as<std::uint16_t>(stored, count, out, BFloat16ToFloat{});
  } else if (type == FloatType::kFloat32) {
    expand_as<float>(stored, count, out, Same{});
  } else {
    expand_as<double>(stored, count, out, Same{});
  }
}

// scores[t] = <query, row t>. query: [width]; rows: [rows.count, width].
template <typename T>
POLARQUANT_ALWAYS_INLINE void dot_rows(const T* query, Rows<const T> rows, std::size_t width,
                                       T* scores) {
  for (std::size_t t = 0; t < rows.count; ++t) {
    const T* const row = rows.row(t);
    T lanes[kExactLanes] = {};
    for (std::size_t i = 0; i < width; i += kExactLanes) {
      for (std::size_t j = 0; j < kExactLanes; ++j) lanes[j] += query[i + j] * row[i + j];
    }
    scores[t] = sum_by_halves<kExactLanes>(lanes);
  }
}

// sum += sum_t weights[t] row t, some columns at a time. sum: [width]; rows: [rows.count, width].
template <std::size_t kColumns, typename T>
POLARQUANT_ALWAYS_INLINE void add_columns(const T* weights, Rows<const T> rows, T* sum) {
  T lanes[kColumns];
  for (std::size_t j = 0; j < kColumns; ++j) lanes[j] = sum[j];
  for (std::size_t t = 0; t < rows.count; ++t) {
    const T weight = weights[t];
    const T* const row = rows.row(t);
    for (std::size_t j = 0; j < kColumns; ++j) lanes[j] += weight * row[j];
  }
  for (std::size_t j = 0; j < kColumns; ++j) sum[j] = lanes[j];
}
template <typename T>
POLARQUANT_ALWAYS_INLINE void add_rows(const T* weights, Rows<const T> rows, std::size_t width,
                                       T* sum) {
  std::size_t i = 0;
  for (; i + 4 * kExactLanes <= width; i += 4 * kExactLanes) {
    add_columns<4 * kExactLanes>(weights, {rows.data + i, rows.count, rows.stride}, sum + i);
  }
  for (; i < width; i += kExactLanes) {
    add_columns<kExactLanes>(weights, {rows.data + i, rows.count, rows.stride}, sum + i);
  }
}

// x tanh(y) / y with x = cap y: for |y| < 1/4 by its power series, whose error is below 1e-8 x and
// vanishes with y, so that a large cap is no cap; beyond from exp(-2 |y|), which cannot overflow,
// to 2e-7 cap.
POLARQUANT_ALWAYS_INLINE float soft_cap(float x, float y, float cap) {
  const float y2 = y * y;
  float series = 62.0f / 2835.0f;
  series = fused(series, y2, -17.0f / 315.0f);
  series = fused(series, y2, 2.0f / 15.0f);
  series = fused(series, y2, -1.0f / 3.0f);
  const float by_series = fused(x, y2 * series, x);
  const float magnitude = float_from_bits(float_bits(y) & 0x7fffffffu);
  const float e = exp_nonpositive(-2.0f * magnitude);
  const float large = cap * (1.0f - e) / (1.0f + e);
  const std::uint32_t signed_large = float_bits(large) | (float_bits(y) & 0x80000000u);
  return float_from_bits(
      select_bits(float_bits(magnitude) < 0x3e800000u, float_bits(by_series), signed_large));
}
POLARQUANT_ALWAYS_INLINE double soft_cap(double x, double y, double cap) {
  return y > -1e-9 && y < 1e-9 ? x : cap * std::tanh(y);
}

// logits[i] = cap tanh((logits[i] + shift) / cap).
template <typename T>
POLARQUANT_ALWAYS_INLINE void cap_logits(T* logits, std::size_t count, T cap, T shift) {
  const T inverse = T(1) / cap;
  for (std::size_t i = 0; i < count; ++i) {
    const T x = logits[i] + shift;
    logits[i] = soft_cap(x, x * inverse, cap);
  }
}

}  // namespace loops
}  // namespace detail
POLARQUANT_END_NAMESPACE
