// The keys, or the values, of one KV head.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "polarquant/codec/codec.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/storage/exact_rows.hpp"
#include "polarquant/kernels/loops/exact.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/storage/page_pool.hpp"
#include "polarquant/storage/token_segments.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// What the calls of HeadSide work in; the caller's scratch.
template <typename T>
struct SideScratch {
  using Accumulator = typename PolarCodec<T>::Accumulator;

  SideScratch(const KVCodec<T>& codec, std::byte* base) {
    ScratchArena arena(base);
    const std::size_t width = std::max(codec.keys.head_dim(), codec.values.head_dim());
    rows = arena.take<T>(kTileTokens * width);
    row = arena.take<Accumulator>(width + loops::kExactLanes);
    other_row = arena.take<Accumulator>(width);
    codec_scratch =
        arena.take<std::byte>(std::max(codec.keys.scratch_bytes(), codec.values.scratch_bytes()));
    num_bytes = arena.used();
  }

  T* rows;                 // [kTileTokens, head_dim]
  Accumulator* row;        // [width of exact rows]
  Accumulator* other_row;  // [head_dim]
  std::byte* codec_scratch;
  std::size_t num_bytes;
};

// Codes, exact rows and the centring vector. Slots are those of TokenSegments. `mean`, [head_dim],
// is what to subtract, or null.
template <typename T>
struct HeadSide {
  using Accumulator = typename PolarCodec<T>::Accumulator;

  HeadSide(const PolarCodec<T>& codec, const KVCacheConfig& config, bool is_centered)
      : pages(codec.bytes_per_vector(), config.allocator),
        sinks(codec.head_dim(), config.exact_type),
        recent(codec.head_dim(), config.exact_type),
        mean(is_centered ? codec.head_dim() : 0) {}

  // With pages that both share until one is written; the rest is copied.
  HeadSide copy(const TokenSegments& segments) const {
    return {pages.share(segments.end_of_codes()), sinks, recent, mean};
  }

  std::size_t memory_bytes() const {
    return pages.memory_bytes() + sinks.memory_bytes() + recent.memory_bytes() +
           mean.capacity() * sizeof(Accumulator);
  }

  void store_exact(const TokenSegments& segments, std::size_t token, const T* row) noexcept {
    if (token < segments.max_sinks) {
      sinks.store(token, row);
    } else {
      recent.store(segments.slot(token), row);
    }
  }

  // The mean of the first `count` slots, all of them recent, summed in their order.
  void estimate_mean(std::size_t count, const SideScratch<T>& work) noexcept {
    std::fill(mean.begin(), mean.end(), Accumulator(0));
    for (std::size_t slot = 0; slot < count; ++slot) {
      recent.load(slot, kNoOffset, work.other_row, work.row);
      for (std::size_t i = 0; i < mean.size(); ++i) {
        mean[i] += work.other_row[i] / static_cast<Accumulator>(count);
      }
    }
  }

  // Encodes recent rows of one tile; append has checked them.
  void encode_recent(const PolarCodec<T>& codec, const Accumulator* offset, std::size_t first_slot,
                     std::size_t count, const SideScratch<T>& work) noexcept {
    for (std::size_t row = 0; row < count; ++row) {
      recent.load(first_slot + row, offset, work.rows + row * codec.head_dim(), work.row);
    }
    const EncodeResult result =
        encode({work.rows, count, codec.head_dim()}, codec, first_slot, work);
    static_cast<void>(result);
    POLARQUANT_DCHECK(result.failure == EncodeFailure::kNone);
  }

  // Encodes the caller's rows, of one tile.
  EncodeResult encode_given(const PolarCodec<T>& codec, const Accumulator* offset,
                            std::size_t first_slot, Rows<const T> rows,
                            const SideScratch<T>& work) noexcept {
    if (offset == nullptr) return encode(rows, codec, first_slot, work);
    for (std::size_t row = 0; row < rows.count; ++row) {
      const T* const given = rows.row(row);
      T* const centered = work.rows + row * codec.head_dim();
      for (std::size_t i = 0; i < codec.head_dim(); ++i) {
        centered[i] = static_cast<T>(static_cast<Accumulator>(given[i]) - offset[i]);
      }
    }
    return encode({work.rows, rows.count, codec.head_dim()}, codec, first_slot, work);
  }

  // rows: [num_tokens, head_dim], as they stand in the cache, `offset` added back.
  void decode(const PolarCodec<T>& codec, const TokenSegments& segments, const Accumulator* offset,
              Rows<Accumulator> rows, const SideScratch<T>& work) const noexcept {
    for (std::size_t token = 0; token < rows.count;) {
      if (segments.is_sink(token)) {
        sinks.load(token, kNoOffset, rows.row(token), work.row);
        ++token;
      } else if (!segments.is_encoded(token)) {
        recent.load(segments.slot(token), kNoOffset, rows.row(token), work.row);
        ++token;
      } else {
        const std::size_t count = std::min(kTileTokens, segments.first_recent() - token);
        codec.decode_tile(pages.tile(segments.slot(token) / kTileTokens),
                          {rows.row(token), count, rows.stride}, work.codec_scratch);
        for (std::size_t t = token; offset != nullptr && t < token + count; ++t) {
          for (std::size_t i = 0; i < codec.head_dim(); ++i) rows.row(t)[i] += offset[i];
        }
        token += count;
      }
    }
  }

  TilePages pages;
  ExactRows sinks;                // by token
  ExactRows recent;               // by slot
  std::vector<Accumulator> mean;  // [head_dim], or empty: this side is not centred

 private:
  HeadSide(TilePages given_pages, const ExactRows& given_sinks, const ExactRows& given_recent,
           const std::vector<Accumulator>& given_mean)
      : pages(std::move(given_pages)), sinks(given_sinks), recent(given_recent), mean(given_mean) {}

  static constexpr const Accumulator* kNoOffset = nullptr;

  EncodeResult encode(Rows<const T> rows, const PolarCodec<T>& codec, std::size_t first_slot,
                      const SideScratch<T>& work) noexcept {
    return codec.encode_tile(rows, first_slot % kTileTokens, pages.tile(first_slot / kTileTokens),
                             work.codec_scratch);
  }
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
