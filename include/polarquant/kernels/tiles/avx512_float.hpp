// Scores and weighted sums in float on AVX-512: tiles are decoded once for all queries.
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
#include "polarquant/kernels/words/avx512.hpp"

#if POLARQUANT_X86
#include <immintrin.h>

POLARQUANT_AVX512_BEGIN
POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace avx512 {

// A table of 16 floats, or of 32 (kWide).
template <bool kWide>
struct FloatTable {
  __m512 low;
  __m512 high;
};

template <bool kWide>
POLARQUANT_AVX512_INLINE FloatTable<kWide> load_table(const FloatLanes& lanes) {
  return {_mm512_load_ps(lanes.values), kWide ? _mm512_load_ps(lanes.values + 16) : __m512()};
}

template <bool kWide>
POLARQUANT_AVX512_INLINE __m512 look_up(const FloatTable<kWide>& table, __m512i index) {
  return kWide ? _mm512_permutex2var_ps(table.low, index, table.high)
               : _mm512_permutexvar_ps(index, table.low);
}

// The words of vectors 16 half .. 16 half + 15, as 32-bit numbers.
POLARQUANT_AVX512_INLINE __m512i widen(const Lanes& words, std::size_t half) {
  return _mm512_cvtepu16_epi32(
      _mm256_load_si256(reinterpret_cast<const __m256i*>(words.values + 16 * half)));
}

// Cosines and sines of levels 1 to 4.
template <bool kWide>
struct FloatLevels {
  FloatTable<kWide> cosines[4];
  FloatTable<kWide> sines[4];
};

template <bool kWide>
POLARQUANT_AVX512_INLINE FloatLevels<kWide> load_float_levels(const TileTables& tile_tables) {
  FloatLevels<kWide> levels;
#pragma GCC unroll 4
  for (std::size_t k = 0; k < 4; ++k) {
    levels.cosines[k] = load_table<kWide>(tile_tables.float_cosines[k]);
    levels.sines[k] = load_table<kWide>(tile_tables.float_sines[k]);
  }
  return levels;
}

// True if an angle within a block has more than 4 bits.
inline bool needs_wide_tables(const CodecTables& tables) {
  return *std::max_element(tables.format.level_bits.begin(), tables.format.level_bits.begin() + 4) >
         4;
}

inline constexpr std::size_t kBlockAngles = 15;

// Working memory: TileScratch::kernel.
struct FloatScratch {
  FloatScratch(const TileTables& tile_tables, std::byte* base) {
    copy = reinterpret_cast<Lanes*>(base);
    indices = copy + (tile_tables.has_byte_row ? tile_tables.num_words : 0);
    weights = reinterpret_cast<float*>(indices + kBlockAngles);
    vectors = weights + tile_tables.num_blocks * kTileTokens;
    num_lanes =
        static_cast<std::size_t>(indices - copy) + kBlockAngles + 2 * 17 * tile_tables.num_blocks;
  }

  Lanes* copy;     // [num_words], of a code with an odd number of bytes
  Lanes* indices;  // [kBlockAngles]
  float* weights;  // [num_blocks, kTileTokens]
  float* vectors;  // [16 num_blocks, kTileTokens]
  std::size_t num_lanes;
};

// The weights of blocks, radii included. weights: [num_blocks, kTileTokens].
POLARQUANT_AVX512_INLINE void weigh_blocks_float(const CodecTables& tables, const WordRun& run,
                                                 Lanes& index_lanes, float* weights) {
  const TileTables& tile_tables = tables.tile_tables;
  for (std::size_t block = 0; block < tables.num_radii(); ++block) {
    for (std::size_t first = 0; first < 32; first += 16) {
      _mm512_storeu_ps(weights + block * 32 + first, load_radii(run.tiles, block, first));
    }
  }
  for (std::size_t k = tile_tables.nodes.size(); k-- > 0;) {
    const TileTables::Node& node = tile_tables.nodes[k];
    store(index_lanes, place_of(node.window).load(run.tiles));
    const float* const cosines = tile_tables.float_tables.data() + 128 * node.table;
    for (std::size_t half = 0; half < 2; ++half) {
      const __m512i index = _mm512_and_si512(widen(index_lanes, half), _mm512_set1_epi32(63));
      const __m512 weight = _mm512_loadu_ps(weights + node.target * 32 + 16 * half);
      _mm512_storeu_ps(weights + node.right * 32 + 16 * half,
                       _mm512_mul_ps(weight, _mm512_i32gather_ps(index, cosines + 64, 4)));
      _mm512_storeu_ps(weights + node.left * 32 + 16 * half,
                       _mm512_mul_ps(weight, _mm512_i32gather_ps(index, cosines, 4)));
    }
  }
}

// The indices of a block in the low bits of each word: 8 of level 1, 4 of level 2, 2, 1.
POLARQUANT_AVX512_INLINE void unpack_block(const TileTables& tile_tables, const std::byte* tile,
                                           std::size_t block, Lanes* indices) {
  const TileTables::Window* const windows =
      tile_tables.windows.data() + block * TileTables::kWindowsPerBlock;
  const __m512i second_shift = _mm512_set1_epi16(static_cast<short>(tile_tables.first_bits));
  const __m512i third_shift =
      _mm512_set1_epi16(static_cast<short>(tile_tables.first_bits + tile_tables.second_bits));
  for (std::size_t k = 0; k < 4; ++k) {
    const __m512i window = place_of(windows[k]).load(tile);
    store(indices[2 * k], window);
    store(indices[2 * k + 1], _mm512_srlv_epi16(window, third_shift));
    store(indices[8 + k], _mm512_srlv_epi16(window, second_shift));
  }
  for (std::size_t k = 4; k < 7; ++k) store(indices[8 + k], place_of(windows[k]).load(tile));
}

// out[i] = coordinate i of a block of 16, of 16 vectors; rows of `out` are kTileTokens apart.
template <bool kWide>
POLARQUANT_AVX512_INLINE void expand_block_float(const FloatLevels<kWide>& levels,
                                                 const Lanes* indices, std::size_t half,
                                                 __m512 weight, float* out) {
  const __m512i index4 = widen(indices[14], half);
#pragma GCC unroll 2
  for (std::size_t h = 0; h < 2; ++h) {
    const __m512 w3 =
        _mm512_mul_ps(weight, look_up(h == 0 ? levels.cosines[3] : levels.sines[3], index4));
    const __m512i index3 = widen(indices[12 + h], half);
#pragma GCC unroll 2
    for (std::size_t k = 0; k < 2; ++k) {
      const __m512 w2 =
          _mm512_mul_ps(w3, look_up(k == 0 ? levels.cosines[2] : levels.sines[2], index3));
      const __m512i index2 = widen(indices[8 + 2 * h + k], half);
#pragma GCC unroll 2
      for (std::size_t m = 0; m < 2; ++m) {
        const __m512 w1 =
            _mm512_mul_ps(w2, look_up(m == 0 ? levels.cosines[1] : levels.sines[1], index2));
        const std::size_t pair = 4 * h + 2 * k + m;
        const __m512i index1 = widen(indices[pair], half);
        _mm512_storeu_ps(out + 2 * pair * kTileTokens,
                         _mm512_mul_ps(w1, look_up(levels.cosines[0], index1)));
        _mm512_storeu_ps(out + (2 * pair + 1) * kTileTokens,
                         _mm512_mul_ps(w1, look_up(levels.sines[0], index1)));
      }
    }
  }
}

// memory.vectors[i] = coordinate i of the 32 vectors of a tile.
template <bool kWide>
POLARQUANT_AVX512_INLINE void expand_tile_float(const CodecTables& tables, const std::byte* tile,
                                                const FloatLevels<kWide>& levels,
                                                const FloatScratch& memory) {
  const TileTables& tile_tables = tables.tile_tables;
  const WordRun run = run_of(tile_tables, tile, 0, 1, memory.copy);
  weigh_blocks_float(tables, run, memory.indices[0], memory.weights);
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    unpack_block(tile_tables, run.tiles, block, memory.indices);
#pragma GCC unroll 2
    for (std::size_t half = 0; half < 2; ++half) {
      expand_block_float<kWide>(levels, memory.indices, half,
                                _mm512_loadu_ps(memory.weights + block * 32 + 16 * half),
                                memory.vectors + block * 16 * kTileTokens + 16 * half);
    }
  }
}

