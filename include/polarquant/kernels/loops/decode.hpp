// Inner products, weighted sums and decoding straight from codes, in plain loops.
//
// A code is read as a tile of kLanes vectors; a single row is a tile of one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/method/rotation.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace loops {

// Working memory for one tile.
template <typename T>
struct TileScratch {
  T* values;              // [head_dim, kTileTokens]: the tree while it is folded or unfolded
  T* radii;               // [head_dim, kTileTokens]: the radii
  std::uint8_t* indices;  // [num_angles, kTileTokens]
  std::byte* kernel;      // [kernel_scratch_bytes(tables)], aligned to 64 bytes

  // Codes that will be read next, as many bytes as now: to be fetched meanwhile. Null: not known.
  const std::byte* next = nullptr;
};

template <std::size_t kLanes>
POLARQUANT_ALWAYS_INLINE void load_word(const std::byte* tile, std::size_t num_bytes,
                                        std::size_t word, std::uint32_t* out) {
  if (2 * word + 1 < num_bytes) {
    std::uint16_t words[kLanes];
    std::memcpy(words, tile + word * kLanes * 2, sizeof words);
    for (std::size_t t = 0; t < kLanes; ++t) out[t] = words[t];
  } else {  // The last byte of an odd code.
    for (std::size_t t = 0; t < kLanes; ++t) {
      out[t] = std::to_integer<std::uint32_t>(tile[word * kLanes * 2 + t]);
    }
  }
}

template <std::size_t kLanes, typename T>
POLARQUANT_ALWAYS_INLINE void unpack_radii(const CodecTables& tables, const std::byte* tile,
                                           T* radii) {
  const FloatType type = tables.format.radius_type;
  const std::size_t num_bytes = tables.layout.num_bytes();
  const std::size_t words = static_cast<std::size_t>(float_type_bytes(type)) / 2;
  for (std::size_t block = 0; block < tables.num_radii(); ++block) {
    std::uint32_t low[kLanes];
    load_word<kLanes>(tile, num_bytes, block * words, low);
    T* const out = radii + block * kLanes;
    if (type == FloatType::kBFloat16) {
      for (std::size_t t = 0; t < kLanes; ++t)
        out[t] = static_cast<T>(float_from_bits(low[t] << 16));
    } else if (type == FloatType::kFloat16) {
      for (std::size_t t = 0; t < kLanes; ++t) {
        out[t] = static_cast<T>(float16_to_float(static_cast<std::uint16_t>(low[t])));
      }
    } else if (type == FloatType::kFloat32) {
      std::uint32_t high[kLanes];
      load_word<kLanes>(tile, num_bytes, block * words + 1, high);
      for (std::size_t t = 0; t < kLanes; ++t) {
        out[t] = static_cast<T>(float_from_bits(low[t] | (high[t] << 16)));
      }
    } else {
      std::uint64_t bits[kLanes] = {};
      for (std::size_t word = 0; word < 4; ++word) {
        load_word<kLanes>(tile, num_bytes, block * words + word, low);
        for (std::size_t t = 0; t < kLanes; ++t) {
          bits[t] |= static_cast<std::uint64_t>(low[t]) << (16 * word);
        }
      }
      for (std::size_t t = 0; t < kLanes; ++t) {
        double value;
        std::memcpy(&value, &bits[t], sizeof value);
        out[t] = static_cast<T>(value);
      }
    }
  }
}

template <std::size_t kLanes>
POLARQUANT_ALWAYS_INLINE void unpack_indices(const CodecTables& tables, const std::byte* tile,
                                             std::uint8_t* indices) {
  const std::size_t num_bytes = tables.layout.num_bytes();
  const std::size_t num_angles = tables.num_angles();
  for (std::size_t angle = 0; angle < num_angles; ++angle) {
    const CodeLayout::Field field = tables.layout.fields()[angle];
    std::uint8_t* const out = indices + angle * kLanes;
    if (field.num_bits == 0) {
      for (std::size_t t = 0; t < kLanes; ++t) out[t] = 0;
      continue;
    }
    const std::uint32_t shift = field.bit_offset % 16;
    std::uint32_t word[kLanes];
    load_word<kLanes>(tile, num_bytes, field.bit_offset / 16, word);
    if (shift + field.num_bits > 16) {
      std::uint32_t next[kLanes];
      load_word<kLanes>(tile, num_bytes, field.bit_offset / 16 + 1, next);
      for (std::size_t t = 0; t < kLanes; ++t) word[t] |= next[t] << 16;
    }
    const std::uint32_t mask = (1u << field.num_bits) - 1u;
    for (std::size_t t = 0; t < kLanes; ++t) {
      out[t] = static_cast<std::uint8_t>((word[t] >> shift) & mask);
    }
  }
}

template <std::size_t kLanes, typename T>
POLARQUANT_ALWAYS_INLINE void unpack(const CodecTables& tables, const std::byte* tile,
                                     const TileScratch<T>& scratch) {
  unpack_radii<kLanes>(tables, tile, scratch.radii);
  unpack_indices<kLanes>(tables, tile, scratch.indices);
}

