// What the tests of the cache share: the shapes of small caches, their rows, their codes.
#pragma once

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "plain_8bit_codec.hpp"
#include "polarquant/polarquant.hpp"
#include "test_util.hpp"

namespace polarquant_test {

// ---- What a test is run for: a type of rows and a family of codes ----

struct PolarFamily {
  static polarquant::CodecFormat keys(int head_dim) {
    return polarquant::PolarFormat::full_depth(head_dim, 4.25);
  }
  static polarquant::CodecFormat values(int head_dim) {
    return polarquant::PolarFormat::paper(head_dim);
  }
};

struct Plain8BitFamily {
  static polarquant::CodecFormat keys(int head_dim) { return plain_8bit(head_dim); }
  static polarquant::CodecFormat values(int head_dim) { return plain_8bit(head_dim); }
};

struct TrellisFamily {
  static polarquant::CodecFormat keys(int head_dim) {
    return polarquant::TrellisFormat(head_dim, 4);
  }
  static polarquant::CodecFormat values(int head_dim) {
    return polarquant::TrellisFormat(head_dim, 3.5);
  }
};

template <typename GivenT, typename GivenFamily = PolarFamily>
struct CacheCase {
  using T = GivenT;
  using A = AccumulatorOf<T>;
  using Family = GivenFamily;
};

using Families = testing::Types<PolarFamily, TrellisFamily, Plain8BitFamily>;
using CacheCases = testing::Types<CacheCase<float>, CacheCase<double>, CacheCase<Eigen::half>,
                                  CacheCase<Eigen::bfloat16>, CacheCase<float, Plain8BitFamily>,
                                  CacheCase<double, TrellisFamily>>;

// ---- Transforms of keys ----

// (1 + H)^2 with a random symmetric H, whose eigenvalues lie between about -0.6 and 0.6.
inline std::shared_ptr<const polarquant::KeyMatrices> random_key_matrices(
    int num_kv_heads, int head_dim, polarquant::Random& random) {
  std::vector<float> triangles;
  for (int head = 0; head < num_kv_heads; ++head) {
    Eigen::MatrixXd root(head_dim, head_dim);
    const double size = 0.3 / std::sqrt(2.0 * head_dim);
    for (Eigen::Index i = 0; i < root.size(); ++i) root.data()[i] = size * random.gaussian();
    root = (Eigen::MatrixXd::Identity(head_dim, head_dim) + root + root.transpose()).eval();
    const Eigen::MatrixXd matrix = root * root;
    for (Eigen::Index i = 0; i < head_dim; ++i) {
      for (Eigen::Index j = 0; j <= i; ++j) triangles.push_back(static_cast<float>(matrix(i, j)));
    }
  }
  return std::make_shared<const polarquant::KeyMatrices>(
      static_cast<std::size_t>(num_kv_heads), static_cast<std::size_t>(head_dim), triangles);
}

// row M, every sum in order by fma; null: the row.
template <typename A>
std::vector<A> plain_product(const std::vector<A>& row, const float* matrix) {
  if (matrix == nullptr) return row;
  std::vector<A> result(row.size(), A(0));
  for (std::size_t i = 0; i < row.size(); ++i) {
    for (std::size_t j = 0; j < row.size(); ++j) {
      result[j] = std::fma(row[i], static_cast<A>(matrix[i * row.size() + j]), result[j]);
    }
  }
  return result;
}

// What is encoded, by the definition of Conditioning: a scaled row is rounded once.
template <typename A>
std::vector<A> plainly_conditioned(const polarquant::Conditioning<A>& change,
                                   const std::vector<A>& row) {
  std::vector<A> result = plain_product(row, change.transform.matrix);
  for (std::size_t i = 0; i < row.size(); ++i) {
    const A scale = change.transform.scales == nullptr ? A(1) : change.transform.scales[i];
    result[i] = std::fma(scale, result[i], change.center == nullptr ? A(0) : -change.center[i]);
  }
  return result;
}

// And back.
template <typename A>
std::vector<A> plainly_restored(const polarquant::Conditioning<A>& change, std::vector<A> row) {
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (change.center != nullptr) row[i] += change.center[i];
    if (change.transform.scales != nullptr) row[i] /= change.transform.scales[i];
  }
  return plain_product(row, change.transform.inverse);
}

