// Weighted sums of codes in 16-bit fixed point, for AVX2 and NEON: a block is decoded once for all
// rows of weights.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/codes/tile_tables.hpp"
#include "polarquant/kernels/tiles/fixed_blocks.hpp"
#include "polarquant/kernels/tiles/fixed_common.hpp"
#include "polarquant/kernels/words/words.hpp"

#if POLARQUANT_HAS_WORDS
POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace words {

// out[n] = weights times radii, scaled as much as two bounds allow: no weight exceeds 16 bits, and
// no 32-bit lane, which sums the products of two tokens of each tile, overflows. Returns the
// inverse of the scale.
POLARQUANT_WORDS_TARGET inline float scale_weights(const float* weights, const float* radii,
                                                   std::size_t num_tiles, Lanes* out) {
  Floats products[kRun];
  Floats largest_product = broadcast(0.0f);
  Floats total = broadcast(0.0f);
  for (std::size_t n = 0; n < num_tiles; ++n) {
    products[n] = multiply(reorder(load_floats(weights + n * kTileTokens)),
                           load_floats(radii + n * kTileTokens));
    largest_product = larger(largest_product, magnitude(products[n]));
    total = add(total, magnitude(products[n]));
  }
  float lanes[2][kTileTokens];
  store_floats(lanes[0], largest_product);
  store_floats(lanes[1], total);
  const float most = *std::max_element(lanes[0], lanes[0] + kTileTokens);
  if (!(most > 0.0f)) {
    for (std::size_t n = 0; n < num_tiles; ++n) store(out[n], broadcast_word(0));
    return 0.0f;
  }
  const float lane_total = *std::max_element(lanes[1], lanes[1] + kTileTokens);
  // Beyond 1e37 the scale's inverse would be subnormal. Two tokens share a lane.
  const float scale =
      (std::min)({32766.0f / most, 32500.0f / (std::min)(lane_total, 3e38f), 1e37f});
  for (std::size_t n = 0; n < num_tiles; ++n) {
    const Floats dither = load_floats(kDither.values + n * kTileTokens);
    store(out[n], to_words(multiply_add(products[n], broadcast(scale), dither)));
  }
  return 1.0f / scale;
}

// sums[row][i] += unit of the row * weights . coordinate i, for the 16 of a decoded block.
template <std::size_t kRows>
POLARQUANT_WORDS_TARGET void multiply_weights(const Lanes* vectors, std::size_t num_tiles,
                                              const Lanes* weights, const float* units,
                                              Rows<float> sums) {
  constexpr std::size_t kColumns = kSharedSums / kRows;
  for (std::size_t i = 0; i + kColumns <= 16; i += kColumns) {
    Sums totals[kRows][kColumns];
#pragma GCC unroll 4
    for (std::size_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
      for (std::size_t k = 0; k < kColumns; ++k) totals[row][k] = zero_sums();
    }
    for (std::size_t n = 0; n < num_tiles; ++n) {
#pragma GCC unroll 4
      for (std::size_t k = 0; k < kColumns; ++k) {
        const Words own = load(vectors[n * 16 + i + k]);
#pragma GCC unroll 4
        for (std::size_t row = 0; row < kRows; ++row) {
          totals[row][k] = multiply_add(own, load(weights[row * kRun + n]), totals[row][k]);
        }
      }
    }
#pragma GCC unroll 4
    for (std::size_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
      for (std::size_t k = 0; k < kColumns; ++k) {
        add_scaled(totals[row][k], units[row] * 0x1p-15f, sums.row(row) + (i + k) * kTileTokens);
      }
    }
  }
}

// Up to kMaxRows rows, up to kRun tiles.
template <typename Shape>
POLARQUANT_WORDS_TARGET void accumulate_run(const CodecTables& tables, const WordRun& run,
                                            const FixedScratch& memory, Rows<const float> weights,
                                            Rows<float> sums) {
  const TileTables& tile_tables = tables.tile_tables;
  float units[TileTables::kMaxRows];
  weigh_blocks(tables, run, memory.weights, memory.radii);
  for (std::size_t row = 0; row < weights.count; ++row) {
    units[row] = scale_weights(weights.row(row), memory.radii, run.count, memory.sums + row * kRun);
  }
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    expand_blocks<Shape>(tile_tables, run, block, memory.weights + block * run.count,
                         memory.vectors);
    for (std::size_t row = 0; row < weights.count; row += kSharedSums) {
      const Rows<float> own = {sums.row(row) + block * 16 * kTileTokens, 0, sums.stride};
      const Lanes* const lanes = memory.sums + row * kRun;
      switch ((std::min)(kSharedSums, weights.count - row)) {
        case 1:
          multiply_weights<1>(memory.vectors, run.count, lanes, units + row, own);
          break;
        case 2:
          multiply_weights<2>(memory.vectors, run.count, lanes, units + row, own);
          break;
        case 3:
          multiply_weights<(std::min<std::size_t>)(3, kSharedSums)>(memory.vectors, run.count,
                                                                    lanes, units + row, own);
          break;
        default:
          multiply_weights<kSharedSums>(memory.vectors, run.count, lanes, units + row, own);
      }
    }
  }
}

// sums: [rows, head_dim, kTileTokens], of which the first 16 lanes are added to.
POLARQUANT_WORDS_TARGET inline void accumulate_tiles(const CodecTables& tables,
                                                     const std::byte* tiles, std::size_t num_tiles,
                                                     Rows<const float> weights, std::byte* scratch,
                                                     Rows<float> sums) {
  const TileTables& tile_tables = tables.tile_tables;
  const FixedScratch memory(tile_tables, scratch);
  const std::size_t tile_size = tile_bytes(tables.layout.num_bytes());
  for (std::size_t first = 0; first < num_tiles; first += kRun) {
    const WordRun run = run_of(tile_tables, tiles + first * tile_size, tile_size,
                               (std::min)(kRun, num_tiles - first), memory.copy);
    for (std::size_t row = 0; row < weights.count; row += TileTables::kMaxRows) {
      const std::size_t count = (std::min)(TileTables::kMaxRows, weights.count - row);
      const Rows<const float> own = {weights.row(row) + first * kTileTokens, count, weights.stride};
      const Rows<float> own_sums = {sums.row(row), count, sums.stride};
      POLARQUANT_DISPATCH_SHAPE(tile_tables, accumulate_run, tables, run, memory, own, own_sums);
    }
  }
}

}  // namespace words
}  // namespace detail
POLARQUANT_END_NAMESPACE
#endif
