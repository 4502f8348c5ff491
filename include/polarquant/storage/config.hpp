// How a cache is set up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polarquant/base/compiled.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec_format.hpp"
#include "polarquant/codec/families.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/method/rotation.hpp"
#include "polarquant/storage/calibration.hpp"
#include "polarquant/storage/page_pool.hpp"

POLARQUANT_BEGIN_NAMESPACE

// What is subtracted from keys and from values before they are rotated and encoded. Keys of a real
// model have a large mean (about half of their energy), and bits spent on what all keys share are
// lost. Attention sees none of it: q . (k - c) + q . c = q . k, and values get back c times the
// weight of the tokens that lack it.
enum class Centering : std::uint8_t {
  kNone = 0,
  kGiven = 1,  // key_mean and value_mean of the configuration
  // 2: a mean that was estimated once, in saved caches of versions 1 and 2.
  kLocal = 3,  // a centre for each span of kSpanTokens tokens, the mean of the 64 tokens before its
               // start and the 64 behind it, as far as they have come when the first of the span is
               // encoded. After RoPE the mean of keys turns with the position: docs/design.md.
};

struct KVCacheConfig {
  int num_kv_heads = 1;
  int num_query_heads = 1;  // a multiple of num_kv_heads

  // To be set, to a format of format.hpp.
  CodecFormat key_format;
  CodecFormat value_format;

  RotationKind rotation = RotationKind::kHaar;
  std::uint64_t seed = 0;
  Arithmetic arithmetic = Arithmetic::kFixedPoint;

  // The instruction set of the kernels. Empty: the best of the machine, or what the environment
  // variable POLARQUANT_ISA names.
  std::optional<Isa> isa;

  // Where the pages of codes come from; operator new by default.
  PageAllocator allocator;

  // Tokens that are not encoded but kept in exact_type: the first ones (attention sinks), and the
  // most recent ones. A token is encoded once, when it leaves the recent window, in whole tiles:
  // the window holds num_recent_tokens to num_recent_tokens + kTileTokens - 1 tokens, as far as
  // there are so many. 0: a token is encoded when it is appended, but under kLocal the first
  // kTileTokens tokens of a span are kept exact until there are so many. kAllTokens: until
  // encode_recent().
  // The sinks by default are what makes centring pay: docs/design.md.
  std::size_t num_sink_tokens = 4;
  std::size_t num_recent_tokens = kTileTokens;
  std::optional<FloatType> exact_type;  // empty: that of the cache's keys and values

  Centering centering = Centering::kLocal;

  // Scales of key channels, or matrices: calibration.layer(i) of the layer that the cache is of. An
  // uncompressed side is never transformed; the bits in it are for key_format and value_format to
  // take up.
  LayerCalibration calibration;

  // For kGiven, [num_kv_heads * head_dim] of the side; empty: that side is not centred. An
  // uncompressed side is never centred.
  std::vector<float> key_mean;
  std::vector<float> value_mean;

  // 2^40, or what a machine of 32 bits has instead.
  static constexpr std::size_t kAllTokens =
      static_cast<std::size_t>(std::uint64_t{1} << (sizeof(std::size_t) > 4 ? 40 : 30));

  // Columns of the matrices of keys, values, queries and outputs.
  std::size_t key_columns() const { return columns(num_kv_heads, key_format); }
  std::size_t value_columns() const { return columns(num_kv_heads, value_format); }
  std::size_t query_columns() const { return columns(num_query_heads, key_format); }
  std::size_t output_columns() const { return columns(num_query_heads, value_format); }

  // The first rule that is broken, with the value that breaks it; empty if all hold.
  std::string problem() const;

  // Throws std::invalid_argument with problem(), if there is one.
  void validate() const {
    const std::string found = problem();
    if (!found.empty()) detail::throw_invalid_argument(found);
  }

 private:
  static std::size_t columns(int num_heads, const CodecFormat& format) {
    return static_cast<std::size_t>(num_heads) * static_cast<std::size_t>(format.head_dim());
  }
  std::string segment_problem() const;
  std::string scale_problem() const;
  std::string matrix_problem(const KeyMatrices& matrices) const;
  std::string mean_problem(const char* name, const std::vector<float>& mean,
                           const CodecFormat& format) const;
};

// Whether a cache can be made of a configuration, and if not, why not. Nothing that is supported
// falls back to less than was asked; which kernels run is kernel_name()'s answer.
struct [[nodiscard]] Support {
  std::string reason;  // empty if supported

  explicit operator bool() const { return reason.empty(); }
};
inline Support is_supported(const KVCacheConfig& config) { return {config.problem()}; }

