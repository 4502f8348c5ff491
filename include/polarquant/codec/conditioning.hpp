// What is done to a vector before it is rotated and encoded.
#pragma once

#include <cstddef>

#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// A vector x becomes x' = s x - c, element by element, before it is rotated and encoded, and x
// again when it is decoded. s: channel scales, of keys; queries are divided by them, so that scores
// stay as they are. c: a centre of what is scaled. Pointers are to the caller's memory.
template <typename A>
struct Conditioning {
  const A* scales = nullptr;  // [head_dim], positive; null: 1
  const A* center = nullptr;  // [head_dim]; null: 0

  bool is_identity() const { return scales == nullptr && center == nullptr; }

  // x' to x, in place.
  void undo(A* x, std::size_t head_dim) const noexcept {
    for (std::size_t i = 0; center != nullptr && i < head_dim; ++i) x[i] += center[i];
    for (std::size_t i = 0; scales != nullptr && i < head_dim; ++i) x[i] /= scales[i];
  }
};

POLARQUANT_END_NAMESPACE
