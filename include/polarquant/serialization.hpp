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

#include "polarquant/byte_streams.hpp"
#include "polarquant/codec.hpp"
#include "polarquant/error.hpp"
#include "polarquant/kv_cache.hpp"
#include "polarquant/kv_cache_config.hpp"
#include "polarquant/packed_codes.hpp"
#include "polarquant/tile_pages.hpp"
#include "polarquant/tile_rows.hpp"
#include "polarquant/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

template <typename T>
struct CacheAccess {
  static CachePages& pages(KVCache<T>& cache) { return cache.pages_; }
  static const CachePages& pages(const KVCache<T>& cache) { return cache.pages_; }
  static std::size_t& num_tokens(KVCache<T>& cache) { return cache.num_tokens_; }
};

inline constexpr char kSavedMagic[9] = "PolarKV\n";
inline constexpr std::uint32_t kSavedVersion = 1;
inline constexpr std::size_t kSavedHeaderBytes = 32;

// Calls visit(name, number) for everything that a saved cache and the cache it is loaded into must
// agree on. The arithmetic and the number of query heads are not among it: codes do not depend on
// them.
template <typename T, typename Visit>
void for_each_saved_setting(const KVCache<T>& cache, const Visit& visit) {
  const auto number = [&visit](const std::string& name, auto value) {
    visit(name, static_cast<std::uint64_t>(value));
  };
  number("num_kv_heads", cache.config().num_kv_heads);
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

template <typename T>
std::uint64_t saved_bytes(const KVCache<T>& cache, std::uint64_t num_tokens) {
  return kSavedHeaderBytes + section_bytes(8 * num_saved_settings(cache)) + section_bytes(8) +
         section_bytes(num_tokens * cache.bytes_per_token());
}

// ---- Saving ----

inline void write_codes(const TilePages& pages, std::size_t bytes_per_vector,
                        std::size_t num_tokens, SectionWriter& writer) {
  for (std::size_t first = 0; first < num_tokens; first += kPageTokens) {
    const std::size_t count = std::min(kPageTokens, num_tokens - first);
    writer.fill(count * bytes_per_vector, [&](std::byte* codes) {
      for (std::size_t token = 0; token < count; token += kTileTokens) {
        read_tile_rows(pages.tile((first + token) / kTileTokens), bytes_per_vector,
                       {codes + token * bytes_per_vector, std::min(kTileTokens, count - token),
                        bytes_per_vector});
      }
    });
  }
}

template <typename T>
void save_to(const KVCache<T>& cache, ByteSink& sink) {
  SectionWriter writer(sink);
  Checksum checksum;
  std::byte header[kSavedHeaderBytes] = {};
  const std::uint64_t total = saved_bytes(cache, cache.num_tokens());
  std::memcpy(header, kSavedMagic, 8);
  std::memcpy(header + 8, &kSavedVersion, 4);
  std::memcpy(header + 16, &total, 8);
  checksum.add(header, 24);
  const std::uint64_t sum = checksum.value();
  std::memcpy(header + 24, &sum, 8);
  writer.fill(sizeof header, [&](std::byte* out) { std::memcpy(out, header, sizeof header); });

  writer.begin("CONF", 8 * num_saved_settings(cache));
  for_each_saved_setting(
      cache, [&writer](const std::string&, std::uint64_t value) { writer.number(value); });
  writer.end();

  writer.begin("SIZE", 8);
  writer.number(cache.num_tokens());
  writer.end();

  const CachePages& pages = CacheAccess<T>::pages(cache);
  writer.begin("CODE", cache.num_tokens() * cache.bytes_per_token());
  for (std::size_t head = 0; head < pages.num_heads(); ++head) {
    write_codes(pages.keys[head], cache.codec()->keys.bytes_per_vector(), cache.num_tokens(),
                writer);
    write_codes(pages.values[head], cache.codec()->values.bytes_per_vector(), cache.num_tokens(),
                writer);
  }
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
  std::uint64_t sum, total;
  std::uint32_t version;
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
inline void read_codes(SectionReader& reader, std::size_t bytes_per_vector, std::size_t num_tokens,
                       TilePages& pages) {
  for (std::size_t first = 0; first < num_tokens; first += kPageTokens) {
    const std::size_t count = std::min(kPageTokens, num_tokens - first);
    const std::byte* const codes = reader.take(count * bytes_per_vector);
    pages.reserve(first + count, first);
    for (std::size_t token = 0; token < count; token += kTileTokens) {
      write_tile_rows(pages.tile((first + token) / kTileTokens), bytes_per_vector,
                      {codes + token * bytes_per_vector, std::min(kTileTokens, count - token),
                       bytes_per_vector});
    }
  }
}

template <typename T>
void load_from(ByteSource& source, KVCache<T>& cache) {
  SectionReader reader(source);
  const std::uint64_t total = read_header(reader);
  if (total - kSavedHeaderBytes > source.num_left()) {
    throw_runtime_error("loading: " + std::to_string(kSavedHeaderBytes + source.num_left()) +
                        " bytes of a saved cache of " + std::to_string(total) + ": truncated");
  }
  check_settings(cache, reader);
  reader.begin("SIZE", 8);
  const std::uint64_t num_tokens = reader.number();
  reader.end();
  if (num_tokens > total / cache.bytes_per_token() || saved_bytes(cache, num_tokens) != total) {
    throw_runtime_error("loading: " + std::to_string(num_tokens) + " tokens in " +
                        std::to_string(total) + " bytes: damaged");
  }

  KVCache<T> loaded(cache.config(), cache.codec());
  CachePages& pages = CacheAccess<T>::pages(loaded);
  reader.begin("CODE", num_tokens * cache.bytes_per_token());
  for (std::size_t head = 0; head < pages.num_heads(); ++head) {
    read_codes(reader, cache.codec()->keys.bytes_per_vector(), num_tokens, pages.keys[head]);
    read_codes(reader, cache.codec()->values.bytes_per_vector(), num_tokens, pages.values[head]);
  }
  reader.end();
  CacheAccess<T>::num_tokens(loaded) = num_tokens;
  cache = std::move(loaded);
}

}  // namespace detail

// Bytes that save writes: those of the codes and about 700 more.
template <typename T>
std::size_t saved_bytes(const KVCache<T>& cache) {
  return detail::saved_bytes(cache, cache.num_tokens());
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
