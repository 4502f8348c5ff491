// What a cache holds: codes, exact rows and centring vectors of every KV head.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "polarquant/codec/codec.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/storage/exact_rows.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/storage/head_side.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/storage/token_segments.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// What an append could not encode.
struct AppendResult {
  EncodeFailure failure = EncodeFailure::kNone;
  std::size_t token = 0;  // row of the appended matrices
  std::size_t kv_head = 0;
  bool is_value = false;
  FloatType type = FloatType::kBFloat16;  // whose range was exceeded
};

namespace detail {

// What is inside a cache, for saving and loading (serialization.hpp).
template <typename T>
struct CacheAccess;

// The sides of all KV heads and the rule by which a token moves from the exact rows to the codes:
// once, when it leaves the window of recent tokens, in whole tiles. All sides move together. Where
// a token is depends on the numbers of tokens alone, so that appending many is appending one by
// one.
template <typename T>
class KVStorage {
 public:
  using Accumulator = typename PolarCodec<T>::Accumulator;
  using Side = HeadSide<T>;
  using Scratch = SideScratch<T>;

  KVStorage(const KVCacheConfig& config, std::shared_ptr<const KVCodec<T>> codec)
      : config_(config), codec_(std::move(codec)) {
    segments_.max_sinks = config_.num_sink_tokens;
    const std::size_t num_heads = static_cast<std::size_t>(config_.num_kv_heads);
    keys_.reserve(num_heads);
    values_.reserve(num_heads);
    for (std::size_t head = 0; head < num_heads; ++head) {
      keys_.push_back(make_side(codec_->keys, config_.key_mean, head));
      values_.push_back(make_side(codec_->values, config_.value_mean, head));
    }
    reset_means();
  }

  // The same tokens, in pages that both share until one of them writes.
  KVStorage copy() const {
    KVStorage result(config_, codec_);
    for (std::size_t head = 0; head < num_heads(); ++head) {
      result.keys_[head] = keys_[head].copy(segments_);
      result.values_[head] = values_[head].copy(segments_);
    }
    result.segments_ = segments_;
    result.mean_is_pending_ = mean_is_pending_;
    return result;
  }

  const KVCacheConfig& config() const { return config_; }
  const std::shared_ptr<const KVCodec<T>>& codec() const { return codec_; }
  const TokenSegments& segments() const { return segments_; }
  std::size_t num_heads() const { return keys_.size(); }
  const Side& keys(std::size_t head) const { return keys_[head]; }
  const Side& values(std::size_t head) const { return values_[head]; }

  // [head_dim], what is subtracted before encoding; null: nothing, or not yet known.
  const Accumulator* mean_of(const Side& side) const {
    return side.mean.empty() || mean_is_pending_ ? nullptr : side.mean.data();
  }

  std::size_t memory_bytes() const {
    std::size_t bytes =
        (keys_.capacity() + values_.capacity()) * sizeof(Side) +
        (config_.key_mean.capacity() + config_.value_mean.capacity()) * sizeof(float);
    for (const auto* sides : {&keys_, &values_}) {
      for (const Side& side : *sides) bytes += side.memory_bytes();
    }
    return bytes;
  }

  std::size_t shared_bytes() const {
    std::size_t bytes = 0;
    for (const auto* sides : {&keys_, &values_}) {
      for (const Side& side : *sides) bytes += side.pages.shared_bytes();
    }
    return bytes;
  }

