// Scores and weighted sums on codes in float on AVX-512.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "polarquant/codec_tables.hpp"
#include "polarquant/kernels/avx512_common.hpp"
#include "polarquant/kernels/isa.hpp"
#include "polarquant/packed_codes.hpp"
#include "polarquant/tile_tables.hpp"
#include "polarquant/version.hpp"

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

// The window of sixteen of the 32 vectors, as 32-bit numbers.
POLARQUANT_AVX512_INLINE __m512i widen(__m512i window, std::size_t half) {
  return _mm512_cvtepu16_epi32(half == 0 ? _mm512_castsi512_si256(window)
                                         : _mm512_extracti64x4_epi64(window, 1));
}

// Tables of the levels within a block, loaded once for many tiles.
template <bool kWide>
struct LevelTables {
  FloatTable<kWide> cosines[4];
  FloatTable<kWide> sines[4];
  __m128i second_shift;
  __m128i third_shift;
};

template <bool kWide>
POLARQUANT_AVX512_INLINE LevelTables<kWide> load_levels(const TileTables& tile_tables) {
  LevelTables<kWide> out;
#pragma GCC unroll 4
  for (std::size_t k = 0; k < 4; ++k) {
    out.cosines[k] = load_table<kWide>(tile_tables.float_cosines[k]);
    out.sines[k] = load_table<kWide>(tile_tables.float_sines[k]);
  }
  out.second_shift = _mm_cvtsi32_si128(tile_tables.first_bits);
  out.third_shift = _mm_cvtsi32_si128(tile_tables.first_bits + tile_tables.second_bits);
  return out;
}

// True if an angle within a block has more than 4 bits.
inline bool needs_wide_tables(const CodecTables& tables) {
  return *std::max_element(tables.format.level_bits.begin(), tables.format.level_bits.begin() + 4) >
         4;
}

// ---- Scores ----

// The level-1 tables of one rotated query, each repeated to 32 entries.
inline void prepare_query_float(const CodecTables& tables, const float* query, float* prepared) {
  const FloatLanes& cosines = tables.tile_tables.float_cosines[0];
  const FloatLanes& sines = tables.tile_tables.float_sines[0];
  for (std::size_t pair = 0; pair < tables.head_dim() / 2; ++pair) {
    for (std::size_t i = 0; i < 32; ++i) {
      prepared[32 * pair + i] =
          fused(query[2 * pair], cosines.values[i], query[2 * pair + 1] * sines.values[i]);
    }
  }
}

template <bool kWide>
POLARQUANT_AVX512_INLINE __m512 fold(__m512 left, __m512 right, __m512i index,
                                     const FloatTable<kWide>& cosines,
                                     const FloatTable<kWide>& sines) {
  return _mm512_fmadd_ps(left, look_up(cosines, index),
                         _mm512_mul_ps(right, look_up(sines, index)));
}

