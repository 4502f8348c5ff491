// Centring and channel scales, in plain loops.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/kernels/loops/exact.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace loops {

// out[k num_words + j] = step (n - 7.5) for the k-th four bits n of word j, k < 8, j < kCount.
// Through arrays of a fixed size, which vectorise at -O2 too.
template <std::size_t kCount, typename T>
POLARQUANT_ALWAYS_INLINE void expand_words(const std::byte* code_words, std::size_t num_words,
                                           T step, T* out) {
  std::uint32_t words[kCount];
  std::memcpy(words, code_words, sizeof words);
  for (unsigned k = 0; k < 8; ++k) {
    T numbers[kCount];
    for (std::size_t j = 0; j < kCount; ++j) {
      const std::int32_t index = static_cast<std::int32_t>((words[j] >> (4 * k)) & 15u);
      numbers[j] = step * (static_cast<T>(index) - T(7.5));
    }
    std::memcpy(out + k * num_words, numbers, sizeof numbers);
  }
}

template <typename T>
POLARQUANT_ALWAYS_INLINE T center_step(const std::byte* code) {
  std::uint16_t bits;
  std::memcpy(&bits, code, sizeof bits);
  return static_cast<T>(bfloat16_to_float(bits));
}

// center = that of the code, in the rotated basis (codes/center_code.hpp): head_dim numbers, and
// what else the last words hold.
template <typename T>
POLARQUANT_ALWAYS_INLINE void expand_center(const std::byte* code, std::size_t head_dim,
                                            T* center) {
  const std::size_t num_words = center_words(head_dim);
  const T step = center_step<T>(code);
  const std::byte* const words = code + kCenterStepBytes;
  std::size_t j = 0;
  for (; j + 16 <= num_words; j += 16) {
    expand_words<16>(words + 4 * j, num_words, step, center + j);
  }
  for (; j + 4 <= num_words; j += 4) expand_words<4>(words + 4 * j, num_words, step, center + j);
  for (; j < num_words; ++j) expand_words<1>(words + 4 * j, num_words, step, center + j);
}

// The centres of the codes in `scratch`, [codes.count, width], with zeros behind head_dim; width:
// padded_width(head_dim).
template <typename T>
POLARQUANT_ALWAYS_INLINE Rows<const T> expand_centers(Rows<const std::byte> codes,
                                                      std::size_t head_dim, T* scratch) {
  const Rows<T> centers = {scratch, codes.count, padded_width(head_dim)};
  for (std::size_t s = 0; s < codes.count; ++s) {
    T* const center = centers.row(s);
    expand_center(codes.row(s), head_dim, center);
    for (std::size_t i = head_dim; i < centers.stride; ++i) center[i] = T(0);
  }
  return centers;
}

// dots[row][s] = <query row, centre of code s>. queries: [dots.count, width], rotated, with zeros
// behind head_dim; scratch: [codes.count, width].
template <typename T>
POLARQUANT_ALWAYS_INLINE void dot_centers(Rows<const std::byte> codes, std::size_t head_dim,
                                          Rows<const T> queries, T* scratch, Rows<T> dots) {
  const Rows<const T> centers = expand_centers(codes, head_dim, scratch);
  for (std::size_t row = 0; row < dots.count; ++row) {
    dot_rows(queries.row(row), centers, centers.stride, dots.row(row));
  }
}

// sums[row] += sum_s weights[row][s] centre of code s; what is behind head_dim is anything. sums:
// [weights.count, width]; scratch: [codes.count, width].
template <typename T>
POLARQUANT_ALWAYS_INLINE void add_centers(Rows<const std::byte> codes, std::size_t head_dim,
                                          Rows<const T> weights, T* scratch, Rows<T> sums) {
  const Rows<const T> centers = expand_centers(codes, head_dim, scratch);
  for (std::size_t row = 0; row < sums.count; ++row) {
    add_rows(weights.row(row), centers, centers.stride, sums.row(row));
  }
}

}  // namespace loops
}  // namespace detail
POLARQUANT_END_NAMESPACE
