// Saving a cache to a file, a stream or memory, and loading it (docs/format.md, "The saved cache").
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <istream>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "polarquant/saving/byte_streams.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/storage/exact_rows.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/storage/head_side.hpp"
#include "polarquant/kv_cache.hpp"
#include "polarquant/storage/kv_storage.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/saving/saved_layout.hpp"
#include "polarquant/storage/page_pool.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/storage/token_segments.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// ---- Saving ----

inline void write_rows(const ExactRows& rows, std::size_t head_dim, std::size_t first,
                       std::size_t count, SectionWriter& writer) {
  const std::size_t num_bytes = head_dim * static_cast<std::size_t>(float_type_bytes(rows.type()));
  for (std::size_t index = first; index < first + count; ++index) {
    writer.fill(num_bytes, [&](std::byte* out) { std::memcpy(out, rows.row(index), num_bytes); });
  }
}

inline void write_codes(const TilePages& pages, std::size_t num_bytes,
                        const TokenSegments& segments, SectionWriter& writer) {
  for (std::size_t slot = segments.num_dropped; slot < segments.end_of_codes();) {
    const std::size_t count =
        std::min(kPageTokens - slot % kPageTokens, segments.end_of_codes() - slot);
    writer.fill(count * num_bytes, [&](std::byte* codes) {
      for (std::size_t row = 0; row < count; row += kTileTokens) {
        read_tile_rows(pages.tile((slot + row) / kTileTokens), num_bytes,
                       {codes + row * num_bytes, std::min(kTileTokens, count - row), num_bytes});
      }
    });
    slot += count;
  }
}

// Calls visit(codec, side, head, is_value) for the keys, then the values, of each head.
template <typename Storage, typename Visit>
void for_each_side(Storage& storage, const Visit& visit) {
  for (std::size_t head = 0; head < storage.num_heads(); ++head) {
    visit(storage.codec()->keys, storage.side(head, false), head, false);
    visit(storage.codec()->values, storage.side(head, true), head, true);
  }
}

template <typename T>
void save_to(const KVCache<T>& cache, ByteSink& sink) {
  using Side = HeadSide<T>;
  const KVStorage<T>& storage = CacheAccess<T>::storage(cache);
  const TokenSegments& segments = storage.segments();
  const SavedSizes<T> sizes(storage);
  const std::size_t num_settings = num_saved_settings(cache);
  SectionWriter writer(sink);
  writer.fill(kSavedHeaderBytes, [&](std::byte* header) {
    const std::uint64_t total = sizes.total(num_settings);
    std::memcpy(header, kSavedMagic, 8);
    const std::uint64_t version = kSavedVersion;
    std::memcpy(header + 8, &version, 8);
    std::memcpy(header + 16, &total, 8);
    Checksum checksum;
    checksum.add(header, 24);
    const std::uint64_t sum = checksum.value();
    std::memcpy(header + 24, &sum, 8);
  });

  writer.begin("CONF", 8 * num_settings);
  for_each_saved_setting(
      cache, [&writer](const std::string&, std::uint64_t value) { writer.number(value); });
  writer.end();

  writer.begin("SIZE", 3 * 8);
  writer.number(segments.num_tokens);
  writer.number(segments.num_encoded);
  writer.number(sizes.is_pending ? 1 : 0);
  writer.end();

  writer.begin("MEAN", sizes.means);
  for_each_side(storage, [&](const PolarCodec<T>&, const Side& side, std::size_t, bool) {
    if (sizes.is_pending) return;
    for (const auto entry : side.mean) {
      const double wide = static_cast<double>(entry);
      writer.fill(8, [&wide](std::byte* out) { std::memcpy(out, &wide, 8); });
    }
  });
  writer.end();

  writer.begin("SINK", sizes.sinks);
  for_each_side(storage, [&](const PolarCodec<T>& codec, const Side& side, std::size_t, bool) {
    write_rows(side.sinks, codec.head_dim(), 0, segments.num_sinks(), writer);
  });
  writer.end();

  writer.begin("CODE", sizes.codes);
  for_each_side(storage, [&](const PolarCodec<T>& codec, const Side& side, std::size_t, bool) {
    write_codes(side.pages, codec.bytes_per_vector(), segments, writer);
  });
  writer.end();

  writer.begin("LAST", sizes.recent);
  for_each_side(storage, [&](const PolarCodec<T>& codec, const Side& side, std::size_t, bool) {
    write_rows(side.recent, codec.head_dim(), segments.end_of_codes(), segments.num_recent(),
               writer);
  });
  writer.end();
}

// ---- Loading ----

