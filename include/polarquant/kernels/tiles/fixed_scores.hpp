// Scores on codes in 16-bit fixed point, for AVX2 and NEON: a single query is contracted up the
// tree; for several a block is decoded once and multiplied with all of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/codes/tile_tables.hpp"
#include "polarquant/kernels/tiles/fixed_blocks.hpp"
#include "polarquant/kernels/tiles/fixed_common.hpp"
#include "polarquant/kernels/words/words.hpp"

#if POLARQUANT_HAS_WORDS
POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace words {

// What a pair of coordinates contributes, per level-1 index: low and high bytes.
struct QueryTable {
  alignas(64) std::uint8_t low[32];
  std::uint8_t high[32];
};
static_assert(sizeof(QueryTable) == sizeof(Lanes), "TileTables counts query tables in Lanes");

// See pair_query. The tables of a single query are a QueryTable per pair of coordinates.
POLARQUANT_WORDS_TARGET inline void prepare_query(const CodecTables& tables, const float* query,
                                                  float* prepared) {
  const TileTables& tile_tables = tables.tile_tables;
  const float scale = pair_query(tables, query, prepared);
  QueryTable* const out =
      reinterpret_cast<QueryTable*>(prepared + query_tables_offset(tile_tables));
  const FloatLanes& cosines = tile_tables.float_cosines[0];
  const FloatLanes& sines = tile_tables.float_sines[0];
  for (std::size_t pair = 0; pair < tables.head_dim() / 2; ++pair) {
    const Floats x = broadcast(query[2 * pair] * scale);
    const Floats y = broadcast(query[2 * pair + 1] * scale);
    Lanes entries;
    store(entries, to_words(reorder(multiply_add(x, load_floats(cosines.values),
                                                 multiply(y, load_floats(sines.values))))));
    for (std::size_t i = 0; i < kTileTokens; ++i) {
      out[pair].low[i] = static_cast<std::uint8_t>(entries.values[i] & 0xff);
      out[pair].high[i] = static_cast<std::uint8_t>((entries.values[i] >> 8) & 0xff);
    }
  }
}

// ---- A single query ----

template <typename Shape, int kNode>
POLARQUANT_WORDS_INLINE Words contract_pair(const Levels& levels, const QueryTable* query,
                                            const Words* block) {
  return look_up<Shape::look_up_bits(1)>(query[kNode].low, query[kNode].high,
                                         index_of<Shape, 1, kNode>(levels, block));
}

// a cos + b sin, of one node.
template <typename Shape, int kLevel, int kNode>
POLARQUANT_WORDS_INLINE Words fold(const Levels& levels, const Words* block, Words a, Words b) {
  constexpr int kBits = Shape::look_up_bits(kLevel);
  const Bytes index = index_of<Shape, kLevel, kNode>(levels, block);
  return add(times(a, look_up<kBits>(levels.cosines[kLevel - 1], index)),
             times(b, look_up<kBits>(levels.sines[kLevel - 1], index)));
}

// The two quarters of half kHalf of a block.
template <typename Shape, int kHalf>
POLARQUANT_WORDS_INLINE Words contract_half(const Levels& levels, const QueryTable* query,
                                            const Words* block) {
  Words quarters[2];
  if constexpr (Shape::kHasQuarters) {
    const Bytes left = quarter_index_of<Shape, 2 * kHalf>(block);
    quarters[0] = add(times(contract_pair<Shape, 4 * kHalf>(levels, query, block),
                            look_up<4>(levels.quarters[0], left)),
                      times(contract_pair<Shape, 4 * kHalf + 1>(levels, query, block),
                            look_up<4>(levels.quarters[1], left)));
    const Bytes right = quarter_index_of<Shape, 2 * kHalf + 1>(block);
    quarters[1] = add(times(contract_pair<Shape, 4 * kHalf + 2>(levels, query, block),
                            look_up<4>(levels.quarters[2], right)),
                      times(contract_pair<Shape, 4 * kHalf + 3>(levels, query, block),
                            look_up<4>(levels.quarters[3], right)));
    return add(quarters[0], quarters[1]);
  } else {
    quarters[0] = fold<Shape, 2, 2 * kHalf>(
        levels, block, contract_pair<Shape, 4 * kHalf>(levels, query, block),
        contract_pair<Shape, 4 * kHalf + 1>(levels, query, block));
    quarters[1] = fold<Shape, 2, 2 * kHalf + 1>(
        levels, block, contract_pair<Shape, 4 * kHalf + 2>(levels, query, block),
        contract_pair<Shape, 4 * kHalf + 3>(levels, query, block));
    return fold<Shape, 3, kHalf>(levels, block, quarters[0], quarters[1]);
  }
}

// What a block contributes to the product of one query with 32 vectors of norm 1. query: the
// block's tables.
template <typename Shape>
POLARQUANT_WORDS_INLINE Words contract_block(const Levels& levels, const QueryTable* query,
                                             const BlockPlace<Shape>& place,
                                             const std::byte* tile) {
  Words block[Shape::kNumWords];
  load_block<Shape>(place, tile, block);
  return fold<Shape, 4, 0>(levels, block, contract_half<Shape, 0>(levels, query, block),
                           contract_half<Shape, 1>(levels, query, block));
}

// One row, up to kRun tiles, never decoded: the query is contracted up the tree.
template <typename Shape>
POLARQUANT_WORDS_TARGET void contract_run(const CodecTables& tables, const WordRun& run,
                                          const FixedScratch& memory, const float* prepared,
                                          float* scores) {
  const TileTables& tile_tables = tables.tile_tables;
  const bool block_radii = tables.num_radii() > 1;
  const Levels levels = levels_of(tile_tables);
  const QueryTable* const query =
      reinterpret_cast<const QueryTable*>(prepared + query_tables_offset(tile_tables));
  const Floats unit = broadcast(prepared[0] * 0x1p-16f);
  Lanes* const values = memory.weights;  // [num_blocks]
  BlockPlace<Shape> places[TileTables::kMaxBlocks];
  for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
    places[block] = place_of<Shape>(tile_tables, block);
  }
  // The tile after next is fetched meanwhile, in equal parts.
  const std::size_t num_ahead =
      (tile_tables.num_words + tile_tables.num_blocks - 1) / tile_tables.num_blocks;
  for (std::size_t n = 0; n < run.count; ++n) {
    const std::byte* const tile = run.tile(n);
    Floats total = broadcast(0.0f);
    for (std::size_t block = 0; block < tile_tables.num_blocks; ++block) {
      const Words value = contract_block<Shape>(levels, query + 8 * block, places[block], tile);
      prefetch(tile, 2 * run.tile_size + block * num_ahead * sizeof(Lanes), num_ahead);
      if (block_radii) {
        total = multiply_add(from_bfloat16(load(tile + block * sizeof(Lanes))), to_floats(value),
                             total);
      } else {
        store(values[block], value);
      }
    }
    if (!block_radii) {
      for (const TileTables::Node& node : tile_tables.nodes) {
        Words cosine, sine;
        look_up_node(tile_tables, node, load(place_of(node.window), tile), cosine, sine);
        store(values[node.target],
              add(times(load(values[node.left]), cosine), times(load(values[node.right]), sine)));
      }
      total = multiply(from_bfloat16(load(tile)), to_floats(load(values[0])));
    }
    store_floats(scores + n * kTileTokens, reorder(multiply(total, unit)));
  }
}

