// The keys, or the values, of one KV head.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codec/row_encoder.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/storage/exact_rows.hpp"
#include "polarquant/storage/kv_codec.hpp"
#include "polarquant/storage/page_pool.hpp"
#include "polarquant/storage/token_segments.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// What the calls of HeadSide work in; the caller's scratch.
template <typename A>
struct SideScratch {
  SideScratch(const KVCodec<A>& codec, std::byte* base) {
    ScratchArena arena(base);
    stride =
        ExactRows::padded_width((std::max)(codec.keys().head_dim(), codec.values().head_dim()));
    rows = arena.template take<A>(kTileTokens * stride);
    codec_scratch = arena.template take<std::byte>(
        (std::max)(codec.keys().scratch_bytes(), codec.values().scratch_bytes()));
    num_bytes = arena.used();
  }

  std::size_t stride;
  A* rows;  // [kTileTokens, stride]
  std::byte* codec_scratch;
  std::size_t num_bytes;
};

// Codes, exact rows and the centring vector. Slots are those of TokenSegments. Rows are centred
// and encoded as A, the type of results, so that equal values give equal codes whatever their type.
template <typename A>
struct HeadSide {
  HeadSide(const Codec<A>& codec, const PageAllocator& allocator, FloatType exact_type,
           bool is_centered)
      : pages(codec.bytes_per_vector(), allocator),
        sinks(codec.head_dim(), exact_type),
        recent(codec.head_dim(), exact_type),
        mean(is_centered ? codec.head_dim() : 0) {}

  // With pages that both share until one is written; the rest is copied.
  HeadSide copy(const TokenSegments& segments) const {
    return {pages.share(segments.end_of_codes()), sinks, recent, mean};
  }

  std::size_t memory_bytes() const {
    return pages.memory_bytes() + sinks.memory_bytes() + recent.memory_bytes() +
           mean.capacity() * sizeof(A);
  }

  // Whether a row may be kept exact now and encoded later without a failure then: its numbers are
  // finite and at most largest_number, and its norm, less `offset`, [head_dim] or null, is at most
  // largest_norm.
  template <typename T>
  static EncodeFailure check_exact(const T* row, const A* offset, std::size_t head_dim,
                                   double largest_number, double largest_norm) noexcept {
    const double largest = largest_magnitude<A>(row, head_dim);
    if (largest > (std::numeric_limits<double>::max)()) return EncodeFailure::kNotFinite;
    if (largest > largest_number) return EncodeFailure::kOutOfRange;
    if (offset == nullptr && largest * static_cast<double>(head_dim) <= largest_norm) {
      return EncodeFailure::kNone;
    }
    // In units of the limit, whose squares do not overflow.
    double square = 0.0;
    for (std::size_t i = 0; i < head_dim; ++i) {
      double share = static_cast<double>(row[i]) / largest_norm;
      if (offset != nullptr) share -= static_cast<double>(offset[i]) / largest_norm;
      square += share * share;
    }
    return square <= 1.0 ? EncodeFailure::kNone : EncodeFailure::kOutOfRange;
  }

  template <typename T>
  void store_exact(const TokenSegments& segments, std::size_t token, const T* row) noexcept {
    if (token < segments.max_sinks) {
      sinks.store(token, row);
    } else {
      recent.store(segments.slot(token), row);
    }
  }

  // The mean of the first `count` slots, all of them recent, summed in their order.
  void estimate_mean(const Codec<A>& codec, std::size_t count,
                     const SideScratch<A>& work) noexcept {
    std::fill(mean.begin(), mean.end(), A(0));
    for (std::size_t slot = 0; slot < count; ++slot) {
      recent.load(slot, codec.vectors(), work.rows);
      for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += work.rows[i] / static_cast<A>(count);
    }
  }

  // Encodes recent rows of one tile, less `offset`, [head_dim] or null; append has checked them.
  void encode_recent(const Codec<A>& codec, const A* offset, std::size_t first_slot,
                     std::size_t count, const SideScratch<A>& work) noexcept {
    for (std::size_t row = 0; row < count; ++row) {
      A* const loaded = work.rows + row * work.stride;
      recent.load(first_slot + row, codec.vectors(), loaded);
      for (std::size_t i = 0; offset != nullptr && i < codec.head_dim(); ++i)
        loaded[i] -= offset[i];
    }
    const EncodeResult result = encode({work.rows, count, work.stride}, codec, first_slot, work);
    static_cast<void>(result);
    POLARQUANT_DCHECK(result.failure == EncodeFailure::kNone);
  }

  // Encodes the caller's rows, of one tile, less `offset`.
  template <typename T>
  EncodeResult encode_given(const Codec<A>& codec, const A* offset, std::size_t first_slot,
                            Rows<const T> rows, const SideScratch<A>& work) noexcept {
    if constexpr (std::is_same_v<T, A>) {
      if (offset == nullptr) return encode(rows, codec, first_slot, work);
    }
    for (std::size_t row = 0; row < rows.count; ++row) {
      const T* const given = rows.row(row);
      A* const centered = work.rows + row * work.stride;
      for (std::size_t i = 0; i < codec.head_dim(); ++i) {
        centered[i] = static_cast<A>(given[i]) - (offset == nullptr ? A(0) : offset[i]);
      }
    }
    return encode({work.rows, rows.count, work.stride}, codec, first_slot, work);
  }

  // rows: [num_tokens, head_dim], as they stand in the cache, `offset` added back.
  void decode(const Codec<A>& codec, const TokenSegments& segments, const A* offset, Rows<A> rows,
              const SideScratch<A>& work) const noexcept {
    for (std::size_t token = 0; token < rows.count;) {
      if (segments.is_encoded(token)) {
        const std::size_t count = (std::min)(kTileTokens, segments.first_recent() - token);
        codec.decode_tile(pages.tile(segments.slot(token) / kTileTokens), rows.block(token, count),
                          work.codec_scratch);
        for (std::size_t t = token; offset != nullptr && t < token + count; ++t) {
          for (std::size_t i = 0; i < codec.head_dim(); ++i) rows.row(t)[i] += offset[i];
        }
        token += count;
        continue;
      }
      const bool is_sink = segments.is_sink(token);
      (is_sink ? sinks : recent)
          .load(is_sink ? token : segments.slot(token), codec.vectors(), work.rows);
      std::copy_n(work.rows, codec.head_dim(), rows.row(token));
      ++token;
    }
  }

  // The code in a slot.
  std::vector<std::byte> code(const Codec<A>& codec, std::size_t slot) const {
    std::vector<std::byte> result(codec.bytes_per_vector());
    read_tile_slot(pages.tile(slot / kTileTokens), result.size(), slot % kTileTokens,
                   result.data());
    return result;
  }

  PagePool pages;
  ExactRows sinks;      // by token
  ExactRows recent;     // by slot
  std::vector<A> mean;  // [head_dim], or empty: this side is not centred

 private:
  HeadSide(PagePool given_pages, const ExactRows& given_sinks, const ExactRows& given_recent,
           const std::vector<A>& given_mean)
      : pages(std::move(given_pages)), sinks(given_sinks), recent(given_recent), mean(given_mean) {}

  EncodeResult encode(Rows<const A> rows, const Codec<A>& codec, std::size_t first_slot,
                      const SideScratch<A>& work) noexcept {
    return codec.encode_tile(rows, first_slot % kTileTokens, pages.tile(first_slot / kTileTokens),
                             work.codec_scratch);
  }
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