// scores[row] = the products of kRows queries with 32 decoded vectors.
template <std::size_t kRows>
POLARQUANT_AVX512_INLINE void multiply_queries_float(std::size_t head_dim, const float* vectors,
                                                     Rows<const float> queries,
                                                     Rows<float> scores) {
  __m512 sums[kRows][2];
#pragma GCC unroll 4
  for (std::size_t row = 0; row < kRows; ++row) sums[row][0] = sums[row][1] = _mm512_setzero_ps();
  for (std::size_t i = 0; i < head_dim; ++i) {
    const __m512 low = _mm512_load_ps(vectors + i * kTileTokens);
    const __m512 high = _mm512_load_ps(vectors + i * kTileTokens + 16);
#pragma GCC unroll 4
    for (std::size_t row = 0; row < kRows; ++row) {
      const __m512 query = _mm512_set1_ps(queries.row(row)[i]);
      sums[row][0] = _mm512_fmadd_ps(query, low, sums[row][0]);
      sums[row][1] = _mm512_fmadd_ps(query, high, sums[row][1]);
    }
  }
#pragma GCC unroll 4
  for (std::size_t row = 0; row < kRows; ++row) {
    _mm512_storeu_ps(scores.row(row), sums[row][0]);
    _mm512_storeu_ps(scores.row(row) + 16, sums[row][1]);
  }
}

