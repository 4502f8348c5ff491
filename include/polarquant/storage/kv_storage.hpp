// What a cache holds: codes, centres and exact rows of every KV head.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/storage/exact_rows.hpp"
#include "polarquant/storage/head_side.hpp"
#include "polarquant/storage/kv_codec.hpp"
#include "polarquant/storage/removed_tokens.hpp"
#include "polarquant/storage/token_segments.hpp"

POLARQUANT_BEGIN_NAMESPACE

// What an append could not take in. Nothing was appended then, and nothing has changed.
struct [[nodiscard]] AppendResult {
  EncodeFailure failure = EncodeFailure::kNone;

  // Of kNotFinite and kOutOfRange:
  std::size_t token = 0;  // row of the appended matrices
  int kv_head = 0;
  Side side = Side::kKeys;
  FloatType type = FloatType::kBFloat16;  // whose range was exceeded
};

namespace detail {

// What is inside a cache, for saving and loading.
template <typename T>
struct CacheAccess;

// The sides of all KV heads and the rule by which a token moves from the exact rows to the codes:
// once, when it leaves the window of recent tokens, in whole tiles. All sides move together. Where
// a token is depends on the numbers of tokens alone, so that appending many is appending one by
// one. A: the type of results.
template <typename A>
class KVStorage {
 public:
  using Head = HeadSide<A>;
  using Scratch = SideScratch<A>;
  static constexpr std::size_t kNowhere = (std::numeric_limits<std::size_t>::max)();  // a slot

  // exact_type: that of the configuration, or what stands for it.
  KVStorage(const KVCacheConfig& config, FloatType exact_type,
            std::shared_ptr<const KVCodec<A>> codec)
      : config_(config), exact_type_(exact_type), codec_(std::move(codec)) {
    segments_.max_sinks = config_.num_sink_tokens;
    const std::size_t num_heads = static_cast<std::size_t>(config_.num_kv_heads);
    for (const Side side : kSides) {
      heads(side).reserve(num_heads);
      for (std::size_t head = 0; head < num_heads; ++head) {
        heads(side).push_back(make_head(side, head));
      }
    }
  }

  // The same tokens, in pages that both share until one of them writes.
  KVStorage copy() const;

  const KVCacheConfig& config() const { return config_; }
  FloatType exact_type() const { return exact_type_; }
  const std::shared_ptr<const KVCodec<A>>& codec() const { return codec_; }
  const TokenSegments& segments() const { return segments_; }
  const RemovedTokens& removed() const { return removed_; }
  std::size_t num_heads() const { return heads_[0].size(); }
  const Head& head(Side side, std::size_t index) const { return heads(side)[index]; }
  Head& head(Side side, std::size_t index) { return heads(side)[index]; }

  // The slot of a token that is a code; throws std::invalid_argument if it is none.
  std::size_t encoded_slot(std::size_t token) const {
    if (token >= segments_.num_tokens) {
      throw_invalid_argument({"token ", token, ": the cache holds ", segments_.num_tokens});
    }
    if (!segments_.is_encoded(token)) {
      throw_invalid_argument({"token ", token, " is kept exact and has no code"});
    }
    return segments_.slot(token);
  }

  std::size_t memory_bytes() const {
    std::size_t bytes = (heads_[0].capacity() + heads_[1].capacity()) * sizeof(Head) +
                        removed_.memory_bytes() +
                        (config_.key_mean.capacity() + config_.value_mean.capacity() +
                         config_.calibration.key_scales.capacity()) *
                            sizeof(float);
    for_each_head([&bytes](const Head& head) { bytes += head.memory_bytes(); });
    return bytes;
  }

  std::size_t shared_bytes() const {
    std::size_t bytes = 0;
    for_each_head([&bytes](const Head& head) { bytes += head.pages.shared_bytes(); });
    return bytes;
  }

  // See KVCache::append.
  template <typename T>
  AppendResult append(Rows<const T> keys, Rows<const T> values, std::byte* scratch) noexcept;

  // See KVCache::encode_recent.
  void encode_recent(std::size_t num_kept);

  void reserve(std::size_t num_tokens);

  std::size_t capacity() const;

  // Gives back what the tokens held do not need.
  void shrink();

  void truncate(std::size_t num_tokens) {
    segments_.truncate(num_tokens);
    removed_.truncate(num_tokens);
    if (summed_.end > segments_.end_of_codes()) summed_ = {};
  }

  // See KVCache::remove.
  void remove(TokenRange tokens) { removed_.add(tokens); }

  // See KVCache::drop_front.
  std::size_t drop_front(std::size_t num_tokens);

  void clear() {
    truncate(0);
    segments_.num_dropped = 0;
    for_each_head([](Head& head) { head.pages.restart(); });
    summed_ = {};
    center_begin_ = kNowhere;
  }

  // ---- Saving and loading ----

  // Whether spans have centres of their own, in one side at least.
  bool has_spans() const { return heads_[0][0].has_spans() || heads_[1][0].has_spans(); }

