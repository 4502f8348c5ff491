// The kernels for x86-64 with AVX-512.
//
// Scores and weighted sums run on 16-bit fixed point, 32 tokens per register, where the format and
// the machine (VBMI2, VNNI) allow it (FixedPointTables); everything else is the loops, vectorised
// by the compiler.
#pragma once

#include "polarquant/kernels/isa.hpp"
#include "polarquant/kernels/loops.hpp"
#include "polarquant/version.hpp"

#if POLARQUANT_X86
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#define POLARQUANT_TARGET_AVX512_16BIT \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,avx512vnni,avx2,fma")))
#define POLARQUANT_AVX512_INLINE \
  POLARQUANT_TARGET_AVX512_16BIT __attribute__((always_inline)) inline

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

POLARQUANT_DEFINE_KERNELS(Avx512Kernels, Isa::kAvx512, POLARQUANT_TARGET_AVX512);

namespace avx512 {

static_assert(kTileTokens == 32, "a row of a tile is one register of 16-bit words");

POLARQUANT_AVX512_INLINE __m512i load(const Lanes& lanes) {
  return _mm512_load_si512(lanes.values);
}

// Word `word` of the 32 vectors of a tile. The last row of an odd code has bytes.
template <bool kOdd>
POLARQUANT_AVX512_INLINE __m512i load_row(const std::byte* tile, std::size_t word,
                                          std::size_t num_words) {
  const std::byte* const row = tile + word * 64;
  if (kOdd && word + 1 == num_words) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row)));
  }
  return _mm512_loadu_si512(row);
}

// Where a field's window lies, ready for use: kept in registers while tiles stream by.
struct Window {
  std::size_t low_word;
  std::size_t high_word;
  __m512i shift;
};

POLARQUANT_AVX512_INLINE Window make_window(const FixedPointTables::Window& window) {
  return {window.low_word, window.high_word, _mm512_set1_epi16(static_cast<short>(window.shift))};
}

// The 16 bits from a field's first bit on, of 32 vectors.
template <bool kOdd>
POLARQUANT_AVX512_INLINE __m512i load_window(const std::byte* tile, const Window& window,
                                             std::size_t num_words) {
  return _mm512_shrdv_epi16(load_row<kOdd>(tile, window.low_word, num_words),
                            load_row<kOdd>(tile, window.high_word, num_words), window.shift);
}

// a cos + b sin, the index taken from the low bits of `window`.
POLARQUANT_AVX512_INLINE __m512i fold(__m512i a, __m512i b, __m512i window, __m512i cosines,
                                      __m512i sines) {
  return _mm512_add_epi16(_mm512_mulhrs_epi16(a, _mm512_permutexvar_epi16(window, cosines)),
                          _mm512_mulhrs_epi16(b, _mm512_permutexvar_epi16(window, sines)));
}

POLARQUANT_AVX512_INLINE __m512 low_half(__m512i words) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(words)));
}
POLARQUANT_AVX512_INLINE __m512 high_half(__m512i words) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(words, 1)));
}

// The bfloat16 radii of block `block` of 16 vectors, from vector `first` (0 or 16) on.
POLARQUANT_AVX512_INLINE __m512 load_radii(const std::byte* tile, std::size_t block,
                                           std::size_t first) {
  const __m256i words =
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + block * 64 + first * 2));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
}

// ---- Scores ----

