// The tokens of one KV head of a cache, as attention visits them.
#pragma once

#include <algorithm>
#include <cstddef>

#include "polarquant/attention/query_group.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/storage/head_side.hpp"
#include "polarquant/storage/kv_storage.hpp"
#include "polarquant/storage/page_pool.hpp"
#include "polarquant/storage/token_segments.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

template <typename A>
class CacheTokens : public TokensBase<A> {
 public:
  CacheTokens(const KVStorage<A>& storage, std::size_t kv_head)
      : keys_(storage.head(Side::kKeys, kv_head)),
        values_(storage.head(Side::kValues, kv_head)),
        segments_(storage.segments()) {
    this->num_tokens = segments_.num_tokens;
    this->num_exact = segments_.num_exact();
    this->exact_type = storage.exact_type();
    this->key_transform = keys_.transform.get();
    this->key_center = keys_.given_center();
    this->value_center = values_.given_center();
    this->removed = &storage.removed();
  }

  template <typename Visit>
  void visit_exact(TokenSpan span, const Visit& visit) const noexcept {
    const std::size_t sinks_end = (std::min)(span.end, segments_.num_sinks());
    for (std::size_t token = span.begin; token < sinks_end;) {
      token += visit_run(keys_.sinks, values_.sinks, token, token, sinks_end - token, visit);
    }
    for (std::size_t token = (std::max)(span.begin, segments_.first_recent()); token < span.end;) {
      token += visit_run(keys_.recent, values_.recent, segments_.slot(token), token,
                         span.end - token, visit);
    }
  }

  // From the first slot of a tile on, and so from before the span.
  template <typename Visit>
  void visit_tiles(TokenSpan span, const Visit& visit) const noexcept {
    const std::size_t begin = (std::max)(span.begin, segments_.num_sinks());
    const std::size_t end = (std::min)(span.end, segments_.first_recent());
    if (begin >= end) return;
    const std::size_t end_slot = segments_.slot(end);
    for (std::size_t tile = segments_.slot(begin) / kTileTokens; tile * kTileTokens < end_slot;) {
      const std::size_t next = (tile / kPageTiles + 1) * kPageTiles;
      const std::size_t slot = tile * kTileTokens;
      visit(TilePiece{segments_.token_of(slot), (std::min)(end_slot, next * kTileTokens) - slot,
                      keys_.pages.tile(tile), values_.pages.tile(tile),
                      next * kTileTokens < end_slot ? keys_.pages.tile(next) : nullptr,
                      slot % kSpanTokens, centers(keys_, slot), centers(values_, slot)});
      tile = next;
    }
  }

 private:
  // From the span of a slot on.
  static const std::byte* centers(const HeadSide<A>& head, std::size_t slot) {
    return head.has_spans() ? head.pages.center(slot / kSpanTokens) : nullptr;
  }

  template <typename Visit>
  static std::size_t visit_run(const ExactRows& keys, const ExactRows& values, std::size_t index,
                               std::size_t token, std::size_t count, const Visit& visit) noexcept {
    count = (std::min)({count, kPageTokens, keys.run_length(index), values.run_length(index)});
    visit(ExactRun{token, count, keys.row(index), values.row(index)});
    return count;
  }

  const HeadSide<A>& keys_;
  const HeadSide<A>& values_;
  const TokenSegments& segments_;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
