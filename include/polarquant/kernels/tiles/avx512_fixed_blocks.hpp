// From codes to numbers of 16 bits on AVX-512: the weights of blocks and the coordinates in them.
//
// Fractions have 15 bits; a vector is decoded to norm 1, beside the float that is its norm.
#pragma once

#include <cstddef>
#include <cstdint>

#include "polarquant/base/isa.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/codes/tile_tables.hpp"
#include "polarquant/kernels/tiles/fixed_common.hpp"
#include "polarquant/kernels/words/avx512.hpp"

#if POLARQUANT_X86
#include <immintrin.h>

POLARQUANT_AVX512_BEGIN
POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace avx512 {

inline constexpr std::size_t kSharedRows = 4;  // query rows whose sums share the registers

// Cosines and sines of levels 1 to 4, and how far the indices of a subtree of two levels lie from
// its window's first bit: that of level 2, then the second of level 1.
struct FixedLevels {
  __m512i cosines[4];
  __m512i sines[4];
  __m512i second_shift;
  __m512i third_shift;
};

POLARQUANT_AVX512_INLINE FixedLevels load_fixed_levels(const TileTables& tile_tables) {
  FixedLevels levels;
#pragma GCC unroll 4
  for (std::size_t k = 0; k < 4; ++k) {
    levels.cosines[k] = load(tile_tables.cosines[k].low);
    levels.sines[k] = load(tile_tables.sines[k].low);
  }
  levels.second_shift = _mm512_set1_epi16(static_cast<short>(tile_tables.first_bits));
  levels.third_shift =
      _mm512_set1_epi16(static_cast<short>(tile_tables.first_bits + tile_tables.second_bits));
  return levels;
}

POLARQUANT_AVX512_INLINE __m512i times(__m512i a, __m512i b) { return _mm512_mulhrs_epi16(a, b); }

// Weights of blocks, one radius: the trees of a run from the root down to the blocks. weights:
// [num_blocks, run.count]; radii: [run.count, kTileTokens].
POLARQUANT_AVX512_INLINE void weigh_blocks_from_root(const TileTables& tile_tables,
                                                     const WordRun& run, Lanes* weights,
                                                     float* radii) {
  for (std::size_t n = 0; n < run.count; ++n) {
    const std::byte* const tile = run.tiles + n * run.tile_size;
    _mm512_storeu_ps(radii + n * 32, load_radii(tile, 0, 0));
    _mm512_storeu_ps(radii + n * 32 + 16, load_radii(tile, 0, 16));
    store(weights[n], _mm512_set1_epi16(32767));
  }
  for (std::size_t k = tile_tables.nodes.size(); k-- > 0;) {
    const TileTables::Node& node = tile_tables.nodes[k];
    const WindowPlace place = place_of(node.window);
    const Lanes64& cosines = tile_tables.cosines[node.table];
    const Lanes64& sines = tile_tables.sines[node.table];
    Lanes* const target = weights + node.target * run.count;
    Lanes* const left = weights + node.left * run.count;
    Lanes* const right = weights + node.right * run.count;
    for (std::size_t n = 0; n < run.count; ++n) {
      const __m512i index = place.load(run.tiles + n * run.tile_size);
      const __m512i weight = load(target[n]);
      const bool is_wide = node.num_bits > 5;
      store(right[n],
            times(weight, is_wide ? look_up(sines, index) : look_up(load(sines.low), index)));
      store(left[n],
            times(weight, is_wide ? look_up(cosines, index) : look_up(load(cosines.low), index)));
    }
  }
}

// Numbers in the order of vectors: what `low` and `high`, unpacked from a register of words, hold
// of 16 vectors from `first` (0 or 16) on.
POLARQUANT_AVX512_INLINE __m512 in_order(__m512 low, __m512 high, std::size_t first) {
  const __m512i order = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  return _mm512_permutex2var_ps(
      low, _mm512_add_epi32(order, _mm512_set1_epi32(static_cast<int>(first) / 2)), high);
}

// Bfloat16 words of vectors 1, 3, .. (k = 1) or 0, 2, .. (k = 0) as floats.
POLARQUANT_AVX512_INLINE __m512 every_second(__m512i words, std::size_t k) {
  return _mm512_castsi512_ps(k == 0 ? _mm512_slli_epi32(words, 16)
                                    : _mm512_and_si512(words, _mm512_set1_epi32(-65536)));
}

// Weights of blocks of one tile, a radius per block: the radii over their norm. weights: the block
// after is `stride` registers on. radii: [kTileTokens], the norms.
POLARQUANT_AVX512_INLINE void weigh_blocks_by_radii(const TileTables& tile_tables,
                                                    const std::byte* tile, Lanes* weights,
                                                    std::size_t stride, float* radii) {
  // Radii are not negative, so their bits compare as they do. The least normal number stands in for
  // vectors of zeros.
  __m512i largest = _mm512_set1_epi16(0x0080);
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    largest = _mm512_max_epu16(largest, _mm512_load_si512(tile + block * 64));
  }
  // Scaled by a power of two, so that no square over- or underflows.
  __m512 exponent[2], scale[2], norm2[2];
  for (std::size_t k = 0; k < 2; ++k) {
    exponent[k] = _mm512_getexp_ps(every_second(largest, k));
    scale[k] =
        _mm512_scalef_ps(_mm512_set1_ps(1.0f), _mm512_sub_ps(_mm512_setzero_ps(), exponent[k]));
    norm2[k] = _mm512_set1_ps(0x1p-126f);
  }
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    const __m512i words = _mm512_load_si512(tile + block * 64);
    for (std::size_t k = 0; k < 2; ++k) {
      const __m512 scaled = _mm512_mul_ps(every_second(words, k), scale[k]);
      norm2[k] = _mm512_fmadd_ps(scaled, scaled, norm2[k]);
    }
  }
  __m512 factor[2], norm[2];
  for (std::size_t k = 0; k < 2; ++k) {
    // One step of Newton's on 1 / sqrt(norm2).
    const __m512 estimate = _mm512_rsqrt14_ps(norm2[k]);
    const __m512 half = _mm512_mul_ps(_mm512_mul_ps(norm2[k], _mm512_set1_ps(0.5f)), estimate);
    const __m512 inverse =
        _mm512_mul_ps(estimate, _mm512_fnmadd_ps(half, estimate, _mm512_set1_ps(1.5f)));
    norm[k] = _mm512_scalef_ps(_mm512_mul_ps(norm2[k], inverse), exponent[k]);
    factor[k] = _mm512_mul_ps(_mm512_set1_ps(32767.0f), _mm512_mul_ps(scale[k], inverse));
  }
  for (std::size_t first = 0; first < 32; first += 16) {
    const __m512i order = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    _mm512_storeu_ps(
        radii + first,
        _mm512_permutex2var_ps(
            norm[0], _mm512_add_epi32(order, _mm512_set1_epi32(static_cast<int>(first) / 2)),
            norm[1]));
  }
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    const __m512i words = _mm512_load_si512(tile + block * 64);
    const __m512i even = _mm512_cvtps_epi32(_mm512_mul_ps(every_second(words, 0), factor[0]));
    const __m512i odd = _mm512_cvtps_epi32(_mm512_mul_ps(every_second(words, 1), factor[1]));
    store(weights[block * stride],
          _mm512_mask_blend_epi16(0xaaaaaaaau, even, _mm512_slli_epi32(odd, 16)));
  }
}