// ---- Shapes ----

// Two KV heads, six query heads; keys 32 wide, values 48: odd and even numbers of bytes. Every
// token is encoded at once.
inline constexpr Eigen::Index kKeyColumns = 2 * 32;
inline constexpr Eigen::Index kValueColumns = 2 * 48;
inline constexpr Eigen::Index kQueryColumns = 6 * 32;
inline constexpr Eigen::Index kOutputColumns = 6 * 48;

template <typename Family = PolarFamily>
polarquant::KVCacheConfig make_config() {
  static const polarquant::CodecFormat keys = Family::keys(32);
  static const polarquant::CodecFormat values = Family::values(48);
  polarquant::KVCacheConfig config;
  config.num_kv_heads = 2;
  config.num_query_heads = 6;
  config.key_format = keys;
  config.value_format = values;
  config.seed = 3;
  encode_all(config);
  return config;
}

// The same, whose attention is that over the decoded rows to 1e-5.
template <typename Family = PolarFamily>
polarquant::KVCacheConfig exact_config() {
  polarquant::KVCacheConfig config = make_config<Family>();
  config.arithmetic = polarquant::Arithmetic::kExact;
  return config;
}

// The same with exact tokens at both ends.
template <typename Family = PolarFamily>
polarquant::KVCacheConfig segments_config(
    std::size_t num_sinks, std::size_t num_recent,
    polarquant::Centering centering = polarquant::Centering::kNone) {
  polarquant::KVCacheConfig config = exact_config<Family>();
  config.num_sink_tokens = num_sinks;
  config.num_recent_tokens = num_recent;
  config.exact_type = polarquant::FloatType::kFloat32;
  config.centering = centering;
  if (centering == polarquant::Centering::kGiven) config.key_mean.assign(kKeyColumns, 0.25f);
  return config;
}

// One head on each side, and else as KVCacheConfig comes.
inline polarquant::KVCacheConfig config_with(const polarquant::CodecFormat& keys,
                                             const polarquant::CodecFormat& values) {
  polarquant::KVCacheConfig config;
  config.key_format = keys;
  config.value_format = values;
  return config;
}
inline polarquant::KVCacheConfig paper_64() {
  static const polarquant::CodecFormat paper = polarquant::PolarFormat::paper(64);
  return config_with(paper, paper);
}

// The codec of a configuration, made once for all tests of a program: making one takes longer than
// most of them.
template <typename A>
std::shared_ptr<const polarquant::KVCodec<A>> shared_codec(
    const polarquant::KVCacheConfig& config) {
  static std::vector<std::shared_ptr<const polarquant::KVCodec<A>>> made;
  for (const auto& codec : made) {
    if (codec->mismatch(config).empty()) return codec;
  }
  made.push_back(std::make_shared<const polarquant::KVCodec<A>>(config));
  return made.back();
}

template <typename T>
polarquant::KVCache<T> make_cache(const polarquant::KVCacheConfig& config) {
  return {config, shared_codec<AccumulatorOf<T>>(config)};
}

// ---- Rows ----

template <typename T>
struct TokenRows {
  TokenRows(const polarquant::KVCacheConfig& config, Eigen::Index count, std::uint64_t seed)
      : keys(gaussian_matrix<T>(count, static_cast<Eigen::Index>(config.key_columns()), seed)),
        values(gaussian_matrix<T>(count, static_cast<Eigen::Index>(config.value_columns()),
                                  seed + 1)) {}

