// What is done to one vector before it is rotated and encoded, and undone, in plain loops.
#pragma once

#include <cstddef>

#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/conditioning.hpp"
#include "polarquant/kernels/loops/rotate.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace loops {

// row = row M, M: [head_dim, head_dim], in place.
template <typename T>
POLARQUANT_ALWAYS_INLINE void multiply_in_place(const float* matrix, std::size_t head_dim, T* row) {
  constexpr std::size_t kMaxHeadDim = 1024;  // that of Rotation
  T product[kMaxHeadDim];
  multiply_row(matrix, head_dim, row, product);
  for (std::size_t i = 0; i < head_dim; ++i) row[i] = product[i];
}

// row = row S - c, its roundings the same whatever the compiler, so that equal rows get equal
// codes. row: [head_dim].
template <typename T>
POLARQUANT_ALWAYS_INLINE void condition(const Conditioning<T>& change, std::size_t head_dim,
                                        T* row) {
  const T* const scales = change.transform.scales;
  const T* const center = change.center;
  if (scales != nullptr && center != nullptr) {
    for (std::size_t i = 0; i < head_dim; ++i) row[i] = fused(scales[i], row[i], -center[i]);
    return;
  }
  if (change.transform.matrix != nullptr) {
    multiply_in_place(change.transform.matrix, head_dim, row);
  }
  for (std::size_t i = 0; scales != nullptr && i < head_dim; ++i) row[i] *= scales[i];
  for (std::size_t i = 0; center != nullptr && i < head_dim; ++i) row[i] -= center[i];
}

// row = (row + c) S^-1. row: [head_dim].
template <typename T>
POLARQUANT_ALWAYS_INLINE void uncondition(const Conditioning<T>& change, std::size_t head_dim,
                                          T* row) {
  const T* const scales = change.transform.scales;
  const T* const center = change.center;
  for (std::size_t i = 0; center != nullptr && i < head_dim; ++i) row[i] += center[i];
  for (std::size_t i = 0; scales != nullptr && i < head_dim; ++i) row[i] /= scales[i];
  if (change.transform.matrix != nullptr) {
    multiply_in_place(change.transform.inverse, head_dim, row);
  }
}

}  // namespace loops
}  // namespace detail
POLARQUANT_END_NAMESPACE