// The tables of one rotated query: for pair j and centroid i of level 1, at [j 2^bits + i],
// q_{2j} cos theta_i + q_{2j+1} sin theta_i. Uncompressed: the query itself.
template <typename T>
POLARQUANT_ALWAYS_INLINE void prepare_query(const CodecTables& tables, const T* query,
                                            T* prepared) {
  if (tables.format.is_uncompressed()) {
    for (std::size_t i = 0; i < tables.head_dim(); ++i) prepared[i] = query[i];
    return;
  }
  const std::size_t count = std::size_t{1} << tables.format.level_bits[0];
  const T* const cosines = tables.levels[0].cosines.template data<T>();
  const T* const sines = tables.levels[0].sines.template data<T>();
  for (std::size_t j = 0; j < tables.head_dim() / 2; ++j) {
    for (std::size_t i = 0; i < count; ++i) {
      prepared[j * count + i] = fused(query[2 * j], cosines[i], query[2 * j + 1] * sines[i]);
    }
  }
}

// out[t] = <q, vector t>: the query is contracted up the tree, the vector never decoded.
template <std::size_t kLanes, typename T>
POLARQUANT_ALWAYS_INLINE void contract_query(const CodecTables& tables, const T* prepared,
                                             const TileScratch<T>& scratch, T* out) {
  const std::size_t d = tables.head_dim();
  T sums[kLanes] = {};
  if (tables.format.is_uncompressed()) {
    for (std::size_t i = 0; i < d; ++i) {
      for (std::size_t t = 0; t < kLanes; ++t) {
        sums[t] = fused(prepared[i], scratch.radii[i * kLanes + t], sums[t]);
      }
    }
    for (std::size_t t = 0; t < kLanes; ++t) out[t] = sums[t];
    return;
  }
  T* const v = scratch.values;
  const std::size_t table_size = std::size_t{1} << tables.format.level_bits[0];
  for (std::size_t j = 0; j < d / 2; ++j) {
    const T* const table = prepared + j * table_size;
    for (std::size_t t = 0; t < kLanes; ++t) {
      v[j * kLanes + t] = table[scratch.indices[j * kLanes + t]];
    }
  }
  for (std::size_t level = 2; level <= tables.levels.size(); ++level) {
    const T* const cosines = tables.levels[level - 1].cosines.template data<T>();
    const T* const sines = tables.levels[level - 1].sines.template data<T>();
    const std::uint8_t* const indices = scratch.indices + tables.first_angle[level] * kLanes;
    for (std::size_t j = 0; j < d >> level; ++j) {
      for (std::size_t t = 0; t < kLanes; ++t) {
        const std::uint8_t index = indices[j * kLanes + t];
        v[j * kLanes + t] = fused(v[2 * j * kLanes + t], cosines[index],
                                  v[(2 * j + 1) * kLanes + t] * sines[index]);
      }
    }
  }
  for (std::size_t join = 0; join < tables.joins.size(); ++join) {
    const T* const cosines = tables.joins[join].cosines.template data<T>();
    const T* const sines = tables.joins[join].sines.template data<T>();
    const std::uint8_t* const indices =
        scratch.indices + (tables.first_angle[tables.levels.size() + 1] + join) * kLanes;
    const T* const part = v + tables.join_position(join) * kLanes;
    for (std::size_t t = 0; t < kLanes; ++t) {
      v[t] = fused(v[t], cosines[indices[t]], part[t] * sines[indices[t]]);
    }
  }
  for (std::size_t block = 0; block < tables.num_radii(); ++block) {
    for (std::size_t t = 0; t < kLanes; ++t) {
      sums[t] = fused(v[block * kLanes + t], scratch.radii[block * kLanes + t], sums[t]);
    }
  }
  for (std::size_t t = 0; t < kLanes; ++t) out[t] = sums[t];
}

// scratch.values[i][t] = coordinate i of (rotated) vector t: the tree downwards, in place.
template <std::size_t kLanes, typename T>
POLARQUANT_ALWAYS_INLINE void expand_vectors(const CodecTables& tables,
                                             const TileScratch<T>& scratch) {
  const std::size_t d = tables.head_dim();
  T* const v = scratch.values;
  for (std::size_t i = 0; i < tables.num_radii() * kLanes; ++i) v[i] = scratch.radii[i];
  for (std::size_t join = tables.joins.size(); join-- > 0;) {
    const T* const cosines = tables.joins[join].cosines.template data<T>();
    const T* const sines = tables.joins[join].sines.template data<T>();
    const std::uint8_t* const indices =
        scratch.indices + (tables.first_angle[tables.levels.size() + 1] + join) * kLanes;
    T* const part = v + tables.join_position(join) * kLanes;
    for (std::size_t t = 0; t < kLanes; ++t) {
      part[t] = v[t] * sines[indices[t]];
      v[t] *= cosines[indices[t]];
    }
  }
  for (std::size_t level = tables.levels.size(); level >= 1; --level) {
    const T* const cosines = tables.levels[level - 1].cosines.template data<T>();
    const T* const sines = tables.levels[level - 1].sines.template data<T>();
    const std::uint8_t* const indices = scratch.indices + tables.first_angle[level] * kLanes;
    for (std::size_t j = d >> level; j-- > 0;) {
      for (std::size_t t = 0; t < kLanes; ++t) {
        const T radius = v[j * kLanes + t];
        const std::uint8_t index = indices[j * kLanes + t];
        v[(2 * j + 1) * kLanes + t] = radius * sines[index];
        v[2 * j * kLanes + t] = radius * cosines[index];
      }
    }
  }
}