#if !POLARQUANT_USES_COMPILED
POLARQUANT_INLINE std::string KVCacheConfig::problem() const {
  using detail::message;
  if (num_kv_heads < 1) return message({"num_kv_heads is ", num_kv_heads, ", must be at least 1"});
  if (num_query_heads < 1 || num_query_heads % num_kv_heads != 0) {
    return message({"num_query_heads is ", num_query_heads,
                    ", must be a multiple of num_kv_heads = ", num_kv_heads});
  }
  for (const auto& [name, format] :
       {std::pair<const char*, const CodecFormat&>{"key_format", key_format},
        std::pair<const char*, const CodecFormat&>{"value_format", value_format}}) {
    const std::string found = format.problem();
    if (!found.empty()) return message({name, ": ", found});
  }
  if (static_cast<int>(rotation) > static_cast<int>(RotationKind::kHaar)) {
    return message({"rotation is ", static_cast<int>(rotation), ", not a RotationKind"});
  }
  if (arithmetic != Arithmetic::kExact && arithmetic != Arithmetic::kFixedPoint) {
    return message({"arithmetic is ", static_cast<int>(arithmetic), ", not an Arithmetic"});
  }
  for (const std::string& found : {detail::isa_problem(isa), segment_problem(), allocator.problem(),
                                   scale_problem(), mean_problem("key_mean", key_mean, key_format),
                                   mean_problem("value_mean", value_mean, value_format)}) {
    if (!found.empty()) return found;
  }
  return {};
}

POLARQUANT_INLINE std::string KVCacheConfig::segment_problem() const {
  using detail::message;
  for (const auto& [name, count] :
       {std::pair<const char*, std::size_t>{"num_sink_tokens", num_sink_tokens},
        std::pair<const char*, std::size_t>{"num_recent_tokens", num_recent_tokens}}) {
    if (count > kAllTokens) {
      return message({name, " is ", count, ", must be at most kAllTokens = ", kAllTokens});
    }
  }
  if (exact_type && static_cast<int>(*exact_type) > static_cast<int>(FloatType::kFloat64)) {
    return message({"exact_type is ", static_cast<int>(*exact_type), ", not a FloatType"});
  }
  if (centering != Centering::kNone && centering != Centering::kGiven &&
      centering != Centering::kLocal) {
    return message({"centering is ", static_cast<int>(centering), ", not a Centering"});
  }
  if (centering == Centering::kGiven && key_mean.empty() && value_mean.empty()) {
    return "centering is kGiven, but key_mean and value_mean are empty";
  }
  return {};
}

POLARQUANT_INLINE std::string KVCacheConfig::scale_problem() const {
  using detail::message;
  const std::vector<float>& scales = calibration.key_scales;
  if (calibration.key_matrices != nullptr) return matrix_problem(*calibration.key_matrices);
  if (scales.empty()) return {};
  const std::size_t size = columns(num_kv_heads, key_format);
  if (scales.size() != size) {
    return message({"calibration.key_scales has ", scales.size(),
                    " entries, must have num_kv_heads * head_dim = ", size});
  }
  for (std::size_t i = 0; i < size; ++i) {
    if (Calibration::is_scale(scales[i])) continue;
    return message({"calibration.key_scales has ", scales[i], " in entry ", i,
                    ", must be finite and above 0"});
  }
  return {};
}

POLARQUANT_INLINE std::string KVCacheConfig::matrix_problem(const KeyMatrices& matrices) const {
  if (!calibration.key_scales.empty()) {
    return "calibration has key_scales and key_matrices, must have one of them";
  }
  if (matrices.num_kv_heads() * matrices.head_dim() == columns(num_kv_heads, key_format) &&
      matrices.num_kv_heads() == static_cast<std::size_t>(num_kv_heads)) {
    return {};
  }
  return detail::message({"calibration.key_matrices are of ", matrices.num_kv_heads(),
                          " KV heads of width ", matrices.head_dim(), ", must be of ", num_kv_heads,
                          " of width ", key_format.head_dim()});
}

POLARQUANT_INLINE std::string KVCacheConfig::mean_problem(const char* name,
                                                          const std::vector<float>& mean,
                                                          const CodecFormat& format) const {
  using detail::message;
  if (mean.empty()) return {};
  if (centering != Centering::kGiven) {
    return message({name, " is given, but centering is not kGiven"});
  }
  const std::size_t size = columns(num_kv_heads, format);
  if (mean.size() != size) {
    return message(
        {name, " has ", mean.size(), " entries, must have num_kv_heads * head_dim = ", size});
  }
  for (std::size_t i = 0; i < size; ++i) {
    if (detail::is_finite(mean[i])) continue;
    return message({name, " has a NaN or an infinity in entry ", i});
  }
  return {};
}
#endif

POLARQUANT_END_NAMESPACE
