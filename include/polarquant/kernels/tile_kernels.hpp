// Kernels on whole tiles in place of the loops.
#pragma once

#include <cstddef>

#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/kernels/kernel_table.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// For formats whose TileTables are usable. Tiles has prepare, score and accumulate, with their own
// tables of a query, which stand behind those of the loops. Call: the loops of the same
// instruction set, for everything else.
template <typename Tiles, template <auto> class Call, typename Roots>
struct TileKernels {
  static PolarKernels<float> table(const char* name) {
    PolarKernels<float> kernels = PolarKernels<float>::compiled<Call, Roots>(name);
    kernels.prepare_query = prepare_query;
    kernels.score_tiles = score_tiles;
    kernels.accumulate_tiles = Tiles::accumulate;
    return kernels;
  }

 private:
  static void prepare_query(const CodecTables& tables, const float* query, float* prepared) {
    Call<&loops::prepare_query<float>>::call(tables, query, prepared);
    Tiles::prepare(tables, query, prepared + tables.tile_tables_offset());
  }
  static void score_tiles(const CodecTables& tables, const std::byte* tiles, std::size_t num_tiles,
                          Rows<const float> prepared, const loops::TileScratch<float>& scratch,
                          Rows<float> scores) {
    Tiles::score(tables, tiles, num_tiles,
                 {prepared.data + tables.tile_tables_offset(), prepared.count, prepared.stride},
                 scratch, scores);
  }
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
