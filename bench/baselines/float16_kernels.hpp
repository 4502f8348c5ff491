// The inner loops of attention on fp16 keys and values: the table of an instruction set's loops,
// and the portable ones, which are there to be right; measure against the others.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

// The benchmarks compile these loops with two compilers and link both: the names must differ.
#if defined(__clang__)
#define POLARQUANT_BASELINES_COMPILER built_by_clang
#else
#define POLARQUANT_BASELINES_COMPILER built_by_gcc
#endif

namespace polarquant_baselines {

inline constexpr std::size_t kTokenBlock = 128;  // tokens per pass; a multiple of 16
inline constexpr std::size_t kMaxGroup = 8;      // query heads that share one conversion

// Bytes ahead of the row being read that the next is fetched from: of 0 to 8 KB the best from
// memory, and no loss in cache.
inline constexpr std::size_t kPrefetchBytes = 3072;

// The loops. Rows are [num_tokens rounded up to 16, stride], stride a multiple of 16, zero beyond
// the real width; group = 1 .. kMaxGroup query heads. weights holds scores or softmax weights,
// [group, weight_stride], weight_stride at least num_tokens rounded up to 16.
struct Float16Kernels {
  // weights[h][t] = <queries[h], row t>; queries: [group, stride].
  void (*score)(const std::uint16_t* rows, std::size_t num_tokens, std::size_t stride,
                const float* queries, std::size_t group, float* weights, std::size_t weight_stride);
  // sums[h] += sum over t of weights[h][t] * row t; sums: [group, stride].
  void (*accumulate)(const std::uint16_t* rows, std::size_t num_tokens, std::size_t stride,
                     const float* weights, std::size_t weight_stride, std::size_t group,
                     float* sums);
  // <query, row>, one row at a time; query: [stride].
  float (*dot)(const std::uint16_t* row, std::size_t stride, const float* query);
  // The largest of weights[0 .. num_tokens), num_tokens > 0.
  float (*maximum)(const float* weights, std::size_t num_tokens);
  // weights[t] = exp(scale * weights[t] - maximum), zero from num_tokens to the next multiple of
  // 16; returns their sum.
  float (*exponentiate)(float* weights, std::size_t num_tokens, float scale, float maximum);
};

inline namespace POLARQUANT_BASELINES_COMPILER {

namespace portable {

// Sixteen numbers at once, so that the conversion vectorises however it is used.
inline void load_halves(const std::uint16_t* halves, float* values) {
  std::uint32_t bits[16];
  for (std::size_t lane = 0; lane < 16; ++lane) {
    const std::uint32_t half = halves[lane];
    bits[lane] = ((half & 0x8000u) << 16) | ((half & 0x7fffu) << 13);
  }
  std::memcpy(values, bits, sizeof bits);
  // The exponents' biases differ by 112; the product is exact, subnormals included.
  for (std::size_t lane = 0; lane < 16; ++lane) values[lane] *= 0x1p112f;
}

inline void score(const std::uint16_t* rows, std::size_t num_tokens, std::size_t stride,
                  const float* queries, std::size_t group, float* weights,
                  std::size_t weight_stride) {
  for (std::size_t t = 0; t < num_tokens; ++t) {
    float lanes[kMaxGroup][16] = {};
    for (std::size_t i = 0; i < stride; i += 16) {
      float key[16];
      load_halves(rows + t * stride + i, key);
      for (std::size_t h = 0; h < group; ++h) {
        const float* const query = queries + h * stride + i;
        for (std::size_t lane = 0; lane < 16; ++lane) lanes[h][lane] += query[lane] * key[lane];
      }
    }
    for (std::size_t h = 0; h < group; ++h) {
      float sum = 0.0f;
      for (const float lane : lanes[h]) sum += lane;
      weights[h * weight_stride + t] = sum;
    }
  }
}

inline void accumulate(const std::uint16_t* rows, std::size_t num_tokens, std::size_t stride,
                       const float* weights, std::size_t weight_stride, std::size_t group,
                       float* sums) {
  for (std::size_t t = 0; t < num_tokens; ++t) {
    for (std::size_t i = 0; i < stride; i += 16) {
      float value[16];
      load_halves(rows + t * stride + i, value);
      for (std::size_t h = 0; h < group; ++h) {
        const float weight = weights[h * weight_stride + t];
        float* const sum = sums + h * stride + i;
        for (std::size_t lane = 0; lane < 16; ++lane) sum[lane] += weight * value[lane];
      }
    }
  }
}

inline float dot(const std::uint16_t* row, std::size_t stride, const float* query) {
  float weight;
  score(row, 1, stride, query, 1, &weight, 1);
  return weight;
}

inline float maximum(const float* weights, std::size_t num_tokens) {
  return *std::max_element(weights, weights + num_tokens);
}

inline float exponentiate(float* weights, std::size_t num_tokens, float scale, float maximum) {
  float sum = 0.0f;
  for (std::size_t t = 0; t < num_tokens; ++t) {
    weights[t] = std::exp(scale * weights[t] - maximum);
    sum += weights[t];
  }
  for (std::size_t t = num_tokens; t % 16 != 0; ++t) weights[t] = 0.0f;
  return sum;
}

}  // namespace portable
}  // namespace POLARQUANT_BASELINES_COMPILER
}  // namespace polarquant_baselines