// ---- Several queries ----

// sums[row] += the products of kRows queries with a decoded pair of blocks of half a tile.
template <std::size_t kRows>
POLARQUANT_WORDS_INLINE void multiply_queries(const Lanes* vectors, Rows<const float> queries,
                                              Lanes* sums) {
  Sums totals[kRows];
#pragma GCC unroll 4
  for (std::size_t row = 0; row < kRows; ++row) totals[row] = zero_sums();
#pragma GCC unroll 4
  for (std::size_t i = 0; i < 16; ++i) {
    const Words own = load(vectors[i]);
#pragma GCC unroll 4
    for (std::size_t row = 0; row < kRows; ++row) {
      totals[row] = multiply_add(own, broadcast_pair(queries.row(row) + i), totals[row]);
    }
  }
#pragma GCC unroll 4
  for (std::size_t row = 0; row < kRows; ++row) add_to(sums[row * kRun * 2], totals[row]);
}

template <std::size_t kRows>
POLARQUANT_WORDS_TARGET void multiply_queries(const Lanes* vectors, std::size_t num_tiles,
                                              Rows<const float> queries, Lanes* sums) {
  for (std::size_t k = 0; k < 2 * num_tiles; ++k) {
    multiply_queries<kRows>(vectors + 16 * k, queries, sums + k);
  }
}

