// Rotation of one vector, in plain loops. Many at once: Rotation::apply_lanes.
#pragma once

#include <cstddef>

#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/method/rotation.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace loops {

// y = x M for a row-major d x d matrix, many columns at a time; the same sums in the same order as
// multiply_lanes.
template <typename T>
POLARQUANT_ALWAYS_INLINE void multiply_row(const float* matrix, std::size_t d, const T* x, T* y) {
  constexpr std::size_t kColumns = 64;
  for (std::size_t first = 0; first < d; first += kColumns) {
    const std::size_t width = d - first < kColumns ? d - first : kColumns;
    T sums[kColumns] = {};
    if (width == kColumns) {
      for (std::size_t i = 0; i < d; ++i) {
        for (std::size_t j = 0; j < kColumns; ++j) {
          sums[j] = fused(x[i], static_cast<T>(matrix[i * d + first + j]), sums[j]);
        }
      }
    } else {
      for (std::size_t i = 0; i < d; ++i) {
        for (std::size_t j = 0; j < width; ++j) {
          sums[j] = fused(x[i], static_cast<T>(matrix[i * d + first + j]), sums[j]);
        }
      }
    }
    for (std::size_t j = 0; j < width; ++j) y[first + j] = sums[j];
  }
}

// y = x S. x, y: [head_dim], not overlapping.
template <typename T>
POLARQUANT_ALWAYS_INLINE void rotate(const Rotation& rotation, const T* x, T* y) {
  if (rotation.kind() == RotationKind::kHaar) {
    multiply_row(rotation.haar(), static_cast<std::size_t>(rotation.head_dim()), x, y);
  } else {
    rotation.apply_lanes<1>(x, y);
  }
}

// x = y S^T. x, y: [head_dim], not overlapping.
template <typename T>
POLARQUANT_ALWAYS_INLINE void rotate_back(const Rotation& rotation, const T* y, T* x) {
  if (rotation.kind() == RotationKind::kHaar) {
    multiply_row(rotation.haar_transposed(), static_cast<std::size_t>(rotation.head_dim()), y, x);
  } else {
    rotation.apply_transpose_lanes<1>(y, x);
  }
}

}  // namespace loops
}  // namespace detail
POLARQUANT_END_NAMESPACE
