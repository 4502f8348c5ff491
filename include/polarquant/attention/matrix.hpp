// Eigen at the face: matrices, and the checks between them, which throw, and the calls on rows,
// which do not.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <limits>
#include <string>
#include <type_traits>

#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec_format.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/storage/kv_codec.hpp"
#include "polarquant/storage/kv_storage.hpp"

POLARQUANT_BEGIN_NAMESPACE

// A row-major matrix of T. Not over-aligned: an aligned Eigen matrix allocates and frees in a way
// that depends on -m flags, and so must not pass between units compiled with different ones.
template <typename T>
using RowMatrix =
    Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor | Eigen::DontAlign>;

// Any row-major matrix, block or Eigen::Map of T with contiguous rows, without a copy; anything
// else (a column-major matrix, an expression) is copied.
template <typename T>
using RowMatrixRef = Eigen::Ref<const RowMatrix<T>, 0, Eigen::OuterStride<>>;

namespace detail {

template <typename T>
Rows<const T> rows_of(const RowMatrixRef<T>& matrix) {
  return {matrix.data(), matrix.rows(), matrix.outerStride()};
}

template <typename T>
Rows<T> rows_of(RowMatrix<T>& matrix) {
  return {matrix.data(), matrix.rows(), matrix.cols()};
}

// Throws std::invalid_argument unless a matrix, [rows, columns], has num_heads heads (what they are
// called is `heads`) as wide as the format's.
inline void check_columns(const char* what, Eigen::Index rows, Eigen::Index columns,
                          const char* heads, int num_heads, const CodecFormat& format) {
  const Eigen::Index expected = static_cast<Eigen::Index>(num_heads) * format.head_dim();
  if (columns == expected) return;
  throw_invalid_argument({what, " are ", rows, " x ", columns, ", must be [rows, ", heads,
                          " * head_dim = ", num_heads, " * ", format.head_dim(), " = ", expected,
                          "]"});
}

// Throws std::invalid_argument for queries of a wrong width, or with a NaN or infinity.
template <typename T>
void check_queries(const RowMatrixRef<T>& queries, const KVCacheConfig& config) {
  using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;
  check_columns("queries", queries.rows(), queries.cols(), "num_query_heads",
                config.num_query_heads, config.key_format);
  for (Eigen::Index row = 0; row < queries.rows(); ++row) {
    for (Eigen::Index column = 0; column < queries.cols(); ++column) {
      if (is_finite(static_cast<Wide>(queries(row, column)))) continue;
      throw_invalid_argument({"query ", row, " has a NaN or an infinity in column ", column});
    }
  }
}

// Throws std::invalid_argument for such queries, or options that break a rule.
template <typename T, typename Options>
void check_call(const RowMatrixRef<T>& queries, const Options& options, const KVCacheConfig& config,
                std::size_t num_tokens) {
  check_queries<T>(queries, config);
  options.validate(static_cast<std::size_t>(queries.rows()),
                   static_cast<std::size_t>(config.num_query_heads), num_tokens);
}

// The type that holds T exactly, for exact rows.
template <typename T>
constexpr FloatType own_float_type() {
  constexpr int kDigits = std::numeric_limits<T>::digits;
  return kDigits == 53   ? FloatType::kFloat64
         : kDigits == 11 ? FloatType::kFloat16
         : kDigits == 8  ? FloatType::kBFloat16
                         : FloatType::kFloat32;
}

inline const char* maybe_negative(std::size_t number) {
  return number > (std::numeric_limits<std::size_t>::max)() / 2 ? " (a negative number?)" : "";
}

// Of tokens appended behind num_tokens others.
[[noreturn]] POLARQUANT_COLD inline void throw_append_failure(const AppendResult& result,
                                                              std::size_t num_tokens) {
  const std::string where = message({result.side == Side::kKeys ? "key" : "value", " of token ",
                                     num_tokens + result.token, ", KV head ", result.kv_head});
  if (result.failure == EncodeFailure::kNotFinite) {
    throw_invalid_argument({"the ", where, " has a NaN or an infinity; nothing was appended"});
  }
  throw_invalid_argument({"the ", where, " is beyond the range of ", float_type_name(result.type),
                          "; nothing was appended"});
}

inline void check_head(int kv_head, const KVCacheConfig& config) {
  if (kv_head >= 0 && kv_head < config.num_kv_heads) return;
  throw_invalid_argument({"KV head ", kv_head, ": the cache has ", config.num_kv_heads});
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
