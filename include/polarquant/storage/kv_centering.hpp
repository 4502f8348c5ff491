// Centres of spans: when one is fixed, and from which tokens.
#pragma once

#include <algorithm>
#include <cstddef>

#include "polarquant/base/version.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/storage/kv_codec.hpp"
#include "polarquant/storage/kv_storage.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// The centre of a span is fixed when its first token is encoded. The kCenterReach tokens behind its
// start are exact then, or as many of them as the window and one tile hold, so that appending many
// tokens at once is appending them one by one. Those before it are codes already; `sum` remembers
// what they were. The last kCenterReach tokens of a span come to the sum when they are encoded, and
// where a truncation has cut into them, as they decode.
template <typename A>
void KVStorage<A>::prepare_span(const Scratch& work) noexcept {
  const std::size_t slot = segments_.end_of_codes();
  const std::size_t begin = slot / kSpanTokens * kSpanTokens;
  if (slot == begin) {
    sum_up(slot - (std::min)(slot, kCenterReach), slot, work);
    const std::size_t most = (std::min)(config_.num_recent_tokens, kCenterReach) + kTileTokens;
    const std::size_t count = (std::min)({segments_.num_recent(), most, kCenterReach});
    for_each_centered([&](const Codec<A>& codec, Head& head) {
      head.fix_center(codec, slot, summed_.num_rows, count, work);
    });
    summed_ = {};  // They have the rows behind the start too.
  } else if (center_begin_ != begin) {
    for_each_centered(
        [&](const Codec<A>& codec, Head& head) { head.load_center(codec, slot, work); });
  }
  center_begin_ = begin;
  const std::size_t first_summed = begin + kSpanTokens - kCenterReach;
  if (slot >= first_summed) sum_up(first_summed, slot, work);
}

// Makes the sums those of the slots first .. end - 1, end being that of the codes.
template <typename A>
void KVStorage<A>::sum_up(std::size_t first, std::size_t end, const Scratch& work) noexcept {
  if (summed_.first == first && summed_.end == end) return;
  const std::size_t first_held = (std::max)(first, segments_.num_dropped);
  for_each_centered(
      [&](const Codec<A>& codec, Head& head) { head.sum_decoded(codec, first_held, end, work); });
  summed_ = {first, end, end - first_held};
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
