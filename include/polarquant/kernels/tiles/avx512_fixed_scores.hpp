// Scores on codes in 16-bit fixed point on AVX-512: a single query is contracted up the tree; for
// several a block is decoded once and multiplied with all of them.
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

// out = x cosines + y sines, rounded.
POLARQUANT_AVX512_INLINE void tabulate(float x, float y, const Lanes& cosines, const Lanes& sines,
                                       Lanes& out) {
  const __m512i c = load(cosines);
  const __m512i s = load(sines);
  const __m512 low = _mm512_fmadd_ps(_mm512_set1_ps(x), low_half(c),
                                     _mm512_mul_ps(_mm512_set1_ps(y), low_half(s)));
  const __m512 high = _mm512_fmadd_ps(_mm512_set1_ps(x), high_half(c),
                                      _mm512_mul_ps(_mm512_set1_ps(y), high_half(s)));
  __m256i* const halves = reinterpret_cast<__m256i*>(out.values);
  _mm256_store_si256(halves, _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(low)));
  _mm256_store_si256(halves + 1, _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(high)));
}

// See pair_query. The tables of a single query, [num_query_lanes()] Lanes, hold what a subtree of
// two levels (or a pair) contributes, per index.
POLARQUANT_TARGET_AVX512_TILES inline void prepare_query_fixed(const CodecTables& tables,
                                                               const float* query,
                                                               float* prepared) {
  const TileTables& tile_tables = tables.tile_tables;
  const float scale = pair_query(tables, query, prepared);
  Lanes* out = reinterpret_cast<Lanes*>(prepared + query_tables_offset(tile_tables));
  const float unit = scale / 32768.0f;  // Fractions come in units of 2^-15.
  for (std::size_t pair = 0; pair < tables.head_dim() / 2; ++pair) {
    const float x = query[2 * pair] * unit;
    const float y = query[2 * pair + 1] * unit;
    if (tile_tables.combined) {
      // The first pair of four coordinates, or the second.
      const Lanes64& cosines = tile_tables.coordinate[pair % 2 * 2];
      const Lanes64& sines = tile_tables.coordinate[pair % 2 * 2 + 1];
      tabulate(x, y, cosines.low, sines.low, *out++);
      tabulate(x, y, cosines.high, sines.high, *out++);
    } else {
      tabulate(x, y, tile_tables.cosines[0].low, tile_tables.sines[0].low, *out++);
    }
  }
}

// sums[row][n][half] += the products of kRows queries with a decoded pair of blocks, kTiles tiles.
template <std::size_t kRows, std::size_t kTiles>
POLARQUANT_AVX512_INLINE void multiply_queries(const Lanes* vectors, Rows<const float> queries,
                                               std::size_t first_entry, Lanes* sums) {
  __m512i totals[kRows][2 * kTiles];
#pragma GCC unroll 4
  for (std::size_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
    for (std::size_t k = 0; k < 2 * kTiles; ++k) {
      totals[row][k] = load(sums[row * kRun * 2 + k]);
    }
  }
#pragma GCC unroll 4
  for (std::size_t i = 0; i < 16; ++i) {
    __m512i own[2 * kTiles];
#pragma GCC unroll 4
    for (std::size_t k = 0; k < 2 * kTiles; ++k) own[k] = load(vectors[k * 16 + i]);
#pragma GCC unroll 4
    for (std::size_t row = 0; row < kRows; ++row) {
      const __m512i query = _mm512_set1_epi32(
          reinterpret_cast<const std::int32_t*>(queries.row(row))[first_entry + i]);
#pragma GCC unroll 4
      for (std::size_t k = 0; k < 2 * kTiles; ++k) {
        totals[row][k] = _mm512_dpwssd_epi32(totals[row][k], own[k], query);
      }
    }
  }
#pragma GCC unroll 4
  for (std::size_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
    for (std::size_t k = 0; k < 2 * kTiles; ++k) {
      store(sums[row * kRun * 2 + k], totals[row][k]);
    }
  }
}

template <std::size_t kRows>
POLARQUANT_TARGET_AVX512_TILES void multiply_queries(const Lanes* vectors, std::size_t num_tiles,
                                                     Rows<const float> queries,
                                                     std::size_t first_entry, Lanes* sums) {
  std::size_t n = 0;
  for (; n + 2 <= num_tiles; n += 2) {
    multiply_queries<kRows, 2>(vectors + 32 * n, queries, first_entry, sums + 2 * n);
  }
  if (n < num_tiles) {
    multiply_queries<kRows, 1>(vectors + 32 * n, queries, first_entry, sums + 2 * n);
  }
}