template <bool kWide, bool kOdd>
POLARQUANT_TARGET_AVX512_TILES void score_tiles_float(const CodecTables& tables,
                                                      const std::byte* tiles, std::size_t num_tiles,
                                                      const float* prepared, float* values,
                                                      float* scores) {
  const TileTables& tile_tables = tables.tile_tables;
  const std::size_t num_bytes = tables.layout.num_bytes();
  const std::size_t num_words = (num_bytes + 1) / 2;
  const std::size_t tile_size = tile_bytes(num_bytes);
  const std::size_t num_tokens = num_tiles * kTileTokens;
  const FloatLanes* const query =
      reinterpret_cast<const FloatLanes*>(prepared + tables.tile_tables_offset() + 16);
  const bool block_radii = tables.num_radii() == tile_tables.num_blocks;
  const LevelTables<kWide> levels = load_levels<kWide>(tile_tables);
  if (block_radii) std::fill_n(scores, num_tokens, 0.0f);
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    Window windows[TileTables::kWindowsPerBlock];
    FloatTable<kWide> pairs[8];
#pragma GCC unroll 7
    for (std::size_t k = 0; k < TileTables::kWindowsPerBlock; ++k) {
      windows[k] = make_window(tile_tables.windows[block * TileTables::kWindowsPerBlock + k]);
    }
#pragma GCC unroll 8
    for (std::size_t k = 0; k < 8; ++k) pairs[k] = load_table<kWide>(query[8 * block + k]);
    for (std::size_t n = 0; n < num_tiles; ++n) {
      const std::byte* const tile = tiles + n * tile_size;
      __m512 v[2][4];
#pragma GCC unroll 4
      for (std::size_t k = 0; k < 4; ++k) {
        const __m512i window = load_window<kOdd>(tile, windows[k], num_words);
#pragma GCC unroll 2
        for (std::size_t half = 0; half < 2; ++half) {
          const __m512i first = widen(window, half);
          v[half][k] = fold(look_up(pairs[2 * k], first),
                            look_up(pairs[2 * k + 1], _mm512_srl_epi32(first, levels.third_shift)),
                            _mm512_srl_epi32(first, levels.second_shift), levels.cosines[1],
                            levels.sines[1]);
        }
      }
      const __m512i window3[2] = {load_window<kOdd>(tile, windows[4], num_words),
                                  load_window<kOdd>(tile, windows[5], num_words)};
      const __m512i window4 = load_window<kOdd>(tile, windows[6], num_words);
#pragma GCC unroll 2
      for (std::size_t half = 0; half < 2; ++half) {
        const __m512 left = fold(v[half][0], v[half][1], widen(window3[0], half), levels.cosines[2],
                                 levels.sines[2]);
        const __m512 right = fold(v[half][2], v[half][3], widen(window3[1], half),
                                  levels.cosines[2], levels.sines[2]);
        const __m512 value =
            fold(left, right, widen(window4, half), levels.cosines[3], levels.sines[3]);
        const std::size_t token = n * kTileTokens + 16 * half;
        if (block_radii) {
          _mm512_storeu_ps(scores + token, _mm512_fmadd_ps(load_radii(tile, block, 16 * half),
                                                           value, _mm512_loadu_ps(scores + token)));
        } else {
          _mm512_storeu_ps(values + block * num_tokens + token, value);
        }
      }
    }
  }
  if (block_radii) return;
  for (const TileTables::Node& node : tile_tables.nodes) {
    const Window window = make_window(node.window);
    const FloatTable<true> cosines = load_table<true>(tile_tables.float_cosines[node.table]);
    const FloatTable<true> sines = load_table<true>(tile_tables.float_sines[node.table]);
    for (std::size_t token = 0; token < num_tokens; token += 16) {
      const std::byte* const tile = tiles + token / kTileTokens * tile_size;
      const __m512i index =
          widen(load_window<kOdd>(tile, window, num_words), token % kTileTokens / 16);
      _mm512_storeu_ps(
          values + node.target * num_tokens + token,
          fold(_mm512_loadu_ps(values + node.left * num_tokens + token),
               _mm512_loadu_ps(values + node.right * num_tokens + token), index, cosines, sines));
    }
  }
  for (std::size_t token = 0; token < num_tokens; token += 16) {
    const std::byte* const tile = tiles + token / kTileTokens * tile_size;
    _mm512_storeu_ps(scores + token, _mm512_mul_ps(load_radii(tile, 0, token % kTileTokens),
                                                   _mm512_loadu_ps(values + token)));
  }
}

// ---- Weighted sums ----

