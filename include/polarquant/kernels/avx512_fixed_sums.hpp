// Weighted sums of codes in 16-bit fixed point on AVX-512.
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

// Adds to 8 running sums what 32 vectors contribute to one half of a block (a level-3 subtree).
// weights: of the block, in 16 bits. windows: of the level-4 node, the level-3 node, its two
// subtrees; `share` the level-4 cosines for the left half, sines for the right. Half a block at a
// time, because 16 sums beside the tables are more than the registers hold.
template <bool kCombined, bool kOdd>
POLARQUANT_AVX512_INLINE void expand_half(const ExpansionTables<kCombined>& tables,
                                          const Window* windows, __m512i share,
                                          const std::byte* tile, __m512i weights,
                                          std::size_t num_words, __m512i* sums) {
  const __m512i window4 = load_window<kOdd>(tile, windows[0], num_words);
  const __m512i node = _mm512_mulhrs_epi16(weights, _mm512_permutexvar_epi16(window4, share));
  const __m512i window3 = load_window<kOdd>(tile, windows[1], num_words);
#pragma GCC unroll 2
  for (std::size_t k = 0; k < 2; ++k) {
    const __m512i w = _mm512_mulhrs_epi16(
        node, _mm512_permutexvar_epi16(window3, k == 0 ? tables.cosines[2] : tables.sines[2]));
    const __m512i window = load_window<kOdd>(tile, windows[2 + k], num_words);
    const __m512i second = _mm512_srlv_epi16(window, tables.second_shift);
    if (kCombined) {
#pragma GCC unroll 4
      for (std::size_t i = 0; i < 4; ++i) {
        sums[4 * k + i] = _mm512_dpwssd_epi32(
            sums[4 * k + i], w,
            _mm512_permutex2var_epi16(tables.coordinate[2 * i], i < 2 ? window : second,
                                      tables.coordinate[2 * i + 1]));
      }
    } else {
      const __m512i third = _mm512_srlv_epi16(window, tables.third_shift);
      const __m512i a = _mm512_mulhrs_epi16(w, _mm512_permutexvar_epi16(second, tables.cosines[1]));
      const __m512i b = _mm512_mulhrs_epi16(w, _mm512_permutexvar_epi16(second, tables.sines[1]));
      sums[4 * k] =
          _mm512_dpwssd_epi32(sums[4 * k], a, _mm512_permutexvar_epi16(window, tables.cosines[0]));
      sums[4 * k + 1] = _mm512_dpwssd_epi32(sums[4 * k + 1], a,
                                            _mm512_permutexvar_epi16(window, tables.sines[0]));
      sums[4 * k + 2] = _mm512_dpwssd_epi32(sums[4 * k + 2], b,
                                            _mm512_permutexvar_epi16(third, tables.cosines[0]));
      sums[4 * k + 3] =
          _mm512_dpwssd_epi32(sums[4 * k + 3], b, _mm512_permutexvar_epi16(third, tables.sines[0]));
    }
  }
}

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
  if (!(max > 0.0f)) return 0.0f;
  const float lane_total = 2.0f * _mm512_reduce_max_ps(_mm512_max_ps(totals[0], totals[1]));
  const float scale = std::min(32767.0f / max, 65000.0f / lane_total);
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
  return 1.0f / (scale * 32768.0f);
}

template <bool kCombined, bool kOdd>
POLARQUANT_TARGET_AVX512_TILES void accumulate_tiles_fixed(const CodecTables& tables,
                                                           const std::byte* tiles,
                                                           std::size_t num_tiles,
                                                           const float* weights,
                                                           Lanes* node_weights, float* sums) {
  const TileTables& tile_tables = tables.tile_tables;
  const std::size_t num_bytes = tables.layout.num_bytes();
  const std::size_t num_words = (num_bytes + 1) / 2;
  const std::size_t tile_size = tile_bytes(num_bytes);
  const bool block_radii = tables.num_radii() == tile_tables.num_blocks;
  ExpansionTables<kCombined> expansion;
  load_tables<kCombined>(tile_tables, expansion);
  float factor = 0.0f;
  if (!block_radii) {
    factor = scale_weights(tiles, num_tiles, tile_size, 0, weights, node_weights);
    if (factor == 0.0f) return;
    for (std::size_t k = tile_tables.nodes.size(); k-- > 0;) {
      const TileTables::Node& node = tile_tables.nodes[k];
      const Window window = make_window(node.window);
      const __m512i cosines = load(tile_tables.cosines[node.table]);
      const __m512i sines = load(tile_tables.sines[node.table]);
      for (std::size_t n = 0; n < num_tiles; ++n) {
        const __m512i index = load_window<kOdd>(tiles + n * tile_size, window, num_words);
        const __m512i weight = load(node_weights[node.target * num_tiles + n]);
        _mm512_store_si512(node_weights + node.right * num_tiles + n,
                           _mm512_mulhrs_epi16(weight, _mm512_permutexvar_epi16(index, sines)));
        _mm512_store_si512(node_weights + node.left * num_tiles + n,
                           _mm512_mulhrs_epi16(weight, _mm512_permutexvar_epi16(index, cosines)));
      }
    }
  }
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    const Lanes* block_weights = node_weights + block * num_tiles;
    if (block_radii) {
      factor = scale_weights(tiles, num_tiles, tile_size, block, weights, node_weights);
      block_weights = node_weights;
    }
    if (factor == 0.0f) continue;
    const __m512 scale = _mm512_set1_ps(factor);
    for (std::size_t half = 0; half < 2; ++half) {
      const TileTables::Window* const all =
          tile_tables.windows.data() + block * TileTables::kWindowsPerBlock;
      const Window windows[4] = {make_window(all[6]), make_window(all[4 + half]),
                                 make_window(all[2 * half]), make_window(all[2 * half + 1])};
      const __m512i share = half == 0 ? expansion.cosines[3] : expansion.sines[3];
      __m512i totals[8];
#pragma GCC unroll 8
      for (std::size_t i = 0; i < 8; ++i) totals[i] = _mm512_setzero_si512();
      for (std::size_t n = 0; n < num_tiles; ++n) {
        expand_half<kCombined, kOdd>(expansion, windows, share, tiles + n * tile_size,
                                     load(block_weights[n]), num_words, totals);
      }
#pragma GCC unroll 8
      for (std::size_t i = 0; i < 8; ++i) {
        float* const sum = sums + (block * 16 + half * 8 + i) * kTileTokens;
        _mm512_storeu_ps(
            sum, _mm512_fmadd_ps(_mm512_cvtepi32_ps(totals[i]), scale, _mm512_loadu_ps(sum)));
      }
    }
  }
}

}  // namespace avx512
}  // namespace detail
POLARQUANT_END_NAMESPACE
POLARQUANT_AVX512_END
#endif
