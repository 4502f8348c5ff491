// How a cache is set up, and the codecs that the caches of all layers share.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "polarquant/method/codebook.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/method/polar_format.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/method/rotation.hpp"
#include "polarquant/storage/page_pool.hpp"
#include "polarquant/base/version.hpp"

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

// What is subtracted from keys and from values before they are rotated and encoded: one vector per
// KV head and side. Keys of a real model have a large mean (about half of their energy), and bits
// spent on what all keys share are lost. It costs attention nothing: q . (k - m) = q . k - q . m
// lowers all logits of a query by one number, and softmax(x - c) = softmax(x). Values get theirs
// back in the output: sum_t p_t (v_t - m) = output - m, as the weights p_t sum to 1.
enum class Centering : std::uint8_t {
  kNone = 0,
  kGiven = 1,      // key_mean and value_mean of the configuration
  kEstimated = 2,  // the mean of the first num_centering_tokens tokens behind the sinks; until they
                   // have come, all tokens are kept exact; then it is fixed until clear()
};

struct KVCacheConfig {
  int num_kv_heads = 1;
  int num_query_heads = 1;  // a multiple of num_kv_heads
  PolarFormat key_format = PolarFormat::uncompressed(128);
  PolarFormat value_format = PolarFormat::uncompressed(128);
  RotationKind rotation = RotationKind::kHaar;
  std::uint64_t seed = 0;
  Arithmetic arithmetic = Arithmetic::kFixedPoint;

  // Codebooks fitted to data (online_codebooks); null: the offline ones.
  std::shared_ptr<const CodebookSet> key_codebooks;
  std::shared_ptr<const CodebookSet> value_codebooks;

  // Where the pages of codes come from; operator new by default.
  PageAllocator allocator;

  // Tokens that are not encoded but kept in exact_type: the first ones (attention sinks), and the
  // most recent ones. A token is encoded once, when it leaves the recent window, in whole tiles:
  // the window holds num_recent_tokens to num_recent_tokens + kTileTokens - 1 tokens, as far as
  // there are so many. 0: a token is encoded when it is appended. kAllTokens: until
  // encode_recent().
  // The sinks by default are what makes centring pay: docs/design.md.
  std::size_t num_sink_tokens = 4;
  std::size_t num_recent_tokens = kTileTokens;
  FloatType exact_type = FloatType::kFloat32;

  Centering centering = Centering::kEstimated;
  std::size_t num_centering_tokens = 128;

  // For kGiven, [num_kv_heads * head_dim] of the side; empty: that side is not centred. An
  // uncompressed side is never centred.
  std::vector<float> key_mean;
  std::vector<float> value_mean;

  static constexpr std::size_t kAllTokens = std::size_t{1} << 40;

  // The first rule that is broken, with the value that breaks it; empty if all hold.
  std::string problem() const {
    if (num_kv_heads < 1) {
      return "num_kv_heads is " + std::to_string(num_kv_heads) + ", must be at least 1";
    }
    if (num_query_heads < 1 || num_query_heads % num_kv_heads != 0) {
      return "num_query_heads is " + std::to_string(num_query_heads) +
             ", must be a multiple of num_kv_heads = " + std::to_string(num_kv_heads);
    }
    if (arithmetic != Arithmetic::kExact && arithmetic != Arithmetic::kFixedPoint) {
      return "arithmetic is " + std::to_string(static_cast<int>(arithmetic)) +
             ", must be kExact or kFixedPoint";
    }
    for (const PolarFormat* format : {&key_format, &value_format}) {
      const std::string of_format = format->problem();
      if (!of_format.empty()) return of_format;
    }
    for (const std::string& found :
         {codebook_problem("key_codebooks", key_codebooks.get(), key_format),
          codebook_problem("value_codebooks", value_codebooks.get(), value_format), exact_problem(),
          allocator.problem()}) {
      if (!found.empty()) return found;
    }
    const std::string of_keys = mean_problem("key_mean", key_mean, key_format);
    return of_keys.empty() ? mean_problem("value_mean", value_mean, value_format) : of_keys;
  }

