// The kernels for x86-64 with AVX-512.
//
// Scores and weighted sums run in 16-bit fixed point where that is asked for and the format and the
// machine allow it; everything else is the loops, vectorised by the compiler.
#pragma once

#include <cstddef>

#include "polarquant/codec_tables.hpp"
#include "polarquant/fixed_point_tables.hpp"
#include "polarquant/kernels/avx512_scores.hpp"
#include "polarquant/kernels/avx512_sums.hpp"
#include "polarquant/kernels/isa.hpp"
#include "polarquant/kernels/loops.hpp"
#include "polarquant/rows.hpp"
#include "polarquant/version.hpp"

#if POLARQUANT_X86
POLARQUANT_BEGIN_NAMESPACE
namespace detail {

POLARQUANT_DEFINE_KERNELS(Avx512Kernels, Isa::kAvx512, POLARQUANT_TARGET_AVX512);

namespace avx512 {

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
