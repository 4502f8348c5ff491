// Attention over fp16 rows (or blocks of 8 or 4 bits) on any machine's loops: online softmax, a
// block of tokens at a time.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "baselines/float16_kernels.hpp"

namespace polarquant_baselines {

// Rows as Float16Kernels takes them.
struct Float16Span {
  const std::uint16_t* data;
  std::size_t stride;

  const std::uint16_t* row(std::size_t token) const { return data + token * stride; }
};

// Rows as BlockKernels takes them.
struct BlockSpan {
  const std::byte* data;
  std::size_t stride;  // coordinates
  std::size_t row_bytes;

  const std::byte* row(std::size_t token) const { return data + token * row_bytes; }
};

// Memory for one call: up to kMaxGroup query heads.
struct Float16Work {
  Float16Work(std::size_t key_stride, std::size_t value_stride)
      : queries(kMaxGroup * key_stride), sums(kMaxGroup * value_stride) {}

  std::vector<float> queries;  // [kMaxGroup, key stride]
  std::vector<float> sums;     // [kMaxGroup, value stride]
  std::array<float, kMaxGroup * kTokenBlock> weights{};
  std::array<float, kMaxGroup> maxima{};
  std::array<float, kMaxGroup> totals{};
};

// work.sums[h] = sum over tokens of exp(scale q_h . k_t - maximum_h) v_t, and work.totals[h] the
// sum of those weights, for the queries in work.queries.
template <typename Kernels, typename Span>
void attend_group(const Kernels& kernels, const Span& keys, const Span& values,
                  std::size_t num_tokens, std::size_t group, float scale, Float16Work& work) {
  std::fill(work.sums.begin(), work.sums.end(), 0.0f);
  work.totals.fill(0.0f);
  work.maxima.fill(-HUGE_VALF);
  for (std::size_t token = 0; token < num_tokens; token += kTokenBlock) {
    const std::size_t count = std::min(kTokenBlock, num_tokens - token);
    kernels.score(keys.row(token), count, keys.stride, work.queries.data(), group,
                  work.weights.data(), kTokenBlock);
    for (std::size_t h = 0; h < group; ++h) {
      float* const weights = work.weights.data() + h * kTokenBlock;
      const float largest = scale * kernels.maximum(weights, count);
      if (largest > work.maxima[h]) {
        const float shrink = std::exp(work.maxima[h] - largest);
        for (std::size_t j = 0; j < values.stride; ++j) work.sums[h * values.stride + j] *= shrink;
        work.totals[h] *= shrink;
        work.maxima[h] = largest;
      }
      work.totals[h] += kernels.exponentiate(weights, count, scale, work.maxima[h]);
    }
    kernels.accumulate(values.row(token), count, values.stride, work.weights.data(), kTokenBlock,
                       group, work.sums.data());
  }
}

}  // namespace polarquant_baselines
