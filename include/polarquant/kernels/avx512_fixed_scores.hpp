// Scores on codes in 16-bit fixed point on AVX-512.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "polarquant/codec_tables.hpp"
#include "polarquant/kernels/avx512_common.hpp"
#include "polarquant/kernels/isa.hpp"
#include "polarquant/packed_codes.hpp"
#include "polarquant/rows.hpp"
#include "polarquant/tile_tables.hpp"
#include "polarquant/version.hpp"

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

// The tables of one rotated query in 16 bits: what a subtree of two levels (or a pair) contributes,
// per index. Scaled so that the whole query has norm 32000: no sum on the way up can overflow.
// prepared[0] becomes the scale's inverse.
POLARQUANT_TARGET_AVX512_TILES inline void prepare_query_fixed(const CodecTables& tables,
                                                               const float* query,
                                                               float* prepared) {
  const TileTables& tile_tables = tables.tile_tables;
  double norm2 = 0.0;  // In float it would overflow for a norm of 2e19.
  for (std::size_t i = 0; i < tables.head_dim(); ++i) {
    norm2 += static_cast<double>(query[i]) * static_cast<double>(query[i]);
  }
  // Beyond 1e37 the scale's inverse, which comes back in, would be subnormal.
  const float scale =
      norm2 > 0.0 ? static_cast<float>(std::min(32000.0 / std::sqrt(norm2), 1e37)) : 0.0f;
  prepared[0] = norm2 > 0.0 ? 1.0f / scale : 0.0f;
  Lanes* out = reinterpret_cast<Lanes*>(prepared + 16);
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
      tabulate(x, y, tile_tables.cosines[0], tile_tables.sines[0], *out++);
    }
  }
}

// What the contraction of one block needs, loaded once for many tiles.
template <bool kCombined>
struct BlockQuery {
  Window windows[TileTables::kWindowsPerBlock];
  __m512i tables[kCombined ? 16 : 8];
  __m512i second_shift;
  __m512i third_shift;
  __m512i cosines[3];  // of levels 2 to 4
  __m512i sines[3];
};

template <bool kCombined>
POLARQUANT_AVX512_INLINE void load_block(const TileTables& tile_tables, std::size_t block,
                                         const Lanes* query, BlockQuery<kCombined>& out) {
#pragma GCC unroll 7
  for (std::size_t k = 0; k < TileTables::kWindowsPerBlock; ++k) {
    out.windows[k] = make_window(tile_tables.windows[block * TileTables::kWindowsPerBlock + k]);
  }
  constexpr std::size_t kNumTables = kCombined ? 16 : 8;
#pragma GCC unroll 16
  for (std::size_t k = 0; k < kNumTables; ++k) {
    out.tables[k] = load(query[block * kNumTables + k]);
  }
  out.second_shift = _mm512_set1_epi16(static_cast<short>(tile_tables.first_bits));
  out.third_shift =
      _mm512_set1_epi16(static_cast<short>(tile_tables.first_bits + tile_tables.second_bits));
#pragma GCC unroll 3
  for (std::size_t k = 0; k < 3; ++k) {
    out.cosines[k] = load(tile_tables.cosines[k + 1]);
    out.sines[k] = load(tile_tables.sines[k + 1]);
  }
}

// What a block contributes to the scores of 32 vectors, before the radius.
template <bool kCombined, bool kOdd>
POLARQUANT_AVX512_INLINE __m512i contract_block(const BlockQuery<kCombined>& block,
                                                const std::byte* tile, std::size_t num_words) {
  __m512i v[4];
#pragma GCC unroll 4
  for (std::size_t k = 0; k < 4; ++k) {
    const __m512i window = load_window<kOdd>(tile, block.windows[k], num_words);
    const __m512i second = _mm512_srlv_epi16(window, block.second_shift);
    if (kCombined) {
      v[k] = _mm512_add_epi16(
          _mm512_permutex2var_epi16(block.tables[4 * k], window, block.tables[4 * k + 1]),
          _mm512_permutex2var_epi16(block.tables[4 * k + 2], second, block.tables[4 * k + 3]));
    } else {
      const __m512i third = _mm512_srlv_epi16(window, block.third_shift);
      v[k] = fold(_mm512_permutexvar_epi16(window, block.tables[2 * k]),
                  _mm512_permutexvar_epi16(third, block.tables[2 * k + 1]), second,
                  block.cosines[0], block.sines[0]);
    }
  }
  v[0] = fold(v[0], v[1], load_window<kOdd>(tile, block.windows[4], num_words), block.cosines[1],
              block.sines[1]);
  v[1] = fold(v[2], v[3], load_window<kOdd>(tile, block.windows[5], num_words), block.cosines[1],
              block.sines[1]);
  return fold(v[0], v[1], load_window<kOdd>(tile, block.windows[6], num_words), block.cosines[2],
              block.sines[2]);
}

