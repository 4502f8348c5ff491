// Rows of numbers in the caller's memory.
#pragma once

#include <cstddef>

#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// `count` rows; row i begins at data + i * stride. Strides count elements of T.
template <typename T>
struct Rows {
  T* data = nullptr;
  std::size_t count = 0;
  std::size_t stride = 0;

  T* row(std::size_t i) const { return data + i * stride; }

  operator Rows<const T>() const { return {data, count, stride}; }
};

POLARQUANT_END_NAMESPACE