  // See KVCache::append.
  AppendResult append(Rows<const T> keys, Rows<const T> values, std::byte* scratch) noexcept {
    POLARQUANT_DCHECK(keys.count == values.count);
    POLARQUANT_DCHECK(segments_.num_tokens + keys.count <= capacity());
    AppendResult result = check_exact_rows(keys, values);
    if (result.failure != EncodeFailure::kNone) return result;
    const Scratch work(*codec_, scratch);
    const TokenSegments segments_before = segments_;
    const bool mean_was_pending = mean_is_pending_;
    for (std::size_t row = 0; row < keys.count;) {
      const std::size_t count = next_chunk(keys.count - row);
      const Rows<const T> key_rows = {keys.row(row), count, keys.stride};
      const Rows<const T> value_rows = {values.row(row), count, values.stride};
      if (segments_.num_tokens < segments_.max_sinks || has_window()) {
        store_exact(key_rows, value_rows);
        segments_.num_tokens += count;
        settle(work);
      } else {
        result = encode(key_rows, value_rows, work);
        if (result.failure != EncodeFailure::kNone) {
          result.token += row;
          segments_ = segments_before;
          mean_is_pending_ = mean_was_pending;
          return result;
        }
        segments_.num_tokens += count;
        segments_.num_encoded += count;
      }
      row += count;
    }
    return {};
  }

  // See KVCache::encode_recent.
  void encode_recent(std::size_t num_kept) {
    if (mean_is_pending_ || segments_.num_recent() <= num_kept) return;
    const std::size_t count = segments_.num_recent() - num_kept;
    reserve_pages(segments_.num_encoded + count);
    ScratchBuffer scratch(Scratch(*codec_, nullptr).num_bytes);
    const Scratch work(*codec_, scratch.data());
    for (std::size_t left = count; left > 0;) {
      const std::size_t piece = std::min(left, segments_.rest_of_tile());
      encode_oldest(piece, work);
      left -= piece;
    }
  }

  void reserve(std::size_t num_tokens) {
    const std::size_t num_sinks = std::min(num_tokens, segments_.max_sinks);
    const std::size_t num_slots = num_tokens - num_sinks;
    const std::size_t num_recent =
        has_window() ? std::min(ring_limit(), round_up(num_slots)) : std::size_t{0};
    for (auto* sides : {&keys_, &values_}) {
      for (Side& side : *sides) {
        grow(side.sinks, num_sinks, segments_.max_sinks, 0, segments_.num_sinks());
        grow(side.recent, num_recent, ring_limit(), segments_.end_of_codes(),
             segments_.num_recent());
      }
    }
    reserve_pages(num_slots - std::min(num_slots, config_.num_recent_tokens));
  }

  std::size_t capacity() const {
    std::size_t sinks = std::numeric_limits<std::size_t>::max();
    std::size_t ring = sinks;
    std::size_t codes = sinks;
    for (const auto* sides : {&keys_, &values_}) {
      for (const Side& side : *sides) {
        sinks = std::min(sinks, side.sinks.capacity());
        ring = std::min(ring, side.recent.capacity());
        codes = std::min(codes, side.pages.writable_end(segments_.end_of_codes()));
      }
    }
    if (sinks < segments_.max_sinks) return sinks;
    std::size_t slots = config_.num_recent_tokens + codes - segments_.num_dropped;
    if (has_window() && ring < ring_limit()) slots = std::min(slots, ring);
    return std::max(segments_.num_tokens, segments_.max_sinks + slots);
  }

  // Gives back what the tokens held do not need.
  void shrink() {
    const std::size_t num_recent = segments_.num_recent();
    for (auto* sides : {&keys_, &values_}) {
      for (Side& side : *sides) {
        side.pages.shrink(segments_.end_of_codes());
        side.sinks.resize(segments_.num_sinks(), 0, segments_.num_sinks());
        side.recent.resize(round_up(num_recent), segments_.end_of_codes(), num_recent);
      }
    }
  }

  void truncate(std::size_t num_tokens) { segments_.truncate(num_tokens); }

  // See KVCache::drop_front.
  std::size_t drop_front(std::size_t num_tokens) {
    const std::size_t num_dropped = segments_.drop(num_tokens);
    for (auto* sides : {&keys_, &values_}) {
      for (Side& side : *sides) side.pages.drop_front(segments_.num_dropped);
    }
    return num_dropped;
  }

  void clear() {
    segments_.truncate(0);
    segments_.num_dropped = 0;
    for (auto* sides : {&keys_, &values_}) {
      for (Side& side : *sides) side.pages.restart();
    }
    reset_means();
  }