// scores[row][kTileTokens n + t] = <query of row, vector t of tile n>. Each tile is unpacked once
// for all rows.
template <typename T>
POLARQUANT_ALWAYS_INLINE void score_tiles(const CodecTables& tables, const std::byte* tiles,
                                          std::size_t num_tiles, Rows<const T> prepared,
                                          const TileScratch<T>& scratch, Rows<T> scores) {
  for (std::size_t n = 0; n < num_tiles; ++n) {
    unpack<kTileTokens>(tables, tiles + n * tile_bytes(tables.layout.num_bytes()), scratch);
    for (std::size_t row = 0; row < prepared.count; ++row) {
      contract_query<kTileTokens>(tables, prepared.row(row), scratch,
                                  scores.row(row) + n * kTileTokens);
    }
  }
}

// sum[i * kTileTokens + t] += weights[t] * coordinate i of vector t, of vectors side by side.
template <typename T>
POLARQUANT_ALWAYS_INLINE void add_lanes(const T* weights, const T* vectors, std::size_t d, T* sum) {
  T weight[kTileTokens];
  for (std::size_t t = 0; t < kTileTokens; ++t) weight[t] = weights[t];
  for (std::size_t i = 0; i < d; ++i) {
    for (std::size_t t = 0; t < kTileTokens; ++t) {
      sum[i * kTileTokens + t] =
          fused(weight[t], vectors[i * kTileTokens + t], sum[i * kTileTokens + t]);
    }
  }
}

// sums[row][i * kTileTokens + t] += sum over tiles of weights[row][kTileTokens n + t] * coordinate
// i of vector t. The lanes are added up once, at the end, by reduce_lanes.
template <typename T>
POLARQUANT_ALWAYS_INLINE void accumulate_tiles(const CodecTables& tables, const std::byte* tiles,
                                               std::size_t num_tiles, Rows<const T> weights,
                                               const TileScratch<T>& scratch, Rows<T> sums) {
  for (std::size_t n = 0; n < num_tiles; ++n) {
    unpack<kTileTokens>(tables, tiles + n * tile_bytes(tables.layout.num_bytes()), scratch);
    expand_vectors<kTileTokens>(tables, scratch);
    for (std::size_t row = 0; row < weights.count; ++row) {
      add_lanes(weights.row(row) + n * kTileTokens, scratch.values, tables.head_dim(),
                sums.row(row));
    }
  }
}

template <typename T>
POLARQUANT_ALWAYS_INLINE void reduce_lanes(const T* sums, std::size_t count, T factor, T* out) {
  for (std::size_t i = 0; i < count; ++i) {
    T total = T(0);
    for (std::size_t t = 0; t < kTileTokens; ++t) total += sums[i * kTileTokens + t];
    out[i] = total * factor;
  }
}

// rows[t] = vector t of the tile, rotated back, for t < rows.count.
template <typename T>
POLARQUANT_ALWAYS_INLINE void decode_tile(const CodecTables& tables, const Rotation& rotation,
                                          const std::byte* tile, const TileScratch<T>& scratch,
                                          Rows<T> rows) {
  unpack<kTileTokens>(tables, tile, scratch);
  expand_vectors<kTileTokens>(tables, scratch);
  T* const vectors = scratch.radii;  // No longer needed.
  rotation.apply_transpose_lanes<kTileTokens>(scratch.values, vectors);
  for (std::size_t t = 0; t < rows.count; ++t) {
    for (std::size_t i = 0; i < tables.head_dim(); ++i) {
      rows.row(t)[i] = vectors[i * kTileTokens + t];
    }
  }
}

template <typename T>
POLARQUANT_ALWAYS_INLINE T dot_row(const CodecTables& tables, const std::byte* code,
                                   const T* prepared, const TileScratch<T>& scratch) {
  T result;
  unpack<1>(tables, code, scratch);
  contract_query<1>(tables, prepared, scratch, &result);
  return result;
}

// The vector of one code, in the rotated basis, left in scratch.values.
template <typename T>
POLARQUANT_ALWAYS_INLINE void expand_row(const CodecTables& tables, const std::byte* code,
                                         const TileScratch<T>& scratch) {
  unpack<1>(tables, code, scratch);
  expand_vectors<1>(tables, scratch);
}

}  // namespace loops
}  // namespace detail
POLARQUANT_END_NAMESPACE
