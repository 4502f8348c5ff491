// Loading a cache from a file, a stream or memory (docs/format.md, "The saved cache").
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <istream>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "polarquant/base/compiled.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codec/families.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/kv_cache.hpp"
#include "polarquant/method/rotation.hpp"
#include "polarquant/saving/byte_streams.hpp"
#include "polarquant/saving/saved_file.hpp"
#include "polarquant/saving/saved_layout.hpp"
#include "polarquant/saving/saved_settings.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/storage/exact_rows.hpp"
#include "polarquant/storage/head_side.hpp"
#include "polarquant/storage/page_pool.hpp"
#include "polarquant/storage/token_segments.hpp"

POLARQUANT_BEGIN_NAMESPACE

// What a saved file says of itself.
struct SavedCacheInfo {
  std::uint64_t version = 0;    // of the format
  std::uint64_t num_bytes = 0;  // of the whole
  std::size_t num_tokens = 0;

  // What loads it, with as many query heads as KV heads. To be set before: a format whose codebooks
  // were given, or of a family that the library does not bring; a mean that was given for one of
  // two sides of equal width, of which version 1 does not say the side.
  KVCacheConfig config;

  // The formats, for people.
  std::string key_format;
  std::string value_format;
};

namespace detail {

struct SavedCounts {
  std::uint64_t num_tokens, num_encoded, mean_is_pending, num_removed;
};

inline SavedCounts read_counts(SectionReader& reader, std::uint64_t version) {
  SavedCounts counts = {};
  reader.begin("SIZE", 8 * size_section_numbers(version));
  counts.num_tokens = reader.number();
  counts.num_encoded = reader.number();
  counts.mean_is_pending = reader.number();
  if (version > 1) counts.num_removed = reader.number();
  reader.end();
  return counts;
}

// Memory grows with the bytes that have really come.
inline void read_rows(SectionReader& reader, std::size_t head_dim, std::size_t first,
                      std::size_t count, ExactRows& rows) {
  const std::size_t num_bytes = head_dim * static_cast<std::size_t>(float_type_bytes(rows.type()));
  const std::size_t capacity = (count + kTileTokens - 1) / kTileTokens * kTileTokens;
  for (std::size_t row = 0; row < count; ++row) {
    const std::byte* const bytes = reader.take(num_bytes);
    if (row == rows.capacity()) {
      rows.resize((std::min)(capacity, (std::max)(kPageTokens, 2 * row)), first, row);
    }
    std::memcpy(rows.mutable_row(first + row), bytes, num_bytes);
  }
}

inline void read_codes(SectionReader& reader, std::size_t num_bytes, std::size_t num_tokens,
                       PagePool& pages) {
  for (std::size_t first = 0; first < num_tokens; first += kPageTokens) {
    const std::size_t count = (std::min)(kPageTokens, num_tokens - first);
    const std::byte* const codes = reader.take(count * num_bytes);
    pages.reserve(first + count, first);
    for (std::size_t row = 0; row < count; row += kTileTokens) {
      write_tile_rows(pages.tile((first + row) / kTileTokens), num_bytes,
                      {codes + row * num_bytes, (std::min)(kTileTokens, count - row), num_bytes});
    }
  }
}

// The centring vectors: taken over where they were estimated, compared where they were given.
template <typename A>
void read_means(SectionReader& reader, KVStorage<A>& storage) {
  const bool is_given = storage.config().centering == Centering::kGiven;
  for_each_side(storage, [&](const Codec<A>&, HeadSide<A>& head, std::size_t index, Side side) {
    for (std::size_t i = 0; i < head.mean.size(); ++i) {
      double found;
      std::memcpy(&found, reader.take(8), 8);
      const A entry = static_cast<A>(found);
      if (is_given && entry != head.mean[i]) {
        throw_runtime_error({"loading: the ", side == Side::kKeys ? "key" : "value",
                             "_mean of KV head ", index, " differs in entry ", i,
                             " from this cache's"});
      }
      head.mean[i] = entry;
    }
  });
}

template <typename A>
void read_removed(SectionReader& reader, std::uint64_t count, KVStorage<A>& storage) {
  const std::uint64_t num_tokens = storage.segments().num_tokens;
  std::uint64_t end = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t first = reader.number();
    const std::uint64_t size = reader.number();
    if (first < end || (i > 0 && first == end) || first > num_tokens || size == 0 ||
        size > num_tokens - first) {
      throw_runtime_error({"loading: ", size, " removed tokens from token ", first, " on, of ",
                           num_tokens, ": damaged"});
    }
    end = first + size;
    storage.remove({static_cast<std::size_t>(first), static_cast<std::size_t>(size)});
  }
}

