// What became of vectors that were to be encoded.
#pragma once

#include <cstddef>
#include <cstdint>

#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// Why a vector could not be taken in.
enum class EncodeFailure : std::uint8_t {
  kNone = 0,
  kNotFinite = 1,   // a coordinate is NaN or infinite
  kOutOfRange = 2,  // the norm (or a coordinate that is kept as it is) is beyond its type's range
  kNoCapacity = 3,  // append on Rows: the cache has no room of its own for so many tokens
};

// How many rows were encoded, and why not the next one.
struct [[nodiscard]] EncodeResult {
  std::size_t num_encoded = 0;
  EncodeFailure failure = EncodeFailure::kNone;
};

POLARQUANT_END_NAMESPACE