// weights: [num_blocks, run.count]; radii: [run.count, kTileTokens], the norms of the vectors.
POLARQUANT_AVX512_INLINE void weigh_blocks_fixed(const CodecTables& tables, const WordRun& run,
                                                 Lanes* weights, float* radii) {
  if (tables.num_radii() == 1) {
    weigh_blocks_from_root(tables.tile_tables, run, weights, radii);
    return;
  }
  for (std::size_t n = 0; n < run.count; ++n) {
    weigh_blocks_by_radii(tables.tile_tables, run.tiles + n * run.tile_size, weights + n, run.count,
                          radii + n * 32);
  }
}

// Where the windows of a block lie.
struct BlockPlaces {
  WindowPlace windows[TileTables::kWindowsPerBlock];
};
POLARQUANT_AVX512_INLINE BlockPlaces places_of(const TileTables& tile_tables, std::size_t block) {
  BlockPlaces places;
#pragma GCC unroll 7
  for (std::size_t k = 0; k < TileTables::kWindowsPerBlock; ++k) {
    places.windows[k] = place_of(tile_tables.windows[block * TileTables::kWindowsPerBlock + k]);
  }
  return places;
}

// children[2 k], children[2 k + 1] = weights[k] times the cosine, the sine of node k.
template <std::size_t kCount>
POLARQUANT_AVX512_INLINE void descend(const __m512i* weights, const __m512i* indices,
                                      __m512i cosines, __m512i sines, __m512i* children) {
  __m512i factors[2 * kCount];
#pragma GCC unroll 8
  for (std::size_t k = 0; k < kCount; ++k) {
    factors[2 * k] = look_up(cosines, indices[k]);
    factors[2 * k + 1] = look_up(sines, indices[k]);
  }
#pragma GCC unroll 8
  for (std::size_t k = 0; k < kCount; ++k) {
    children[2 * k] = times(weights[k], factors[2 * k]);
    children[2 * k + 1] = times(weights[k], factors[2 * k + 1]);
  }
}

