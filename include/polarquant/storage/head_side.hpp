// The keys, or the values, of one KV head.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codec/encode_result.hpp"
#include "polarquant/codec/row_encoder.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/codes/conditioning.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/storage/exact_rows.hpp"
#include "polarquant/storage/key_matrices.hpp"
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
    stride = loops::padded_width((std::max)(codec.keys().head_dim(), codec.values().head_dim()));
    rows = arena.template take<A>(kTileTokens * stride);
    center = arena.template take<A>(stride);
    codec_scratch = arena.template take<std::byte>(
        (std::max)(codec.keys().scratch_bytes(), codec.values().scratch_bytes()));
    num_bytes = arena.used();
  }

  std::size_t stride;
  A* rows;    // [kTileTokens, stride]
  A* center;  // [stride]
  std::byte* codec_scratch;
  std::size_t num_bytes;
};

// Codes, exact rows and what is subtracted from rows before they are encoded. Slots are those of
// TokenSegments. Rows are centred and encoded as A, the type of results, so that equal values give
// equal codes whatever their type.
template <typename A>
struct HeadSide {
  // is_centered: there is a vector to subtract; has_spans: another one for each span.
  HeadSide(const Codec<A>& codec, const PageAllocator& allocator, FloatType exact_type,
           bool is_centered, bool has_spans, HeadTransform<A> given_transform)
      : pages(codec.bytes_per_vector(), allocator, has_spans ? codec.center_bytes() : 0),
        sinks(codec.head_dim(), exact_type),
        recent(codec.head_dim(), exact_type),
        transform(std::move(given_transform)),
        center(is_centered ? codec.head_dim() : 0),
        sum(has_spans ? recent.width() : 0) {}

  // With pages that both share until one is written; the rest is copied.
  HeadSide copy(const TokenSegments& segments) const {
    return {pages.share(segments.end_of_codes()), sinks, recent, transform, center, sum};
  }

  std::size_t memory_bytes() const {
    return pages.memory_bytes() + sinks.memory_bytes() + recent.memory_bytes() +
           transform.memory_bytes() + (center.capacity() + sum.capacity()) * sizeof(A);
  }

  bool has_spans() const { return !sum.empty(); }

  // What is subtracted from all transformed rows, [head_dim]; null: nothing, or not the same from
  // all.
  const A* given_center() const { return center.empty() || has_spans() ? nullptr : center.data(); }

  // As far as it is the same for all rows.
  Conditioning<A> given_conditioning() const { return {transform.get(), given_center()}; }

  // For rows that are encoded now.
  Conditioning<A> conditioning() const {
    return {transform.get(), center.empty() ? nullptr : center.data()};
  }

  // For the row in a slot of codes; the centre of a span is decoded to work.center.
  Conditioning<A> conditioning_of(const Codec<A>& codec, std::size_t slot,
                                  const SideScratch<A>& work) const noexcept {
    if (!has_spans()) return conditioning();
    codec.decode_center(pages.center(slot / kSpanTokens), work.center, work.codec_scratch);
    return {transform.get(), work.center};
  }