  // ---- Saving and loading ----

  bool estimates_means() const {
    return config_.centering == Centering::kEstimated &&
           !(codec_->keys.format().is_uncompressed() && codec_->values.format().is_uncompressed());
  }
  bool mean_is_pending() const { return mean_is_pending_; }
  Side& side(std::size_t head, bool is_value) { return (is_value ? values_ : keys_)[head]; }
  const Side& side(std::size_t head, bool is_value) const {
    return (is_value ? values_ : keys_)[head];
  }

  // The numbers of a new cache; the caller fills its sides.
  void restore(const TokenSegments& segments, bool mean_is_pending) {
    segments_ = segments;
    mean_is_pending_ = mean_is_pending;
  }

 private:
  static std::size_t round_up(std::size_t num_tokens) {
    return (num_tokens + kTileTokens - 1) / kTileTokens * kTileTokens;
  }

  Side make_side(const PolarCodec<T>& codec, const std::vector<float>& given, std::size_t head) {
    // An uncompressed side has nothing to gain.
    const bool is_centered = !codec.format().is_uncompressed() &&
                             (config_.centering == Centering::kEstimated || !given.empty());
    Side side(codec, config_, is_centered);
    if (is_centered && !given.empty()) {
      std::copy_n(given.begin() + static_cast<std::ptrdiff_t>(head * codec.head_dim()),
                  codec.head_dim(), side.mean.begin());
    }
    return side;
  }

  void reset_means() { mean_is_pending_ = estimates_means(); }

  bool has_window() const { return config_.num_recent_tokens > 0 || mean_is_pending_; }

  // Rows that the ring of recent tokens needs at most: the window, what is missing to a whole tile,
  // and a chunk that has just come; or all that is waited for before the first is encoded.
  std::size_t ring_limit() const {
    const std::size_t window = config_.num_recent_tokens;
    return round_up(std::max(window > 0 ? window + 2 * kTileTokens : 0,
                             mean_is_pending_ ? config_.num_centering_tokens : 0));
  }

  // Doubles, so that growing token by token moves each row but a few times.
  static void grow(ExactRows& rows, std::size_t needed, std::size_t limit, std::size_t first,
                   std::size_t count) {
    if (needed <= rows.capacity()) return;
    rows.resize(std::min(limit, std::max(needed, 2 * rows.capacity())), first, count);
  }

  void reserve_pages(std::size_t num_encoded) {
    for (auto* sides : {&keys_, &values_}) {
      for (Side& side : *sides) {
        side.pages.reserve(segments_.num_dropped + num_encoded, segments_.end_of_codes());
      }
    }
  }

  // How many of the next `left` tokens go the same way, within one tile.
  std::size_t next_chunk(std::size_t left) const {
    if (segments_.num_tokens < segments_.max_sinks) {
      return std::min(left, segments_.max_sinks - segments_.num_tokens);
    }
    std::size_t count = std::min(left, kTileTokens - segments_.num_slots() % kTileTokens);
    if (mean_is_pending_) {
      count = std::min(count, config_.num_centering_tokens - segments_.num_recent());
    }
    return count;
  }

  // The largest norm of a row that is kept exact and encoded later. An eighth of the largest radius
  // leaves room for the mean, which is no longer than the longest row, and for the factor of the
  // radius, at most 2.
  double largest_norm(const PolarCodec<T>& codec) const {
    const double largest = largest_of(codec.format().radius_type);
    if (codec.format().is_uncompressed()) return largest;
    return std::min(largest / 8, static_cast<double>(std::numeric_limits<T>::max()) / 2);
  }