  // Rows first .. first + count - 1, appended.
  void append_to(polarquant::KVCache<T>& cache, Eigen::Index first, Eigen::Index count) const {
    cache.append(keys.middleRows(first, count), values.middleRows(first, count));
  }
  // The same on Rows.
  polarquant::AppendResult append_on_rows(polarquant::KVCache<T>& cache, std::size_t first,
                                          std::size_t count) const {
    GuardedBytes scratch(cache.scratch_bytes());
    const polarquant::AppendResult result = cache.append(
        rows_of(keys).block(first, count), rows_of(values).block(first, count), scratch.data());
    EXPECT_TRUE(scratch.guard_is_intact());
    return result;
  }

  static polarquant::Rows<const T> rows_of(const polarquant::RowMatrix<T>& matrix) {
    return {matrix.data(), matrix.rows(), matrix.cols()};
  }

  polarquant::RowMatrix<T> keys;
  polarquant::RowMatrix<T> values;
};

template <typename T>
void append_random(polarquant::KVCache<T>& cache, Eigen::Index count, std::uint64_t seed) {
  TokenRows<T>(cache.config(), count, seed).append_to(cache, 0, count);
}

template <typename T>
polarquant::RowMatrix<T> random_queries(const polarquant::KVCacheConfig& config, Eigen::Index count,
                                        std::uint64_t seed = 3) {
  return gaussian_matrix<T>(count, static_cast<Eigen::Index>(config.query_columns()), seed);
}

template <typename T>
polarquant::KVCache<T> filled_cache(Eigen::Index num_tokens,
                                    const polarquant::KVCacheConfig& config = make_config()) {
  polarquant::KVCache<T> cache = make_cache<T>(config);
  append_random(cache, num_tokens, 1);
  return cache;
}

// ---- What a cache holds ----

template <typename T>
std::vector<std::byte> all_codes(const polarquant::KVCache<T>& cache) {
  std::vector<std::byte> codes;
  for (std::size_t token = 0; token < cache.num_tokens(); ++token) {
    for (int head = 0; head < cache.config().num_kv_heads; ++head) {
      for (const std::vector<std::byte>& code :
           {cache.key_code(head, token), cache.value_code(head, token)}) {
        codes.insert(codes.end(), code.begin(), code.end());
      }
    }
  }
  return codes;
}

// Everything that can be seen of a cache's tokens: which are codes and which are removed, the rows
// decoded, the centres.
template <typename T>
struct CacheState {
  using A = AccumulatorOf<T>;

  explicit CacheState(const polarquant::KVCache<T>& cache)
      : num_tokens(cache.num_tokens()),
        num_encoded(cache.num_encoded_tokens()),
        removed(cache.removed_tokens()) {
    for (int head = 0; head < cache.config().num_kv_heads; ++head) {
      rows.push_back(cache.decode_keys(head));
      rows.push_back(cache.decode_values(head));
      // One of each tile's.
      const std::size_t first = std::min(num_tokens, cache.config().num_sink_tokens);
      for (std::size_t i = 0; i < num_encoded; i += polarquant::kTileTokens) {
        centers.push_back(cache.key_center(head, first + i));
        centers.push_back(cache.value_center(head, first + i));
      }
    }
  }
  friend bool operator==(const CacheState& x, const CacheState& y) {
    return x.num_tokens == y.num_tokens && x.num_encoded == y.num_encoded &&
           x.removed == y.removed && x.centers == y.centers && x.rows == y.rows;
  }
  friend bool operator!=(const CacheState& x, const CacheState& y) { return !(x == y); }

  std::size_t num_tokens;
  std::size_t num_encoded;
  std::vector<polarquant::TokenRange> removed;
  std::vector<polarquant::RowMatrix<A>> rows;
  std::vector<std::vector<A>> centers;
};

template <typename T>
CacheState<T> state_of(const polarquant::KVCache<T>& cache) {
  return CacheState<T>(cache);
}

}  // namespace polarquant_test