// must_end: more bytes are an error, which names `name`.
template <typename T>
void load_from(ByteSource& source, KVCache<T>& cache, bool must_end = false,
               const std::string& name = {}) {
  using A = typename KVCache<T>::Accumulator;
  using Head = HeadSide<A>;
  SectionReader reader(source);
  const SavedHeader header = read_header(kSavedCacheKind, source, reader);
  check_settings(read_settings(reader, header.version),
                 settings_of(CacheAccess<T>::storage(cache)));

  KVCache<T> loaded(cache.config(), cache.codec());
  KVStorage<A>& storage = CacheAccess<T>::storage(loaded);
  // Sizes beyond the bytes that there can be are refused before anything is allocated.
  const SavedCounts counts = read_counts(reader, header.version);
  SavedTokens tokens;
  tokens.segments.max_sinks = storage.segments().max_sinks;
  tokens.segments.num_tokens = static_cast<std::size_t>(counts.num_tokens);
  tokens.segments.num_encoded = static_cast<std::size_t>(counts.num_encoded);
  tokens.mean_is_pending = counts.mean_is_pending == 1;
  tokens.num_removed = counts.num_removed;
  const TokenSegments& segments = tokens.segments;
  const std::uint64_t settings_size =
      header.version == 1 ? section_bytes(8 * 58) : settings_bytes(settings_of(storage));
  const SavedSizes sizes(storage, tokens, header.version);
  if (counts.mean_is_pending > 1 || counts.num_tokens > (std::numeric_limits<std::size_t>::max)() ||
      counts.num_tokens > header.total / sizes.least_token_bytes ||
      counts.num_encoded > counts.num_tokens || !can_hold(storage, tokens) ||
      kSavedHeaderBytes + settings_size + sizes.total != header.total) {
    throw_runtime_error({"loading: ", counts.num_tokens, " tokens, ", counts.num_encoded,
                         " of them encoded, in ", header.total, " bytes: damaged"});
  }
  storage.restore(segments, tokens.mean_is_pending);
  if (header.version > 1) {
    reader.begin("HOLE", sizes.removed);
    read_removed(reader, counts.num_removed, storage);
    reader.end();
  }
  reader.begin("MEAN", sizes.means);
  if (!tokens.mean_is_pending) read_means(reader, storage);
  reader.end();

  const auto section = [&](const char* title, std::uint64_t size, const auto& read) {
    reader.begin(title, size);
    for_each_side(storage,
                  [&](const Codec<A>& codec, Head& head, std::size_t, Side) { read(codec, head); });
    reader.end();
  };
  section("SINK", sizes.sinks, [&](const Codec<A>& codec, Head& head) {
    read_rows(reader, codec.head_dim(), 0, segments.num_sinks(), head.sinks);
  });
  section("CODE", sizes.codes, [&](const Codec<A>& codec, Head& head) {
    read_codes(reader, codec.bytes_per_vector(), segments.num_encoded, head.pages);
  });
  section("LAST", sizes.recent, [&](const Codec<A>& codec, Head& head) {
    read_rows(reader, codec.head_dim(), segments.num_encoded, segments.num_recent(), head.recent);
  });
  if (must_end && source.take(1) != nullptr) {
    throw_runtime_error({"loading: ", name, " has bytes behind the saved cache"});
  }
  cache = std::move(loaded);
}

// The means of a configuration, where the widths of both sides are known.
inline void read_given_means(SectionReader& reader, const SavedSettings& settings,
                             std::uint64_t most_bytes, KVCacheConfig& config) {
  if (!config.key_format.is_set() || !config.value_format.is_set()) return;
  const std::uint64_t num_entries = reader.begin_up_to("MEAN", most_bytes) / 8;
  std::size_t widths[2];
  for (const Side side : kSides) {
    const std::size_t index = static_cast<std::size_t>(side);
    const bool is_centered = (settings.centered_sides >> index) % 2 != 0;
    const CodecFormat& format = side == Side::kKeys ? config.key_format : config.value_format;
    widths[index] = is_centered ? static_cast<std::size_t>(format.head_dim()) : 0;
  }
  const std::uint64_t num_heads = settings.num_kv_heads;
  if (settings.centered_sides == SavedSettings::kAnySide) {  // Version 1 does not say.
    // Of one side, and nothing tells of which.
    if (widths[0] == widths[1] && num_entries == num_heads * widths[0]) return;
    if (num_entries == num_heads * widths[0]) {
      widths[1] = 0;
    } else if (num_entries == num_heads * widths[1]) {
      widths[0] = 0;
    }
  }
  if (num_entries != num_heads * (widths[0] + widths[1])) {
    throw_runtime_error({"loading: ", num_entries, " entries of means: damaged"});
  }
  for (std::uint64_t head = 0; head < num_heads; ++head) {
    for (const Side side : kSides) {
      std::vector<float>& mean = side == Side::kKeys ? config.key_mean : config.value_mean;
      for (std::size_t i = 0; i < widths[static_cast<std::size_t>(side)]; ++i) {
        double entry;
        std::memcpy(&entry, reader.take(8), 8);
        mean.push_back(static_cast<float>(entry));
      }
    }
  }
  reader.end();
}

