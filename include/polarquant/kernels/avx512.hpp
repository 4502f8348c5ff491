// The kernels for x86-64 with AVX-512.
//
// Scores and weighted sums on whole tiles have kernels of their own, in float and in 16-bit fixed
// point, where the format (TileTables) and the machine (VBMI2, VNNI) allow it; everything else is
// the loops, vectorised by the compiler.
#pragma once

#include <algorithm>
#include <cstddef>

#include "polarquant/codec_tables.hpp"
#include "polarquant/kernels/avx512_fixed_scores.hpp"
#include "polarquant/kernels/avx512_fixed_sums.hpp"
#include "polarquant/kernels/avx512_float.hpp"
#include "polarquant/kernels/isa.hpp"
#include "polarquant/kernels/loops.hpp"
#include "polarquant/rows.hpp"
#include "polarquant/tile_tables.hpp"
#include "polarquant/version.hpp"

#if POLARQUANT_X86
POLARQUANT_BEGIN_NAMESPACE
namespace detail {

POLARQUANT_DEFINE_KERNELS(Avx512Kernels, Isa::kAvx512, POLARQUANT_TARGET_AVX512);

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
      prepare_query_float(tables, query, own + 16);
    }
  }

  template <bool kShared>
  static void score_rows(const CodecTables& tables, const std::byte* tiles, std::size_t num_tiles,
                         Rows<const float> prepared, const loops::TileScratch<float>& scratch,
                         Rows<float> scores) {
    const bool odd = tables.layout.num_bytes() % 2 != 0;
    const auto kernel = tables.tile_tables.combined
                            ? (odd ? score_tiles_fixed<true, true, kShared>
                                   : score_tiles_fixed<true, false, kShared>)
                            : (odd ? score_tiles_fixed<false, true, kShared>
                                   : score_tiles_fixed<false, false, kShared>);
    kernel(tables, tiles, num_tiles, prepared, reinterpret_cast<Lanes*>(scratch.values), scores);
  }

  static void score_tiles(const CodecTables& tables, const std::byte* tiles, std::size_t num_tiles,
                          Rows<const float> prepared, const loops::TileScratch<float>& scratch,
                          Rows<float> scores) {
    if constexpr (kFixed) {
      for (std::size_t row = 0; row < prepared.count; row += kMaxSharedRows) {
        const std::size_t count = std::min(kMaxSharedRows, prepared.count - row);
        const auto score = count == 1 ? score_rows<false> : score_rows<true>;
        score(tables, tiles, num_tiles, {prepared.row(row), count, prepared.stride}, scratch,
              {scores.row(row), count, scores.stride});
      }
    } else {
      const bool odd = tables.layout.num_bytes() % 2 != 0;
      const auto kernel =
          needs_wide_tables(tables)
              ? (odd ? score_tiles_float<true, true> : score_tiles_float<true, false>)
              : (odd ? score_tiles_float<false, true> : score_tiles_float<false, false>);
      for (std::size_t row = 0; row < prepared.count; ++row) {
        kernel(tables, tiles, num_tiles, prepared.row(row), scratch.values, scores.row(row));
      }
    }
  }

  template <std::size_t kRows>
  static void accumulate_rows(const CodecTables& tables, const std::byte* tiles,
                              std::size_t num_tiles, Rows<const float> weights,
                              const loops::TileScratch<float>& scratch, Rows<float> sums) {
    const bool odd = tables.layout.num_bytes() % 2 != 0;
    const auto kernel = tables.tile_tables.combined
                            ? (odd ? accumulate_tiles_fixed<true, true, kRows>
                                   : accumulate_tiles_fixed<true, false, kRows>)
                            : (odd ? accumulate_tiles_fixed<false, true, kRows>
                                   : accumulate_tiles_fixed<false, false, kRows>);
    kernel(tables, tiles, num_tiles, weights, reinterpret_cast<Lanes*>(scratch.values), sums);
  }

  static void accumulate_tiles(const CodecTables& tables, const std::byte* tiles,
                               std::size_t num_tiles, Rows<const float> weights,
                               const loops::TileScratch<float>& scratch, Rows<float> sums) {
    if constexpr (kFixed) {
      std::size_t row = 0;
      for (; row + 2 <= weights.count; row += 2) {
        accumulate_rows<2>(tables, tiles, num_tiles, {weights.row(row), 2, weights.stride}, scratch,
                           {sums.row(row), 2, sums.stride});
      }
      if (row < weights.count) {
        accumulate_rows<1>(tables, tiles, num_tiles, {weights.row(row), 1, weights.stride}, scratch,
                           {sums.row(row), 1, sums.stride});
      }
    } else {
      const bool odd = tables.layout.num_bytes() % 2 != 0;
      const auto kernel =
          needs_wide_tables(tables)
              ? (odd ? accumulate_tiles_float<true, true> : accumulate_tiles_float<true, false>)
              : (odd ? accumulate_tiles_float<false, true> : accumulate_tiles_float<false, false>);
      for (std::size_t row = 0; row < weights.count; ++row) {
        kernel(tables, tiles, num_tiles, weights.row(row), scratch.values, sums.row(row));
      }
    }
  }
};

}  // namespace avx512
}  // namespace detail
POLARQUANT_END_NAMESPACE
#endif
