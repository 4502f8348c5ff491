// Rows of numbers in the caller's memory.
#pragma once

#include <cstddef>
#include <type_traits>

#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// `count` rows; row i begins at data + i * stride. Strides count elements of T.
template <typename T>
struct Rows {
  T* data = nullptr;
  std::size_t count = 0;
  std::size_t stride = 0;

  constexpr Rows() = default;

  // Of any integer types, so that an engine's ints come in as they are. None is negative.
  template <typename Count, typename Stride,
            typename = std::enable_if_t<std::is_integral_v<Count> && std::is_integral_v<Stride>>>
  constexpr Rows(T* rows, Count num_rows, Stride distance)
      : data(rows),
        count(static_cast<std::size_t>(num_rows)),
        stride(static_cast<std::size_t>(distance)) {}

  constexpr T* row(std::size_t i) const { return data + i * stride; }

  // Rows from row `first` on, `num_rows` of them, and in each the columns from `column` on.
  constexpr Rows block(std::size_t first, std::size_t num_rows, std::size_t column = 0) const {
    return {data + first * stride + column, num_rows, stride};
  }

  constexpr operator Rows<const T>() const { return {data, count, stride}; }
};

POLARQUANT_END_NAMESPACE
