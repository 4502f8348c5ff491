// The loops of float16_kernels.hpp with AVX2, FMA and F16C, which come together in every machine
// that has AVX2.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "baselines/float16_kernels.hpp"

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>

#define POLARQUANT_BASELINES_AVX2 __attribute__((target("avx2,fma,f16c")))

namespace polarquant_baselines {
namespace avx2 {

POLARQUANT_BASELINES_AVX2 inline __m256 load_halves(const std::uint16_t* halves) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves)));
}

// Lane t of the result is the sum of rows[t].
POLARQUANT_BASELINES_AVX2 inline __m256 sum_rows(const __m256* rows) {
  const __m256 low =
      _mm256_hadd_ps(_mm256_hadd_ps(rows[0], rows[1]), _mm256_hadd_ps(rows[2], rows[3]));
  const __m256 high =
      _mm256_hadd_ps(_mm256_hadd_ps(rows[4], rows[5]), _mm256_hadd_ps(rows[6], rows[7]));
  return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20),
                       _mm256_permute2f128_ps(low, high, 0x31));
}

template <int kGroup>
POLARQUANT_BASELINES_AVX2 void score_group(const std::uint16_t* rows, std::size_t num_tokens,
                                           std::size_t stride, const float* queries,
                                           float* weights) {
  // Tokens at once: enough independent sums to hide the latency of an addition.
  constexpr std::size_t kTokens = kGroup == 1 ? 4 : 2;
  __m256 partial[kGroup][8];
  for (std::size_t first = 0; first < num_tokens; first += 8) {
    for (std::size_t t = 0; t < 8; t += kTokens) {
      const std::uint16_t* const row = rows + (first + t) * stride;
      __m256 sums[kTokens][kGroup];
      for (auto& token_sums : sums) {
        for (__m256& sum : token_sums) sum = _mm256_setzero_ps();
      }
      for (std::size_t i = 0; i < stride; i += 8) {
        __m256 key[kTokens];
        for (std::size_t k = 0; k < kTokens; ++k) key[k] = load_halves(row + k * stride + i);
        const float* entry = queries + i;
        for (int h = 0; h < kGroup; ++h, entry += stride) {
          const __m256 query = _mm256_loadu_ps(entry);
          for (std::size_t k = 0; k < kTokens; ++k) {
            sums[k][h] = _mm256_fmadd_ps(key[k], query, sums[k][h]);
          }
        }
      }
      for (std::size_t k = 0; k < kTokens; ++k) {
        for (int h = 0; h < kGroup; ++h) partial[h][t + k] = sums[k][h];
      }
    }
    float* weight = weights + first;
    for (int h = 0; h < kGroup; ++h, weight += kTokenBlock) {
      _mm256_storeu_ps(weight, sum_rows(partial[h]));
    }
  }
}

template <int kGroup, int kRegisters>
POLARQUANT_BASELINES_AVX2 void accumulate_columns(const std::uint16_t* rows, std::size_t num_tokens,
                                                  std::size_t stride, const float* weights,
                                                  float* sums) {
  __m256 totals[kGroup][kRegisters];
  float* sum = sums;
  for (int h = 0; h < kGroup; ++h, sum += stride) {
    for (int r = 0; r < kRegisters; ++r) totals[h][r] = _mm256_loadu_ps(sum + 8 * r);
  }
  for (std::size_t t = 0; t < num_tokens; ++t, rows += stride) {
    __m256 value[kRegisters];
    for (int r = 0; r < kRegisters; ++r) value[r] = load_halves(rows + 8 * r);
    const float* weight = weights + t;
    for (int h = 0; h < kGroup; ++h, weight += kTokenBlock) {
      const __m256 w = _mm256_set1_ps(*weight);
      for (int r = 0; r < kRegisters; ++r) {
        totals[h][r] = _mm256_fmadd_ps(w, value[r], totals[h][r]);
      }
    }
  }
  sum = sums;
  for (int h = 0; h < kGroup; ++h, sum += stride) {
    for (int r = 0; r < kRegisters; ++r) _mm256_storeu_ps(sum + 8 * r, totals[h][r]);
  }
}

