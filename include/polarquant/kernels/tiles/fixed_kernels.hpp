// The entry points of the kernels on tiles in 16-bit fixed point, for AVX2 and NEON.
#pragma once

#include <cstddef>

#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/kernels/tiles/fixed_scores.hpp"
#include "polarquant/kernels/tiles/fixed_sums.hpp"
#include "polarquant/kernels/kernel_table.hpp"
#include "polarquant/kernels/words/words.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"

#if POLARQUANT_HAS_WORDS
POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace words {

// For formats whose TileTables are usable. Loops: the kernels of the same instruction set for
// everything else.
template <typename Loops>
struct FixedKernels {
  static Kernels<float> table(const char* name) {
    Kernels<float> kernels = Loops::table();
    kernels.name = name;
    kernels.prepare_query = prepare_query;
    kernels.score_tiles = score_tiles;
    kernels.accumulate_tiles = accumulate_tiles;
    return kernels;
  }

 private:
  static void prepare_query(const CodecTables& tables, const float* query, float* prepared) {
    Loops::prepare_query(tables, query, prepared);
    words::prepare_query(tables, query, prepared + tables.tile_tables_offset());
  }
  static void score_tiles(const CodecTables& tables, const std::byte* tiles, std::size_t num_tiles,
                          Rows<const float> prepared, const loops::TileScratch<float>& scratch,
                          Rows<float> scores) {
    words::score_tiles(
        tables, tiles, num_tiles,
        {prepared.data + tables.tile_tables_offset(), prepared.count, prepared.stride},
        scratch.kernel, scores);
  }
  static void accumulate_tiles(const CodecTables& tables, const std::byte* tiles,
                               std::size_t num_tiles, Rows<const float> weights,
                               const loops::TileScratch<float>& scratch, Rows<float> sums) {
    words::accumulate_tiles(tables, tiles, num_tiles, weights, scratch.kernel, sums);
  }
};

}  // namespace words
}  // namespace detail
POLARQUANT_END_NAMESPACE
#endif
