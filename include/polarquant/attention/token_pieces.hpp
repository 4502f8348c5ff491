// Tokens as attention meets them: runs of exact rows and pieces of tiles.
#pragma once

#include <cstddef>

#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/codes/conditioning.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/storage/page_pool.hpp"
#include "polarquant/storage/removed_tokens.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// Consecutive exact tokens whose rows lie one behind the other, a page of them at most.
struct ExactRun {
  std::size_t token;  // the first
  std::size_t count;
  const std::byte* keys;
  const std::byte* values;
};

// Consecutive encoded tokens from the first slot of a tile on, a page of them at most.
struct TilePiece {
  std::size_t token;  // the first
  std::size_t count;
  const std::byte* keys;
  const std::byte* values;
  const std::byte* next_keys;  // what is read after them; null: not known

  // The codes of the centres of its spans, one behind the other, kPageSpans at most; null: none.
  std::size_t span_offset = 0;  // tokens of the first span that lie before the piece
  const std::byte* key_centers = nullptr;
  const std::byte* value_centers = nullptr;

  std::size_t num_tiles() const { return (count + kTileTokens - 1) / kTileTokens; }
  std::size_t num_spans() const { return (span_offset + count + kSpanTokens - 1) / kSpanTokens; }
};

// What there is to attend to. Tokens come as ExactRun and TilePiece from visit_exact and
// visit_tiles, which the type of tokens implements (CacheTokens, TileTokens).
template <typename A>
struct TokensBase {
  std::size_t num_tokens = 0;
  std::size_t num_exact = 0;
  FloatType exact_type = FloatType::kFloat32;
  KeyTransform<A> key_transform;  // of encoded keys

  // [head_dim], what was subtracted from all encoded keys or values; null: nothing, or not the
  // same.
  const A* key_center = nullptr;
  const A* value_center = nullptr;
  const RemovedTokens* removed = nullptr;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