  // What the sums of all sides hold: of the slots first .. end - 1 num_rows rows, the others having
  // been dropped before they were summed. kNowhere: nothing.
  struct SummedSlots {
    std::size_t first = kNowhere;
    std::size_t end = kNowhere;
    std::size_t num_rows = 0;
  };
  const SummedSlots& summed() const { return summed_; }

  // The numbers of a new cache; the caller fills its sides. num_summed: slots at the end of codes.
  void restore(const TokenSegments& segments, std::size_t num_summed, std::size_t num_rows) {
    segments_ = segments;
    const std::size_t end = segments.end_of_codes();
    if (num_summed > 0) summed_ = {end - num_summed, end, num_rows};
  }

  // A given mean as it was given; where nothing transforms it, at the precision that it came in.
  A given_mean(Side side, std::size_t index, std::size_t i) const {
    const Head& head = heads(side)[index];
    if (head.transform.get().is_identity()) return head.center[i];
    return static_cast<A>(given_means(side)[index * head.center.size() + i]);
  }

  // Replaces it. [head_dim]
  void give_mean(Side side, std::size_t index, const std::vector<A>& mean) {
    Head& head = heads(side)[index];
    std::vector<float>& given = side == Side::kKeys ? config_.key_mean : config_.value_mean;
    for (std::size_t i = 0; i < mean.size(); ++i) {
      given[index * mean.size() + i] = static_cast<float>(mean[i]);
    }
    set_center(side, head, mean);
  }

 private:
  static std::size_t round_up(std::size_t num_tokens) {
    return (num_tokens + kTileTokens - 1) / kTileTokens * kTileTokens;
  }

  std::vector<Head>& heads(Side side) { return heads_[static_cast<std::size_t>(side)]; }
  const std::vector<Head>& heads(Side side) const { return heads_[static_cast<std::size_t>(side)]; }

  template <typename Visit>
  void for_each_head(const Visit& visit) {
    for (std::vector<Head>& side : heads_) {
      for (Head& head : side) visit(head);
    }
  }
  template <typename Visit>
  void for_each_head(const Visit& visit) const {
    for (const std::vector<Head>& side : heads_) {
      for (const Head& head : side) visit(head);
    }
  }

  // Calls visit(codec, head) where spans have centres.
  template <typename Visit>
  void for_each_centered(const Visit& visit) {
    for (const Side side : kSides) {
      for (Head& head : heads(side)) {
        if (head.has_spans()) visit(codec_->side(side), head);
      }
    }
  }

  const std::vector<float>& given_means(Side side) const {
    return side == Side::kKeys ? config_.key_mean : config_.value_mean;
  }

  // mean: [head_dim], as the caller's rows are.
  void set_center(Side side, Head& head, const std::vector<A>& mean) const {
    head.center = mean;
    codec_->side(side).vectors().condition({head.transform.get(), nullptr}, mean.size(),
                                           head.center.data());
  }

  HeadTransform<A> transform_of(Side side, std::size_t index) const {
    const LayerCalibration& calibration = config_.calibration;
    if (side == Side::kValues) return {};
    if (calibration.key_matrices != nullptr) return {calibration.key_matrices, index};
    std::vector<A> scales = own(calibration.key_scales, codec_->keys().head_dim(), index);
    if (std::all_of(scales.begin(), scales.end(), [](A scale) { return scale == A(1); })) return {};
    return HeadTransform<A>(std::move(scales));
  }

  // The entries of one head, of those of all or of none.
  std::vector<A> own(const std::vector<float>& all, std::size_t head_dim, std::size_t index) const {
    if (all.empty()) return {};
    const auto first = all.begin() + static_cast<std::ptrdiff_t>(index * head_dim);
    return std::vector<A>(first, first + static_cast<std::ptrdiff_t>(head_dim));
  }

  Head make_head(Side side, std::size_t index) const {
    const Codec<A>& codec = codec_->side(side);
    // An uncompressed side has nothing to gain.
    if (codec.format().is_uncompressed()) {
      return Head(codec, config_.allocator, exact_type_, false, false, {});
    }
    const std::vector<A> given = own(given_means(side), codec.head_dim(), index);
    const bool has_spans = config_.centering == Centering::kLocal;
    Head head(codec, config_.allocator, exact_type_, has_spans || !given.empty(), has_spans,
              transform_of(side, index));
    if (!given.empty()) set_center(side, head, given);
    return head;
  }

  // Whether tokens pass through the ring of recent rows.
  bool has_window() const { return config_.num_recent_tokens > 0 || has_spans(); }

  // Rows that the ring needs at most: the window, and a tile that is about to leave it.
  std::size_t ring_limit() const {
    return has_window() ? round_up(config_.num_recent_tokens) + kTileTokens : 0;
  }
  // Rows that it needs for so many num_slots.
  std::size_t ring_need(std::size_t num_slots) const {
    return (std::min)(ring_limit(), round_up(num_slots));
  }

