// Weighted sums of codes in 16-bit fixed point on AVX-512.
#pragma once

#include <algorithm>
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

// What the expansion of blocks needs. Combined: coordinate[i] by the two indices of a subtree.
template <bool kCombined>
struct ExpansionTables {
  __m512i coordinate[kCombined ? 8 : 1];
  __m512i second_shift;
  __m512i third_shift;
  __m512i cosines[4];  // of levels 1 to 4
  __m512i sines[4];
};

template <bool kCombined>
POLARQUANT_AVX512_INLINE void load_tables(const TileTables& tile_tables,
                                          ExpansionTables<kCombined>& out) {
  if (kCombined) {
#pragma GCC unroll 4
    for (std::size_t i = 0; i < 4; ++i) {
      out.coordinate[2 * i] = load(tile_tables.coordinate[i].low);
      out.coordinate[2 * i + 1] = load(tile_tables.coordinate[i].high);
    }
  }
  out.second_shift = _mm512_set1_epi16(static_cast<short>(tile_tables.first_bits));
  out.third_shift =
      _mm512_set1_epi16(static_cast<short>(tile_tables.first_bits + tile_tables.second_bits));
#pragma GCC unroll 4
  for (std::size_t k = 0; k < 4; ++k) {
    out.cosines[k] = load(tile_tables.cosines[k]);
    out.sines[k] = load(tile_tables.sines[k]);
  }
}

// Adds to 8 running sums of each of kRows rows what 32 vectors contribute to one half of a block (a
// level-3 subtree). weights[row]: of the block, in 16 bits. windows: of the level-4 node, the
// level-3 node, its two subtrees; `share` the level-4 cosines for the left half, sines for the
// right. Half a block at a time, because 16 sums beside the tables are more than the registers
// hold.
template <bool kCombined, bool kOdd, std::size_t kRows>
POLARQUANT_AVX512_INLINE void expand_half(const ExpansionTables<kCombined>& tables,
                                          const Window* windows, __m512i share,
                                          const std::byte* tile, const __m512i* weights,
                                          std::size_t num_words, __m512i (*sums)[8]) {
  const __m512i part =
      _mm512_permutexvar_epi16(load_window<kOdd>(tile, windows[0], num_words), share);
  const __m512i window3 = load_window<kOdd>(tile, windows[1], num_words);
  __m512i node[kRows];
#pragma GCC unroll 2
  for (std::size_t row = 0; row < kRows; ++row) node[row] = _mm512_mulhrs_epi16(weights[row], part);
#pragma GCC unroll 2
  for (std::size_t k = 0; k < 2; ++k) {
    const __m512i subtree =
        _mm512_permutexvar_epi16(window3, k == 0 ? tables.cosines[2] : tables.sines[2]);
    __m512i w[kRows];
#pragma GCC unroll 2
    for (std::size_t row = 0; row < kRows; ++row) w[row] = _mm512_mulhrs_epi16(node[row], subtree);
    const __m512i window = load_window<kOdd>(tile, windows[2 + k], num_words);
    const __m512i second = _mm512_srlv_epi16(window, tables.second_shift);
    if (kCombined) {
#pragma GCC unroll 4
      for (std::size_t i = 0; i < 4; ++i) {
        const __m512i entry = _mm512_permutex2var_epi16(
            tables.coordinate[2 * i], i < 2 ? window : second, tables.coordinate[2 * i + 1]);
#pragma GCC unroll 2
        for (std::size_t row = 0; row < kRows; ++row) {
          sums[row][4 * k + i] = _mm512_dpwssd_epi32(sums[row][4 * k + i], w[row], entry);
        }
      }
    } else {
      const __m512i third = _mm512_srlv_epi16(window, tables.third_shift);
      const __m512i cosine2 = _mm512_permutexvar_epi16(second, tables.cosines[1]);
      const __m512i sine2 = _mm512_permutexvar_epi16(second, tables.sines[1]);
      const __m512i entries[4] = {_mm512_permutexvar_epi16(window, tables.cosines[0]),
                                  _mm512_permutexvar_epi16(window, tables.sines[0]),
                                  _mm512_permutexvar_epi16(third, tables.cosines[0]),
                                  _mm512_permutexvar_epi16(third, tables.sines[0])};
#pragma GCC unroll 2
      for (std::size_t row = 0; row < kRows; ++row) {
        const __m512i a = _mm512_mulhrs_epi16(w[row], cosine2);
        const __m512i b = _mm512_mulhrs_epi16(w[row], sine2);
#pragma GCC unroll 4
        for (std::size_t i = 0; i < 4; ++i) {
          sums[row][4 * k + i] =
              _mm512_dpwssd_epi32(sums[row][4 * k + i], i < 2 ? a : b, entries[i]);
        }
      }
    }
  }
}

// Beyond it the scale's inverse, which comes back in, would be subnormal.
inline constexpr float kLargestScale = 1e37f;