// Returns the bytes of the whole.
inline std::uint64_t read_header(SectionReader& reader) {
  std::byte header[kSavedHeaderBytes];
  std::memcpy(header, reader.take(sizeof header), sizeof header);
  if (std::memcmp(header, kSavedMagic, 8) != 0) {
    throw_runtime_error("loading: this is no saved cache, it does not begin with \"PolarKV\"");
  }
  Checksum checksum;
  checksum.add(header, 24);
  std::uint64_t version, total, sum;
  std::memcpy(&version, header + 8, sizeof version);
  std::memcpy(&total, header + 16, sizeof total);
  std::memcpy(&sum, header + 24, sizeof sum);
  if (sum != checksum.value()) {
    throw_runtime_error("loading: the checksum of the header is wrong: damaged");
  }
  if (version != kSavedVersion) {
    throw_runtime_error("loading: the saved cache has version " + std::to_string(version) +
                        ", this library reads version " + std::to_string(kSavedVersion));
  }
  return total;
}

template <typename T>
void check_settings(const KVCache<T>& cache, SectionReader& reader) {
  std::vector<std::uint64_t> found(num_saved_settings(cache));
  reader.begin("CONF", 8 * found.size());
  for (std::uint64_t& value : found) value = reader.number();
  reader.end();
  std::size_t index = 0;
  for_each_saved_setting(cache, [&](const std::string& name, std::uint64_t own) {
    const std::uint64_t value = found[index++];
    if (value == own) return;
    throw_runtime_error("loading: " + name + " of the saved cache is " + std::to_string(value) +
                        ", this cache has " + std::to_string(own));
  });
}

// Memory grows with the bytes that have really come.
inline void read_rows(SectionReader& reader, std::size_t head_dim, std::size_t first,
                      std::size_t count, ExactRows& rows) {
  const std::size_t num_bytes = head_dim * static_cast<std::size_t>(float_type_bytes(rows.type()));
  const std::size_t capacity = (count + kTileTokens - 1) / kTileTokens * kTileTokens;
  for (std::size_t row = 0; row < count; ++row) {
    const std::byte* const bytes = reader.take(num_bytes);
    if (row == rows.capacity()) {
      rows.resize(std::min(capacity, std::max(kPageTokens, 2 * row)), first, row);
    }
    std::memcpy(rows.mutable_row(first + row), bytes, num_bytes);
  }
}

inline void read_codes(SectionReader& reader, std::size_t num_bytes, std::size_t num_tokens,
                       TilePages& pages) {
  for (std::size_t first = 0; first < num_tokens; first += kPageTokens) {
    const std::size_t count = std::min(kPageTokens, num_tokens - first);
    const std::byte* const codes = reader.take(count * num_bytes);
    pages.reserve(first + count, first);
    for (std::size_t row = 0; row < count; row += kTileTokens) {
      write_tile_rows(pages.tile((first + row) / kTileTokens), num_bytes,
                      {codes + row * num_bytes, std::min(kTileTokens, count - row), num_bytes});
    }
  }
}

// The centring vectors: taken over where they were estimated, compared where they were given.
template <typename T>
void read_means(SectionReader& reader, KVStorage<T>& storage) {
  using Side = HeadSide<T>;
  const bool is_given = storage.config().centering == Centering::kGiven;
  for_each_side(storage, [&](const PolarCodec<T>&, Side& side, std::size_t head, bool is_value) {
    for (std::size_t i = 0; i < side.mean.size(); ++i) {
      double found;
      std::memcpy(&found, reader.take(8), 8);
      const auto entry = static_cast<typename Side::Accumulator>(found);
      if (is_given && entry != side.mean[i]) {
        throw_runtime_error(std::string("loading: the ") + (is_value ? "value" : "key") +
                            "_mean of KV head " + std::to_string(head) + " differs in entry " +
                            std::to_string(i) + " from this cache's");
      }
      side.mean[i] = entry;
    }
  });
}

// Reads how many tokens are where; sizes beyond the bytes that there can be are refused here,
// before anything is allocated.
template <typename T>
SavedSizes<T> read_sizes(SectionReader& reader, const KVStorage<T>& storage, std::uint64_t total,
                         std::size_t num_settings) {
  reader.begin("SIZE", 3 * 8);
  TokenSegments segments;
  segments.max_sinks = storage.segments().max_sinks;
  segments.num_tokens = reader.number();
  segments.num_encoded = reader.number();
  const std::uint64_t is_pending = reader.number();
  reader.end();
  const SavedSizes<T> sizes(storage, segments, is_pending == 1);
  if (is_pending > 1 || segments.num_tokens > total / sizes.least_token_bytes ||
      !can_hold(storage, segments, is_pending == 1) || sizes.total(num_settings) != total) {
    throw_runtime_error("loading: " + std::to_string(segments.num_tokens) + " tokens, " +
                        std::to_string(segments.num_encoded) + " of them encoded, in " +
                        std::to_string(total) + " bytes: damaged");
  }
  return sizes;
}

