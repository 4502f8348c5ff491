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
#include "polarquant/storage/page_pool.hpp"

POLARQUANT_BEGIN_NAMESPACE

// What is subtracted from keys and from values before they are rotated and encoded: one vector per
// KV head and side. Keys of a real model have a large mean (about half of their energy), and bits
// spent on what all keys share are lost. It costs attention nothing: q . (k - m) = q . k - q . m
// lowers all logits of a query by one number, and softmax(x - c) = softmax(x). Values get theirs
// back in the output: sum_t p_t (v_t - m) = output - m, as the weights p_t sum to 1.
enum class Centering : std::uint8_t {
  kNone = 0,
  kGiven = 1,      // key_mean and value_mean of the configuration
  kEstimated = 2,  // the mean of the first num_centering_tokens tokens behind the sinks; until they
                   // have come, all tokens are kept exact; taken when the first token is encoded,
                   // then fixed until clear()
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
  // there are so many. 0: a token is encoded when it is appended. kAllTokens: until
  // encode_recent().
  // The sinks by default are what makes centring pay: docs/design.md.
  std::size_t num_sink_tokens = 4;
  std::size_t num_recent_tokens = kTileTokens;
  std::optional<FloatType> exact_type;  // empty: that of the cache's keys and values

  Centering centering = Centering::kEstimated;
  std::size_t num_centering_tokens = 128;

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
                                   mean_problem("key_mean", key_mean, key_format),
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
  if (static_cast<int>(centering) > static_cast<int>(Centering::kEstimated)) {
    return message({"centering is ", static_cast<int>(centering), ", not a Centering"});
  }
  if (centering == Centering::kEstimated &&
      (num_centering_tokens < 1 || num_centering_tokens > kAllTokens)) {
    return message({"num_centering_tokens is ", num_centering_tokens,
                    ", must be 1 .. kAllTokens = ", kAllTokens});
  }
  if (centering == Centering::kGiven && key_mean.empty() && value_mean.empty()) {
    return "centering is kGiven, but key_mean and value_mean are empty";
  }
  return {};
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