template <int kGroup>
POLARQUANT_BASELINES_AVX2 void accumulate_group(const std::uint16_t* rows, std::size_t num_tokens,
                                                std::size_t stride, const float* weights,
                                                float* sums) {
  // As many independent sums as fit sixteen registers beside the values and a weight.
  constexpr int kRegisters = kGroup <= 2 ? 4 : 2;
  std::size_t i = 0;
  for (; i + 8 * kRegisters <= stride; i += 8 * kRegisters) {
    accumulate_columns<kGroup, kRegisters>(rows + i, num_tokens, stride, weights, sums + i);
  }
  for (; i < stride; i += 16) {
    accumulate_columns<kGroup, 2>(rows + i, num_tokens, stride, weights, sums + i);
  }
}

inline void score(const std::uint16_t* rows, std::size_t num_tokens, std::size_t stride,
                  const float* queries, std::size_t group, float* weights) {
  if (group == 4) return score_group<4>(rows, num_tokens, stride, queries, weights);
  if (group == 3) return score_group<3>(rows, num_tokens, stride, queries, weights);
  if (group == 2) return score_group<2>(rows, num_tokens, stride, queries, weights);
  score_group<1>(rows, num_tokens, stride, queries, weights);
}

inline void accumulate(const std::uint16_t* rows, std::size_t num_tokens, std::size_t stride,
                       const float* weights, std::size_t group, float* sums) {
  if (group == 4) return accumulate_group<4>(rows, num_tokens, stride, weights, sums);
  if (group == 3) return accumulate_group<3>(rows, num_tokens, stride, weights, sums);
  if (group == 2) return accumulate_group<2>(rows, num_tokens, stride, weights, sums);
  accumulate_group<1>(rows, num_tokens, stride, weights, sums);
}

POLARQUANT_BASELINES_AVX2 inline float maximum(const float* weights, std::size_t num_tokens) {
  __m256 largest = _mm256_set1_ps(weights[0]);
  std::size_t t = 0;
  for (; t + 8 <= num_tokens; t += 8) {
    largest = _mm256_max_ps(largest, _mm256_loadu_ps(weights + t));
  }
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, largest);
  float result = lanes[0];
  for (const float lane : lanes) result = lane > result ? lane : result;
  for (; t < num_tokens; ++t) result = weights[t] > result ? weights[t] : result;
  return result;
}

// See the AVX-512 twin for the series. Below -87 the result is 0.
POLARQUANT_BASELINES_AVX2 inline float exponentiate(float* weights, std::size_t num_tokens,
                                                    float scale, float maximum) {
  constexpr float kSeries[] = {1.0f,           0.693147181f,   0.240226507f,   0.0555041087f,
                               0.00961812911f, 0.00133335581f, 0.000154035304f};
  for (std::size_t t = num_tokens; t % 16 != 0; ++t) weights[t] = -HUGE_VALF;
  const __m256 least = _mm256_set1_ps(-87.0f);
  __m256 sum = _mm256_setzero_ps();
  for (std::size_t t = 0; t < num_tokens; t += 8) {
    const __m256 x = _mm256_fmsub_ps(_mm256_loadu_ps(weights + t), _mm256_set1_ps(scale),
                                     _mm256_set1_ps(maximum));
    const __m256 exponent = _mm256_mul_ps(_mm256_max_ps(x, least), _mm256_set1_ps(1.44269504f));
    const __m256 n = _mm256_round_ps(exponent, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256 f = _mm256_sub_ps(exponent, n);
    __m256 power = _mm256_set1_ps(kSeries[6]);
    for (int k = 5; k >= 0; --k) power = _mm256_fmadd_ps(power, f, _mm256_set1_ps(kSeries[k]));
    const __m256i bits =
        _mm256_add_epi32(_mm256_castps_si256(power), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23));
    const __m256 result =
        _mm256_and_ps(_mm256_castsi256_ps(bits), _mm256_cmp_ps(x, least, _CMP_GT_OQ));
    _mm256_storeu_ps(weights + t, result);
    sum = _mm256_add_ps(sum, result);
  }
  // num_tokens % 16 in 1 .. 8 leaves eight more to clear.
  if (num_tokens % 16 != 0 && num_tokens % 16 <= 8) {
    _mm256_storeu_ps(weights + num_tokens / 16 * 16 + 8, _mm256_setzero_ps());
  }
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, sum);
  float total = 0.0f;
  for (const float lane : lanes) total += lane;
  return total;
}

}  // namespace avx2
}  // namespace polarquant_baselines
#endif