// What one tile brings to the contraction of one block, the same for every query: the indices of
// level 1, and the cosines and sines of levels 3 and 4 (and of level 2, if that is not combined).
template <bool kCombined>
struct BlockIndices {
  __m512i first[4];
  __m512i second[4];  // combined: (joining index, index); else the second
                      // level-1 index
  __m512i cosines2[kCombined ? 1 : 4];
  __m512i sines2[kCombined ? 1 : 4];
  __m512i cosines[3];  // of the two level-3 nodes, the level-4 node
  __m512i sines[3];
};

template <bool kCombined, bool kOdd>
POLARQUANT_AVX512_INLINE void load_indices(const BlockQuery<kCombined>& block,
                                           const std::byte* tile, std::size_t num_words,
                                           BlockIndices<kCombined>& out) {
#pragma GCC unroll 4
  for (std::size_t k = 0; k < 4; ++k) {
    const __m512i window = load_window<kOdd>(tile, block.windows[k], num_words);
    const __m512i second = _mm512_srlv_epi16(window, block.second_shift);
    out.first[k] = window;
    if (kCombined) {
      out.second[k] = second;
    } else {
      out.second[k] = _mm512_srlv_epi16(window, block.third_shift);
      out.cosines2[k] = _mm512_permutexvar_epi16(second, block.cosines[0]);
      out.sines2[k] = _mm512_permutexvar_epi16(second, block.sines[0]);
    }
  }
#pragma GCC unroll 3
  for (std::size_t k = 0; k < 3; ++k) {
    const __m512i window = load_window<kOdd>(tile, block.windows[4 + k], num_words);
    out.cosines[k] = _mm512_permutexvar_epi16(window, block.cosines[k < 2 ? 1 : 2]);
    out.sines[k] = _mm512_permutexvar_epi16(window, block.sines[k < 2 ? 1 : 2]);
  }
}

POLARQUANT_AVX512_INLINE __m512i rotate_pair(__m512i a, __m512i b, __m512i cosine, __m512i sine) {
  return _mm512_add_epi16(_mm512_mulhrs_epi16(a, cosine), _mm512_mulhrs_epi16(b, sine));
}

// As contract_block, for one of several queries: its tables come from memory.
template <bool kCombined>
POLARQUANT_AVX512_INLINE __m512i contract_indices(const BlockIndices<kCombined>& indices,
                                                  const Lanes* query) {
  __m512i v[4];
#pragma GCC unroll 4
  for (std::size_t k = 0; k < 4; ++k) {
    if (kCombined) {
      v[k] = _mm512_add_epi16(
          _mm512_permutex2var_epi16(load(query[4 * k]), indices.first[k], load(query[4 * k + 1])),
          _mm512_permutex2var_epi16(load(query[4 * k + 2]), indices.second[k],
                                    load(query[4 * k + 3])));
    } else {
      v[k] = rotate_pair(_mm512_permutexvar_epi16(indices.first[k], load(query[2 * k])),
                         _mm512_permutexvar_epi16(indices.second[k], load(query[2 * k + 1])),
                         indices.cosines2[k], indices.sines2[k]);
    }
  }
  return rotate_pair(rotate_pair(v[0], v[1], indices.cosines[0], indices.sines[0]),
                     rotate_pair(v[2], v[3], indices.cosines[1], indices.sines[1]),
                     indices.cosines[2], indices.sines[2]);
}

// Queries that share the reading of the codes.
inline constexpr std::size_t kMaxSharedRows = 4;

