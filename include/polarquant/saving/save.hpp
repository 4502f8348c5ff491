// Saving a cache to a file, a stream or memory (docs/format.md, "The saved cache").
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ostream>
#include <string>

#include "polarquant/base/compiled.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/kv_cache.hpp"
#include "polarquant/saving/byte_streams.hpp"
#include "polarquant/saving/saved_file.hpp"
#include "polarquant/saving/saved_layout.hpp"
#include "polarquant/saving/saved_settings.hpp"
#include "polarquant/storage/exact_rows.hpp"
#include "polarquant/storage/head_side.hpp"
#include "polarquant/storage/page_pool.hpp"
#include "polarquant/storage/token_segments.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

inline void write_rows(const ExactRows& rows, std::size_t head_dim, std::size_t first,
                       std::size_t count, SectionWriter& writer) {
  const std::size_t num_bytes = head_dim * static_cast<std::size_t>(float_type_bytes(rows.type()));
  for (std::size_t index = first; index < first + count; ++index) {
    writer.fill(num_bytes, [&](std::byte* out) { std::memcpy(out, rows.row(index), num_bytes); });
  }
}

inline void write_codes(const PagePool& pages, std::size_t num_bytes, const TokenSegments& segments,
                        SectionWriter& writer) {
  for (std::size_t slot = segments.num_dropped; slot < segments.end_of_codes();) {
    const std::size_t count =
        (std::min)(kPageTokens - slot % kPageTokens, segments.end_of_codes() - slot);
    writer.fill(count * num_bytes, [&](std::byte* codes) {
      for (std::size_t row = 0; row < count; row += kTileTokens) {
        read_tile_rows(pages.tile((slot + row) / kTileTokens), num_bytes,
                       {codes + row * num_bytes, (std::min)(kTileTokens, count - row), num_bytes});
      }
    });
    slot += count;
  }
}

template <typename A>
void save_to(const KVStorage<A>& storage, ByteSink& sink) {
  using Head = HeadSide<A>;
  const SavedSettings settings = settings_of(storage);
  const SavedCounts counts = SavedCounts::of(storage);
  const TokenSegments& segments = storage.segments();
  const SavedSizes sizes(storage, counts, kSavedVersion);
  SectionWriter writer(sink);
  write_header(kSavedCacheKind, kSavedHeaderBytes + settings_bytes(settings) + sizes.total, writer);
  write_settings(settings, writer);

  writer.begin("SIZE", 8 * num_counts(kSavedVersion));
  for (const std::uint64_t count :
       {counts.num_tokens, counts.num_encoded, counts.first_slot, counts.num_removed,
        counts.num_summed, counts.num_summed_rows}) {
    writer.number(count);
  }
  writer.end();

  writer.begin("HOLE", sizes.removed);
  for (const TokenRange& range : storage.removed().ranges()) {
    writer.number(range.first);
    writer.number(range.count);
  }
  writer.end();

  const auto section = [&](const char* name, std::uint64_t size, const auto& write) {
    writer.begin(name, size);
    for_each_side(storage, [&](const Codec<A>& codec, const Head& head, std::size_t, Side) {
      write(codec, head);
    });
    writer.end();
  };
  const auto write_number = [&writer](A number) {
    const double wide = static_cast<double>(number);
    writer.fill(8, [&wide](std::byte* out) { std::memcpy(out, &wide, 8); });
  };
  writer.begin("MEAN", sizes.means);
  for_each_side(storage,
                [&](const Codec<A>& codec, const Head& head, std::size_t index, Side side) {
                  if (head.given_center() == nullptr) return;
                  for (std::size_t i = 0; i < codec.head_dim(); ++i) {
                    write_number(storage.given_mean(side, index, i));
                  }
                });
  writer.end();
  section("CENT", sizes.centers, [&](const Codec<A>&, const Head& head) {
    const std::size_t first = segments.num_dropped / kSpanTokens;
    for (std::size_t i = 0; head.has_spans() && i < num_spans(segments); ++i) {
      const std::size_t num_bytes = head.pages.center_bytes();
      writer.fill(num_bytes, [&](std::byte* out) {
        std::memcpy(out, head.pages.center(first + i), num_bytes);
      });
    }
  });
  section("SUMS", sizes.sums, [&](const Codec<A>& codec, const Head& head) {
    if (counts.num_summed == 0 || !head.has_spans()) return;
    for (std::size_t i = 0; i < codec.head_dim(); ++i) write_number(head.sum[i]);
  });
  section("SINK", sizes.sinks, [&](const Codec<A>& codec, const Head& head) {
    write_rows(head.sinks, codec.head_dim(), 0, segments.num_sinks(), writer);
  });
  section("CODE", sizes.codes, [&](const Codec<A>& codec, const Head& head) {
    write_codes(head.pages, codec.bytes_per_vector(), segments, writer);
  });
  section("LAST", sizes.recent, [&](const Codec<A>& codec, const Head& head) {
    write_rows(head.recent, codec.head_dim(), segments.end_of_codes(), segments.num_recent(),
               writer);
  });
}

POLARQUANT_INSTANTIATE(void save_to<float>(const KVStorage<float>&, ByteSink&));
POLARQUANT_INSTANTIATE(void save_to<double>(const KVStorage<double>&, ByteSink&));

}  // namespace detail

// Bytes that save writes: those of codes, exact rows, centres and sums, and about 1,000 more.
template <typename T>
std::size_t saved_bytes(const KVCache<T>& cache) {
  const auto& storage = detail::CacheAccess<T>::storage(cache);
  const detail::SavedSizes sizes(storage, detail::SavedCounts::of(storage), detail::kSavedVersion);
  return static_cast<std::size_t>(detail::kSavedHeaderBytes +
                                  detail::settings_bytes(detail::settings_of(storage)) +
                                  sizes.total);
}

// Saves to a stream opened in binary mode. The same bytes on every machine and instruction set.
// Several caches, such as the layers of a model, may follow each other in a stream. Costs about two
// memory copies. Throws std::runtime_error if the stream fails.
template <typename T>
void save(const KVCache<T>& cache, std::ostream& stream) {
  detail::StreamSink sink(stream);
  detail::save_to(detail::CacheAccess<T>::storage(cache), sink);
}

// To a file. It is written beside, as path + ".part", and takes the place of what stands at `path`
// when it is complete. Throws std::runtime_error if it cannot be written; what was there is then as
// before.
template <typename T>
void save(const KVCache<T>& cache, const std::string& path) {
  detail::write_file(path, [&](std::ostream& stream) { save(cache, stream); });
}

// To memory of `size` bytes. Returns saved_bytes(); throws std::invalid_argument if size is less.
template <typename T>
std::size_t save(const KVCache<T>& cache, std::byte* data, std::size_t size) {
  const std::size_t needed = saved_bytes(cache);
  if (size < needed) {
    detail::throw_invalid_argument({"saving to ", size, " bytes: needs ", needed});
  }
  detail::MemorySink sink(data);
  detail::save_to(detail::CacheAccess<T>::storage(cache), sink);
  return needed;
}

POLARQUANT_END_NAMESPACE
