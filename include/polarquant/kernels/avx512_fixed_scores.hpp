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
#include "polarquant/tile_tables.hpp"
#include "polarquant/version.hpp"

#if POLARQUANT_X86
#include <immintrin.h>

POLARQUANT_AVX512_BEGIN
POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace avx512 {

// The tables of one rotated query in 16 bits: what a subtree of two levels (or a pair) contributes,
// per index. Scaled so that the whole query has norm 32000: no sum on the way up can overflow.
// prepared[0] becomes the scale's inverse.
POLARQUANT_TARGET_AVX512_TILES inline void prepare_query_fixed(const CodecTables& tables,
                                                               const float* query,
                                                               float* prepared) {
  const TileTables& tile_tables = tables.tile_tables;
  float norm2 = 0.0f;
  for (std::size_t i = 0; i < tables.head_dim(); ++i) norm2 += query[i] * query[i];
  const float norm = std::sqrt(norm2);
  const float scale = norm > 0.0f ? 32000.0f / norm : 0.0f;
  prepared[0] = norm / 32000.0f;
  std::int16_t* out = reinterpret_cast<std::int16_t*>(prepared + 16);
  if (tile_tables.combined) {
    for (std::size_t node = 0; node < tables.head_dim() / 4; ++node) {
      for (int side = 0; side < 2; ++side) {
        const __m512 x =
            _mm512_set1_ps(query[4 * node + 2 * static_cast<std::size_t>(side)] * scale / 32768.0f);
        const __m512 y = _mm512_set1_ps(query[4 * node + 2 * static_cast<std::size_t>(side) + 1] *
                                        scale / 32768.0f);
        const Lanes64& cosine = tile_tables.coordinate[2 * side];
        const Lanes64& sine = tile_tables.coordinate[2 * side + 1];
        for (const auto half : {&Lanes64::low, &Lanes64::high}) {
          const __m512i c = load(cosine.*half);
          const __m512i s = load(sine.*half);
          const __m512 low = _mm512_fmadd_ps(x, low_half(c), _mm512_mul_ps(y, low_half(s)));
          const __m512 high = _mm512_fmadd_ps(x, high_half(c), _mm512_mul_ps(y, high_half(s)));
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                              _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(low)));
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16),
                              _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(high)));
          out += 32;
        }
      }
    }
    return;
  }
  const __m512i c = load(tile_tables.cosines[0]);
  const __m512i s = load(tile_tables.sines[0]);
  for (std::size_t pair = 0; pair < tables.head_dim() / 2; ++pair) {
    const __m512 x = _mm512_set1_ps(query[2 * pair] * scale / 32768.0f);
    const __m512 y = _mm512_set1_ps(query[2 * pair + 1] * scale / 32768.0f);
    const __m512 low = _mm512_fmadd_ps(x, low_half(c), _mm512_mul_ps(y, low_half(s)));
    const __m512 high = _mm512_fmadd_ps(x, high_half(c), _mm512_mul_ps(y, high_half(s)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                        _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(low)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16),
                        _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(high)));
    out += 32;
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

template <bool kCombined, bool kOdd>
POLARQUANT_TARGET_AVX512_TILES void score_tiles_fixed(const CodecTables& tables,
                                                      const std::byte* tiles, std::size_t num_tiles,
                                                      const float* prepared, Lanes* values,
                                                      float* scores) {
  const TileTables& tile_tables = tables.tile_tables;
  const std::size_t num_bytes = tables.layout.num_bytes();
  const std::size_t num_words = (num_bytes + 1) / 2;
  const std::size_t tile_size = tile_bytes(num_bytes);
  const float* const offset = prepared + tables.tile_tables_offset();
  const __m512 inverse_scale = _mm512_set1_ps(offset[0]);
  const Lanes* const query = reinterpret_cast<const Lanes*>(offset + 16);
  const bool block_radii = tables.num_radii() == tile_tables.num_blocks;
  if (block_radii) std::fill_n(scores, num_tiles * kTileTokens, 0.0f);
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    BlockQuery<kCombined> block_query;
    load_block<kCombined>(tile_tables, block, query, block_query);
    for (std::size_t n = 0; n < num_tiles; ++n) {
      const std::byte* const tile = tiles + n * tile_size;
      const __m512i value = contract_block<kCombined, kOdd>(block_query, tile, num_words);
      if (!block_radii) {
        _mm512_store_si512(values + block * num_tiles + n, value);
        continue;
      }
      float* const out = scores + n * kTileTokens;
      const __m512 low = _mm512_mul_ps(inverse_scale, load_radii(tile, block, 0));
      const __m512 high = _mm512_mul_ps(inverse_scale, load_radii(tile, block, 16));
      _mm512_storeu_ps(out, _mm512_fmadd_ps(low, low_half(value), _mm512_loadu_ps(out)));
      _mm512_storeu_ps(out + 16,
                       _mm512_fmadd_ps(high, high_half(value), _mm512_loadu_ps(out + 16)));
    }
  }
  if (block_radii) return;
  for (const TileTables::Node& node : tile_tables.nodes) {
    const Window window = make_window(node.window);
    const __m512i cosines = load(tile_tables.cosines[node.table]);
    const __m512i sines = load(tile_tables.sines[node.table]);
    for (std::size_t n = 0; n < num_tiles; ++n) {
      _mm512_store_si512(
          values + node.target * num_tiles + n,
          fold(load(values[node.left * num_tiles + n]), load(values[node.right * num_tiles + n]),
               load_window<kOdd>(tiles + n * tile_size, window, num_words), cosines, sines));
    }
  }
  for (std::size_t n = 0; n < num_tiles; ++n) {
    const std::byte* const tile = tiles + n * tile_size;
    const __m512i root = load(values[n]);
    float* const out = scores + n * kTileTokens;
    _mm512_storeu_ps(
        out, _mm512_mul_ps(_mm512_mul_ps(inverse_scale, load_radii(tile, 0, 0)), low_half(root)));
    _mm512_storeu_ps(out + 16, _mm512_mul_ps(_mm512_mul_ps(inverse_scale, load_radii(tile, 0, 16)),
                                             high_half(root)));
  }
}

}  // namespace avx512
}  // namespace detail
POLARQUANT_END_NAMESPACE
POLARQUANT_AVX512_END
#endif