  // Whether a row may be kept exact now and encoded later without a failure then: its numbers are
  // finite and at most largest_number, and its norm, conditioned, is at most largest_norm.
  // largest_stretch: that of the transform.
  template <typename T>
  static EncodeFailure check_exact(const T* row, const Conditioning<A>& change,
                                   double largest_stretch, std::size_t head_dim,
                                   double largest_number, double largest_norm) noexcept {
    const double largest = largest_magnitude<A>(row, head_dim);
    if (largest > (std::numeric_limits<double>::max)()) return EncodeFailure::kNotFinite;
    if (largest > largest_number) return EncodeFailure::kOutOfRange;
    if (change.center == nullptr &&
        largest * largest_stretch * static_cast<double>(head_dim) <= largest_norm) {
      return EncodeFailure::kNone;
    }
    // In units of the limit, whose squares do not overflow.
    const auto share_of = [&](std::size_t i) { return static_cast<double>(row[i]) / largest_norm; };
    double square = 0.0;
    for (std::size_t i = 0; i < head_dim; ++i) {
      double share = change.transform.matrix == nullptr ? share_of(i) : 0.0;
      for (std::size_t j = 0; change.transform.matrix != nullptr && j < head_dim; ++j) {
        share += share_of(j) * static_cast<double>(change.transform.matrix[i * head_dim + j]);
      }
      if (change.transform.scales != nullptr) {
        share *= static_cast<double>(change.transform.scales[i]);
      }
      if (change.center != nullptr) share -= static_cast<double>(change.center[i]) / largest_norm;
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

  // ---- Centres of spans ----

  // sum += the first rows of work.rows, each divided by 2 kCenterReach: no sum overflows, and as
  // that is a power of two, it is the same whether products are fused or not. The rows' padding is
  // zero.
  void add_to_sum(const Codec<A>& codec, std::size_t count, const SideScratch<A>& work) noexcept {
    A shares[kTileTokens];
    std::fill_n(shares, count, A(1) / static_cast<A>(2 * kCenterReach));
    codec.vectors().add_rows(shares, {work.rows, count, work.stride}, sum.size(), sum.data());
  }

  // The sum of the rows in slots of codes, as they decode.
  void sum_decoded(const Codec<A>& codec, std::size_t first, std::size_t end,
                   const SideScratch<A>& work) noexcept {
    std::fill(sum.begin(), sum.end(), A(0));
    for (; first < end; first += kTileTokens) {
      const Rows<A> rows = {work.rows, (std::min)(kTileTokens, end - first), work.stride};
      codec.decode_tile(pages.tile(first / kTileTokens), rows, work.codec_scratch,
                        conditioning_of(codec, first, work));
      for (std::size_t row = 0; row < rows.count; ++row) {
        std::fill(rows.row(row) + codec.head_dim(), rows.row(row) + sum.size(), A(0));
      }
      add_to_sum(codec, rows.count, work);
    }
  }

  // Gives the span that begins with `slot` the mean of the num_summed rows in `sum` and of the
  // num_recent rows from `slot` on for a centre.
  void fix_center(const Codec<A>& codec, std::size_t slot, std::size_t num_summed,
                  std::size_t num_recent, const SideScratch<A>& work) noexcept {
    for (std::size_t row = 0; row < num_recent; row += kTileTokens) {
      const std::size_t count = (std::min)(kTileTokens, num_recent - row);
      load_recent(codec, slot + row, count, work);
      add_to_sum(codec, count, work);
    }
    const A factor = static_cast<A>(2 * kCenterReach) / static_cast<A>(num_summed + num_recent);
    for (std::size_t i = 0; i < codec.head_dim(); ++i) work.rows[i] = factor * sum[i];
    codec.vectors().condition({transform.get(), nullptr}, codec.head_dim(), work.rows);
    codec.encode_center(work.rows, pages.center(slot / kSpanTokens), work.codec_scratch);
    load_center(codec, slot, work);
  }

  // That of the span of `slot` for what is encoded next.
  void load_center(const Codec<A>& codec, std::size_t slot, const SideScratch<A>& work) noexcept {
    codec.decode_center(pages.center(slot / kSpanTokens), center.data(), work.codec_scratch);
  }

  // ---- Encoding and decoding ----

  // Encodes recent rows of one tile; append has checked them. is_summed: they come to `sum` too.
  void encode_recent(const Codec<A>& codec, std::size_t first_slot, std::size_t count,
                     bool is_summed, const SideScratch<A>& work) noexcept {
    load_recent(codec, first_slot, count, work);
    if (is_summed) add_to_sum(codec, count, work);
    const Conditioning<A> change = conditioning();
    for (std::size_t row = 0; !change.is_identity() && row < count; ++row) {
      codec.vectors().condition(change, codec.head_dim(), work.rows + row * work.stride);
    }
    const EncodeResult result =
        encode(Rows<const A>{work.rows, count, work.stride}, codec, first_slot, {}, work);
    static_cast<void>(result);
    POLARQUANT_DCHECK(result.failure == EncodeFailure::kNone);
  }

  // Encodes the caller's rows, of one tile.
  template <typename T>
  EncodeResult encode_given(const Codec<A>& codec, std::size_t first_slot, Rows<const T> rows,
                            const SideScratch<A>& work) noexcept {
    return encode(rows, codec, first_slot, conditioning(), work);
  }

  // rows: [num_tokens, head_dim], as they stand in the cache.
  void decode(const Codec<A>& codec, const TokenSegments& segments, Rows<A> rows,
              const SideScratch<A>& work) const noexcept {
    for (std::size_t token = 0; token < rows.count;) {
      if (segments.is_encoded(token)) {
        const std::size_t count = (std::min)(kTileTokens, segments.first_recent() - token);
        const std::size_t slot = segments.slot(token);
        codec.decode_tile(pages.tile(slot / kTileTokens), rows.block(token, count),
                          work.codec_scratch, conditioning_of(codec, slot, work));
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
  ExactRows sinks;             // by token
  ExactRows recent;            // by slot
  HeadTransform<A> transform;  // of the rows that are encoded
  std::vector<A> center;       // [head_dim], of what has been transformed: given, or that of the
                               // span which is being filled; or empty
  std::vector<A> sum;          // [padded head_dim], of the rows that the next centre is to know of,
                               // over 2 kCenterReach; empty: spans have no centres

 private:
  HeadSide(PagePool given_pages, const ExactRows& given_sinks, const ExactRows& given_recent,
           const HeadTransform<A>& given_transform, const std::vector<A>& given_center,
           const std::vector<A>& given_sum)
      : pages(std::move(given_pages)),
        sinks(given_sinks),
        recent(given_recent),
        transform(given_transform),
        center(given_center),
        sum(given_sum) {}

  // To work.rows, padded.
  void load_recent(const Codec<A>& codec, std::size_t first_slot, std::size_t count,
                   const SideScratch<A>& work) const noexcept {
    for (std::size_t row = 0; row < count; ++row) {
      recent.load(first_slot + row, codec.vectors(), work.rows + row * work.stride);
    }
  }

  template <typename T>
  EncodeResult encode(Rows<const T> rows, const Codec<A>& codec, std::size_t first_slot,
                      const Conditioning<A>& change, const SideScratch<A>& work) noexcept {
    return codec.encode_tile(rows, first_slot % kTileTokens, pages.tile(first_slot / kTileTokens),
                             work.codec_scratch, change);
  }
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