  // What comes to exact rows is checked before anything changes.
  AppendResult check_exact_rows(Rows<const T> keys, Rows<const T> values) const noexcept {
    const std::size_t first = segments_.num_tokens;
    const std::size_t end =
        config_.num_recent_tokens > 0
            ? first + keys.count
            : std::min(first + keys.count,
                       segments_.max_sinks + (mean_is_pending_ ? config_.num_centering_tokens : 0));
    for (std::size_t token = first; token < end; ++token) {
      for (const bool is_value : {false, true}) {
        const PolarCodec<T>& codec = is_value ? codec_->values : codec_->keys;
        const double norm = token < segments_.max_sinks ? std::numeric_limits<double>::infinity()
                                                        : largest_norm(codec);
        const T* const row = (is_value ? values : keys).row(token - first);
        for (std::size_t head = 0; head < keys_.size(); ++head) {
          const EncodeFailure failure = check_exact_row<Accumulator>(
              row + head * codec.head_dim(), codec.head_dim(), config_.exact_type, norm);
          if (failure == EncodeFailure::kNone) continue;
          const FloatType radius_type = codec.format().radius_type;
          const bool radius_is_narrower = largest_of(radius_type) < largest_of(config_.exact_type);
          return {failure, token - first, head, is_value,
                  radius_is_narrower ? radius_type : config_.exact_type};
        }
      }
    }
    return {};
  }

  void store_exact(Rows<const T> keys, Rows<const T> values) noexcept {
    for (std::size_t row = 0; row < keys.count; ++row) {
      const std::size_t token = segments_.num_tokens + row;
      for (std::size_t head = 0; head < keys_.size(); ++head) {
        keys_[head].store_exact(segments_, token, keys.row(row) + head * codec_->keys.head_dim());
        values_[head].store_exact(segments_, token,
                                  values.row(row) + head * codec_->values.head_dim());
      }
    }
  }

  // Encodes what has left the window.
  void settle(const Scratch& work) noexcept {
    if (mean_is_pending_) {
      if (segments_.num_recent() < config_.num_centering_tokens) return;
      for (auto* sides : {&keys_, &values_}) {
        for (Side& side : *sides) side.estimate_mean(config_.num_centering_tokens, work);
      }
      mean_is_pending_ = false;
    }
    const std::size_t window = config_.num_recent_tokens;
    while (segments_.num_recent() > window) {
      const std::size_t out = segments_.num_recent() - window;
      const std::size_t rest = segments_.rest_of_tile();
      if (window > 0 && out < rest) break;  // Whole tiles only; without a window, all there is.
      encode_oldest(std::min(out, rest), work);
    }
  }

  // Moves the `count` oldest recent tokens, which complete at most one tile, to the codes.
  void encode_oldest(std::size_t count, const Scratch& work) noexcept {
    for (std::size_t head = 0; head < keys_.size(); ++head) {
      keys_[head].encode_recent(codec_->keys, mean_of(keys_[head]), segments_.end_of_codes(), count,
                                work);
      values_[head].encode_recent(codec_->values, mean_of(values_[head]), segments_.end_of_codes(),
                                  count, work);
    }
    segments_.num_encoded += count;
  }

  // Encodes rows of one tile without a stop in the exact rows.
  AppendResult encode(Rows<const T> keys, Rows<const T> values, const Scratch& work) noexcept {
    for (std::size_t head = 0; head < keys_.size(); ++head) {
      for (const bool is_value : {false, true}) {
        const PolarCodec<T>& codec = is_value ? codec_->values : codec_->keys;
        Side& side = is_value ? values_[head] : keys_[head];
        const Rows<const T> given = is_value ? values : keys;
        const EncodeResult result = side.encode_given(
            codec, mean_of(side), segments_.end_of_codes(),
            {given.data + head * codec.head_dim(), given.count, given.stride}, work);
        if (result.failure != EncodeFailure::kNone) {
          return {result.failure, result.num_encoded, head, is_value, codec.format().radius_type};
        }
      }
    }
    return {};
  }

  KVCacheConfig config_;
  std::shared_ptr<const KVCodec<T>> codec_;
  std::vector<Side> keys_;    // [num_kv_heads]
  std::vector<Side> values_;  // [num_kv_heads]
  TokenSegments segments_;
  bool mean_is_pending_ = false;  // to be estimated; until then all tokens stay exact
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