POLARQUANT_AVX512_INLINE void add_scores(const std::byte* tile, std::size_t block, __m512i value,
                                         __m512 inverse_scale, float* scores) {
  const __m512 low = _mm512_mul_ps(inverse_scale, load_radii(tile, block, 0));
  const __m512 high = _mm512_mul_ps(inverse_scale, load_radii(tile, block, 16));
  _mm512_storeu_ps(scores, _mm512_fmadd_ps(low, low_half(value), _mm512_loadu_ps(scores)));
  _mm512_storeu_ps(scores + 16,
                   _mm512_fmadd_ps(high, high_half(value), _mm512_loadu_ps(scores + 16)));
}

// One row (kShared false; its tables stay in registers), or up to kMaxSharedRows rows that share
// the reading of the codes. values: [rows, num_blocks, num_tiles].
template <bool kCombined, bool kOdd, bool kShared>
POLARQUANT_TARGET_AVX512_TILES void score_tiles_fixed(const CodecTables& tables,
                                                      const std::byte* tiles, std::size_t num_tiles,
                                                      Rows<const float> prepared, Lanes* values,
                                                      Rows<float> scores) {
  const TileTables& tile_tables = tables.tile_tables;
  const std::size_t num_bytes = tables.layout.num_bytes();
  const std::size_t num_words = (num_bytes + 1) / 2;
  const std::size_t tile_size = tile_bytes(num_bytes);
  const std::size_t row_size = tile_tables.num_blocks * num_tiles;
  const std::size_t num_tables = kCombined ? 16 : 8;
  const bool block_radii = tables.num_radii() == tile_tables.num_blocks;
  const Lanes* queries[kMaxSharedRows];
  __m512 inverse_scales[kMaxSharedRows];
  for (std::size_t row = 0; row < prepared.count; ++row) {
    const float* const own = prepared.row(row) + tables.tile_tables_offset();
    inverse_scales[row] = _mm512_set1_ps(own[0]);
    queries[row] = reinterpret_cast<const Lanes*>(own + 16);
    std::fill_n(scores.row(row), num_tiles * kTileTokens, 0.0f);
  }
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    BlockQuery<kCombined> block_query;
    load_block<kCombined>(tile_tables, block, queries[0], block_query);
    for (std::size_t n = 0; n < num_tiles; ++n) {
      const std::byte* const tile = tiles + n * tile_size;
      if (!kShared) {
        const __m512i value = contract_block<kCombined, kOdd>(block_query, tile, num_words);
        if (block_radii) {
          add_scores(tile, block, value, inverse_scales[0], scores.row(0) + n * kTileTokens);
        } else {
          _mm512_store_si512(values + block * num_tiles + n, value);
        }
        continue;
      }
      BlockIndices<kCombined> indices;
      load_indices<kCombined, kOdd>(block_query, tile, num_words, indices);
      for (std::size_t row = 0; row < prepared.count; ++row) {
        const __m512i value =
            contract_indices<kCombined>(indices, queries[row] + block * num_tables);
        if (block_radii) {
          add_scores(tile, block, value, inverse_scales[row], scores.row(row) + n * kTileTokens);
        } else {
          _mm512_store_si512(values + row * row_size + block * num_tiles + n, value);
        }
      }
    }
  }
  if (block_radii) return;
  for (const TileTables::Node& node : tile_tables.nodes) {
    const Window window = make_window(node.window);
    const __m512i cosines = load(tile_tables.cosines[node.table]);
    const __m512i sines = load(tile_tables.sines[node.table]);
    for (std::size_t n = 0; n < num_tiles; ++n) {
      const __m512i index = load_window<kOdd>(tiles + n * tile_size, window, num_words);
      const __m512i cosine = _mm512_permutexvar_epi16(index, cosines);
      const __m512i sine = _mm512_permutexvar_epi16(index, sines);
      for (std::size_t row = 0; row < prepared.count; ++row) {
        Lanes* const own = values + row * row_size + n;
        _mm512_store_si512(own + node.target * num_tiles,
                           rotate_pair(load(own[node.left * num_tiles]),
                                       load(own[node.right * num_tiles]), cosine, sine));
      }
    }
  }
  for (std::size_t row = 0; row < prepared.count; ++row) {
    for (std::size_t n = 0; n < num_tiles; ++n) {
      add_scores(tiles + n * tile_size, 0, load(values[row * row_size + n]), inverse_scales[row],
                 scores.row(row) + n * kTileTokens);
    }
  }
}

}  // namespace avx512
}  // namespace detail
POLARQUANT_END_NAMESPACE
POLARQUANT_AVX512_END
#endif