  // Whether `count` more tokens fit without an allocation, in pages of this cache alone.
  bool has_room(std::size_t count) const noexcept;

  // Doubles, so that growing token by token moves each row but a few times.
  static void grow(ExactRows& rows, std::size_t needed, std::size_t limit, std::size_t first,
                   std::size_t count) {
    if (needed <= rows.capacity()) return;
    rows.resize((std::min)(limit, (std::max)(needed, 2 * rows.capacity())), first, count);
  }

  void reserve_pages(std::size_t num_encoded) {
    for_each_head([&](Head& head) {
      head.pages.reserve(segments_.num_dropped + num_encoded, segments_.end_of_codes());
    });
  }

  // How many of the next `left` tokens go the same way, within one tile.
  std::size_t next_chunk(std::size_t left) const {
    if (segments_.num_tokens < segments_.max_sinks) {
      return (std::min)(left, segments_.max_sinks - segments_.num_tokens);
    }
    return (std::min)(left, kTileTokens - segments_.num_slots() % kTileTokens);
  }

  // What comes to exact rows is checked before anything changes: nothing fails when it leaves them.
  template <typename T>
  AppendResult check_exact_rows(const Rows<const T> (&given)[2]) const noexcept;

  template <typename T>
  void store_exact(const Rows<const T> (&given)[2]) noexcept;

  // Encodes what has left the window.
  void settle(const Scratch& work) noexcept;

  // Moves the `count` oldest recent tokens, which complete at most one tile, to the codes.
  void encode_oldest(std::size_t count, const Scratch& work) noexcept;

  // Sees to the centres of the span that is encoded next, and to the sums for the span behind it
  // (kv_centering.hpp).
  void prepare_span(const Scratch& work) noexcept;
  void sum_up(std::size_t first, std::size_t end, const Scratch& work) noexcept;

  // Encodes rows of one tile without a stop in the exact rows.
  template <typename T>
  AppendResult encode(const Rows<const T> (&given)[2], const Scratch& work) noexcept;

  KVCacheConfig config_;
  FloatType exact_type_;
  std::shared_ptr<const KVCodec<A>> codec_;
  std::vector<Head> heads_[2];  // of each side, [num_kv_heads]
  TokenSegments segments_;
  RemovedTokens removed_;
  SummedSlots summed_;
  std::size_t center_begin_ = kNowhere;  // the first slot of the span whose centre the sides have
};

template <typename A>
KVStorage<A> KVStorage<A>::copy() const {
  KVStorage result(config_, exact_type_, codec_);
  for (const Side side : kSides) {
    for (std::size_t head = 0; head < num_heads(); ++head) {
      result.heads(side)[head] = heads(side)[head].copy(segments_);
    }
  }
  result.segments_ = segments_;
  result.removed_ = removed_;
  result.summed_ = summed_;
  result.center_begin_ = center_begin_;
  return result;
}

template <typename A>
void KVStorage<A>::reserve(std::size_t num_tokens) {
  const std::size_t num_sinks = (std::min)(num_tokens, segments_.max_sinks);
  const std::size_t num_slots = num_tokens - num_sinks;
  for_each_head([&](Head& head) {
    grow(head.sinks, num_sinks, segments_.max_sinks, 0, segments_.num_sinks());
    grow(head.recent, ring_need(num_slots), ring_limit(), segments_.end_of_codes(),
         segments_.num_recent());
  });
  reserve_pages(num_slots - (std::min)(num_slots, config_.num_recent_tokens));
}

template <typename A>
std::size_t KVStorage<A>::capacity() const {
  std::size_t sinks = (std::numeric_limits<std::size_t>::max)();
  std::size_t ring = sinks;
  std::size_t codes = sinks;
  for_each_head([&](const Head& head) {
    sinks = (std::min)(sinks, head.sinks.capacity());
    ring = (std::min)(ring, head.recent.capacity());
    codes = (std::min)(codes, head.pages.writable_end(segments_.end_of_codes()));
  });
  if (sinks < segments_.max_sinks) return sinks;
  std::size_t num_slots = config_.num_recent_tokens + codes - segments_.num_dropped;
  if (has_window() && ring < ring_limit()) num_slots = (std::min)(num_slots, ring);
  return (std::max)(segments_.num_tokens, segments_.max_sinks + num_slots);
}

template <typename A>
void KVStorage<A>::shrink() {
  const std::size_t num_recent = segments_.num_recent();
  for_each_head([&](Head& head) {
    head.pages.shrink(segments_.end_of_codes());
    head.sinks.resize(segments_.num_sinks(), 0, segments_.num_sinks());
    head.recent.resize(round_up(num_recent), segments_.end_of_codes(), num_recent);
  });
}

template <typename A>
std::size_t KVStorage<A>::drop_front(std::size_t num_tokens) {
  const std::size_t num_dropped = segments_.drop(num_tokens);
  removed_.forget(segments_.num_sinks(), num_dropped);
  for_each_head([&](Head& head) { head.pages.drop_front(segments_.num_dropped); });
  return num_dropped;
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
