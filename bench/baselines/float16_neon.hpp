// The loops of float16_kernels.hpp with NEON, of which every 64-bit ARM converts halves.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "baselines/float16_kernels.hpp"

#if defined(__aarch64__)
#include <arm_neon.h>

namespace polarquant_baselines {
inline namespace POLARQUANT_BASELINES_COMPILER {
namespace neon {

// Four coordinates.
inline float32x4_t load_halves(const std::uint16_t* halves) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves)));
}

inline void prefetch(const std::uint16_t* halves) {
  __builtin_prefetch(reinterpret_cast<const char*>(halves) + kPrefetchBytes);
}

template <int kGroup>
void score_group(const std::uint16_t* rows, std::size_t num_tokens, std::size_t stride,
                 const float* queries, float* weights, std::size_t weight_stride) {
  // Tokens at once: enough independent sums to hide the latency of an addition, and no more than
  // thirty-two registers hold.
  constexpr int kTokens = kGroup <= 4 ? 4 : 2;
  for (std::size_t first = 0; first < num_tokens; first += kTokens) {
    const std::uint16_t* const row = rows + first * stride;
    float32x4_t sums[kTokens][kGroup];
    for (auto& token_sums : sums) {
      for (float32x4_t& sum : token_sums) sum = vdupq_n_f32(0.0f);
    }
    for (std::size_t i = 0; i < stride; i += 4) {
      float32x4_t key[kTokens];
      for (int k = 0; k < kTokens; ++k) {
        const std::uint16_t* const halves = row + static_cast<std::size_t>(k) * stride + i;
        if (i % 32 == 0) prefetch(halves);
        key[k] = load_halves(halves);
      }
      const float* entry = queries + i;
      for (int h = 0; h < kGroup; ++h, entry += stride) {
        const float32x4_t query = vld1q_f32(entry);
        for (int k = 0; k < kTokens; ++k) sums[k][h] = vfmaq_f32(sums[k][h], key[k], query);
      }
    }
    float* weight = weights + first;
    for (int h = 0; h < kGroup; ++h, weight += weight_stride) {
      for (int k = 0; k < kTokens; ++k) weight[k] = vaddvq_f32(sums[k][h]);
    }
  }
}

template <int kGroup, int kRegisters>
void accumulate_columns(const std::uint16_t* rows, std::size_t num_tokens, std::size_t stride,
                        const float* weights, std::size_t weight_stride, float* sums,
                        std::size_t num_ahead) {
  float32x4_t totals[kGroup][kRegisters];
  float* sum = sums;
  for (int h = 0; h < kGroup; ++h, sum += stride) {
    for (int r = 0; r < kRegisters; ++r) totals[h][r] = vld1q_f32(sum + 4 * r);
  }
  for (std::size_t t = 0; t < num_tokens; ++t, rows += stride) {
    for (int r = 0; r < kRegisters; r += 8) __builtin_prefetch(rows + 4 * r + num_ahead);
    float32x4_t value[kRegisters];
    for (int r = 0; r < kRegisters; ++r) value[r] = load_halves(rows + 4 * r);
    const float* weight = weights + t;
    for (int h = 0; h < kGroup; ++h, weight += weight_stride) {
      for (int r = 0; r < kRegisters; ++r) {
        totals[h][r] = vfmaq_n_f32(totals[h][r], value[r], *weight);
      }
    }
  }
  sum = sums;
  for (int h = 0; h < kGroup; ++h, sum += stride) {
    for (int r = 0; r < kRegisters; ++r) vst1q_f32(sum + 4 * r, totals[h][r]);
  }
}

template <int kGroup>
void accumulate_group(const std::uint16_t* rows, std::size_t num_tokens, std::size_t stride,
                      const float* weights, std::size_t weight_stride, float* sums) {
  // As many independent sums as fit thirty-two registers beside the values and a weight.
  constexpr int kRegisters = kGroup <= 2 ? 8 : kGroup <= 4 ? 4 : 2;
  constexpr std::size_t kColumns = 4 * kRegisters;
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
    for (; i < stride; i += 4) {
      accumulate_columns<kGroup, 1>(row + i, count, stride, weights + first, weight_stride,
                                    sums + i, num_ahead);
    }
  }
}

inline void score(const std::uint16_t* rows, std::size_t num_tokens, std::size_t stride,
                  const float* queries, std::size_t group, float* weights,
                  std::size_t weight_stride) {
  constexpr decltype(&score_group<1>) kRun[kMaxGroup] = {
      score_group<1>, score_group<2>, score_group<3>, score_group<4>,
      score_group<5>, score_group<6>, score_group<7>, score_group<8>};
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

inline float dot(const std::uint16_t* row, std::size_t stride, const float* query) {
  float32x4_t sums[4] = {};
  for (std::size_t i = 0; i < stride; i += 16) {
    for (std::size_t k = 0; k < 4; ++k) {
      sums[k] = vfmaq_f32(sums[k], load_halves(row + i + 4 * k), vld1q_f32(query + i + 4 * k));
    }
  }
  return vaddvq_f32(vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3])));
}

inline float maximum(const float* weights, std::size_t num_tokens) {
  float32x4_t largest = vdupq_n_f32(weights[0]);
  std::size_t t = 0;
  for (; t + 4 <= num_tokens; t += 4) largest = vmaxq_f32(largest, vld1q_f32(weights + t));
  float result = vmaxvq_f32(largest);
  for (; t < num_tokens; ++t) result = weights[t] > result ? weights[t] : result;
  return result;
}

// See the AVX-512 twin for the series. Below -87 the result is 0.
inline float exponentiate(float* weights, std::size_t num_tokens, float scale, float maximum) {
  constexpr float kSeries[] = {1.0f,           0.693147181f,   0.240226507f,   0.0555041087f,
                               0.00961812911f, 0.00133335581f, 0.000154035304f};
  for (std::size_t t = num_tokens; t % 16 != 0; ++t) weights[t] = -HUGE_VALF;
  const float32x4_t least = vdupq_n_f32(-87.0f);
  float32x4_t sum = vdupq_n_f32(0.0f);
  for (std::size_t t = 0; t < (num_tokens + 15) / 16 * 16; t += 4) {
    const float32x4_t x =
        vsubq_f32(vmulq_n_f32(vld1q_f32(weights + t), scale), vdupq_n_f32(maximum));
    const float32x4_t exponent = vmulq_n_f32(vmaxq_f32(x, least), 1.44269504f);
    const float32x4_t n = vrndnq_f32(exponent);
    const float32x4_t f = vsubq_f32(exponent, n);
    float32x4_t power = vdupq_n_f32(kSeries[6]);
    for (int k = 5; k >= 0; --k) power = vfmaq_f32(vdupq_n_f32(kSeries[k]), power, f);
    const int32x4_t bits =
        vaddq_s32(vreinterpretq_s32_f32(power), vshlq_n_s32(vcvtq_s32_f32(n), 23));
    const uint32x4_t result = vandq_u32(vreinterpretq_u32_s32(bits), vcgtq_f32(x, least));
    vst1q_f32(weights + t, vreinterpretq_f32_u32(result));
    sum = vaddq_f32(sum, vreinterpretq_f32_u32(result));
  }
  return vaddvq_f32(sum);
}

}  // namespace neon
}  // namespace POLARQUANT_BASELINES_COMPILER
}  // namespace polarquant_baselines
#endif