// The tables of one rotated query in 16 bits: what a subtree of two levels (or a pair) contributes,
// per index. Scaled so that the whole query has norm 32000: no sum on the way up can overflow.
// prepared[0] becomes the scale's inverse.
POLARQUANT_TARGET_AVX512_16BIT inline void prepare_fixed_point(const CodecTables& tables,
                                                               const float* query,
                                                               float* prepared) {
  const FixedPointTables& fixed = tables.fixed_point;
  float norm2 = 0.0f;
  for (std::size_t i = 0; i < tables.head_dim(); ++i) norm2 += query[i] * query[i];
  const float norm = std::sqrt(norm2);
  const float scale = norm > 0.0f ? 32000.0f / norm : 0.0f;
  prepared[0] = norm / 32000.0f;
  std::int16_t* out = reinterpret_cast<std::int16_t*>(prepared + 16);
  if (fixed.combined) {
    for (std::size_t node = 0; node < tables.head_dim() / 4; ++node) {
      for (int side = 0; side < 2; ++side) {
        const __m512 x =
            _mm512_set1_ps(query[4 * node + 2 * static_cast<std::size_t>(side)] * scale / 32768.0f);
        const __m512 y = _mm512_set1_ps(query[4 * node + 2 * static_cast<std::size_t>(side) + 1] *
                                        scale / 32768.0f);
        const Lanes64& cosine = fixed.coordinate[2 * side];
        const Lanes64& sine = fixed.coordinate[2 * side + 1];
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
  const __m512i c = load(fixed.cosines[0]);
  const __m512i s = load(fixed.sines[0]);
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
  Window windows[FixedPointTables::kWindowsPerBlock];
  __m512i tables[kCombined ? 16 : 8];
  __m512i second_shift;
  __m512i third_shift;
  __m512i cosines[3];  // of levels 2 to 4
  __m512i sines[3];
};

template <bool kCombined>
POLARQUANT_AVX512_INLINE void load_block(const FixedPointTables& fixed, std::size_t block,
                                         const Lanes* query, BlockQuery<kCombined>& out) {
#pragma GCC unroll 7
  for (std::size_t k = 0; k < FixedPointTables::kWindowsPerBlock; ++k) {
    out.windows[k] = make_window(fixed.windows[block * FixedPointTables::kWindowsPerBlock + k]);
  }
  constexpr std::size_t kNumTables = kCombined ? 16 : 8;
#pragma GCC unroll 16
  for (std::size_t k = 0; k < kNumTables; ++k) {
    out.tables[k] = load(query[block * kNumTables + k]);
  }
  out.second_shift = _mm512_set1_epi16(static_cast<short>(fixed.first_bits));
  out.third_shift = _mm512_set1_epi16(static_cast<short>(fixed.first_bits + fixed.second_bits));
#pragma GCC unroll 3
  for (std::size_t k = 0; k < 3; ++k) {
    out.cosines[k] = load(fixed.cosines[k + 1]);
    out.sines[k] = load(fixed.sines[k + 1]);
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
POLARQUANT_TARGET_AVX512_16BIT void score_tiles(const CodecTables& tables, const std::byte* tiles,
                                                std::size_t num_tiles, const float* prepared,
                                                Lanes* values, float* scores) {
  const FixedPointTables& fixed = tables.fixed_point;
  const std::size_t num_bytes = tables.layout.num_bytes();
  const std::size_t num_words = (num_bytes + 1) / 2;
  const std::size_t tile_size = tile_bytes(num_bytes);
  const float* const offset = prepared + tables.fixed_point_offset();
  const __m512 inverse_scale = _mm512_set1_ps(offset[0]);
  const Lanes* const query = reinterpret_cast<const Lanes*>(offset + 16);
  const bool block_radii = tables.num_radii() == fixed.num_blocks;
  if (block_radii) std::fill_n(scores, num_tiles * kTileTokens, 0.0f);
  for (std::size_t block = 0; block < fixed.num_blocks; ++block) {
    BlockQuery<kCombined> block_query;
    load_block<kCombined>(fixed, block, query, block_query);
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
  for (const FixedPointTables::Node& node : fixed.nodes) {
    const Window window = make_window(node.window);
    const __m512i cosines = load(*node.cosines);
    const __m512i sines = load(*node.sines);
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

// ---- Weighted sums ----

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
POLARQUANT_AVX512_INLINE void load_tables(const FixedPointTables& fixed,
                                          ExpansionTables<kCombined>& out) {
  if (kCombined) {
#pragma GCC unroll 4
    for (std::size_t i = 0; i < 4; ++i) {
      out.coordinate[2 * i] = load(fixed.coordinate[i].low);
      out.coordinate[2 * i + 1] = load(fixed.coordinate[i].high);
    }
  }
  out.second_shift = _mm512_set1_epi16(static_cast<short>(fixed.first_bits));
  out.third_shift = _mm512_set1_epi16(static_cast<short>(fixed.first_bits + fixed.second_bits));
#pragma GCC unroll 4
  for (std::size_t k = 0; k < 4; ++k) {
    out.cosines[k] = load(fixed.cosines[k]);
    out.sines[k] = load(fixed.sines[k]);
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
POLARQUANT_TARGET_AVX512_16BIT void accumulate_tiles(const CodecTables& tables,
                                                     const std::byte* tiles, std::size_t num_tiles,
                                                     const float* weights, Lanes* node_weights,
                                                     float* sums) {
  const FixedPointTables& fixed = tables.fixed_point;
  const std::size_t num_bytes = tables.layout.num_bytes();
  const std::size_t num_words = (num_bytes + 1) / 2;
  const std::size_t tile_size = tile_bytes(num_bytes);
  const bool block_radii = tables.num_radii() == fixed.num_blocks;
  ExpansionTables<kCombined> expansion;
  load_tables<kCombined>(fixed, expansion);
  float factor = 0.0f;
  if (!block_radii) {
    factor = scale_weights(tiles, num_tiles, tile_size, 0, weights, node_weights);
    if (factor == 0.0f) return;
    for (std::size_t k = fixed.nodes.size(); k-- > 0;) {
      const FixedPointTables::Node& node = fixed.nodes[k];
      const Window window = make_window(node.window);
      const __m512i cosines = load(*node.cosines);
      const __m512i sines = load(*node.sines);
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
  for (std::size_t block = 0; block < fixed.num_blocks; ++block) {
    const Lanes* block_weights = node_weights + block * num_tiles;
    if (block_radii) {
      factor = scale_weights(tiles, num_tiles, tile_size, block, weights, node_weights);
      block_weights = node_weights;
    }
    if (factor == 0.0f) continue;
    const __m512 scale = _mm512_set1_ps(factor);
    for (std::size_t half = 0; half < 2; ++half) {
      const FixedPointTables::Window* const all =
          fixed.windows.data() + block * FixedPointTables::kWindowsPerBlock;
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

// ---- Entry points ----

// The kernels of this file, for formats whose FixedPointTables are usable.
struct FixedPointKernels {
  static void prepare_query(const CodecTables& tables, const float* query, float* prepared) {
    Avx512Kernels<float>::prepare_query(tables, query, prepared);
    prepare_fixed_point(tables, query, prepared + tables.fixed_point_offset());
  }

  static void score_tiles(const CodecTables& tables, const std::byte* tiles, std::size_t num_tiles,
                          Rows<const float> prepared, const loops::TileScratch<float>& scratch,
                          Rows<float> scores) {
    const bool odd = tables.layout.num_bytes() % 2 != 0;
    const auto kernel =
        tables.fixed_point.combined
            ? (odd ? avx512::score_tiles<true, true> : avx512::score_tiles<true, false>)
            : (odd ? avx512::score_tiles<false, true> : avx512::score_tiles<false, false>);
    for (std::size_t row = 0; row < prepared.count; ++row) {
      kernel(tables, tiles, num_tiles, prepared.row(row), reinterpret_cast<Lanes*>(scratch.values),
             scores.row(row));
    }
  }

  static void accumulate_tiles(const CodecTables& tables, const std::byte* tiles,
                               std::size_t num_tiles, Rows<const float> weights,
                               const loops::TileScratch<float>& scratch, Rows<float> sums) {
    const bool odd = tables.layout.num_bytes() % 2 != 0;
    const auto kernel =
        tables.fixed_point.combined
            ? (odd ? avx512::accumulate_tiles<true, true> : avx512::accumulate_tiles<true, false>)
            : (odd ? avx512::accumulate_tiles<false, true>
                   : avx512::accumulate_tiles<false, false>);
    for (std::size_t row = 0; row < weights.count; ++row) {
      kernel(tables, tiles, num_tiles, weights.row(row), reinterpret_cast<Lanes*>(scratch.values),
             sums.row(row));
    }
  }
};

inline bool has_fixed_point() {
  return __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vnni");
}

inline Kernels<float> fixed_point_kernels() {
  Kernels<float> kernels = Avx512Kernels<float>::table();
  kernels.name = "avx512, 16-bit";
  kernels.prepare_query = FixedPointKernels::prepare_query;
  kernels.score_tiles = FixedPointKernels::score_tiles;
  kernels.accumulate_tiles = FixedPointKernels::accumulate_tiles;
  return kernels;
}

}  // namespace avx512
}  // namespace detail
POLARQUANT_END_NAMESPACE
#endif
