// Softmax over tokens that arrive in blocks.
#pragma once

#include <cmath>
#include <limits>

#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// The running maximum and sum of a softmax whose logits come block by block (the online softmax of
// Milakov and Gimelshein, arXiv 1805.02867). What has been summed so far, here and in the caller's
// weighted sums, is relative to exp(maximum).
template <typename T>
struct OnlineSoftmax {
  T maximum = -std::numeric_limits<T>::infinity();
  T sum = T(0);

  // Takes in the largest logit of the next block. Returns the factor by which the caller's weighted
  // sums shrink: 1 if the maximum stands, 0 at the first block.
  T raise_maximum(T largest) {
    if (!(largest > maximum)) return T(1);
    const T factor = std::exp(maximum - largest);
    sum *= factor;
    maximum = largest;
    return factor;
  }

  // Takes in one logit that has no value to sum. Returns the factor by which the caller's weighted
  // sums shrink.
  T add_logit(T logit) {
    const T factor = raise_maximum(logit);
    if (!detail::is_negative_infinity(logit)) sum += std::exp(logit - maximum);
    return factor;
  }

  // What the weighted sums are multiplied by at the end; 0 if there was no token at all.
  T normalizer() const { return sum > T(0) ? T(1) / sum : T(0); }
};

POLARQUANT_END_NAMESPACE