SavedCacheInfo read_info(ByteSource& source);

#if !POLARQUANT_USES_COMPILED
POLARQUANT_INLINE SavedCacheInfo read_info(ByteSource& source) {
  SectionReader reader(source);
  const SavedHeader header = read_header(kSavedCacheKind, source, reader);
  const SavedSettings settings = read_settings(reader, header.version);
  const SavedCounts counts = read_counts(reader, header.version);
  SavedCacheInfo info;
  info.version = header.version;
  info.num_bytes = header.total;
  info.num_tokens = static_cast<std::size_t>(counts.num_tokens);
  KVCacheConfig& config = info.config;
  const auto number = [](std::uint64_t value) {
    return static_cast<std::size_t>((std::min<std::uint64_t>)(value, KVCacheConfig::kAllTokens));
  };
  config.num_kv_heads = config.num_query_heads =
      static_cast<int>((std::min<std::uint64_t>)(settings.num_kv_heads, 1u << 20));
  config.num_sink_tokens = number(settings.num_sink_tokens);
  config.num_recent_tokens = number(settings.num_recent_tokens);
  config.exact_type = static_cast<FloatType>(settings.exact_type);
  config.centering = static_cast<Centering>(settings.centering);
  if (config.centering == Centering::kEstimated) {
    config.num_centering_tokens = number(settings.num_centering_tokens);
  }
  for (const Side side : kSides) {
    const SavedSide& saved = settings.sides[static_cast<std::size_t>(side)];
    const SavedFormat found = read_format(saved.family, saved.numbers);
    const bool is_key = side == Side::kKeys;
    (is_key ? config.key_format : config.value_format) = found.format;
    (is_key ? info.key_format : info.value_format) = found.description;
    // An uncompressed side is not rotated, whatever the configuration says.
    if (static_cast<RotationKind>(saved.rotation_kind) != RotationKind::kNone || is_key) {
      config.rotation = static_cast<RotationKind>(saved.rotation_kind);
      config.seed = saved.rotation_seed;
    }
  }
  if (config.centering != Centering::kGiven) return info;
  if (header.version > 1) {
    reader.begin("HOLE", 16 * counts.num_removed);
    for (std::uint64_t i = 0; i < 2 * counts.num_removed; ++i) reader.number();
    reader.end();
  }
  read_given_means(reader, settings, header.total, config);
  return info;
}
#endif

POLARQUANT_INSTANTIATE(void load_from<float>(ByteSource&, KVCache<float>&, bool,
                                             const std::string&));
POLARQUANT_INSTANTIATE(void load_from<double>(ByteSource&, KVCache<double>&, bool,
                                              const std::string&));

}  // namespace detail

// Replaces the contents of a cache by those saved from one with the same settings: number of KV
// heads, formats, rotation, sinks and window. Reads from a stream in binary mode exactly the bytes
// of one cache. Before append on Rows, reserve. Throws std::runtime_error, naming both values, if
// the settings differ, or the bytes are truncated, damaged, of a later version or no saved cache;
// `cache` is then as before.
template <typename T>
void load(std::istream& stream, KVCache<T>& cache) {
  detail::StreamSource source(stream);
  detail::load_from(source, cache);
}

// From a file that holds one cache and nothing else. Throws also if it cannot be read.
template <typename T>
void load(const std::string& path, KVCache<T>& cache) {
  detail::read_file(path, [&](std::istream& stream) {
    detail::StreamSource source(stream);
    detail::load_from(source, cache, true, path);
  });
}

// From memory; more bytes may follow. Returns how many belonged to the cache.
template <typename T>
std::size_t load(const std::byte* data, std::size_t size, KVCache<T>& cache) {
  detail::MemorySource source(data, size);
  detail::load_from(source, cache);
  return size - static_cast<std::size_t>(source.num_left());
}

// What a saved cache says of itself, before it is loaded: KVCache<float> cache(info.config) is one
// that it fits into (of the type whose rows were exact, if that matters). Throws std::runtime_error
// if it is no saved cache, or what was read of it is damaged.
inline SavedCacheInfo read_saved_info(std::istream& stream) {
  detail::StreamSource source(stream);
  return detail::read_info(source);
}
inline SavedCacheInfo read_saved_info(const std::byte* data, std::size_t size) {
  detail::MemorySource source(data, size);
  return detail::read_info(source);
}
inline SavedCacheInfo read_saved_info(const std::string& path) {
  SavedCacheInfo info;
  detail::read_file(path, [&info](std::istream& stream) { info = read_saved_info(stream); });
  return info;
}

POLARQUANT_END_NAMESPACE
