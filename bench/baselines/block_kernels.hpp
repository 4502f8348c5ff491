// The inner loops of attention on the blocks of block_codecs.hpp, the way llama.cpp multiplies
// them: the query in blocks of 8 bits too, whole-number products, one multiplication by both
// scales.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "baselines/float16_avx2.hpp"
#include "baselines/float16_kernels.hpp"

namespace polarquant_baselines {

// As Float16Kernels, on rows of q8_0-like or q4_0-like blocks; width: coordinates of a row, a
// multiple of 32 up to kMaxBlockWidth.
struct BlockKernels {
  void (*score)(const std::byte* rows, std::size_t num_tokens, std::size_t width,
                const float* queries, std::size_t group, float* weights, std::size_t weight_stride);
  void (*accumulate)(const std::byte* rows, std::size_t num_tokens, std::size_t width,
                     const float* weights, std::size_t weight_stride, std::size_t group,
                     float* sums);
  float (*maximum)(const float* weights, std::size_t num_tokens);
  float (*exponentiate)(float* weights, std::size_t num_tokens, float scale, float maximum);
};

inline constexpr std::size_t kMaxBlockWidth = 256;

#if defined(__GNUC__) && defined(__x86_64__)
inline namespace POLARQUANT_BASELINES_COMPILER {
namespace blocks {

// A block of 32: how many bytes, and its codes as signed bytes.
struct Q8Block {
  static constexpr std::size_t kBytes = 34;
  POLARQUANT_BASELINES_AVX2 static __m256i load(const std::byte* block) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 2));
  }
};

struct Q4Block {
  static constexpr std::size_t kBytes = 18;
  POLARQUANT_BASELINES_AVX2 static __m256i load(const std::byte* block) {
    const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 2));
    const __m256i halves = _mm256_set_m128i(_mm_srli_epi16(both, 4), both);
    return _mm256_sub_epi8(_mm256_and_si256(halves, _mm256_set1_epi8(15)), _mm256_set1_epi8(8));
  }
};

POLARQUANT_BASELINES_AVX2 inline float load_scale(const std::byte* block) {
  std::uint16_t half;
  std::memcpy(&half, block, sizeof half);
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

// codes[i] = round(query[i] / scale of its block); scales: [width / 32].
POLARQUANT_BASELINES_AVX2 inline void quantize_query(const float* query, std::size_t width,
                                                     std::int8_t* codes, float* scales) {
  for (std::size_t i = 0; i < width; i += 32) {
    float largest = 0.0f;
    for (std::size_t j = i; j < i + 32; ++j) largest = std::fmax(largest, std::fabs(query[j]));
    const float scale = largest / 127.0f;
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    scales[i / 32] = scale;
    for (std::size_t j = i; j < i + 32; ++j) {
      codes[j] = static_cast<std::int8_t>(std::nearbyint(query[j] * inverse));
    }
  }
}

// Eight sums that add up to the product of a block's codes.
POLARQUANT_BASELINES_AVX2 inline __m256 multiply(__m256i codes, __m256i query) {
  const __m256i pairs =
      _mm256_maddubs_epi16(_mm256_sign_epi8(codes, codes), _mm256_sign_epi8(query, codes));
  return _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

template <typename Block, int kGroup>
POLARQUANT_BASELINES_AVX2 void score_group(const std::byte* rows, std::size_t num_tokens,
                                           std::size_t width, const float* queries, float* weights,
                                           std::size_t weight_stride) {
  alignas(32) std::int8_t codes[kGroup][kMaxBlockWidth];
  float scales[kGroup][kMaxBlockWidth / 32];
  for (int h = 0; h < kGroup; ++h) {
    quantize_query(queries + static_cast<std::size_t>(h) * width, width, codes[h], scales[h]);
  }
  const std::size_t num_blocks = width / 32;
  __m256 partial[kGroup][8];
  for (std::size_t first = 0; first < num_tokens; first += 8) {
    for (std::size_t t = 0; t < 8; ++t) {
      __m256 sums[kGroup];
      for (__m256& sum : sums) sum = _mm256_setzero_ps();
      // The last rows of a length that is no multiple of eight are read again.
      const std::size_t token = first + t < num_tokens ? first + t : num_tokens - 1;
      const std::byte* block = rows + token * num_blocks * Block::kBytes;
      for (std::size_t b = 0; b < num_blocks; ++b, block += Block::kBytes) {
        _mm_prefetch(reinterpret_cast<const char*>(block) + kPrefetchBytes, _MM_HINT_T0);
        const __m256i key = Block::load(block);
        const float scale = load_scale(block);
        for (int h = 0; h < kGroup; ++h) {
          const __m256i query =
              _mm256_load_si256(reinterpret_cast<const __m256i*>(codes[h] + 32 * b));
          sums[h] =
              _mm256_fmadd_ps(_mm256_set1_ps(scale * scales[h][b]), multiply(key, query), sums[h]);
        }
      }
      for (int h = 0; h < kGroup; ++h) partial[h][t] = sums[h];
    }
    for (int h = 0; h < kGroup; ++h) {
      _mm256_storeu_ps(weights + static_cast<std::size_t>(h) * weight_stride + first,
                       avx2::sum_rows(partial[h]));
    }
  }
}

// Half a block's columns, 16 of them, for all tokens.
template <typename Block, int kGroup>
POLARQUANT_BASELINES_AVX2 void accumulate_columns(const std::byte* block, std::size_t num_tokens,
                                                  std::size_t row_bytes, int half,
                                                  const float* weights, std::size_t weight_stride,
                                                  float* sums, std::size_t width) {
  __m256 totals[kGroup][2];
  for (int h = 0; h < kGroup; ++h) {
    totals[h][0] = _mm256_loadu_ps(sums + static_cast<std::size_t>(h) * width);
    totals[h][1] = _mm256_loadu_ps(sums + static_cast<std::size_t>(h) * width + 8);
  }
  for (std::size_t t = 0; t < num_tokens; ++t, block += row_bytes) {
    _mm_prefetch(reinterpret_cast<const char*>(block) + kPrefetchBytes, _MM_HINT_T0);
    const __m256i codes = Block::load(block);
    const __m128i bytes =
        half == 0 ? _mm256_castsi256_si128(codes) : _mm256_extracti128_si256(codes, 1);
    const __m256 low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    const __m256 high = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)));
    const float scale = load_scale(block);
    for (int h = 0; h < kGroup; ++h) {
      const __m256 weight =
          _mm256_set1_ps(scale * weights[static_cast<std::size_t>(h) * weight_stride + t]);
      totals[h][0] = _mm256_fmadd_ps(weight, low, totals[h][0]);
      totals[h][1] = _mm256_fmadd_ps(weight, high, totals[h][1]);
    }
  }
  for (int h = 0; h < kGroup; ++h) {
    _mm256_storeu_ps(sums + static_cast<std::size_t>(h) * width, totals[h][0]);
    _mm256_storeu_ps(sums + static_cast<std::size_t>(h) * width + 8, totals[h][1]);
  }
}

