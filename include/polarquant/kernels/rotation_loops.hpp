// Rotation of many vectors, in plain loops.
#pragma once

#include <cstddef>

#include "polarquant/fixed_math.hpp"
#include "polarquant/kernels/isa.hpp"
#include "polarquant/rotation.hpp"
#include "polarquant/rows.hpp"
#include "polarquant/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace loops {

// y = x M for kRows rows at once; the same sums in the same order as multiply_row.
template <std::size_t kRows, typename T>
POLARQUANT_ALWAYS_INLINE void multiply_rows(const float* matrix, std::size_t d, const T* x,
                                            std::size_t x_stride, T* y, std::size_t y_stride) {
  constexpr std::size_t kColumns = 32;
  for (std::size_t first = 0; first < d; first += kColumns) {
    T sums[kRows][kColumns] = {};
    if (first + kColumns <= d) {
      for (std::size_t i = 0; i < d; ++i) {
        for (std::size_t r = 0; r < kRows; ++r) {
          for (std::size_t j = 0; j < kColumns; ++j) {
            sums[r][j] =
                fused(x[r * x_stride + i], static_cast<T>(matrix[i * d + first + j]), sums[r][j]);
          }
        }
      }
    } else {
      for (std::size_t i = 0; i < d; ++i) {
        for (std::size_t r = 0; r < kRows; ++r) {
          for (std::size_t j = 0; j < d - first; ++j) {
            sums[r][j] =
                fused(x[r * x_stride + i], static_cast<T>(matrix[i * d + first + j]), sums[r][j]);
          }
        }
      }
    }
    const std::size_t width = d - first < kColumns ? d - first : kColumns;
    for (std::size_t r = 0; r < kRows; ++r) {
      for (std::size_t j = 0; j < width; ++j) y[r * y_stride + first + j] = sums[r][j];
    }
  }
}

template <typename T>
POLARQUANT_ALWAYS_INLINE void multiply_all(const float* matrix, std::size_t d, Rows<const T> x,
                                           Rows<T> y) {
  std::size_t row = 0;
  for (; row + 4 <= x.count; row += 4) {
    multiply_rows<4>(matrix, d, x.row(row), x.stride, y.row(row), y.stride);
  }
  for (; row < x.count; ++row) {
    multiply_rows<1>(matrix, d, x.row(row), x.stride, y.row(row), y.stride);
  }
}

// Row by row y = x S. The rows must not overlap.
template <typename T>
POLARQUANT_ALWAYS_INLINE void rotate(const Rotation& rotation, Rows<const T> x, Rows<T> y) {
  if (rotation.kind() == RotationKind::kHaar) {
    multiply_all(rotation.haar(), static_cast<std::size_t>(rotation.head_dim()), x, y);
    return;
  }
  for (std::size_t row = 0; row < x.count; ++row) rotation.apply(x.row(row), y.row(row));
}

// Row by row x = y S^T. The rows must not overlap.
template <typename T>
POLARQUANT_ALWAYS_INLINE void rotate_back(const Rotation& rotation, Rows<const T> y, Rows<T> x) {
  if (rotation.kind() == RotationKind::kHaar) {
    multiply_all(rotation.haar_transposed(), static_cast<std::size_t>(rotation.head_dim()), y, x);
    return;
  }
  for (std::size_t row = 0; row < y.count; ++row) rotation.apply_transpose(y.row(row), x.row(row));
}

}  // namespace loops
}  // namespace detail
POLARQUANT_END_NAMESPACE
