// How many bytes of what a saved cache holds (docs/format.md, "The saved cache").
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/kv_cache.hpp"
#include "polarquant/saving/byte_streams.hpp"
#include "polarquant/saving/saved_file.hpp"
#include "polarquant/saving/saved_settings.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/storage/head_side.hpp"
#include "polarquant/storage/kv_codec.hpp"
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

// The section SIZE: how many tokens are where.
struct SavedCounts {
  std::uint64_t num_tokens = 0;
  std::uint64_t num_encoded = 0;
  std::uint64_t first_slot = 0;   // of the encoded tokens; spans begin at multiples of kSpanTokens
  std::uint64_t num_removed = 0;  // ranges
  std::uint64_t num_summed = 0;   // slots at the end of the codes that the sums are of
  std::uint64_t num_summed_rows = 0;
  bool mean_is_pending = false;  // versions 1 and 2: all tokens wait for a mean to be estimated

  template <typename A>
  static SavedCounts of(const KVStorage<A>& storage) {
    const TokenSegments& segments = storage.segments();
    SavedCounts counts;
    counts.num_tokens = segments.num_tokens;
    counts.num_encoded = segments.num_encoded;
    counts.num_removed = storage.removed().ranges().size();
    std::size_t first = segments.num_dropped;
    const auto& summed = storage.summed();
    if (summed.first != KVStorage<A>::kNowhere) {
      counts.num_summed = summed.end - summed.first;
      counts.num_summed_rows = summed.num_rows;
      first = (std::min)(first, summed.first);
    }
    counts.first_slot = segments.num_dropped - first / kSpanTokens * kSpanTokens;
    return counts;
  }

  // Where the tokens are in a cache that holds them.
  TokenSegments segments(std::size_t max_sinks) const {
    TokenSegments result;
    result.max_sinks = max_sinks;
    result.num_tokens = static_cast<std::size_t>(num_tokens);
    result.num_encoded = static_cast<std::size_t>(num_encoded);
    result.num_dropped = static_cast<std::size_t>(first_slot);
    return result;
  }
};

// Of SIZE.
inline std::uint64_t num_counts(std::uint64_t version) {
  return version == 1 ? 3 : version == 2 ? 4 : 6;
}

// Spans that have a code among them or are to go on, though all their codes were dropped.
inline std::size_t num_spans(const TokenSegments& segments) {
  return (segments.end_of_codes() + kSpanTokens - 1) / kSpanTokens -
         segments.num_dropped / kSpanTokens;
}

// The sizes of the sections behind the settings that follow from it.
struct SavedSizes {
  template <typename A>
  SavedSizes(const KVStorage<A>& storage, const SavedCounts& counts, std::uint64_t version) {
    const TokenSegments segments = counts.segments(storage.segments().max_sinks);
    const std::size_t num_heads = storage.num_heads();
    const std::uint64_t number_bytes =
        static_cast<std::uint64_t>(float_type_bytes(storage.exact_type()));
    std::uint64_t entries = 0, given_entries = 0, sum_entries = 0, code_bytes = 0, span_bytes = 0;
    for (const Side side : kSides) {
      const Codec<A>& codec = storage.codec()->side(side);
      const HeadSide<A>& head = storage.head(side, 0);
      entries += num_heads * codec.head_dim();
      code_bytes += num_heads * codec.bytes_per_vector();
      if (head.given_center() != nullptr) given_entries += num_heads * codec.head_dim();
      if (head.has_spans()) sum_entries += num_heads * codec.head_dim();
      span_bytes += num_heads * head.pages.center_bytes();
    }
    const std::uint64_t row_bytes = entries * number_bytes;
    removed = 16 * counts.num_removed;
    means = counts.mean_is_pending ? 0 : given_entries * sizeof(double);
    centers = num_spans(segments) * span_bytes;
    sums = counts.num_summed == 0 ? 0 : sum_entries * sizeof(double);
    sinks = segments.num_sinks() * row_bytes;
    codes = segments.num_encoded * code_bytes;
    recent = segments.num_recent() * row_bytes;
    least_token_bytes = (std::min)(row_bytes, code_bytes);
    total = section_bytes(8 * num_counts(version)) + (version < 2 ? 0 : section_bytes(removed)) +
            section_bytes(means) +
            (version < 3 ? 0 : section_bytes(centers) + section_bytes(sums)) +
            section_bytes(sinks) + section_bytes(codes) + section_bytes(recent);
  }

  std::uint64_t removed, means, centers, sums, sinks, codes, recent;
  std::uint64_t least_token_bytes;
  std::uint64_t total;  // of the sections, frames and padding included
};

// Whether the cache could have come to hold tokens so.
template <typename A>
bool can_hold(const KVStorage<A>& storage, const SavedCounts& counts) {
  const TokenSegments segments = counts.segments(storage.segments().max_sinks);
  if (segments.num_encoded > segments.num_slots()) return false;
  if (counts.num_removed > segments.num_tokens) return false;
  if (counts.mean_is_pending) return segments.num_encoded == 0;
  if (segments.num_dropped >= 2 * kSpanTokens || segments.num_dropped % kTileTokens != 0)
    return false;
  const std::size_t end = segments.end_of_codes();
  if (counts.num_summed == 0 && counts.num_summed_rows > 0) return false;
  if (counts.num_summed > 0 &&
      (!storage.has_spans() || counts.num_summed > (std::min)(end, kCenterReach) ||
       counts.num_summed_rows > counts.num_summed ||
       // All of them but those that were dropped before they were summed.
       counts.num_summed_rows < (std::min)(counts.num_summed, end - segments.num_dropped) ||
       (end - counts.num_summed) % kSpanTokens != kSpanTokens - kCenterReach)) {
    return false;
  }
  const std::size_t window = storage.config().num_recent_tokens;
  return segments.num_recent() <=
         (window > 0 || storage.has_spans() ? window + kTileTokens - 1 : 0);
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