// node_weights: [num_blocks, tokens], the weight of every block: that of its token times the radius
// and the cosines and sines on the way down to it.
template <bool kWide, bool kOdd>
POLARQUANT_TARGET_AVX512_TILES void accumulate_tiles_float(const CodecTables& tables,
                                                           const std::byte* tiles,
                                                           std::size_t num_tiles,
                                                           const float* weights,
                                                           float* node_weights, float* sums) {
  const TileTables& tile_tables = tables.tile_tables;
  const std::size_t num_bytes = tables.layout.num_bytes();
  const std::size_t num_words = (num_bytes + 1) / 2;
  const std::size_t tile_size = tile_bytes(num_bytes);
  const std::size_t num_tokens = num_tiles * kTileTokens;
  for (std::size_t block = 0; block < tables.num_radii(); ++block) {
    for (std::size_t token = 0; token < num_tokens; token += 16) {
      const std::byte* const tile = tiles + token / kTileTokens * tile_size;
      _mm512_storeu_ps(node_weights + block * num_tokens + token,
                       _mm512_mul_ps(load_radii(tile, block, token % kTileTokens),
                                     _mm512_loadu_ps(weights + token)));
    }
  }
  for (std::size_t k = tile_tables.nodes.size(); k-- > 0;) {
    const TileTables::Node& node = tile_tables.nodes[k];
    const Window window = make_window(node.window);
    const FloatTable<true> cosines = load_table<true>(tile_tables.float_cosines[node.table]);
    const FloatTable<true> sines = load_table<true>(tile_tables.float_sines[node.table]);
    for (std::size_t token = 0; token < num_tokens; token += 16) {
      const std::byte* const tile = tiles + token / kTileTokens * tile_size;
      const __m512i index =
          widen(load_window<kOdd>(tile, window, num_words), token % kTileTokens / 16);
      const __m512 weight = _mm512_loadu_ps(node_weights + node.target * num_tokens + token);
      _mm512_storeu_ps(node_weights + node.right * num_tokens + token,
                       _mm512_mul_ps(weight, look_up(sines, index)));
      _mm512_storeu_ps(node_weights + node.left * num_tokens + token,
                       _mm512_mul_ps(weight, look_up(cosines, index)));
    }
  }
  const LevelTables<kWide> levels = load_levels<kWide>(tile_tables);
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    // Half a block at a time: 16 sums beside the tables are more than the registers hold.
    for (std::size_t side = 0; side < 2; ++side) {
      const TileTables::Window* const all =
          tile_tables.windows.data() + block * TileTables::kWindowsPerBlock;
      const Window windows[4] = {make_window(all[6]), make_window(all[4 + side]),
                                 make_window(all[2 * side]), make_window(all[2 * side + 1])};
      const FloatTable<kWide> share = side == 0 ? levels.cosines[3] : levels.sines[3];
      __m512 totals[8];
#pragma GCC unroll 8
      for (std::size_t i = 0; i < 8; ++i) totals[i] = _mm512_setzero_ps();
      for (std::size_t n = 0; n < num_tiles; ++n) {
        const std::byte* const tile = tiles + n * tile_size;
        const __m512i window4 = load_window<kOdd>(tile, windows[0], num_words);
        const __m512i window3 = load_window<kOdd>(tile, windows[1], num_words);
        const __m512i window[2] = {load_window<kOdd>(tile, windows[2], num_words),
                                   load_window<kOdd>(tile, windows[3], num_words)};
#pragma GCC unroll 2
        for (std::size_t half = 0; half < 2; ++half) {
          const __m512 block_weight =
              _mm512_loadu_ps(node_weights + block * num_tokens + n * kTileTokens + 16 * half);
          const __m512 weight3 = _mm512_mul_ps(block_weight, look_up(share, widen(window4, half)));
          const __m512i index3 = widen(window3, half);
#pragma GCC unroll 2
          for (std::size_t k = 0; k < 2; ++k) {
            const __m512 weight2 = _mm512_mul_ps(
                weight3, look_up(k == 0 ? levels.cosines[2] : levels.sines[2], index3));
            const __m512i first = widen(window[k], half);
            const __m512i second = _mm512_srl_epi32(first, levels.second_shift);
            const __m512i third = _mm512_srl_epi32(first, levels.third_shift);
            const __m512 a = _mm512_mul_ps(weight2, look_up(levels.cosines[1], second));
            const __m512 b = _mm512_mul_ps(weight2, look_up(levels.sines[1], second));
            totals[4 * k] = _mm512_fmadd_ps(a, look_up(levels.cosines[0], first), totals[4 * k]);
            totals[4 * k + 1] =
                _mm512_fmadd_ps(a, look_up(levels.sines[0], first), totals[4 * k + 1]);
            totals[4 * k + 2] =
                _mm512_fmadd_ps(b, look_up(levels.cosines[0], third), totals[4 * k + 2]);
            totals[4 * k + 3] =
                _mm512_fmadd_ps(b, look_up(levels.sines[0], third), totals[4 * k + 3]);
          }
        }
      }
#pragma GCC unroll 8
      for (std::size_t i = 0; i < 8; ++i) {
        float* const sum = sums + (block * 16 + side * 8 + i) * kTileTokens;
        _mm512_storeu_ps(sum, _mm512_add_ps(totals[i], _mm512_loadu_ps(sum)));
      }
    }
  }
}

}  // namespace avx512
}  // namespace detail
POLARQUANT_END_NAMESPACE
POLARQUANT_AVX512_END
#endif