  // Throws std::invalid_argument with problem(), if there is one.
  void validate() const {
    const std::string found = problem();
    if (!found.empty()) detail::throw_invalid_argument(found);
  }

 private:
  static std::string codebook_problem(const char* name, const CodebookSet* given,
                                      const PolarFormat& format) {
    if (given == nullptr) return {};
    const std::size_t num_levels = static_cast<std::size_t>(format.levels);
    const std::size_t num_joins =
        format.is_uncompressed() ? 0 : static_cast<std::size_t>(format.shape().num_joins());
    const std::string of_levels =
        codebook_problem(given->levels, format.level_bits.data(), num_levels, "level");
    const std::string found =
        of_levels.empty()
            ? codebook_problem(given->joins, format.join_bits.data(), num_joins, "join")
            : of_levels;
    return found.empty() ? found : std::string(name) + ": " + found;
  }

  static std::string codebook_problem(const std::vector<AngleCodebook>& given,
                                      const std::uint8_t* bits, std::size_t count,
                                      const std::string& what) {
    if (given.size() != count) {
      return "codebooks for " + std::to_string(given.size()) + " " + what + "s, the format has " +
             std::to_string(count);
    }
    for (std::size_t i = 0; i < count; ++i) {
      if (given[i].bits() == bits[i]) continue;
      return "the codebook of " + what + " number " + std::to_string(i) + " has " +
             std::to_string(given[i].bits()) + " bits, must have " + std::to_string(bits[i]);
    }
    return {};
  }

  std::string exact_problem() const {
    if (num_sink_tokens > kAllTokens || num_recent_tokens > kAllTokens) {
      return "num_sink_tokens is " + std::to_string(num_sink_tokens) + ", num_recent_tokens " +
             std::to_string(num_recent_tokens) + ": must be at most kAllTokens = 2^40";
    }
    if (static_cast<int>(exact_type) > static_cast<int>(FloatType::kFloat64)) {
      return "exact_type is " + std::to_string(static_cast<int>(exact_type)) + ", not a FloatType";
    }
    if (static_cast<int>(centering) > static_cast<int>(Centering::kEstimated)) {
      return "centering is " + std::to_string(static_cast<int>(centering)) + ", not a Centering";
    }
    if (centering == Centering::kEstimated &&
        (num_centering_tokens < 1 || num_centering_tokens > kAllTokens)) {
      return "num_centering_tokens is " + std::to_string(num_centering_tokens) +
             ", must be 1 .. 2^40";
    }
    if (centering == Centering::kGiven && key_mean.empty() && value_mean.empty()) {
      return "centering is kGiven, but key_mean and value_mean are empty";
    }
    return {};
  }

  std::string mean_problem(const char* name, const std::vector<float>& mean,
                           const PolarFormat& format) const {
    if (mean.empty()) return {};
    if (centering != Centering::kGiven) {
      return std::string(name) + " is given, but centering is not kGiven";
    }
    const std::size_t size =
        static_cast<std::size_t>(num_kv_heads) * static_cast<std::size_t>(format.head_dim);
    if (mean.size() != size) {
      return std::string(name) + " has " + std::to_string(mean.size()) +
             " entries, must have num_kv_heads * head_dim = " + std::to_string(size);
    }
    for (std::size_t i = 0; i < size; ++i) {
      if (std::isfinite(mean[i])) continue;
      return std::string(name) + " has a NaN or an infinity in entry " + std::to_string(i);
    }
    return {};
  }
};

// Whether a cache can be made of a configuration, and if not, why not. Nothing that is supported
// falls back to less than was asked; which kernels run is kernel_name()'s answer.
struct Support {
  std::string reason;  // empty if supported

  explicit operator bool() const { return reason.empty(); }
};
inline Support is_supported(const KVCacheConfig& config) { return {config.problem()}; }

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