template <typename T>
void load_from(ByteSource& source, KVCache<T>& cache) {
  using Side = HeadSide<T>;
  SectionReader reader(source);
  const std::uint64_t total = read_header(reader);
  if (total < kSavedHeaderBytes || total > kMaxSavedBytes) {
    throw_runtime_error("loading: a saved cache of " + std::to_string(total) + " bytes: damaged");
  }
  if (total - kSavedHeaderBytes > source.num_left()) {
    throw_runtime_error("loading: " + std::to_string(kSavedHeaderBytes + source.num_left()) +
                        " bytes of a saved cache of " + std::to_string(total) + ": truncated");
  }
  check_settings(cache, reader);

  KVCache<T> loaded(cache.config(), cache.codec());
  KVStorage<T>& storage = CacheAccess<T>::storage(loaded);
  const SavedSizes<T> sizes = read_sizes(reader, storage, total, num_saved_settings(cache));
  const TokenSegments& segments = sizes.segments;
  reader.begin("MEAN", sizes.means);
  if (!sizes.is_pending) read_means(reader, storage);
  reader.end();

  storage.restore(segments, sizes.is_pending);
  reader.begin("SINK", sizes.sinks);
  for_each_side(storage, [&](const PolarCodec<T>& codec, Side& side, std::size_t, bool) {
    read_rows(reader, codec.head_dim(), 0, segments.num_sinks(), side.sinks);
  });
  reader.end();
  reader.begin("CODE", sizes.codes);
  for_each_side(storage, [&](const PolarCodec<T>& codec, Side& side, std::size_t, bool) {
    read_codes(reader, codec.bytes_per_vector(), segments.num_encoded, side.pages);
  });
  reader.end();
  reader.begin("LAST", sizes.recent);
  for_each_side(storage, [&](const PolarCodec<T>& codec, Side& side, std::size_t, bool) {
    read_rows(reader, codec.head_dim(), segments.num_encoded, segments.num_recent(), side.recent);
  });
  reader.end();
  cache = std::move(loaded);
}

}  // namespace detail

// Bytes that save writes: those of codes, exact rows and centring vectors, and about 850 more.
template <typename T>
std::size_t saved_bytes(const KVCache<T>& cache) {
  const detail::SavedSizes<T> sizes(detail::CacheAccess<T>::storage(cache));
  return sizes.total(detail::num_saved_settings(cache));
}

// Saves to a stream opened in binary mode. The same bytes on every machine and instruction set.
// Several caches, such as the layers of a model, may follow each other in a stream. Costs about two
// memory copies. Throws std::runtime_error if the stream fails.
template <typename T>
void save(const KVCache<T>& cache, std::ostream& stream) {
  detail::StreamSink sink(stream);
  detail::save_to(cache, sink);
}

// To a file, which is replaced. Throws std::runtime_error if it cannot be written.
template <typename T>
void save(const KVCache<T>& cache, const std::string& path) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  if (!file) detail::throw_runtime_error("saving: cannot write " + path);
  save(cache, file);
  file.close();
  if (!file) detail::throw_runtime_error("saving: cannot write all of " + path);
}

// To memory of `size` bytes. Returns saved_bytes(); throws std::invalid_argument if size is less.
template <typename T>
std::size_t save(const KVCache<T>& cache, std::byte* data, std::size_t size) {
  const std::size_t needed = saved_bytes(cache);
  if (size < needed) {
    detail::throw_invalid_argument("saving to " + std::to_string(size) + " bytes: needs " +
                                   std::to_string(needed));
  }
  detail::MemorySink sink(data);
  detail::save_to(cache, sink);
  return needed;
}

// Replaces the contents of a cache by those saved from one with the same settings: number of KV
// heads, formats, rotation, codebooks. Reads from a stream in binary mode exactly the bytes of one
// cache. Throws std::runtime_error, naming the value and the rule, if the settings differ, or the
// bytes are truncated, damaged, of a later version or no saved cache; `cache` is then as before.
template <typename T>
void load(std::istream& stream, KVCache<T>& cache) {
  detail::StreamSource source(stream);
  detail::load_from(source, cache);
}

// From a file that holds one cache and nothing else. Throws also if it cannot be read.
template <typename T>
void load(const std::string& path, KVCache<T>& cache) {
  std::ifstream file(path, std::ios::binary);
  if (!file) detail::throw_runtime_error("loading: cannot read " + path);
  KVCache<T> loaded(cache.config(), cache.codec());
  load(file, loaded);
  if (file.peek() != std::ifstream::traits_type::eof()) {
    detail::throw_runtime_error("loading: " + path + " has bytes behind the saved cache");
  }
  cache = std::move(loaded);
}

// From memory; more bytes may follow. Returns how many belonged to the cache.
template <typename T>
std::size_t load(const std::byte* data, std::size_t size, KVCache<T>& cache) {
  detail::MemorySource source(data, size);
  detail::load_from(source, cache);
  return size - static_cast<std::size_t>(source.num_left());
}

POLARQUANT_END_NAMESPACE
