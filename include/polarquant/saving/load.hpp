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
#include "polarquant/codec/codec_format.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/kv_cache.hpp"
#include "polarquant/saving/byte_streams.hpp"
#include "polarquant/saving/saved_file.hpp"
#include "polarquant/saving/saved_info.hpp"
#include "polarquant/saving/saved_layout.hpp"
#include "polarquant/saving/saved_settings.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/storage/exact_rows.hpp"
#include "polarquant/storage/head_side.hpp"
#include "polarquant/storage/page_pool.hpp"
#include "polarquant/storage/token_segments.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

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

// Slots are multiples of kTileTokens, but for the last.
inline void read_codes(SectionReader& reader, std::size_t num_bytes, std::size_t first_slot,
                       std::size_t end_slot, PagePool& pages) {
  for (std::size_t slot = first_slot; slot < end_slot;) {
    const std::size_t count = (std::min)(kPageTokens - slot % kPageTokens, end_slot - slot);
    const std::byte* const codes = reader.take(count * num_bytes);
    pages.reserve(slot + count, slot);
    for (std::size_t row = 0; row < count; row += kTileTokens) {
      write_tile_rows(pages.tile((slot + row) / kTileTokens), num_bytes,
                      {codes + row * num_bytes, (std::min)(kTileTokens, count - row), num_bytes});
    }
    slot += count;
  }
}

template <typename A>
A read_entry(SectionReader& reader) {
  double entry;
  std::memcpy(&entry, reader.take(sizeof entry), sizeof entry);
  return static_cast<A>(entry);
}

// The means: compared where this cache has been given some, taken over where it has none.
template <typename A>
void read_means(SectionReader& reader, bool are_compared, KVStorage<A>& storage) {
  for_each_side(
      storage, [&](const Codec<A>& codec, HeadSide<A>& head, std::size_t index, Side side) {
        if (head.given_center() == nullptr) return;
        std::vector<A> mean(codec.head_dim());
        for (std::size_t i = 0; i < mean.size(); ++i) {
          mean[i] = read_entry<A>(reader);
          // That of a double was a float when it was given.
          if (are_compared && static_cast<float>(mean[i]) !=
                                  static_cast<float>(storage.given_mean(side, index, i))) {
            throw_runtime_error({"loading: the ", side == Side::kKeys ? "key" : "value",
                                 "_mean of KV head ", index, " differs in entry ", i,
                                 " from this cache's"});
          }
        }
        storage.give_mean(side, index, mean);
      });
}

// Centres of spans go into the pages that codes are read into.
template <typename A>
void read_centers(SectionReader& reader, KVStorage<A>& storage) {
  const TokenSegments& segments = storage.segments();
  for_each_side(storage, [&](const Codec<A>&, HeadSide<A>& head, std::size_t, Side) {
    const std::size_t first = segments.num_dropped / kSpanTokens;
    for (std::size_t i = 0; head.has_spans() && i < num_spans(segments); ++i) {
      const std::size_t slot = (first + i) * kSpanTokens;
      const std::size_t num_bytes = head.pages.center_bytes();
      const std::byte* const code = reader.take(num_bytes);
      std::uint16_t step;
      std::memcpy(&step, code, sizeof step);
      if (step > 0x7f7f) throw_runtime_error("loading: a centre that is not finite: damaged");
      head.pages.reserve(slot + 1, slot);
      std::memcpy(head.pages.center(first + i), code, num_bytes);
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

// kGiven in place of kLocal, the means to be filled in; as it is if no side is centred.
inline void give_zero_means(KVCacheConfig& config) {
  for (const Side side : kSides) {
    const CodecFormat& format = side == Side::kKeys ? config.key_format : config.value_format;
    if (format.is_uncompressed()) continue;
    config.centering = Centering::kGiven;
    if (side == Side::kKeys) {
      config.key_mean.assign(config.key_columns(), 0.0f);
    } else {
      config.value_mean.assign(config.value_columns(), 0.0f);
    }
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
  const SavedSettings found = read_settings(reader, header.version);
  check_settings(found, settings_of(CacheAccess<T>::storage(cache)));
  const SavedCounts counts = read_counts(reader, header.version);

  // A mean that was estimated is one that is given from now on.
  KVCacheConfig config = cache.config();
  const bool takes_means = found.centering == kEstimatedMean && !counts.mean_is_pending &&
                           config.centering == Centering::kLocal;
  if (takes_means) give_zero_means(config);
  KVCache<T> loaded(config, cache.codec());
  KVStorage<A>& storage = CacheAccess<T>::storage(loaded);
  if (counts.mean_is_pending && !storage.has_spans()) {
    throw_runtime_error({"loading: the tokens of the saved cache wait for a mean, this cache has ",
                         name_of_centering(static_cast<std::uint64_t>(config.centering)),
                         ", must have kLocal"});
  }
  // Sizes beyond the bytes that there can be are refused before anything is allocated.
  const SavedSizes sizes(storage, counts, header.version);
  const std::uint64_t settings_size =
      header.version == 1 ? section_bytes(8 * 58) : settings_bytes(settings_of(storage));
  if (counts.num_tokens > (std::numeric_limits<std::size_t>::max)() ||
      counts.num_tokens > header.total / sizes.least_token_bytes ||
      counts.num_encoded > counts.num_tokens || !can_hold(storage, counts) ||
      kSavedHeaderBytes + settings_size + sizes.total != header.total) {
    throw_runtime_error({"loading: ", counts.num_tokens, " tokens, ", counts.num_encoded,
                         " of them encoded, in ", header.total, " bytes: damaged"});
  }
  storage.restore(counts.segments(storage.segments().max_sinks),
                  static_cast<std::size_t>(counts.num_summed),
                  static_cast<std::size_t>(counts.num_summed_rows));
  const TokenSegments& segments = storage.segments();
  if (header.version > 1) {
    reader.begin("HOLE", sizes.removed);
    read_removed(reader, counts.num_removed, storage);
    reader.end();
  }
  reader.begin("MEAN", sizes.means);
  if (!counts.mean_is_pending) read_means(reader, !takes_means, storage);
  reader.end();
  if (header.version > 2) {
    reader.begin("CENT", sizes.centers);
    read_centers(reader, storage);
    reader.end();
    reader.begin("SUMS", sizes.sums);
    for_each_side(storage, [&](const Codec<A>& codec, Head& head, std::size_t, Side) {
      if (counts.num_summed == 0 || !head.has_spans()) return;
      for (std::size_t i = 0; i < codec.head_dim(); ++i) head.sum[i] = read_entry<A>(reader);
    });
    reader.end();
  }

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
    read_codes(reader, codec.bytes_per_vector(), segments.num_dropped, segments.end_of_codes(),
               head.pages);
  });
  section("LAST", sizes.recent, [&](const Codec<A>& codec, Head& head) {
    read_rows(reader, codec.head_dim(), segments.end_of_codes(), segments.num_recent(),
              head.recent);
  });
  if (must_end && source.take(1) != nullptr) {
    throw_runtime_error({"loading: ", name, " has bytes behind the saved cache"});
  }
  cache = std::move(loaded);
}

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

POLARQUANT_END_NAMESPACE
