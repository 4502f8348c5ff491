// How a cache is set up, and the codecs that the caches of all layers share.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "polarquant/codebook.hpp"
#include "polarquant/codec.hpp"
#include "polarquant/error.hpp"
#include "polarquant/format.hpp"
#include "polarquant/rotation.hpp"
#include "polarquant/tile_pages.hpp"
#include "polarquant/version.hpp"

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

struct KVCacheConfig {
  int num_kv_heads = 1;
  int num_query_heads = 1;  // a multiple of num_kv_heads
  PolarFormat key_format = PolarFormat::uncompressed(128);
  PolarFormat value_format = PolarFormat::uncompressed(128);
  RotationKind rotation = RotationKind::kHaar;
  std::uint64_t seed = 0;
  Arithmetic arithmetic = Arithmetic::kExact;

  // Codebooks fitted to data (online_codebooks); null: the offline ones.
  std::shared_ptr<const CodebookSet> key_codebooks;
  std::shared_ptr<const CodebookSet> value_codebooks;

  // Where the pages of codes come from; operator new by default.
  PageAllocator allocator;

  // Throws std::invalid_argument, naming the value and the rule.
  void validate() const {
    if (num_kv_heads < 1) {
      detail::throw_invalid_argument("num_kv_heads is " + std::to_string(num_kv_heads) +
                                     ", must be at least 1");
    }
    if (num_query_heads < 1 || num_query_heads % num_kv_heads != 0) {
      detail::throw_invalid_argument(
          "num_query_heads is " + std::to_string(num_query_heads) +
          ", must be a multiple of num_kv_heads = " + std::to_string(num_kv_heads));
    }
    if (arithmetic != Arithmetic::kExact && arithmetic != Arithmetic::kFixedPoint) {
      detail::throw_invalid_argument("arithmetic is " +
                                     std::to_string(static_cast<int>(arithmetic)) +
                                     ", must be kExact or kFixedPoint");
    }
    key_format.validate();
    value_format.validate();
    allocator.validate();
  }
};

// The codecs of keys and of values: what the caches of all layers and sequences share. Immutable.
template <typename T>
struct KVCodec {
  PolarCodec<T> keys;
  PolarCodec<T> values;

  // Throws what KVCacheConfig::validate and PolarCodec throw.
  explicit KVCodec(const KVCacheConfig& config) : KVCodec(config, make_key_rotation(config)) {}

  // Rotations and tables. Keys and values of equal width share a rotation.
  std::size_t memory_bytes() const {
    const bool shared = &keys.rotation() == &values.rotation();
    return keys.memory_bytes() + values.memory_bytes() -
           (shared ? keys.rotation().memory_bytes() : 0);
  }

 private:
  KVCodec(const KVCacheConfig& config, const std::shared_ptr<const Rotation>& key_rotation)
      : keys(make_codec(config.key_format, key_rotation, config.key_codebooks, config.arithmetic)),
        values(make_codec(config.value_format,
                          config.value_format.head_dim == config.key_format.head_dim
                              ? key_rotation
                              : std::make_shared<const Rotation>(
                                    config.rotation, config.value_format.head_dim, config.seed),
                          config.value_codebooks, config.arithmetic)) {}

  static std::shared_ptr<const Rotation> make_key_rotation(const KVCacheConfig& config) {
    config.validate();
    return std::make_shared<const Rotation>(config.rotation, config.key_format.head_dim,
                                            config.seed);
  }

  static PolarCodec<T> make_codec(const PolarFormat& format,
                                  const std::shared_ptr<const Rotation>& rotation,
                                  const std::shared_ptr<const CodebookSet>& codebooks,
                                  Arithmetic arithmetic) {
    return codebooks == nullptr ? PolarCodec<T>(format, rotation, arithmetic)
                                : PolarCodec<T>(format, rotation, *codebooks, arithmetic);
  }
};

POLARQUANT_END_NAMESPACE
