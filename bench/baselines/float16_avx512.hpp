// The loops of float16_kernels.hpp with AVX-512.
#pragma once

#include <cstddef>
#include <cstdint>

#include "baselines/float16_kernels.hpp"

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>

// g++ 12 warns of the operand that its own unmasked intrinsics leave undefined on purpose.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define POLARQUANT_BASELINES_AVX512 __attribute__((target("avx512f,avx2,fma")))

namespace polarquant_baselines {
inline namespace POLARQUANT_BASELINES_COMPILER {
namespace avx512 {

POLARQUANT_BASELINES_AVX512 inline __m512 load_halves(const std::uint16_t* halves) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
}

POLARQUANT_BASELINES_AVX512 inline void prefetch(const std::uint16_t* halves) {
  _mm_prefetch(reinterpret_cast<const char*>(halves) + kPrefetchBytes, _MM_HINT_T0);
}

// Lane t of the result is the sum of rows[t]; rows: [16, 16].
POLARQUANT_BASELINES_AVX512 inline __m512 sum_rows(const float* rows) {
  __m512 a[8];
  for (int i = 0; i < 8; ++i) {
    const __m512 x = _mm512_loadu_ps(rows + 16 * i);
    const __m512 y = _mm512_loadu_ps(rows + 16 * (i + 8));
    a[i] = _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
  }
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[i], a[i + 4], 0x88),
                         _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd));
  }
  for (int i = 0; i < 2; ++i) {
    a[i] = _mm512_add_ps(_mm512_unpacklo_ps(a[i], a[i + 2]), _mm512_unpackhi_ps(a[i], a[i + 2]));
  }
  const __m512 sums =
      _mm512_add_ps(_mm512_shuffle_ps(a[0], a[1], 0x44), _mm512_shuffle_ps(a[0], a[1], 0xee));
  // The halvings above leave the rows in bit-reversed pairs of positions.
  const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  return _mm512_permutexvar_ps(order, sums);
}

// kStride: the stride, or 0 for any.
template <int kGroup, std::size_t kStride>
POLARQUANT_BASELINES_AVX512 void score_group(const std::uint16_t* rows, std::size_t num_tokens,
                                             std::size_t any_stride, const float* queries,
                                             float* weights, std::size_t weight_stride) {
  // Tokens at once: enough independent sums to hide the latency of an addition.
  constexpr int kTokens = kGroup <= 2 ? 4 : 2;
  const std::size_t stride = kStride != 0 ? kStride : any_stride;
  alignas(64) float partial[kGroup][256];
  for (std::size_t first = 0; first < num_tokens; first += 16) {
    for (int t = 0; t < 16; t += kTokens) {
      const std::uint16_t* const row = rows + (first + static_cast<std::size_t>(t)) * stride;
      __m512 sums[kTokens][kGroup];
      for (auto& token_sums : sums) {
        for (__m512& sum : token_sums) sum = _mm512_setzero_ps();
      }
#pragma GCC unroll 8
      for (std::size_t i = 0; i < stride; i += 16) {
        __m512 key[kTokens];
        for (int k = 0; k < kTokens; ++k) {
          const std::uint16_t* const halves = row + static_cast<std::size_t>(k) * stride + i;
          if (i % 32 == 0) prefetch(halves);
          key[k] = load_halves(halves);
        }
        const float* entry = queries + i;
        for (int h = 0; h < kGroup; ++h, entry += stride) {
          const __m512 query = _mm512_loadu_ps(entry);
          for (int k = 0; k < kTokens; ++k) {
            sums[k][h] = _mm512_fmadd_ps(key[k], query, sums[k][h]);
          }
        }
      }
      for (int k = 0; k < kTokens; ++k) {
        for (int h = 0; h < kGroup; ++h) _mm512_store_ps(&partial[h][16 * (t + k)], sums[k][h]);
      }
    }
    float* weight = weights + first;
    for (int h = 0; h < kGroup; ++h, weight += weight_stride) {
      _mm512_storeu_ps(weight, sum_rows(partial[h]));
    }
  }
}

