// Rows to vectors side by side: scaling, and what cannot be encoded.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "polarquant/base/float_types.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/tile.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// The largest magnitude of a row, infinity if a number is infinite or NaN. Magnitudes are compared
// as integers, which order like them and, unlike floats with their NaN, vectorise. A: float or
// double.
template <typename A, typename T>
double largest_magnitude(const T* row, std::size_t head_dim) noexcept {
  using Bits = std::conditional_t<std::is_same_v<A, double>, std::int64_t, std::int32_t>;
  Bits largest = 0;
  for (std::size_t i = 0; i < head_dim; ++i) {
    const A number = static_cast<A>(row[i]);
    Bits bits;
    std::memcpy(&bits, &number, sizeof bits);
    bits &= (std::numeric_limits<Bits>::max)();
    largest = bits > largest ? bits : largest;
  }
  // As integers: a build that takes all numbers for finite would fold a comparison of floats.
  const A most = (std::numeric_limits<A>::max)();
  Bits most_bits;
  std::memcpy(&most_bits, &most, sizeof most_bits);
  if (largest > most_bits) return std::numeric_limits<double>::infinity();
  A number;
  std::memcpy(&number, &largest, sizeof number);
  return static_cast<double>(number);
}

// Rows scaled to a magnitude about 1 and laid side by side: entry i of vector t at
// [i * num_lanes + t].
struct ScaledLanes {
  std::size_t head_dim;
  double* scales;  // [kTileTokens]
  float* entries;  // [head_dim, kTileTokens]

  // row = scale * entries with max |entries| in [1, 2) (or a zero row), the scale a power of two,
  // so that no square that matters over- or underflows. False if a number is not finite.
  template <typename A>
  bool load_row(const A* row, std::size_t num_lanes, std::size_t lane) const noexcept {
    const double largest = largest_magnitude<A>(row, head_dim);
    if (largest > (std::numeric_limits<double>::max)()) return false;
    const bool is_zero = !(largest >= 0x1p-160);
    const int exponent = is_zero ? 0 : std::ilogb(largest);
    scales[lane] = std::ldexp(1.0, exponent);
    const double inverse = is_zero ? 0.0 : std::ldexp(1.0, -exponent);
    const A factor = static_cast<A>(inverse);
    float* const out = entries + lane;
    if (static_cast<double>(factor) == inverse && is_finite(factor)) {
      // The exact product, rounded once, as below.
      for (std::size_t i = 0; i < head_dim; ++i) {
        out[i * num_lanes] = static_cast<float>(row[i] * factor);
      }
      return true;
    }
    for (std::size_t i = 0; i < head_dim; ++i) {
      out[i * num_lanes] = static_cast<float>(static_cast<double>(row[i]) * inverse);
    }
    return true;
  }

  // Loads up to num_lanes rows; lanes beyond the rows are zero. Returns how many rows came before
  // one that is not finite.
  template <typename A>
  std::size_t load_rows(Rows<const A> rows, std::size_t num_lanes) const noexcept {
    std::size_t count = 0;
    while (count < (std::min)(num_lanes, rows.count) &&
           load_row(rows.row(count), num_lanes, count)) {
      ++count;
    }
    for (std::size_t lane = count; lane < num_lanes; ++lane) {
      scales[lane] = 1.0;
      for (std::size_t i = 0; i < head_dim; ++i) entries[i * num_lanes + lane] = 0.0f;
    }
    return count;
  }
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