// sums[row][i] += weights . coordinate i, for kRows rows and 32 decoded vectors.
template <std::size_t kRows>
POLARQUANT_AVX512_INLINE void multiply_weights_float(std::size_t head_dim, const float* vectors,
                                                     Rows<const float> weights, Rows<float> sums) {
  __m512 own[kRows][2];
#pragma GCC unroll 4
  for (std::size_t row = 0; row < kRows; ++row) {
    own[row][0] = _mm512_loadu_ps(weights.row(row));
    own[row][1] = _mm512_loadu_ps(weights.row(row) + 16);
  }
  for (std::size_t i = 0; i < head_dim; ++i) {
    const __m512 low = _mm512_load_ps(vectors + i * kTileTokens);
    const __m512 high = _mm512_load_ps(vectors + i * kTileTokens + 16);
#pragma GCC unroll 4
    for (std::size_t row = 0; row < kRows; ++row) {
      float* const sum = sums.row(row) + i * kTileTokens;
      _mm512_storeu_ps(sum,
                       _mm512_fmadd_ps(own[row][0], low,
                                       _mm512_fmadd_ps(own[row][1], high, _mm512_loadu_ps(sum))));
    }
  }
}

// prepared: the rotated queries. scores: [rows, num_tiles kTileTokens].
template <bool kWide>
POLARQUANT_TARGET_AVX512_TILES void score_tiles_float(const CodecTables& tables,
                                                      const std::byte* tiles, std::size_t num_tiles,
                                                      Rows<const float> prepared,
                                                      std::byte* scratch, Rows<float> scores) {
  const FloatScratch memory(tables.tile_tables, scratch);
  const FloatLevels<kWide> levels = load_float_levels<kWide>(tables.tile_tables);
  const std::size_t d = tables.head_dim();
  for (std::size_t n = 0; n < num_tiles; ++n) {
    expand_tile_float<kWide>(tables, tiles + n * tile_bytes(tables.layout.num_bytes()), levels,
                             memory);
    std::size_t row = 0;
    for (; row + 4 <= prepared.count; row += 4) {
      multiply_queries_float<4>(d, memory.vectors, {prepared.row(row), 4, prepared.stride},
                                {scores.row(row) + n * kTileTokens, 4, scores.stride});
    }
    for (; row < prepared.count; ++row) {
      multiply_queries_float<1>(d, memory.vectors, {prepared.row(row), 1, prepared.stride},
                                {scores.row(row) + n * kTileTokens, 1, scores.stride});
    }
  }
}

// sums: [rows, head_dim, kTileTokens], of which the first 16 lanes are added to.
template <bool kWide>
POLARQUANT_TARGET_AVX512_TILES void accumulate_tiles_float(const CodecTables& tables,
                                                           const std::byte* tiles,
                                                           std::size_t num_tiles,
                                                           Rows<const float> weights,
                                                           std::byte* scratch, Rows<float> sums) {
  const FloatScratch memory(tables.tile_tables, scratch);
  const FloatLevels<kWide> levels = load_float_levels<kWide>(tables.tile_tables);
  const std::size_t d = tables.head_dim();
  for (std::size_t n = 0; n < num_tiles; ++n) {
    expand_tile_float<kWide>(tables, tiles + n * tile_bytes(tables.layout.num_bytes()), levels,
                             memory);
    std::size_t row = 0;
    for (; row + 4 <= weights.count; row += 4) {
      multiply_weights_float<4>(d, memory.vectors,
                                {weights.row(row) + n * kTileTokens, 4, weights.stride},
                                {sums.row(row), 4, sums.stride});
    }
    for (; row < weights.count; ++row) {
      multiply_weights_float<1>(d, memory.vectors,
                                {weights.row(row) + n * kTileTokens, 1, weights.stride},
                                {sums.row(row), 1, sums.stride});
    }
  }
}

}  // namespace avx512
}  // namespace detail
POLARQUANT_END_NAMESPACE
POLARQUANT_AVX512_END
#endif
