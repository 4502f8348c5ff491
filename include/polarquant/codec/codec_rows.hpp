// The calls of a codec on rows of codes, which gather them into tiles.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>

#include "polarquant/base/error.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codes/conditioning.hpp"
#include "polarquant/codes/tile.hpp"

POLARQUANT_BEGIN_NAMESPACE

template <typename A>
template <typename T, typename Encode>
EncodeResult Codec<A>::in_pieces(Rows<const T> rows, const Conditioning<A>& conditioning,
                                 const Scratch& work, const Encode& encode) const noexcept {
  if constexpr (std::is_same_v<T, A>) {
    if (conditioning.is_identity()) return encode(0, rows);
  }
  for (std::size_t first = 0; first < rows.count; first += kTileTokens) {
    const Rows<A> piece = {work.rows, (std::min)(kTileTokens, rows.count - first), head_dim()};
    for (std::size_t row = 0; row < piece.count; ++row) {
      A* const to = piece.row(row);
      for (std::size_t i = 0; i < head_dim(); ++i) to[i] = static_cast<A>(rows.row(first + row)[i]);
      vectors_.condition(conditioning, head_dim(), to);
    }
    const EncodeResult result = encode(first, piece);
    if (result.failure != EncodeFailure::kNone) {
      return {first + result.num_encoded, result.failure};
    }
  }
  return {rows.count, EncodeFailure::kNone};
}

template <typename A>
EncodeResult Codec<A>::encode_pieces(Rows<const A> rows, Rows<std::byte> codes,
                                     const Scratch& work) const noexcept {
  for (std::size_t first = 0; first < rows.count;) {
    const std::size_t left = rows.count - first;
    const std::size_t count = left <= kFewRows ? 1 : (std::min)(kTileTokens, left);
    const EncodeResult result = encode_slots(rows.block(first, count), 0, work.codes, work.family);
    detail::read_tile_rows(work.codes, bytes_per_vector(), codes.block(first, result.num_encoded));
    if (result.failure != EncodeFailure::kNone) {
      return {first + result.num_encoded, result.failure};
    }
    first += count;
  }
  return {rows.count, EncodeFailure::kNone};
}

template <typename A>
template <typename Visit>
void Codec<A>::for_each_batch(Rows<const std::byte> codes, const Scratch& work,
                              const Visit& visit) const noexcept {
  for (std::size_t first = 0; first < codes.count; first += kBatchTokens) {
    const std::size_t count = (std::min)(kBatchTokens, codes.count - first);
    const std::size_t num_tiles = (count + kTileTokens - 1) / kTileTokens;
    if (count % kTileTokens != 0) {
      std::memset(work.codes + (num_tiles - 1) * tile_bytes(), 0, tile_bytes());
    }
    for (std::size_t row = 0; row < count; row += kTileTokens) {
      detail::write_tile_rows(work.codes + row * bytes_per_vector(), bytes_per_vector(),
                              codes.block(first + row, (std::min)(kTileTokens, count - row)));
    }
    visit(first, count, num_tiles);
  }
}

template <typename A>
void Codec<A>::dot_rows(Rows<const A> prepared, Rows<const std::byte> codes, Rows<A> scores,
                        std::byte* scratch) const noexcept {
  POLARQUANT_DCHECK(prepared.count == scores.count);
  const Scratch work(*this, scratch);
  for_each_batch(codes, work, [&](std::size_t first, std::size_t count, std::size_t num_tiles) {
    for (std::size_t row = 0; row < prepared.count; row += kSharedRows) {
      const std::size_t num_rows = (std::min)(kSharedRows, prepared.count - row);
      score_run(prepared.block(row, num_rows), work.codes, num_tiles,
                {work.weights, num_rows, kBatchTokens}, nullptr, work.family);
      for (std::size_t i = 0; i < num_rows; ++i) {
        std::copy_n(work.weights + i * kBatchTokens, count, scores.row(row + i) + first);
      }
    }
  });
}

template <typename A>
void Codec<A>::accumulate_rows(Rows<const A> weights, Rows<const std::byte> codes, Rows<A> sums,
                               std::byte* scratch) const noexcept {
  POLARQUANT_DCHECK(weights.count == sums.count);
  const Scratch work(*this, scratch);
  for_each_batch(codes, work, [&](std::size_t first, std::size_t count, std::size_t num_tiles) {
    for (std::size_t row = 0; row < weights.count; ++row) {
      std::fill_n(work.sums, tile_sum_size(), A(0));
      std::fill(std::copy_n(weights.row(row) + first, count, work.weights),
                work.weights + num_tiles * kTileTokens, A(0));
      accumulate_run({work.weights, 1, kBatchTokens}, work.codes, num_tiles,
                     {work.sums, 1, tile_sum_size()}, nullptr, work.family);
      reduce_sum(work.sums, A(1), work.rotated);
      for (std::size_t i = 0; i < head_dim(); ++i) sums.row(row)[i] += work.rotated[i];
    }
  });
}

POLARQUANT_END_NAMESPACE