// Fetches the same columns of the rows num_ahead halves ahead.
template <int kGroup, int kRegisters>
POLARQUANT_BASELINES_AVX512 void accumulate_columns(const std::uint16_t* rows,
                                                    std::size_t num_tokens, std::size_t stride,
                                                    const float* weights, std::size_t weight_stride,
                                                    float* sums, std::size_t num_ahead) {
  __m512 totals[kGroup][kRegisters];
  float* sum = sums;
  for (int h = 0; h < kGroup; ++h, sum += stride) {
    for (int r = 0; r < kRegisters; ++r) totals[h][r] = _mm512_loadu_ps(sum + 16 * r);
  }
  for (std::size_t t = 0; t < num_tokens; ++t, rows += stride) {
    for (int r = 0; r < kRegisters; r += 2) {
      _mm_prefetch(reinterpret_cast<const char*>(rows + 16 * r + num_ahead), _MM_HINT_T0);
    }
    __m512 value[kRegisters];
    for (int r = 0; r < kRegisters; ++r) {
      value[r] = load_halves(rows + 16 * r);
    }
    const float* weight = weights + t;
    for (int h = 0; h < kGroup; ++h, weight += weight_stride) {
      const __m512 w = _mm512_set1_ps(*weight);
      for (int r = 0; r < kRegisters; ++r) {
        totals[h][r] = _mm512_fmadd_ps(w, value[r], totals[h][r]);
      }
    }
  }
  sum = sums;
  for (int h = 0; h < kGroup; ++h, sum += stride) {
    for (int r = 0; r < kRegisters; ++r) _mm512_storeu_ps(sum + 16 * r, totals[h][r]);
  }
}

template <int kGroup>
POLARQUANT_BASELINES_AVX512 void accumulate_group(const std::uint16_t* rows, std::size_t num_tokens,
                                                  std::size_t stride, const float* weights,
                                                  std::size_t weight_stride, float* sums) {
  // As many independent sums as fit thirty-two registers beside the values and a weight.
  constexpr int kRegisters = kGroup <= 2 ? 8 : kGroup <= 4 ? 4 : 2;
  constexpr std::size_t kColumns = 16 * kRegisters;
  // Few tokens at a time, so that their rows are still near for the columns after the first.
  constexpr std::size_t kFewTokens = 16;
  const std::size_t num_ahead =
      stride <= kColumns ? kPrefetchBytes / sizeof(std::uint16_t) : kFewTokens * stride;
  for (std::size_t first = 0; first < num_tokens; first += kFewTokens) {
    const std::size_t left = num_tokens - first;
    const std::size_t count = left < kFewTokens ? left : kFewTokens;
    const std::uint16_t* const row = rows + first * stride;
    std::size_t i = 0;
    for (; i + kColumns <= stride; i += kColumns) {
      accumulate_columns<kGroup, kRegisters>(row + i, count, stride, weights + first, weight_stride,
                                             sums + i, num_ahead);
    }
    for (; i < stride; i += 16) {
      accumulate_columns<kGroup, 1>(row + i, count, stride, weights + first, weight_stride,
                                    sums + i, num_ahead);
    }
  }
}

template <int kGroup>
void score_width(const std::uint16_t* rows, std::size_t num_tokens, std::size_t stride,
                 const float* queries, float* weights, std::size_t weight_stride) {
  const auto run = stride == 64    ? score_group<kGroup, 64>
                   : stride == 128 ? score_group<kGroup, 128>
                   : stride == 256 ? score_group<kGroup, 256>
                                   : score_group<kGroup, 0>;
  run(rows, num_tokens, stride, queries, weights, weight_stride);
}

