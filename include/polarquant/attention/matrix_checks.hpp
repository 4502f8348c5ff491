// The checks between matrices, which throw, and the calls on rows, which do not.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <string>
#include <type_traits>

#include "polarquant/base/error.hpp"
#include "polarquant/method/polar_format.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

template <typename T>
Rows<const T> rows_of(const RowMatrixRef<T>& matrix) {
  return {matrix.data(), static_cast<std::size_t>(matrix.rows()),
          static_cast<std::size_t>(matrix.outerStride())};
}

template <typename T>
Rows<T> rows_of(RowMatrix<T>& matrix) {
  return {matrix.data(), static_cast<std::size_t>(matrix.rows()),
          static_cast<std::size_t>(matrix.cols())};
}

// Throws std::invalid_argument unless `columns` are num_heads heads as wide as the format's.
inline void check_columns(const char* what, Eigen::Index columns, int num_heads,
                          const PolarFormat& format) {
  const Eigen::Index expected = static_cast<Eigen::Index>(num_heads) * format.head_dim;
  if (columns == expected) return;
  throw_invalid_argument(std::string(what) + " have " + std::to_string(columns) +
                         " columns, must have " + std::to_string(num_heads) + " heads * head_dim " +
                         std::to_string(format.head_dim) + " = " + std::to_string(expected));
}

// Throws std::invalid_argument for queries of a wrong width, or with a NaN or infinity.
template <typename T>
void check_queries(const RowMatrixRef<T>& queries, const KVCacheConfig& config) {
  using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;
  check_columns("queries", queries.cols(), config.num_query_heads, config.key_format);
  for (Eigen::Index row = 0; row < queries.rows(); ++row) {
    for (Eigen::Index column = 0; column < queries.cols(); ++column) {
      if (std::isfinite(static_cast<Wide>(queries(row, column)))) continue;
      throw_invalid_argument("query " + std::to_string(row) +
                             " has a NaN or an infinity in column " + std::to_string(column));
    }
  }
}

inline void check_head(int kv_head, const KVCacheConfig& config) {
  if (kv_head >= 0 && kv_head < config.num_kv_heads) return;
  throw_invalid_argument("KV head " + std::to_string(kv_head) + ": the cache has " +
                         std::to_string(config.num_kv_heads));
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
