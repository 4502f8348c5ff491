// Where the tokens of a cache are: the one place that turns a token into a place in storage.
#pragma once

#include <algorithm>
#include <cstddef>

#include "polarquant/base/version.hpp"
#include "polarquant/codes/tile.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// The tokens 0 .. num_tokens - 1, oldest first: sinks (the first max_sinks tokens, exact for ever),
// then num_encoded tokens as codes, then the recent ones, exact. Behind the sinks token t has slot
// t - max_sinks + num_dropped, in the tiles and in the ring of recent rows alike, so that a tile of
// codes comes from an aligned tile of rows. A slot stays where it is when slots before it are
// dropped, whole tiles at a time.
struct TokenSegments {
  std::size_t max_sinks = 0;
  std::size_t num_tokens = 0;
  std::size_t num_encoded = 0;
  std::size_t num_dropped = 0;  // a multiple of kTileTokens

  std::size_t num_sinks() const { return (std::min)(num_tokens, max_sinks); }
  std::size_t first_recent() const { return num_sinks() + num_encoded; }
  std::size_t num_recent() const { return num_tokens - first_recent(); }
  std::size_t num_exact() const { return num_tokens - num_encoded; }

  // Slots behind the sinks: encoded and recent.
  std::size_t num_slots() const { return num_tokens - num_sinks(); }
  std::size_t slot(std::size_t token) const { return token - max_sinks + num_dropped; }
  std::size_t token_of(std::size_t slot) const { return slot - num_dropped + max_sinks; }
  std::size_t end_of_codes() const { return num_dropped + num_encoded; }  // a slot

  bool is_sink(std::size_t token) const { return token < num_sinks(); }
  bool is_encoded(std::size_t token) const {
    return token >= num_sinks() && token < first_recent();
  }

  // Tokens that would complete the last tile of codes (a whole tile if none is begun).
  std::size_t rest_of_tile() const { return kTileTokens - num_encoded % kTileTokens; }

  // Forgets all but the first `count` tokens. What was encoded stays encoded.
  void truncate(std::size_t count) {
    num_tokens = count;
    num_encoded = (std::min)(num_encoded, num_slots());
  }

  // Forgets the oldest encoded tokens, as many whole tiles as `count` tokens hold. Returns how many
  // tokens that is.
  std::size_t drop(std::size_t count) {
    count = (std::min)(count, num_encoded) / kTileTokens * kTileTokens;
    num_tokens -= count;
    num_encoded -= count;
    num_dropped += count;
    return count;
  }
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