// out[i] = coordinate i of a block of 16: its weight times the cosines and sines down to it. The
// block's windows: four subtrees of two levels, two nodes of level 3, one of level 4.
POLARQUANT_AVX512_INLINE void expand_block(const FixedLevels& levels, const __m512i* windows,
                                           __m512i weight, Lanes* out) {
  __m512i weights3[2], weights2[4], weights1[8], index2[4], index1[8];
  descend<1>(&weight, windows + 6, levels.cosines[3], levels.sines[3], weights3);
  descend<2>(weights3, windows + 4, levels.cosines[2], levels.sines[2], weights2);
#pragma GCC unroll 4
  for (std::size_t k = 0; k < 4; ++k) {
    index2[k] = _mm512_srlv_epi16(windows[k], levels.second_shift);
    index1[2 * k] = windows[k];
    index1[2 * k + 1] = _mm512_srlv_epi16(windows[k], levels.third_shift);
  }
  descend<4>(weights2, index2, levels.cosines[1], levels.sines[1], weights1);
#pragma GCC unroll 8
  for (std::size_t k = 0; k < 8; ++k) {
    store(out[2 * k], times(weights1[k], look_up(levels.cosines[0], index1[k])));
    store(out[2 * k + 1], times(weights1[k], look_up(levels.sines[0], index1[k])));
  }
}

// Decodes a block of a run: out[16 n + i] = coordinate i. weights: [run.count], its own.
POLARQUANT_TARGET_AVX512_TILES inline void expand_blocks(const TileTables& tile_tables,
                                                         const WordRun& run, std::size_t block,
                                                         const Lanes* weights, Lanes* out) {
  const BlockPlaces places = places_of(tile_tables, block);
  const FixedLevels levels = load_fixed_levels(tile_tables);
  for (std::size_t n = 0; n < run.count; ++n) {
    run.prefetch(block * run.count + n);
    __m512i windows[TileTables::kWindowsPerBlock];
#pragma GCC unroll 7
    for (std::size_t k = 0; k < TileTables::kWindowsPerBlock; ++k) {
      windows[k] = places.windows[k].load(run.tiles + n * run.tile_size);
    }
    expand_block(levels, windows, load(weights[n]), out + 16 * n);
  }
}

// Decodes two blocks of a run, their words interleaved: out[(2 n + half) 16 + i] = coordinate i of
// block `even` in even words, of block `odd` in odd ones, of half of the 32 vectors in the order of
// unpacking.
POLARQUANT_TARGET_AVX512_TILES inline void expand_block_pairs(const TileTables& tile_tables,
                                                              const WordRun& run, std::size_t even,
                                                              std::size_t odd, const Lanes* weights,
                                                              Lanes* out) {
  const BlockPlaces even_places = places_of(tile_tables, even);
  const BlockPlaces odd_places = places_of(tile_tables, odd);
  const FixedLevels levels = load_fixed_levels(tile_tables);
  for (std::size_t n = 0; n < run.count; ++n) {
    const std::byte* const tile = run.tiles + n * run.tile_size;
    run.prefetch(even * run.count + n);
    if (odd != even) run.prefetch(odd * run.count + n);
    __m512i low[TileTables::kWindowsPerBlock];
    __m512i high[TileTables::kWindowsPerBlock];
#pragma GCC unroll 7
    for (std::size_t k = 0; k < TileTables::kWindowsPerBlock; ++k) {
      const __m512i even_window = even_places.windows[k].load(tile);
      const __m512i odd_window = odd_places.windows[k].load(tile);
      low[k] = _mm512_unpacklo_epi16(even_window, odd_window);
      high[k] = _mm512_unpackhi_epi16(even_window, odd_window);
    }
    const __m512i even_weights = load(weights[even * run.count + n]);
    const __m512i odd_weights = load(weights[odd * run.count + n]);
    expand_block(levels, low, _mm512_unpacklo_epi16(even_weights, odd_weights), out + 32 * n);
    expand_block(levels, high, _mm512_unpackhi_epi16(even_weights, odd_weights), out + 32 * n + 16);
  }
}

// a cos + b sin.
POLARQUANT_AVX512_INLINE __m512i fold(__m512i a, __m512i b, __m512i index, __m512i cosines,
                                      __m512i sines) {
  return _mm512_add_epi16(times(a, look_up(cosines, index)), times(b, look_up(sines, index)));
}

}  // namespace avx512
}  // namespace detail
POLARQUANT_END_NAMESPACE
POLARQUANT_AVX512_END
#endif
