// How many bytes of what a saved cache holds (docs/format.md, "The saved cache").
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/kv_cache.hpp"
#include "polarquant/saving/byte_streams.hpp"
#include "polarquant/saving/saved_file.hpp"
#include "polarquant/saving/saved_settings.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/storage/kv_storage.hpp"
#include "polarquant/storage/removed_tokens.hpp"
#include "polarquant/storage/token_segments.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

template <typename T>
struct CacheAccess {
  using Storage = KVStorage<typename KVCache<T>::Accumulator>;
  static Storage& storage(KVCache<T>& cache) { return cache.storage_; }
  static const Storage& storage(const KVCache<T>& cache) { return cache.storage_; }
};

inline constexpr SavedKind kSavedCacheKind = {"PolarKV\n", "saved cache", kSavedVersion};

// How many tokens are where.
struct SavedTokens {
  TokenSegments segments;
  bool mean_is_pending = false;
  std::uint64_t num_removed = 0;  // ranges
};

inline std::uint64_t size_section_numbers(std::uint64_t version) { return version == 1 ? 3 : 4; }

// The sizes of the sections behind the settings that follow from it.
struct SavedSizes {
  template <typename A>
  SavedSizes(const KVStorage<A>& storage, const SavedTokens& tokens, std::uint64_t version) {
    const std::size_t num_heads = storage.num_heads();
    const std::uint64_t number_bytes =
        static_cast<std::uint64_t>(float_type_bytes(storage.exact_type()));
    std::uint64_t entries = 0, mean_entries = 0, code_bytes = 0;
    for (const Side side : kSides) {
      const Codec<A>& codec = storage.codec()->side(side);
      entries += num_heads * codec.head_dim();
      code_bytes += num_heads * codec.bytes_per_vector();
      mean_entries += num_heads * storage.head(side, 0).mean.size();
    }
    const std::uint64_t row_bytes = entries * number_bytes;
    removed = 16 * tokens.num_removed;
    means = tokens.mean_is_pending ? 0 : mean_entries * sizeof(double);
    sinks = tokens.segments.num_sinks() * row_bytes;
    codes = tokens.segments.num_encoded * code_bytes;
    recent = tokens.segments.num_recent() * row_bytes;
    least_token_bytes = (std::min)(row_bytes, code_bytes);
    total = section_bytes(8 * size_section_numbers(version)) +
            (version == 1 ? 0 : section_bytes(removed)) + section_bytes(means) +
            section_bytes(sinks) + section_bytes(codes) + section_bytes(recent);
  }

  std::uint64_t removed, means, sinks, codes, recent;
  std::uint64_t least_token_bytes;
  std::uint64_t total;  // of the sections, frames and padding included
};

template <typename A>
SavedTokens tokens_of(const KVStorage<A>& storage) {
  return {storage.segments(), storage.mean_is_pending(), storage.removed().ranges().size()};
}

// Whether the cache could have come to hold tokens so.
template <typename A>
bool can_hold(const KVStorage<A>& storage, const SavedTokens& tokens) {
  const TokenSegments& segments = tokens.segments;
  if (segments.num_encoded > segments.num_slots()) return false;
  if (tokens.num_removed > segments.num_tokens) return false;
  const std::size_t window = storage.config().num_recent_tokens;
  if (segments.num_recent() <= (window > 0 ? window + kTileTokens - 1 : 0)) {
    return !tokens.mean_is_pending || (storage.estimates_means() && segments.num_encoded == 0);
  }
  return tokens.mean_is_pending && storage.estimates_means() && segments.num_encoded == 0 &&
         segments.num_recent() < storage.config().num_centering_tokens;
}

// Calls visit(codec, head, its index, its side) for the keys, then the values, of each head.
template <typename Storage, typename Visit>
void for_each_side(Storage& storage, const Visit& visit) {
  for (std::size_t index = 0; index < storage.num_heads(); ++index) {
    for (const Side side : kSides) {
      visit(storage.codec()->side(side), storage.head(side, index), index, side);
    }
  }
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
