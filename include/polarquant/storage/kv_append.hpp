// Appending: how tokens come to the exact rows and move on to the codes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/base/compiled.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codec/encode_result.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/storage/exact_rows.hpp"
#include "polarquant/storage/kv_centering.hpp"
#include "polarquant/storage/kv_codec.hpp"
#include "polarquant/storage/kv_storage.hpp"
#include "polarquant/storage/token_segments.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

template <typename A>
template <typename T>
AppendResult KVStorage<A>::append(Rows<const T> keys, Rows<const T> values,
                                  std::byte* scratch) noexcept {
  POLARQUANT_DCHECK(keys.count == values.count);
  if (!has_room(keys.count)) return {EncodeFailure::kNoCapacity};
  const Rows<const T> given[2] = {keys, values};
  AppendResult result = check_exact_rows(given);
  if (result.failure != EncodeFailure::kNone) return result;
  const Scratch work(*codec_, scratch);
  const TokenSegments segments_before = segments_;
  for (std::size_t row = 0; row < keys.count;) {
    const std::size_t count = next_chunk(keys.count - row);
    const Rows<const T> chunk[2] = {keys.block(row, count), values.block(row, count)};
    if (segments_.num_tokens < segments_.max_sinks || has_window()) {
      store_exact(chunk);
      segments_.num_tokens += count;
      settle(work);
    } else {
      result = encode(chunk, work);
      if (result.failure != EncodeFailure::kNone) {
        result.token += row;
        segments_ = segments_before;
        return result;
      }
      segments_.num_tokens += count;
      segments_.num_encoded += count;
    }
    row += count;
  }
  return {};
}

template <typename A>
bool KVStorage<A>::has_room(std::size_t count) const noexcept {
  const std::size_t num_tokens = segments_.num_tokens + count;
  const std::size_t num_sinks = (std::min)(num_tokens, segments_.max_sinks);
  const std::size_t num_slots = num_tokens - num_sinks;
  // What will be encoded ends here.
  const std::size_t window = config_.num_recent_tokens;
  std::size_t end = segments_.num_dropped + num_slots - (std::min)(num_slots, window);
  if (window > 0) end = end / kTileTokens * kTileTokens;
  const std::size_t first = segments_.end_of_codes();
  for (const std::vector<Head>& side : heads_) {
    for (const Head& head : side) {
      if (head.sinks.capacity() < num_sinks || head.recent.capacity() < ring_need(num_slots) ||
          (end > first && !head.pages.is_writable(first, end))) {
        return false;
      }
    }
  }
  return true;
}

template <typename A>
template <typename T>
AppendResult KVStorage<A>::check_exact_rows(const Rows<const T> (&given)[2]) const noexcept {
  const std::size_t first = segments_.num_tokens;
  const std::size_t all = first + given[0].count;
  const std::size_t end = has_window() ? all : (std::min)(all, segments_.max_sinks);
  for (std::size_t token = first; token < end; ++token) {
    for (const Side side : kSides) {
      const Codec<A>& codec = codec_->side(side);
      const bool is_sink = token < segments_.max_sinks;
      const FloatType number_type = codec.format().model().number_type();
      const bool is_narrower = !is_sink && largest_of(number_type) < largest_of(exact_type_);
      const FloatType type = is_narrower ? number_type : exact_type_;
      // An eighth of the largest norm leaves room for a centre that is still to be fixed, which is
      // no longer than the longest row, and for the factor of the norm, at most 2.
      const bool is_encoded = !is_sink && !codec.format().is_uncompressed();
      const double largest_norm =
          is_encoded ? largest_of(number_type) / 8 : std::numeric_limits<double>::infinity();
      const T* const row = given[static_cast<std::size_t>(side)].row(token - first);
      for (std::size_t head = 0; head < num_heads(); ++head) {
        const Head& side_of_head = heads(side)[head];
        const EncodeFailure failure =
            Head::check_exact(row + head * codec.head_dim(),
                              is_encoded ? side_of_head.given_conditioning() : Conditioning<A>(),
                              side_of_head.transform.largest_stretch(), codec.head_dim(),
                              largest_of(type), largest_norm);
        if (failure == EncodeFailure::kNone) continue;
        return {failure, token - first, static_cast<int>(head), side, type};
      }
    }
  }
  return {};
}

template <typename A>
template <typename T>
void KVStorage<A>::store_exact(const Rows<const T> (&given)[2]) noexcept {
  for (const Side side : kSides) {
    const Rows<const T> rows = given[static_cast<std::size_t>(side)];
    const std::size_t head_dim = codec_->side(side).head_dim();
    for (std::size_t row = 0; row < rows.count; ++row) {
      for (std::size_t head = 0; head < num_heads(); ++head) {
        heads(side)[head].store_exact(segments_, segments_.num_tokens + row,
                                      rows.row(row) + head * head_dim);
      }
    }
  }
}

template <typename A>
void KVStorage<A>::settle(const Scratch& work) noexcept {
  const std::size_t window = config_.num_recent_tokens;
  while (segments_.num_recent() > window) {
    const std::size_t out = segments_.num_recent() - window;
    const std::size_t rest = segments_.rest_of_tile();
    // Whole tiles only; without a window all there is, but for those that a centre waits for.
    const bool is_span_begin = has_spans() && segments_.end_of_codes() % kSpanTokens == 0;
    if ((window > 0 || is_span_begin) && out < rest) break;
    encode_oldest((std::min)(out, rest), work);
  }
}

template <typename A>
void KVStorage<A>::encode_oldest(std::size_t count, const Scratch& work) noexcept {
  const std::size_t slot = segments_.end_of_codes();
  if (has_spans()) prepare_span(work);
  const bool is_summed = has_spans() && summed_.end == slot;
  for (std::size_t index = 0; index < num_heads(); ++index) {
    for (const Side side : kSides) {
      heads(side)[index].encode_recent(codec_->side(side), slot, count, is_summed, work);
    }
  }
  if (is_summed) {
    summed_.end += count;
    summed_.num_rows += count;
  }
  segments_.num_encoded += count;
}

template <typename A>
template <typename T>
AppendResult KVStorage<A>::encode(const Rows<const T> (&given)[2], const Scratch& work) noexcept {
  for (std::size_t index = 0; index < num_heads(); ++index) {
    for (const Side side : kSides) {
      const Codec<A>& codec = codec_->side(side);
      Head& head = heads(side)[index];
      const Rows<const T> rows = given[static_cast<std::size_t>(side)];
      const EncodeResult result =
          head.encode_given(codec, segments_.end_of_codes(),
                            rows.block(0, rows.count, index * codec.head_dim()), work);
      if (result.failure != EncodeFailure::kNone) {
        return {result.failure, result.num_encoded, static_cast<int>(index), side,
                codec.format().model().number_type()};
      }
    }
  }
  return {};
}

template <typename A>
void KVStorage<A>::encode_recent(std::size_t num_kept) {
  if (segments_.num_recent() <= num_kept) return;
  const std::size_t count = segments_.num_recent() - num_kept;
  reserve_pages(segments_.num_encoded + count);
  AlignedBuffer scratch(Scratch(*codec_, nullptr).num_bytes);
  const Scratch work(*codec_, scratch.data());
  for (std::size_t left = count; left > 0;) {
    const std::size_t piece = (std::min)(left, segments_.rest_of_tile());
    encode_oldest(piece, work);
    left -= piece;
  }
}

POLARQUANT_INSTANTIATE(class KVStorage<float>);
POLARQUANT_INSTANTIATE(class KVStorage<double>);

}  // namespace detail
POLARQUANT_END_NAMESPACE
