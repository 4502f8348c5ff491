// A small cache filled and read through the public interface, shared by the consumers.
#pragma once

#include <cstdint>
#include <polarquant/polarquant.hpp>
#include <vector>

namespace {

// Reproducible values in [-1, 1).
inline void fill(polarquant::RowMatrix<float>& matrix, std::uint32_t seed) {
  for (Eigen::Index row = 0; row < matrix.rows(); ++row) {
    for (Eigen::Index column = 0; column < matrix.cols(); ++column) {
      seed = seed * 1664525u + 1013904223u;
      matrix(row, column) = static_cast<float>(seed >> 8) / 8388608.0f - 1.0f;
    }
  }
}

// The attention output of two queries over twenty tokens, row by row; empty when its shape is not
// that of the queries.
inline std::vector<float> attend_once() {
  polarquant::KVCacheConfig config;
  config.num_kv_heads = 2;
  config.num_query_heads = 4;
  config.key_format = polarquant::PolarFormat::paper(64);
  config.value_format = polarquant::PolarFormat::full_depth(64, 3.25);
  config.seed = 42;
  polarquant::KVCache<float> cache(config);

  polarquant::RowMatrix<float> keys(20, 2 * 64), values(20, 2 * 64), queries(2, 4 * 64);
  fill(keys, 1);
  fill(values, 2);
  fill(queries, 3);
  cache.append(keys, values);
  const polarquant::RowMatrix<float> output = cache.attend(queries);
  if (output.rows() != queries.rows() || output.cols() != queries.cols()) return {};
  return std::vector<float>(output.data(), output.data() + output.size());
}

}  // namespace