template <typename Block, int kGroup>
void accumulate_group(const std::byte* rows, std::size_t num_tokens, std::size_t width,
                      const float* weights, std::size_t weight_stride, float* sums) {
  const std::size_t row_bytes = width / 32 * Block::kBytes;
  constexpr std::size_t kFewTokens = 32;  // whose rows stay near
  for (std::size_t first = 0; first < num_tokens; first += kFewTokens) {
    const std::size_t left = num_tokens - first;
    const std::size_t count = left < kFewTokens ? left : kFewTokens;
    for (std::size_t i = 0; i < width; i += 16) {
      accumulate_columns<Block, kGroup>(rows + first * row_bytes + i / 32 * Block::kBytes, count,
                                        row_bytes, i % 32 == 0 ? 0 : 1, weights + first,
                                        weight_stride, sums + i, width);
    }
  }
}

template <typename Block>
void score(const std::byte* rows, std::size_t num_tokens, std::size_t width, const float* queries,
           std::size_t group, float* weights, std::size_t weight_stride) {
  constexpr decltype(&score_group<Block, 1>) kRun[kMaxGroup] = {
      score_group<Block, 1>, score_group<Block, 2>, score_group<Block, 3>, score_group<Block, 4>,
      score_group<Block, 5>, score_group<Block, 6>, score_group<Block, 7>, score_group<Block, 8>};
  kRun[group - 1](rows, num_tokens, width, queries, weights, weight_stride);
}

template <typename Block>
void accumulate(const std::byte* rows, std::size_t num_tokens, std::size_t width,
                const float* weights, std::size_t weight_stride, std::size_t group, float* sums) {
  constexpr decltype(&accumulate_group<Block, 1>) kRun[kMaxGroup] = {
      accumulate_group<Block, 1>, accumulate_group<Block, 2>, accumulate_group<Block, 3>,
      accumulate_group<Block, 4>, accumulate_group<Block, 5>, accumulate_group<Block, 6>,
      accumulate_group<Block, 7>, accumulate_group<Block, 8>};
  kRun[group - 1](rows, num_tokens, width, weights, weight_stride, sums);
}

template <typename Block>
BlockKernels kernels() {
  return {score<Block>, accumulate<Block>, avx2::maximum, avx2::exponentiate};
}

}  // namespace blocks
}  // namespace POLARQUANT_BASELINES_COMPILER
#endif

}  // namespace polarquant_baselines
