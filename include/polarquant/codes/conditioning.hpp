// What is done to a vector before it is rotated and encoded.
#pragma once

#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// A symmetric matrix S by which keys are multiplied, k' = k S; queries are multiplied by its
// inverse, q' = q S^-1, so that scores stay what they are, and so are keys that are decoded. It is
// diagonal (channel scales) or full. Pointers are to the caller's memory.
template <typename A>
struct KeyTransform {
  const A* scales = nullptr;      // [head_dim], positive: the diagonal of S
  const float* matrix = nullptr;  // [head_dim, head_dim], S itself; in place of scales
  const float* inverse = nullptr;

  // S = 1.
  bool is_identity() const { return scales == nullptr && matrix == nullptr; }
};

// A vector x becomes x' = x S - c before it is rotated and encoded, and x again when it is decoded.
// c: a centre, of what has been multiplied by S.
template <typename A>
struct Conditioning {
  KeyTransform<A> transform;
  const A* center = nullptr;  // [head_dim]; null: 0

  bool is_identity() const { return transform.is_identity() && center == nullptr; }
};

POLARQUANT_END_NAMESPACE
