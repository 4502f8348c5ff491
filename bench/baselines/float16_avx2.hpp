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
inline namespace POLARQUANT_BASELINES_COMPILER {
namespace avx2 {

POLARQUANT_BASELINES_AVX2 inline __m256 load_halves(const std::uint16_t* halves) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves)));
}

POLARQUANT_BASELINES_AVX2 inline void prefetch(const std::uint16_t* halves) {
  _mm_prefetch(reinterpret_cast<const char*>(halves) + kPrefetchBytes, _MM_HINT_T0);
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

// kStride: the stride, or 0 for any.
template <int kGroup, std::size_t kStride>
POLARQUANT_BASELINES_AVX2 void score_group(const std::uint16_t* rows, std::size_t num_tokens,
                                           std::size_t any_stride, const float* queries,
                                           float* weights, std::size_t weight_stride) {
  // Tokens at once: enough independent sums to hide the latency of an addition.
  constexpr int kTokens = kGroup == 1 ? 4 : kGroup <= 4 ? 2 : 1;
  const std::size_t stride = kStride != 0 ? kStride : any_stride;
  __m256 partial[kGroup][8];
  for (std::size_t first = 0; first < num_tokens; first += 8) {
    for (int t = 0; t < 8; t += kTokens) {
      const std::uint16_t* const row = rows + (first + static_cast<std::size_t>(t)) * stride;
      __m256 sums[kTokens][kGroup];
      for (auto& token_sums : sums) {
        for (__m256& sum : token_sums) sum = _mm256_setzero_ps();
      }
#pragma GCC unroll 8
      for (std::size_t i = 0; i < stride; i += 8) {
        __m256 key[kTokens];
        for (int k = 0; k < kTokens; ++k) {
          const std::uint16_t* const halves = row + static_cast<std::size_t>(k) * stride + i;
          if (i % 32 == 0) prefetch(halves);
          key[k] = load_halves(halves);
        }
        const float* entry = queries + i;
        for (int h = 0; h < kGroup; ++h, entry += stride) {
          const __m256 query = _mm256_loadu_ps(entry);
          for (int k = 0; k < kTokens; ++k) {
            sums[k][h] = _mm256_fmadd_ps(key[k], query, sums[k][h]);
          }
        }
      }
      for (int k = 0; k < kTokens; ++k) {
        for (int h = 0; h < kGroup; ++h) partial[h][t + k] = sums[k][h];
      }
    }
    float* weight = weights + first;
    for (int h = 0; h < kGroup; ++h, weight += weight_stride) {
      _mm256_storeu_ps(weight, sum_rows(partial[h]));
    }
  }
}

// Fetches the same columns of the rows num_ahead halves ahead.
template <int kGroup, int kRegisters>
POLARQUANT_BASELINES_AVX2 void accumulate_columns(const std::uint16_t* rows, std::size_t num_tokens,
                                                  std::size_t stride, const float* weights,
                                                  std::size_t weight_stride, float* sums,
                                                  std::size_t num_ahead) {
  __m256 totals[kGroup][kRegisters];
  float* sum = sums;
  for (int h = 0; h < kGroup; ++h, sum += stride) {
    for (int r = 0; r < kRegisters; ++r) totals[h][r] = _mm256_loadu_ps(sum + 8 * r);
  }
  for (std::size_t t = 0; t < num_tokens; ++t, rows += stride) {
    for (int r = 0; r < kRegisters; r += 4) {
      _mm_prefetch(reinterpret_cast<const char*>(rows + 8 * r + num_ahead), _MM_HINT_T0);
    }
    __m256 value[kRegisters];
    for (int r = 0; r < kRegisters; ++r) {
      value[r] = load_halves(rows + 8 * r);
    }
    const float* weight = weights + t;
    for (int h = 0; h < kGroup; ++h, weight += weight_stride) {
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
                                                std::size_t weight_stride, float* sums) {
  // As many independent sums as fit sixteen registers beside the values and a weight.
  constexpr int kRegisters = kGroup == 1 ? 8 : kGroup == 2 ? 4 : kGroup <= 4 ? 2 : 1;
  constexpr std::size_t kColumns = 8 * kRegisters;
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
    for (; i < stride; i += 8) {
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

POLARQUANT_BASELINES_AVX2 inline float dot(const std::uint16_t* row, std::size_t stride,
                                           const float* query) {
  __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  __m256 more[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  std::size_t i = 0;
  for (; i + 32 <= stride; i += 32) {
    for (std::size_t k = 0; k < 2; ++k) {
      const std::size_t j = i + 16 * k;
      sums[k] = _mm256_fmadd_ps(load_halves(row + j), _mm256_loadu_ps(query + j), sums[k]);
      more[k] = _mm256_fmadd_ps(load_halves(row + j + 8), _mm256_loadu_ps(query + j + 8), more[k]);
    }
  }
  for (; i < stride; i += 8) {
    sums[0] = _mm256_fmadd_ps(load_halves(row + i), _mm256_loadu_ps(query + i), sums[0]);
  }
  const __m256 sum =
      _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(more[0], more[1]));
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
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
}  // namespace POLARQUANT_BASELINES_COMPILER
}  // namespace polarquant_baselines
#endif
