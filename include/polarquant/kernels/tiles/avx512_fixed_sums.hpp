// Weighted sums of codes in 16-bit fixed point on AVX-512: a block is decoded once for all rows of
// weights.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "polarquant/base/isa.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/codes/tile_tables.hpp"
#include "polarquant/kernels/loops/decode.hpp"
#include "polarquant/kernels/tiles/avx512_fixed_blocks.hpp"
#include "polarquant/kernels/tiles/fixed_common.hpp"
#include "polarquant/kernels/words/avx512.hpp"

#if POLARQUANT_X86
#include <immintrin.h>

POLARQUANT_AVX512_BEGIN
POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace avx512 {

// out[n] = weights times radii, scaled as much as two bounds allow: no weight exceeds 16 bits, and
// no 32-bit lane, which sums the products of two tokens of each tile, overflows. Returns the
// inverse of the scale.
POLARQUANT_AVX512_INLINE float scale_weights(const float* weights, const float* radii,
                                             std::size_t num_tiles, Lanes* out) {
  __m512 products[2 * kRun];
  __m512 largest = _mm512_setzero_ps();
  __m512 total = _mm512_setzero_ps();
  for (std::size_t k = 0; k < 2 * num_tiles; ++k) {
    products[k] = _mm512_mul_ps(_mm512_loadu_ps(weights + 16 * k), _mm512_loadu_ps(radii + 16 * k));
    const __m512 magnitude = _mm512_abs_ps(products[k]);
    largest = _mm512_max_ps(largest, magnitude);
    total = _mm512_add_ps(total, magnitude);
  }
  const float most = _mm512_reduce_max_ps(largest);
  if (!(most > 0.0f)) {
    for (std::size_t n = 0; n < num_tiles; ++n) store(out[n], _mm512_setzero_si512());
    return 0.0f;
  }
  const float lane_total = _mm512_reduce_max_ps(total);
  // Beyond 1e37 the scale's inverse would be subnormal. Two tokens share a lane.
  const float scale =
      (std::min)({32766.0f / most, 32500.0f / (std::min)(lane_total, 3e38f), 1e37f});
  const __m512 factor = _mm512_set1_ps(scale);
  for (std::size_t k = 0; k < 2 * num_tiles; ++k) {
    const __m512i rounded = _mm512_cvtps_epi32(
        _mm512_fmadd_ps(products[k], factor, _mm512_loadu_ps(kDither.values + 16 * k)));
    _mm256_store_si256(reinterpret_cast<__m256i*>(out[k / 2].values + 16 * (k % 2)),
                       _mm512_cvtepi32_epi16(rounded));
  }
  return 1.0f / scale;
}

// sums[row][i] += unit of the row * weights . coordinate i, for the 16 of a decoded block.
template <std::size_t kRows>
POLARQUANT_TARGET_AVX512_TILES void multiply_weights(const Lanes* vectors, std::size_t num_tiles,
                                                     const Lanes* weights, const float* units,
                                                     Rows<float> sums) {
  constexpr std::size_t kColumns = 4;
  for (std::size_t i = 0; i < 16; i += kColumns) {
    __m512i totals[kRows][kColumns];
#pragma GCC unroll 4
    for (std::size_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
      for (std::size_t k = 0; k < kColumns; ++k) totals[row][k] = _mm512_setzero_si512();
    }
    for (std::size_t n = 0; n < num_tiles; ++n) {
      __m512i own[kColumns];
#pragma GCC unroll 4
      for (std::size_t k = 0; k < kColumns; ++k) own[k] = load(vectors[n * 16 + i + k]);
#pragma GCC unroll 4
      for (std::size_t row = 0; row < kRows; ++row) {
        const __m512i weight = load(weights[row * kRun + n]);
#pragma GCC unroll 4
        for (std::size_t k = 0; k < kColumns; ++k) {
          totals[row][k] = _mm512_dpwssd_epi32(totals[row][k], weight, own[k]);
        }
      }
    }
#pragma GCC unroll 4
    for (std::size_t row = 0; row < kRows; ++row) {
      const __m512 unit = _mm512_set1_ps(units[row] * 0x1p-15f);
#pragma GCC unroll 4
      for (std::size_t k = 0; k < kColumns; ++k) {
        float* const sum = sums.row(row) + (i + k) * kTileTokens;
        _mm512_storeu_ps(
            sum, _mm512_fmadd_ps(unit, _mm512_cvtepi32_ps(totals[row][k]), _mm512_loadu_ps(sum)));
      }
    }
  }
}

// Up to kMaxRows rows, up to kRun tiles.
POLARQUANT_AVX512_INLINE void accumulate_run_fixed(const CodecTables& tables, const WordRun& run,
                                                   const FixedScratch& memory,
                                                   Rows<const float> weights, Rows<float> sums) {
  const TileTables& tile_tables = tables.tile_tables;
  float units[TileTables::kMaxRows];
  weigh_blocks_fixed(tables, run, memory.weights, memory.radii);
  for (std::size_t row = 0; row < weights.count; ++row) {
    units[row] = scale_weights(weights.row(row), memory.radii, run.count, memory.sums + row * kRun);
  }
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    expand_blocks(tile_tables, run, block, memory.weights + block * run.count, memory.vectors);
    for (std::size_t row = 0; row < weights.count; row += kSharedRows) {
      const Rows<float> own = {sums.row(row) + block * 16 * kTileTokens, 0, sums.stride};
      const Lanes* const lanes = memory.sums + row * kRun;
      switch ((std::min)(kSharedRows, weights.count - row)) {
        case 1:
          multiply_weights<1>(memory.vectors, run.count, lanes, units + row, own);
          break;
        case 2:
          multiply_weights<2>(memory.vectors, run.count, lanes, units + row, own);
          break;
        case 3:
          multiply_weights<3>(memory.vectors, run.count, lanes, units + row, own);
          break;
        default:
          multiply_weights<4>(memory.vectors, run.count, lanes, units + row, own);
      }
    }
  }
}

// sums: [rows, head_dim, kTileTokens], of which the first 16 lanes are added to.
POLARQUANT_TARGET_AVX512_TILES inline void accumulate_tiles_fixed(
    const CodecTables& tables, const std::byte* tiles, std::size_t num_tiles,
    Rows<const float> weights, const loops::TileScratch<float>& scratch, Rows<float> sums) {
  const FixedScratch memory(tables.tile_tables, scratch.kernel);
  const std::size_t tile_size = tile_bytes(tables.layout.num_bytes());
  for (std::size_t first = 0; first < num_tiles; first += kRun) {
    const std::byte* const next =
        first + kRun < num_tiles ? tiles + (first + kRun) * tile_size : scratch.next;
    const WordRun run = with_next(run_of(tables.tile_tables, tiles + first * tile_size, tile_size,
                                         (std::min)(kRun, num_tiles - first), memory.copy),
                                  tables.tile_tables, next, tile_size);
    for (std::size_t row = 0; row < weights.count; row += TileTables::kMaxRows) {
      const std::size_t count = (std::min)(TileTables::kMaxRows, weights.count - row);
      accumulate_run_fixed(tables, run, memory,
                           {weights.row(row) + first * kTileTokens, count, weights.stride},
                           {sums.row(row), count, sums.stride});
    }
  }
}

}  // namespace avx512
}  // namespace detail
POLARQUANT_END_NAMESPACE
POLARQUANT_AVX512_END
#endif