// Up to kMaxRows rows, up to kRun tiles.
POLARQUANT_AVX512_INLINE void score_run_fixed(const CodecTables& tables, const WordRun& run,
                                              const FixedScratch& memory,
                                              Rows<const float> prepared, Rows<float> scores) {
  const TileTables& tile_tables = tables.tile_tables;
  weigh_blocks_fixed(tables, run, memory.weights, memory.radii);
  for (std::size_t k = 0; k < prepared.count * kRun * 2; ++k) {
    store(memory.sums[k], _mm512_setzero_si512());
  }
  const Rows<const float> queries = {prepared.data + 16, prepared.count, prepared.stride};
  for (std::size_t pair = 0; pair < tile_tables.num_pairs; ++pair) {
    // Where there is no partner, the query has zeros.
    const std::size_t partner =
        tile_tables.num_pairs + pair < tile_tables.num_blocks ? tile_tables.num_pairs + pair : pair;
    expand_block_pairs(tile_tables, run, pair, partner, memory.weights, memory.vectors);
    for (std::size_t row = 0; row < prepared.count; row += kSharedRows) {
      const Rows<const float> own = {queries.row(row), 0, queries.stride};
      Lanes* const sums = memory.sums + row * kRun * 2;
      switch ((std::min)(kSharedRows, prepared.count - row)) {
        case 1:
          multiply_queries<1>(memory.vectors, run.count, own, 16 * pair, sums);
          break;
        case 2:
          multiply_queries<2>(memory.vectors, run.count, own, 16 * pair, sums);
          break;
        case 3:
          multiply_queries<3>(memory.vectors, run.count, own, 16 * pair, sums);
          break;
        default:
          multiply_queries<4>(memory.vectors, run.count, own, 16 * pair, sums);
      }
    }
  }
  for (std::size_t row = 0; row < prepared.count; ++row) {
    const __m512 unit = _mm512_set1_ps(prepared.row(row)[0] * 0x1p-15f);
    for (std::size_t n = 0; n < run.count; ++n) {
      const __m512 low = _mm512_cvtepi32_ps(load(memory.sums[(row * kRun + n) * 2]));
      const __m512 high = _mm512_cvtepi32_ps(load(memory.sums[(row * kRun + n) * 2 + 1]));
      for (std::size_t first = 0; first < 32; first += 16) {
        const __m512 factor = _mm512_mul_ps(unit, _mm512_loadu_ps(memory.radii + n * 32 + first));
        _mm512_storeu_ps(scores.row(row) + n * 32 + first,
                         _mm512_mul_ps(factor, in_order(low, high, first)));
      }
    }
  }
}

// What a block contributes to the product of one query with 32 vectors of norm 1. tables: of the
// query, for this block, in registers as far as they go.
template <bool kCombined>
POLARQUANT_AVX512_INLINE __m512i contract_block(const FixedLevels& levels, const __m512i* query,
                                                const BlockPlaces& places, const std::byte* tile) {
  __m512i values[4];
#pragma GCC unroll 4
  for (std::size_t k = 0; k < 4; ++k) {
    const __m512i window = places.windows[k].load(tile);
    const __m512i second = _mm512_srlv_epi16(window, levels.second_shift);
    if constexpr (kCombined) {
      values[k] =
          _mm512_add_epi16(_mm512_permutex2var_epi16(query[4 * k], window, query[4 * k + 1]),
                           _mm512_permutex2var_epi16(query[4 * k + 2], second, query[4 * k + 3]));
    } else {
      const __m512i third = _mm512_srlv_epi16(window, levels.third_shift);
      values[k] = fold(look_up(query[2 * k], window), look_up(query[2 * k + 1], third), second,
                       levels.cosines[1], levels.sines[1]);
    }
  }
  return fold(
      fold(values[0], values[1], places.windows[4].load(tile), levels.cosines[2], levels.sines[2]),
      fold(values[2], values[3], places.windows[5].load(tile), levels.cosines[2], levels.sines[2]),
      places.windows[6].load(tile), levels.cosines[3], levels.sines[3]);
}

POLARQUANT_AVX512_INLINE void add_scores(const std::byte* tile, std::size_t block, __m512i value,
                                         __m512 unit, float* scores) {
  const __m512 low = _mm512_mul_ps(unit, load_radii(tile, block, 0));
  const __m512 high = _mm512_mul_ps(unit, load_radii(tile, block, 16));
  _mm512_storeu_ps(scores, _mm512_fmadd_ps(low, low_half(value), _mm512_loadu_ps(scores)));
  _mm512_storeu_ps(scores + 16,
                   _mm512_fmadd_ps(high, high_half(value), _mm512_loadu_ps(scores + 16)));
}

