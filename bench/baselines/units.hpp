// Entries of the baselines that are compiled apart: with another compiler or other flags.
#pragma once

#include <cstddef>

#include "baselines/float16_kernels.hpp"

namespace polarquant_baselines {

enum class UnitIsa { kScalar, kAvx2, kAvx512, kNeon };

}  // namespace polarquant_baselines

// float16_unit.cpp as each compiler built it. The machine must have the instruction set.
extern "C" void polarquant_float16_by_gcc(polarquant_baselines::UnitIsa isa,
                                          polarquant_baselines::Float16Kernels* kernels);
extern "C" void polarquant_float16_by_clang(polarquant_baselines::UnitIsa isa,
                                            polarquant_baselines::Float16Kernels* kernels);

// native_unit.cpp. Matrices are row-major without gaps: keys, values [num_tokens, head_dim];
// queries, sums, output [num_queries, head_dim]; scores, weights [num_queries, num_tokens].
extern "C" void polarquant_eigen_scores(const float* keys, std::size_t num_tokens,
                                        std::size_t head_dim, const float* queries,
                                        std::size_t num_queries, float* scores);
extern "C" void polarquant_eigen_sums(const float* values, std::size_t num_tokens,
                                      std::size_t head_dim, const float* weights,
                                      std::size_t num_queries, float* sums);
// Causal, like KVCache::attend with one KV head; queries, output:
// [num_queries, num_heads * head_dim].
extern "C" void polarquant_eigen_attend(const float* keys, const float* values,
                                        std::size_t num_tokens, std::size_t head_dim,
                                        const float* queries, std::size_t num_queries,
                                        std::size_t num_heads, float scale, float* output);
// The sum of all but the last count % 128; fetches num_ahead numbers ahead, if that is not 0.
extern "C" float polarquant_stream_sum(const float* data, std::size_t count, std::size_t num_ahead);
