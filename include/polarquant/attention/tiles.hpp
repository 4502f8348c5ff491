// Attention to tiles of codes in anybody's memory.
#pragma once

#include <algorithm>
#include <cstddef>

#include "polarquant/attention/options.hpp"
#include "polarquant/attention/partial_rows.hpp"
#include "polarquant/attention/query_group.hpp"
#include "polarquant/attention/scratch.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/codes/conditioning.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/storage/kv_codec.hpp"
#include "polarquant/storage/page_pool.hpp"
#include "polarquant/storage/removed_tokens.hpp"

POLARQUANT_BEGIN_NAMESPACE

// Consecutive tokens of one KV head, such as a page of a paged cache: their key tiles and their
// value tiles, each one tile after another, aligned to kAlignment, made by Codec::encode_tile. All
// tiles of a run are full but the last. A side may be centred: its centres are those of the run's
// tokens 0 .. kSpanTokens - 1, of the next kSpanTokens, and so on, made by Codec::encode_center,
// one behind the other.
struct TileRun {
  const std::byte* keys = nullptr;
  const std::byte* values = nullptr;
  std::size_t num_tokens = 0;
  const std::byte* key_centers = nullptr;  // [spans of the run, center_bytes()]; null: not centred
  const std::byte* value_centers = nullptr;
};

// The tokens of one KV head of one sequence: runs that follow each other.
struct TileRuns {
  const TileRun* runs = nullptr;
  std::size_t count = 0;
};

namespace detail {

template <typename A>
class TileTokens : public TokensBase<A> {
 public:
  TileTokens(const KVCodec<A>& codec, TileRuns runs, const KeyTransform<A>& transform)
      : codec_(codec), runs_(runs) {
    this->key_transform = transform;
    for (std::size_t i = 0; i < runs.count; ++i) this->num_tokens += runs.runs[i].num_tokens;
    this->removed = &none_;
  }

  template <typename Visit>
  void visit_exact(TokenSpan, const Visit&) const noexcept {}

  template <typename Visit>
  void visit_tiles(TokenSpan span, const Visit& visit) const noexcept {
    std::size_t token = 0;
    for (std::size_t i = 0; i < runs_.count && token < span.end; ++i) {
      const TileRun& run = runs_.runs[i];
      const TokenSpan part = span.within(token, run.num_tokens);
      for (std::size_t first = part.begin / kTileTokens * kTileTokens; first < part.end;) {
        const std::size_t page_end = (first / kPageTokens + 1) * kPageTokens;
        const std::size_t count = (std::min)(page_end, part.end) - first;
        const std::byte* next = nullptr;
        if (page_end < part.end) {
          next = tile(codec_.keys(), run.keys, page_end);
        } else if (i + 1 < runs_.count) {
          next = runs_.runs[i + 1].keys;
        }
        visit(TilePiece{token + first, count, tile(codec_.keys(), run.keys, first),
                        tile(codec_.values(), run.values, first), next, first % kSpanTokens,
                        center(codec_.keys(), run.key_centers, first),
                        center(codec_.values(), run.value_centers, first)});
        first += count;
      }
      token += run.num_tokens;
    }
  }

 private:
  // Of a token of a run.
  static const std::byte* tile(const Codec<A>& codec, const std::byte* tiles, std::size_t token) {
    return tiles + token / kTileTokens * codec.tile_bytes();
  }
  static const std::byte* center(const Codec<A>& codec, const std::byte* centers,
                                 std::size_t token) {
    return centers == nullptr ? nullptr : centers + token / kSpanTokens * codec.center_bytes();
  }

  const KVCodec<A>& codec_;
  TileRuns runs_;
  RemovedTokens none_;
};

}  // namespace detail

// Bytes of scratch that the calls below need, aligned to kAlignment.
template <typename A>
std::size_t attend_tiles_scratch_bytes(const KVCodec<A>& codec) {
  return detail::AttentionScratch<A>(codec, nullptr).num_bytes;
}

// Attention of the query heads that share a KV head to tokens in tiles, as KVCache::attend does it:
// causal, or as options say. queries: [num_queries, group_size * key head_dim]; output:
// [num_queries, group_size * value head_dim], not overlapping. Positions, masks, ALiBi slopes and
// sink logits are those of these tokens and of the group's heads. key_transform: that of the keys.
// Allocates nothing. Give all heads of a group in one call: they share the reading of the codes.
template <typename A, typename T>
void attend_tiles(const KVCodec<A>& codec, TileRuns tokens, Rows<const T> queries,
                  std::size_t group_size, Rows<A> output, std::byte* scratch,
                  const AttentionOptions<A>& options = {},
                  const KeyTransform<A>& key_transform = {}) noexcept {
  POLARQUANT_DCHECK(queries.count == output.count);
  const detail::TileTokens<A> source(codec, tokens, key_transform);
  const detail::AttentionScratch<A> work(codec, scratch);
  detail::QueryGroup<A, detail::TileTokens<A>>(codec, source, work)
      .attend(detail::GroupQueries<T>{queries, 0, group_size}, options, {}, {output, {}});
}

// The same, not normalised, to be merged with attention to other tokens (exact ones, say):
// merge(part, other), then finish(part, output, sink_logits). part.num_heads = group_size.
template <typename A, typename T>
void attend_tiles_partial(const KVCodec<A>& codec, TileRuns tokens, Rows<const T> queries,
                          const PartialRows<A>& part, std::byte* scratch,
                          const AttentionOptions<A>& options = {},
                          const KeyTransform<A>& key_transform = {}) noexcept {
  POLARQUANT_DCHECK(queries.count == part.output.count);
  const detail::TileTokens<A> source(codec, tokens, key_transform);
  const detail::AttentionScratch<A> work(codec, scratch);
  detail::QueryGroup<A, detail::TileTokens<A>>(codec, source, work)
      .attend(detail::GroupQueries<T>{queries, 0, part.num_heads}, options, {},
              {part.output, part.softmax});
}

POLARQUANT_END_NAMESPACE