// One row, up to kRun tiles, never decoded: the query is contracted up the tree.
template <bool kCombined>
POLARQUANT_TARGET_AVX512_TILES void contract_run(const CodecTables& tables, const WordRun& run,
                                                 const FixedScratch& memory, const float* prepared,
                                                 float* scores) {
  const TileTables& tile_tables = tables.tile_tables;
  const bool block_radii = tables.num_radii() > 1;
  const FixedLevels levels = load_fixed_levels(tile_tables);
  constexpr std::size_t kNumTables = kCombined ? 16 : 8;
  const Lanes* const query =
      reinterpret_cast<const Lanes*>(prepared + query_tables_offset(tile_tables));
  const __m512 unit = _mm512_set1_ps(prepared[0]);
  Lanes* const values = memory.weights;  // [num_blocks, run.count]
  std::fill_n(scores, run.count * kTileTokens, 0.0f);
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    const BlockPlaces places = places_of(tile_tables, block);
    __m512i own[kNumTables];
#pragma GCC unroll 16
    for (std::size_t k = 0; k < kNumTables; ++k) own[k] = load(query[block * kNumTables + k]);
    for (std::size_t n = 0; n < run.count; ++n) {
      const std::byte* const tile = run.tiles + n * run.tile_size;
      run.prefetch(block * run.count + n);
      const __m512i value = contract_block<kCombined>(levels, own, places, tile);
      if (block_radii) {
        add_scores(tile, block, value, unit, scores + n * kTileTokens);
      } else {
        store(values[block * run.count + n], value);
      }
    }
  }
  if (block_radii) return;
  for (const TileTables::Node& node : tile_tables.nodes) {
    const WindowPlace place = place_of(node.window);
    const Lanes64& cosines = tile_tables.cosines[node.table];
    const Lanes64& sines = tile_tables.sines[node.table];
    Lanes* const target = values + node.target * run.count;
    const Lanes* const left = values + node.left * run.count;
    const Lanes* const right = values + node.right * run.count;
    for (std::size_t n = 0; n < run.count; ++n) {
      const __m512i index = place.load(run.tiles + n * run.tile_size);
      const bool is_wide = node.num_bits > 5;
      const __m512i cosine = is_wide ? look_up(cosines, index) : look_up(load(cosines.low), index);
      const __m512i sine = is_wide ? look_up(sines, index) : look_up(load(sines.low), index);
      store(target[n], _mm512_add_epi16(times(load(left[n]), cosine), times(load(right[n]), sine)));
    }
  }
  for (std::size_t n = 0; n < run.count; ++n) {
    add_scores(run.tiles + n * run.tile_size, 0, load(values[n]), unit, scores + n * kTileTokens);
  }
}

// scores: [rows, num_tiles kTileTokens]. prepared: see prepare_query_fixed.
POLARQUANT_TARGET_AVX512_TILES inline void score_tiles_fixed(
    const CodecTables& tables, const std::byte* tiles, std::size_t num_tiles,
    Rows<const float> prepared, const loops::TileScratch<float>& scratch, Rows<float> scores) {
  const FixedScratch memory(tables.tile_tables, scratch.kernel);
  const std::size_t tile_size = tile_bytes(tables.layout.num_bytes());
  for (std::size_t first = 0; first < num_tiles; first += kRun) {
    const std::byte* const next =
        first + kRun < num_tiles ? tiles + (first + kRun) * tile_size : scratch.next;
    const WordRun run = with_next(run_of(tables.tile_tables, tiles + first * tile_size, tile_size,
                                         (std::min)(kRun, num_tiles - first), memory.copy),
                                  tables.tile_tables, next, tile_size);
    float* const out = scores.data + first * kTileTokens;
    if (prepared.count == 1) {
      const auto contract = tables.tile_tables.combined ? contract_run<true> : contract_run<false>;
      contract(tables, run, memory, prepared.data, out);
      continue;
    }
    for (std::size_t row = 0; row < prepared.count; row += TileTables::kMaxRows) {
      const std::size_t count = (std::min)(TileTables::kMaxRows, prepared.count - row);
      score_run_fixed(tables, run, memory, {prepared.row(row), count, prepared.stride},
                      {out + row * scores.stride, count, scores.stride});
    }
  }
}

}  // namespace avx512
}  // namespace detail
POLARQUANT_END_NAMESPACE
POLARQUANT_AVX512_END
#endif
