// The kernels on tiles in 16-bit fixed point of AVX2 and NEON, as TileKernels takes them.
#pragma once

#include <cstddef>

#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/kernels/loops/decode.hpp"
#include "polarquant/kernels/tiles/fixed_scores.hpp"
#include "polarquant/kernels/tiles/fixed_sums.hpp"
#include "polarquant/kernels/words/words.hpp"

#if POLARQUANT_HAS_WORDS
POLARQUANT_BEGIN_NAMESPACE
namespace detail {

struct FixedTiles {
  static void prepare(const CodecTables& tables, const float* query, float* prepared) {
    words::prepare_query(tables, query, prepared);
  }
  static void score(const CodecTables& tables, const std::byte* tiles, std::size_t num_tiles,
                    Rows<const float> prepared, const loops::TileScratch<float>& scratch,
                    Rows<float> scores) {
    words::score_tiles(tables, tiles, num_tiles, prepared, scratch.kernel, scores);
  }
  static void accumulate(const CodecTables& tables, const std::byte* tiles, std::size_t num_tiles,
                         Rows<const float> weights, const loops::TileScratch<float>& scratch,
                         Rows<float> sums) {
    words::accumulate_tiles(tables, tiles, num_tiles, weights, scratch.kernel, sums);
  }
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
#endif
