// What a saved cache says of itself: its settings, and how many bytes of what follow
// (docs/format.md, "The saved cache").
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "polarquant/saving/byte_streams.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/method/polar_format.hpp"
#include "polarquant/kv_cache.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/storage/kv_storage.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/method/rotation.hpp"
#include "polarquant/storage/token_segments.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

template <typename T>
struct CacheAccess {
  static KVStorage<T>& storage(KVCache<T>& cache) { return cache.storage_; }
  static const KVStorage<T>& storage(const KVCache<T>& cache) { return cache.storage_; }
};

inline constexpr char kSavedMagic[9] = "PolarKV\n";
inline constexpr std::uint64_t kSavedVersion = 1;
inline constexpr std::size_t kSavedHeaderBytes = 32;
inline constexpr std::uint64_t kMaxSavedBytes = std::uint64_t{1}
                                                << 48;  // no sum of sizes overflows

// Calls visit(name, number) for everything that a saved cache and the cache it is loaded into must
// agree on. The arithmetic and the number of query heads are not among it: codes do not depend on
// them.
template <typename T, typename Visit>
void for_each_saved_setting(const KVCache<T>& cache, const Visit& visit) {
  const auto number = [&visit](const std::string& name, auto value) {
    visit(name, static_cast<std::uint64_t>(value));
  };
  const KVCacheConfig& config = cache.config();
  number("num_kv_heads", config.num_kv_heads);
  number("num_sink_tokens", config.num_sink_tokens);
  number("num_recent_tokens", config.num_recent_tokens);
  number("exact_type", config.exact_type);
  number("centering", config.centering);
  number("num_centering_tokens",
         config.centering == Centering::kEstimated ? config.num_centering_tokens : 0);
  for (const PolarCodec<T>* codec : {&cache.codec()->keys, &cache.codec()->values}) {
    const std::string side = codec == &cache.codec()->keys ? "key " : "value ";
    const PolarFormat& format = codec->format();
    const int num_joins = format.is_uncompressed() ? 0 : format.shape().num_joins();
    number(side + "head_dim", format.head_dim);
    number(side + "levels", format.levels);
    number(side + "radius_type", format.radius_type);
    number(side + "radius_meaning",
           format.is_uncompressed() ? RadiusMeaning::kNorm : format.radius_meaning);
    for (int i = 0; i < PolarFormat::kMaxLevels; ++i) {
      number(side + "bits of level " + std::to_string(i + 1),
             i < format.levels ? format.level_bits[static_cast<std::size_t>(i)] : 0);
    }
    for (int i = 0; i < PolarFormat::kMaxJoins; ++i) {
      number(side + "bits of join " + std::to_string(i),
             i < num_joins ? format.join_bits[static_cast<std::size_t>(i)] : 0);
    }
    const bool is_rotated = codec->rotation().kind() != RotationKind::kNone;
    number(side + "rotation kind", codec->rotation().kind());
    number(side + "rotation seed", is_rotated ? codec->rotation().seed() : 0);
    number(side + "rotation checksum", codec->rotation().checksum());
    number(side + "codebook checksum", codec->codebook_checksum());
  }
}

template <typename T>
std::size_t num_saved_settings(const KVCache<T>& cache) {
  std::size_t count = 0;
  for_each_saved_setting(cache, [&count](const std::string&, std::uint64_t) { ++count; });
  return count;
}

// How many tokens are where, and the sizes of the sections that follow from it.
template <typename T>
struct SavedSizes {
  SavedSizes(const KVStorage<T>& storage, const TokenSegments& of_segments, bool mean_is_pending)
      : segments(of_segments), is_pending(mean_is_pending) {
    const std::size_t num_heads = storage.num_heads();
    const KVCodec<T>& codec = *storage.codec();
    const auto number_bytes =
        static_cast<std::size_t>(float_type_bytes(storage.config().exact_type));
    const std::size_t row_bytes =
        num_heads * (codec.keys.head_dim() + codec.values.head_dim()) * number_bytes;
    const std::size_t code_bytes =
        num_heads * (codec.keys.bytes_per_vector() + codec.values.bytes_per_vector());
    const std::size_t mean_entries = storage.keys(0).mean.size() + storage.values(0).mean.size();
    means = is_pending ? 0 : num_heads * mean_entries * sizeof(double);
    sinks = segments.num_sinks() * row_bytes;
    codes = segments.num_encoded * code_bytes;
    recent = segments.num_recent() * row_bytes;
    least_token_bytes = std::min(row_bytes, code_bytes);
  }
  explicit SavedSizes(const KVStorage<T>& storage)
      : SavedSizes(storage, storage.segments(), storage.mean_is_pending()) {}

  std::uint64_t total(std::size_t num_settings) const {
    return kSavedHeaderBytes + section_bytes(8 * num_settings) + section_bytes(3 * 8) +
           section_bytes(means) + section_bytes(sinks) + section_bytes(codes) +
           section_bytes(recent);
  }

  TokenSegments segments;
  bool is_pending;
  std::uint64_t means, sinks, codes, recent;
  std::size_t least_token_bytes;
};

// Whether the cache could have come to hold tokens so.
template <typename T>
bool can_hold(const KVStorage<T>& storage, const TokenSegments& segments, bool mean_is_pending) {
  if (segments.num_encoded > segments.num_slots()) return false;
  if (mean_is_pending) {
    return storage.estimates_means() && segments.num_encoded == 0 &&
           segments.num_recent() < storage.config().num_centering_tokens;
  }
  const std::size_t window = storage.config().num_recent_tokens;
  return segments.num_recent() <= (window > 0 ? window + kTileTokens - 1 : 0);
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