// out[n] = weights times radii of block `block`, scaled to 16 bits, as much as two bounds allow: no
// weight exceeds 16 bits, and no 32-bit lane, which sums the products of two tokens of each tile,
// overflows. Returns the inverse of the scale.
POLARQUANT_AVX512_INLINE float scale_weights(const std::byte* tiles, std::size_t num_tiles,
                                             std::size_t tile_size, std::size_t block,
                                             const float* weights, Lanes* out) {
  __m512 largest = _mm512_setzero_ps();
  __m512 totals[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (std::size_t n = 0; n < num_tiles; ++n) {
    for (std::size_t half = 0; half < 2; ++half) {
      const __m512 product =
          _mm512_abs_ps(_mm512_mul_ps(_mm512_loadu_ps(weights + n * kTileTokens + 16 * half),
                                      load_radii(tiles + n * tile_size, block, 16 * half)));
      largest = _mm512_max_ps(largest, product);
      totals[half] = _mm512_add_ps(totals[half], product);
    }
  }
  const float max = _mm512_reduce_max_ps(largest);
  if (!(max > 0.0f)) {
    for (std::size_t n = 0; n < num_tiles; ++n) _mm512_store_si512(out + n, _mm512_setzero_si512());
    return 0.0f;
  }
  const float lane_total = 2.0f * _mm512_reduce_max_ps(_mm512_max_ps(totals[0], totals[1]));
  const float scale =
      std::min({32767.0f / max, 65000.0f / std::min(lane_total, 3e38f), kLargestScale});
  const __m512 factor = _mm512_set1_ps(scale);
  for (std::size_t n = 0; n < num_tiles; ++n) {
    for (std::size_t half = 0; half < 2; ++half) {
      const __m512 product = _mm512_mul_ps(_mm512_loadu_ps(weights + n * kTileTokens + 16 * half),
                                           load_radii(tiles + n * tile_size, block, 16 * half));
      const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(product, factor));
      _mm256_store_si256(reinterpret_cast<__m256i*>(out[n].values + 16 * half),
                         _mm512_cvtepi32_epi16(rounded));
    }
  }
  return 1.0f / scale;
}

// For kRows rows of weights, which share the reading of the codes. node_weights: [kRows,
// num_blocks, num_tiles].
template <bool kCombined, bool kOdd, std::size_t kRows>
POLARQUANT_TARGET_AVX512_TILES void accumulate_tiles_fixed(const CodecTables& tables,
                                                           const std::byte* tiles,
                                                           std::size_t num_tiles,
                                                           Rows<const float> weights,
                                                           Lanes* node_weights, Rows<float> sums) {
  const TileTables& tile_tables = tables.tile_tables;
  const std::size_t num_bytes = tables.layout.num_bytes();
  const std::size_t num_words = (num_bytes + 1) / 2;
  const std::size_t tile_size = tile_bytes(num_bytes);
  const std::size_t row_size = tile_tables.num_blocks * num_tiles;
  const bool block_radii = tables.num_radii() == tile_tables.num_blocks;
  ExpansionTables<kCombined> expansion;
  load_tables<kCombined>(tile_tables, expansion);
  float factors[kRows] = {};
  if (!block_radii) {
    for (std::size_t row = 0; row < kRows; ++row) {
      factors[row] = scale_weights(tiles, num_tiles, tile_size, 0, weights.row(row),
                                   node_weights + row * row_size);
    }
    for (std::size_t k = tile_tables.nodes.size(); k-- > 0;) {
      const TileTables::Node& node = tile_tables.nodes[k];
      const Window window = make_window(node.window);
      const __m512i cosines = load(tile_tables.cosines[node.table]);
      const __m512i sines = load(tile_tables.sines[node.table]);
      for (std::size_t n = 0; n < num_tiles; ++n) {
        const __m512i index = load_window<kOdd>(tiles + n * tile_size, window, num_words);
        const __m512i cosine = _mm512_permutexvar_epi16(index, cosines);
        const __m512i sine = _mm512_permutexvar_epi16(index, sines);
        for (std::size_t row = 0; row < kRows; ++row) {
          Lanes* const own = node_weights + row * row_size + n;
          const __m512i weight = load(own[node.target * num_tiles]);
          _mm512_store_si512(own + node.right * num_tiles, _mm512_mulhrs_epi16(weight, sine));
          _mm512_store_si512(own + node.left * num_tiles, _mm512_mulhrs_epi16(weight, cosine));
        }
      }
    }
  }
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    const std::size_t own_block = block_radii ? 0 : block;
    for (std::size_t row = 0; block_radii && row < kRows; ++row) {
      factors[row] = scale_weights(tiles, num_tiles, tile_size, block, weights.row(row),
                                   node_weights + row * row_size);
    }
    for (std::size_t half = 0; half < 2; ++half) {
      const TileTables::Window* const all =
          tile_tables.windows.data() + block * TileTables::kWindowsPerBlock;
      const Window windows[4] = {make_window(all[6]), make_window(all[4 + half]),
                                 make_window(all[2 * half]), make_window(all[2 * half + 1])};
      const __m512i share = half == 0 ? expansion.cosines[3] : expansion.sines[3];
      __m512i totals[kRows][8];
#pragma GCC unroll 2
      for (std::size_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
        for (std::size_t i = 0; i < 8; ++i) totals[row][i] = _mm512_setzero_si512();
      }
      for (std::size_t n = 0; n < num_tiles; ++n) {
        __m512i block_weights[kRows];
#pragma GCC unroll 2
        for (std::size_t row = 0; row < kRows; ++row) {
          block_weights[row] = load(node_weights[row * row_size + own_block * num_tiles + n]);
        }
        expand_half<kCombined, kOdd, kRows>(expansion, windows, share, tiles + n * tile_size,
                                            block_weights, num_words, totals);
      }
#pragma GCC unroll 2
      for (std::size_t row = 0; row < kRows; ++row) {
        const __m512 factor = _mm512_set1_ps(factors[row]);
#pragma GCC unroll 8
        for (std::size_t i = 0; i < 8; ++i) {
          float* const sum = sums.row(row) + (block * 16 + half * 8 + i) * kTileTokens;
          const __m512 total =
              _mm512_mul_ps(_mm512_cvtepi32_ps(totals[row][i]), _mm512_set1_ps(0x1p-15f));
          _mm512_storeu_ps(sum, _mm512_fmadd_ps(total, factor, _mm512_loadu_ps(sum)));
        }
      }
    }
  }
}

}  // namespace avx512
}  // namespace detail
POLARQUANT_END_NAMESPACE
POLARQUANT_AVX512_END
#endif
