// The kernels for x86-64 with AVX-512.
//
// Scores and weighted sums on whole tiles have kernels of their own, in float and in 16-bit fixed
// point, where the format (TileTables) and the machine (VBMI2, VNNI) allow it; everything else is
// the loops, vectorised by the compiler.
#pragma once

#include <algorithm>
#include <cstddef>

#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/kernels/words/avx512.hpp"
#include "polarquant/kernels/tiles/avx512_fixed_scores.hpp"
#include "polarquant/kernels/tiles/avx512_fixed_sums.hpp"
#include "polarquant/kernels/tiles/avx512_float.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/kernels/kernel_table.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/codes/tile_tables.hpp"
#include "polarquant/base/version.hpp"

#if POLARQUANT_X86
#include <immintrin.h>

POLARQUANT_AVX512_BEGIN
POLARQUANT_BEGIN_NAMESPACE
namespace detail {

struct Avx512Roots {
  POLARQUANT_TARGET_AVX512 static void take(float* values, std::size_t count) {
    std::size_t t = 0;
    for (; t + 16 <= count; t += 16) {
      _mm512_storeu_ps(values + t, _mm512_sqrt_ps(_mm512_loadu_ps(values + t)));
    }
    loops::PlainRoots::take(values + t, count - t);
  }
};

POLARQUANT_DEFINE_KERNELS(Avx512Kernels, Isa::kAvx512, POLARQUANT_TARGET_AVX512, Avx512Roots);

namespace avx512 {

inline bool has_tile_kernels() {
  return __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vnni");
}

// The kernels on tiles, for formats whose TileTables are usable.
template <Arithmetic kArithmetic>
struct TileKernels {
  static constexpr bool kFixed = kArithmetic == Arithmetic::kFixedPoint;

  static Kernels<float> table() {
    Kernels<float> kernels = Avx512Kernels<float>::table();
    kernels.name = kFixed ? "avx512 tiles, 16-bit" : "avx512 tiles";
    kernels.prepare_query = prepare_query;
    kernels.score_tiles = score_tiles;
    kernels.accumulate_tiles = accumulate_tiles;
    return kernels;
  }

 private:
  static void prepare_query(const CodecTables& tables, const float* query, float* prepared) {
    Avx512Kernels<float>::prepare_query(tables, query, prepared);
    float* const own = prepared + tables.tile_tables_offset();
    if constexpr (kFixed) {
      prepare_query_fixed(tables, query, own);
    } else {
      std::copy_n(query, tables.head_dim(), own);
    }
  }

  static void score_tiles(const CodecTables& tables, const std::byte* tiles, std::size_t num_tiles,
                          Rows<const float> prepared, const loops::TileScratch<float>& scratch,
                          Rows<float> scores) {
    const Rows<const float> own = {prepared.data + tables.tile_tables_offset(), prepared.count,
                                   prepared.stride};
    if constexpr (kFixed) {
      score_tiles_fixed(tables, tiles, num_tiles, own, scratch, scores);
    } else {
      const auto kernel =
          needs_wide_tables(tables) ? score_tiles_float<true> : score_tiles_float<false>;
      kernel(tables, tiles, num_tiles, own, scratch.kernel, scores);
    }
  }

  static void accumulate_tiles(const CodecTables& tables, const std::byte* tiles,
                               std::size_t num_tiles, Rows<const float> weights,
                               const loops::TileScratch<float>& scratch, Rows<float> sums) {
    if constexpr (kFixed) {
      accumulate_tiles_fixed(tables, tiles, num_tiles, weights, scratch, sums);
    } else {
      const auto kernel =
          needs_wide_tables(tables) ? accumulate_tiles_float<true> : accumulate_tiles_float<false>;
      kernel(tables, tiles, num_tiles, weights, scratch.kernel, sums);
    }
  }
};

}  // namespace avx512
}  // namespace detail
POLARQUANT_END_NAMESPACE
POLARQUANT_AVX512_END
#endif
