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

// Row s of centers = the centre of code s, in the rotated basis (codes/center_code.hpp): head_dim
// numbers, and what else the last words hold.
template <typename T>
POLARQUANT_ALWAYS_INLINE void expand_centers(Rows<const std::byte> codes, std::size_t head_dim,
                                             Rows<T> centers) {
  const std::size_t num_words = center_words(head_dim);
  for (std::size_t s = 0; s < codes.count; ++s) {
    std::uint16_t bits;
    std::memcpy(&bits, codes.row(s), sizeof bits);
    const T step = static_cast<T>(bfloat16_to_float(bits));
    const std::byte* const words = codes.row(s) + sizeof bits;
    T* const out = centers.row(s);
    std::size_t j = 0;
    for (; j + 16 <= num_words; j += 16) expand_words<16>(words + 4 * j, num_words, step, out + j);
    for (; j + 4 <= num_words; j += 4) expand_words<4>(words + 4 * j, num_words, step, out + j);
    for (; j < num_words; ++j) expand_words<1>(words + 4 * j, num_words, step, out + j);
  }
}

// row = scales row - center, element by element, in one rounding whatever the compiler, so that
// equal rows get equal codes. scales, center, row: [head_dim]; null scales: 1, a null center: 0.
template <typename T>
POLARQUANT_ALWAYS_INLINE void condition(const T* scales, const T* center, std::size_t head_dim,
                                        T* row) {
  if (scales == nullptr) {
    for (std::size_t i = 0; center != nullptr && i < head_dim; ++i) row[i] -= center[i];
  } else if (center == nullptr) {
    for (std::size_t i = 0; i < head_dim; ++i) row[i] *= scales[i];
  } else {
    for (std::size_t i = 0; i < head_dim; ++i) row[i] = fused(scales[i], row[i], -center[i]);
  }
}

}  // namespace loops
}  // namespace detail
POLARQUANT_END_NAMESPACE