// Up to kMaxRows rows, up to kRun tiles.
template <typename Shape>
POLARQUANT_WORDS_TARGET void score_run(const CodecTables& tables, const WordRun& run,
                                       const FixedScratch& memory, Rows<const float> prepared,
                                       Rows<float> scores) {
  const TileTables& tile_tables = tables.tile_tables;
  weigh_blocks(tables, run, memory.weights, memory.radii);
  for (std::size_t k = 0; k < prepared.count * kRun * 2; ++k)
    store(memory.sums[k], broadcast_word(0));
  for (std::size_t pair = 0; pair < tile_tables.num_pairs; ++pair) {
    // Where there is no partner, the query has zeros.
    const std::size_t partner =
        tile_tables.num_pairs + pair < tile_tables.num_blocks ? tile_tables.num_pairs + pair : pair;
    expand_block_pairs<Shape>(tile_tables, run, pair, partner, memory.weights, memory.vectors);
    for (std::size_t row = 0; row < prepared.count; row += kSharedSums) {
      const Rows<const float> own = {prepared.row(row) + 16 + 16 * pair, 0, prepared.stride};
      Lanes* const sums = memory.sums + row * kRun * 2;
      switch ((std::min)(kSharedSums, prepared.count - row)) {
        case 1:
          multiply_queries<1>(memory.vectors, run.count, own, sums);
          break;
        case 2:
          multiply_queries<2>(memory.vectors, run.count, own, sums);
          break;
        case 3:
          multiply_queries<(std::min<std::size_t>)(3, kSharedSums)>(memory.vectors, run.count, own,
                                                                    sums);
          break;
        default:
          multiply_queries<kSharedSums>(memory.vectors, run.count, own, sums);
      }
    }
  }
  for (std::size_t row = 0; row < prepared.count; ++row) {
    const Floats unit = broadcast(prepared.row(row)[0] * 0x1p-15f);
    for (std::size_t n = 0; n < run.count; ++n) {
      const Lanes* const sums = memory.sums + (row * kRun + n) * 2;
      const Floats products = to_floats(sums[0], sums[1]);
      const Floats factor = multiply(unit, load_floats(memory.radii + n * kTileTokens));
      store_floats(scores.row(row) + n * kTileTokens, reorder(multiply(factor, products)));
    }
  }
}

// scores: [rows, num_tiles kTileTokens]. prepared: see prepare_query.
POLARQUANT_WORDS_TARGET inline void score_tiles(const CodecTables& tables, const std::byte* tiles,
                                                std::size_t num_tiles, Rows<const float> prepared,
                                                std::byte* scratch, Rows<float> scores) {
  const TileTables& tile_tables = tables.tile_tables;
  const FixedScratch memory(tile_tables, scratch);
  const std::size_t tile_size = tile_bytes(tables.layout.num_bytes());
  for (std::size_t first = 0; first < num_tiles; first += kRun) {
    const WordRun run = run_of(tile_tables, tiles + first * tile_size, tile_size,
                               (std::min)(kRun, num_tiles - first), memory.copy);
    float* const out = scores.data + first * kTileTokens;
    if (prepared.count == 1) {
      POLARQUANT_DISPATCH_SHAPE(tile_tables, contract_run, tables, run, memory, prepared.data, out);
      continue;
    }
    for (std::size_t row = 0; row < prepared.count; row += TileTables::kMaxRows) {
      const std::size_t count = (std::min)(TileTables::kMaxRows, prepared.count - row);
      const Rows<const float> own = {prepared.row(row), count, prepared.stride};
      const Rows<float> own_scores = {out + row * scores.stride, count, scores.stride};
      POLARQUANT_DISPATCH_SHAPE(tile_tables, score_run, tables, run, memory, own, own_scores);
    }
  }
}

}  // namespace words
}  // namespace detail
POLARQUANT_END_NAMESPACE
#endif
