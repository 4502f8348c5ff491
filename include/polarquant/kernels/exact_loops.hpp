// Attention on uncompressed rows, and the logit soft-cap, in plain loops.
//
// A row is padded with zeros to a multiple of kExactLanes numbers, so that no loop has a rest.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "polarquant/float_types.hpp"
#include "polarquant/kernels/isa.hpp"
#include "polarquant/kernels/softmax_loops.hpp"
#include "polarquant/rows.hpp"
#include "polarquant/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace loops {

inline constexpr std::size_t kExactLanes = 16;

// out[i] = stored number i, i < count, a multiple of kExactLanes.
template <typename T>
POLARQUANT_ALWAYS_INLINE void expand(FloatType type, const std::byte* stored, std::size_t count,
                                     T* out) {
  for (std::size_t i = 0; i < count; i += kExactLanes) {
    if (type == FloatType::kBFloat16 || type == FloatType::kFloat16) {
      std::uint16_t bits[kExactLanes];
      std::memcpy(bits, stored + 2 * i, sizeof bits);
      if (type == FloatType::kBFloat16) {
        for (std::size_t j = 0; j < kExactLanes; ++j) {
          out[i + j] = static_cast<T>(bfloat16_to_float(bits[j]));
        }
      } else {
        for (std::size_t j = 0; j < kExactLanes; ++j) {
          out[i + j] = static_cast<T>(float16_to_float(bits[j]));
        }
      }
    } else if (type == FloatType::kFloat32) {
      float values[kExactLanes];
      std::memcpy(values, stored + 4 * i, sizeof values);
      for (std::size_t j = 0; j < kExactLanes; ++j) out[i + j] = static_cast<T>(values[j]);
    } else {
      double values[kExactLanes];
      std::memcpy(values, stored + 8 * i, sizeof values);
      for (std::size_t j = 0; j < kExactLanes; ++j) out[i + j] = static_cast<T>(values[j]);
    }
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
    for (std::size_t half = kExactLanes / 2; half > 0; half /= 2) {
      for (std::size_t j = 0; j < half; ++j) lanes[j] += lanes[j + half];
    }
    scores[t] = lanes[0];
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

// logits[i] = cap tanh((logits[i] + shift) / cap), to 2e-7 cap; tanh from exp(-2 |x|), which cannot
// overflow.
template <typename T>
POLARQUANT_ALWAYS_INLINE void cap_logits(T* logits, std::size_t count, T cap, T shift) {
  const T inverse = T(1) / cap;
  for (std::size_t i = 0; i < count; ++i) {
    const T x = (logits[i] + shift) * inverse;
    const T e = exp_nonpositive(T(-2) * std::abs(x));
    logits[i] = std::copysign(cap * (T(1) - e) / (T(1) + e), x);
  }
}

}  // namespace loops
}  // namespace detail
POLARQUANT_END_NAMESPACE
