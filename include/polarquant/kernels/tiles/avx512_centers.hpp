// Centres of spans on AVX-512: one look-up decodes sixteen coordinates in the register where they
// are used.
#pragma once

#include <cstddef>

#include "polarquant/base/isa.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/kernels/loops/center.hpp"
#include "polarquant/kernels/words/avx512.hpp"

#if POLARQUANT_X86
#include <immintrin.h>

POLARQUANT_AVX512_BEGIN
POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace avx512 {

// n - 7.5 for the k-th four bits n of the words. The look-up minds the low four bits alone.
POLARQUANT_TARGET_AVX512 POLARQUANT_ALWAYS_INLINE __m512 center_numbers(__m512i words, unsigned k) {
  const __m512 numbers = _mm512_setr_ps(-7.5f, -6.5f, -5.5f, -4.5f, -3.5f, -2.5f, -1.5f, -0.5f,
                                        0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f, 6.5f, 7.5f);
  return _mm512_permutexvar_ps(_mm512_srli_epi32(words, 4 * k), numbers);
}

// Sixteen words of a code from word j on, and which of them there are.
struct CenterBlock {
  std::size_t first;
  std::size_t num_words;
  __mmask16 mask;
};
POLARQUANT_TARGET_AVX512 POLARQUANT_ALWAYS_INLINE CenterBlock center_block(std::size_t first,
                                                                           std::size_t num_words) {
  const std::size_t rest = num_words - first;
  return {first, num_words, static_cast<__mmask16>(rest < 16 ? (1u << rest) - 1u : 0xffffu)};
}
POLARQUANT_TARGET_AVX512 POLARQUANT_ALWAYS_INLINE __m512i load_words(const CenterBlock& block,
                                                                     const std::byte* code) {
  return _mm512_maskz_loadu_epi32(block.mask, code + kCenterStepBytes + 4 * block.first);
}

// dots[row][s] of kRows rows, see loops::dot_centers.
template <std::size_t kRows>
POLARQUANT_TARGET_AVX512 void dot_center_rows(Rows<const std::byte> codes, std::size_t num_words,
                                              Rows<const float> queries, Rows<float> dots) {
  for (std::size_t s = 0; s < codes.count; ++s) {
    __m512 sums[kRows];
    for (std::size_t row = 0; row < kRows; ++row) sums[row] = _mm512_setzero_ps();
    for (std::size_t first = 0; first < num_words; first += 16) {
      const CenterBlock block = center_block(first, num_words);
      const __m512i words = load_words(block, codes.row(s));
#pragma GCC unroll 8
      for (unsigned k = 0; k < 8; ++k) {
        const __m512 numbers = center_numbers(words, k);
#pragma GCC unroll 4
        for (std::size_t row = 0; row < kRows; ++row) {
          const float* const place = queries.row(row) + k * num_words + first;
          sums[row] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(block.mask, place), numbers, sums[row]);
        }
      }
    }
    const float step = loops::center_step<float>(codes.row(s));
    for (std::size_t row = 0; row < kRows; ++row) {
      dots.row(row)[s] = step * _mm512_reduce_add_ps(sums[row]);
    }
  }
}

// sums[row] += .. for kRows rows, see loops::add_centers. weights: [kRows, spans], times the steps.
template <std::size_t kRows>
POLARQUANT_TARGET_AVX512 void add_center_rows(Rows<const std::byte> codes, std::size_t num_words,
                                              Rows<const float> weights, Rows<float> sums) {
  for (std::size_t first = 0; first < num_words; first += 16) {
    const CenterBlock block = center_block(first, num_words);
#pragma GCC unroll 8
    for (unsigned k = 0; k < 8; ++k) {
      __m512 lanes[kRows];
      for (std::size_t row = 0; row < kRows; ++row) {
        lanes[row] = _mm512_maskz_loadu_ps(block.mask, sums.row(row) + k * num_words + first);
      }
      for (std::size_t s = 0; s < codes.count; ++s) {
        const __m512 numbers = center_numbers(load_words(block, codes.row(s)), k);
#pragma GCC unroll 4
        for (std::size_t row = 0; row < kRows; ++row) {
          lanes[row] = _mm512_fmadd_ps(_mm512_set1_ps(weights.row(row)[s]), numbers, lanes[row]);
        }
      }
      for (std::size_t row = 0; row < kRows; ++row) {
        _mm512_mask_storeu_ps(sums.row(row) + k * num_words + first, block.mask, lanes[row]);
      }
    }
  }
}

POLARQUANT_TARGET_AVX512 inline void dot_centers(Rows<const std::byte> codes, std::size_t head_dim,
                                                 Rows<const float> queries, float*,
                                                 Rows<float> dots) {
  const std::size_t num_words = center_words(head_dim);
  std::size_t row = 0;
  for (; row + 4 <= dots.count; row += 4) {
    dot_center_rows<4>(codes, num_words, queries.block(row, 4), dots.block(row, 4));
  }
  for (; row < dots.count; ++row) {
    dot_center_rows<1>(codes, num_words, queries.block(row, 1), dots.block(row, 1));
  }
}

POLARQUANT_TARGET_AVX512 inline void add_centers(Rows<const std::byte> codes, std::size_t head_dim,
                                                 Rows<const float> weights, float* scratch,
                                                 Rows<float> sums) {
  const std::size_t num_words = center_words(head_dim);
  const Rows<float> stepped = {scratch, 4, codes.count};
  for (std::size_t row = 0; row < sums.count;) {
    const std::size_t num_rows = sums.count - row < 4 ? 1 : 4;
    for (std::size_t s = 0; s < codes.count; ++s) {
      const float step = loops::center_step<float>(codes.row(s));
      for (std::size_t i = 0; i < num_rows; ++i) {
        stepped.row(i)[s] = step * weights.row(row + i)[s];
      }
    }
    const auto add = num_rows == 4 ? add_center_rows<4> : add_center_rows<1>;
    add(codes, num_words, stepped, sums.block(row, num_rows));
    row += num_rows;
  }
}

}  // namespace avx512
}  // namespace detail
POLARQUANT_END_NAMESPACE
POLARQUANT_AVX512_END
#endif