inline void score(const std::uint16_t* rows, std::size_t num_tokens, std::size_t stride,
                  const float* queries, std::size_t group, float* weights,
                  std::size_t weight_stride) {
  constexpr decltype(&score_width<1>) kRun[kMaxGroup] = {
      score_width<1>, score_width<2>, score_width<3>, score_width<4>,
      score_width<5>, score_width<6>, score_width<7>, score_width<8>};
  kRun[group - 1](rows, num_tokens, stride, queries, weights, weight_stride);
}

inline void accumulate(const std::uint16_t* rows, std::size_t num_tokens, std::size_t stride,
                       const float* weights, std::size_t weight_stride, std::size_t group,
                       float* sums) {
  constexpr decltype(&accumulate_group<1>) kRun[kMaxGroup] = {
      accumulate_group<1>, accumulate_group<2>, accumulate_group<3>, accumulate_group<4>,
      accumulate_group<5>, accumulate_group<6>, accumulate_group<7>, accumulate_group<8>};
  kRun[group - 1](rows, num_tokens, stride, weights, weight_stride, sums);
}

POLARQUANT_BASELINES_AVX512 inline float dot(const std::uint16_t* row, std::size_t stride,
                                             const float* query) {
  __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                    _mm512_setzero_ps()};
  std::size_t i = 0;
  for (; i + 64 <= stride; i += 64) {
    for (std::size_t k = 0; k < 4; ++k) {
      sums[k] = _mm512_fmadd_ps(load_halves(row + i + 16 * k), _mm512_loadu_ps(query + i + 16 * k),
                                sums[k]);
    }
  }
  for (; i < stride; i += 16) {
    sums[0] = _mm512_fmadd_ps(load_halves(row + i), _mm512_loadu_ps(query + i), sums[0]);
  }
  return _mm512_reduce_add_ps(
      _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

POLARQUANT_BASELINES_AVX512 inline float maximum(const float* weights, std::size_t num_tokens) {
  __m512 largest = _mm512_set1_ps(weights[0]);
  for (std::size_t t = 0; t < num_tokens; t += 16) {
    const std::size_t left = num_tokens - t;
    const __mmask16 mask = static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1u);
    largest = _mm512_mask_max_ps(largest, mask, largest, _mm512_loadu_ps(weights + t));
  }
  return _mm512_reduce_max_ps(largest);
}

// exp(x) = 2^n 2^f with n the nearest integer of x / ln 2 and the Taylor series of 2^f, |f| <= 1/2,
// to degree 6: a relative error of 2e-7.
POLARQUANT_BASELINES_AVX512 inline float exponentiate(float* weights, std::size_t num_tokens,
                                                      float scale, float maximum) {
  constexpr float kSeries[] = {1.0f,           0.693147181f,   0.240226507f,   0.0555041087f,
                               0.00961812911f, 0.00133335581f, 0.000154035304f};
  const __m512 log2_e = _mm512_set1_ps(1.44269504f);
  __m512 sum = _mm512_setzero_ps();
  for (std::size_t t = 0; t < num_tokens; t += 16) {
    const std::size_t left = num_tokens - t;
    const __mmask16 mask = static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1u);
    const __m512 x = _mm512_fmsub_ps(_mm512_loadu_ps(weights + t), _mm512_set1_ps(scale),
                                     _mm512_set1_ps(maximum));
    const __m512 exponent = _mm512_mul_ps(x, log2_e);
    const __m512 n = _mm512_roundscale_ps(exponent, _MM_FROUND_TO_NEAREST_INT);
    const __m512 f = _mm512_sub_ps(exponent, n);
    __m512 power = _mm512_set1_ps(kSeries[6]);
    for (int k = 5; k >= 0; --k) power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(kSeries[k]));
    const __m512 result = _mm512_maskz_scalef_ps(mask, power, n);
    _mm512_storeu_ps(weights + t, result);
    sum = _mm512_add_ps(sum, result);
  }
  return _mm512_reduce_add_ps(sum);
}

}  // namespace avx512
}  // namespace POLARQUANT_BASELINES_COMPILER
}  // namespace polarquant_baselines

#pragma GCC diagnostic pop
#endif
