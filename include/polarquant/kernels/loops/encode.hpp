// Rotation and encoding of vectors, in plain loops and without trigonometry.
//
// The code is a bit-exact function of its input: products that feed a sum are explicit fmas, and
// every sum has a fixed order. With -ffast-math clang 14 may still round an fma twice where the
// machine has none, and approximate a root (see exactly_fused): there alone codes may
// differ in an index at a boundary or the last bit of a radius, which costs no accuracy.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/method/rotation.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace loops {

// Vectors are encoded kLanes side by side: entry i of vector t at [i * kLanes + t].

// Working memory for one tile.
struct EncodeScratch {
  float* given;           // [head_dim, kTileTokens]: the vectors
  float* radii;           // [head_dim, kTileTokens]: rotated, then folded
  float* alignments;      // [head_dim, kTileTokens]
  std::uint8_t* indices;  // [head_dim, kTileTokens]
};

POLARQUANT_ALWAYS_INLINE bool store_radius(FloatType type, double value, std::byte* out) {
  const std::uint32_t single = double_to_float_bits(value);
  if (type == FloatType::kBFloat16) {
    const std::uint16_t bits = float_bits_to_bfloat16(single);
    std::memcpy(out, &bits, 2);
    return (bits & 0x7f80u) != 0x7f80u;
  }
  if (type == FloatType::kFloat16) {
    const std::uint16_t bits = float_bits_to_float16(single);
    std::memcpy(out, &bits, 2);
    return (bits & 0x7c00u) != 0x7c00u;
  }
  if (type == FloatType::kFloat32) {
    std::memcpy(out, &single, 4);
    return (single & 0x7f800000u) != 0x7f800000u;
  }
  std::memcpy(out, &value, 8);
  return true;
}

// Level-1 indices of kLanes pairs, without trigonometry: how many boundaries each has passed.
template <std::size_t kLanes>
POLARQUANT_ALWAYS_INLINE void quantize_circle(const AngleTable& table, const float* x,
                                              const float* y, std::uint8_t* indices) {
  float turned_x[kLanes];
  float turned_y[kLanes];
  std::int32_t below[kLanes];
  std::int32_t passed[kLanes];
  for (std::size_t t = 0; t < kLanes; ++t) {
    below[t] = y[t] < 0.0f ? 1 : 0;
    turned_x[t] = y[t] < 0.0f ? -x[t] : x[t];
    turned_y[t] = y[t] < 0.0f ? -y[t] : y[t];
    passed[t] = y[t] < 0.0f ? table.lower.base : table.upper.base;
  }
  for (const bool lower : {false, true}) {
    const AngleTable::HalfCircle& half = lower ? table.lower : table.upper;
    const std::int32_t side = lower ? 1 : 0;
    if (lower && table.halves_are_equal) break;
    for (std::size_t k = 0; k < half.cosines.size(); ++k) {
      const float cosine = half.cosines[k];
      const float sine = half.sines[k];
      if (table.halves_are_equal) {
        for (std::size_t t = 0; t < kLanes; ++t) {
          passed[t] += turned_y[t] * cosine > turned_x[t] * sine ? 1 : 0;
        }
      } else {
        for (std::size_t t = 0; t < kLanes; ++t) {
          const bool is_past = turned_y[t] * cosine > turned_x[t] * sine;
          passed[t] += is_past && below[t] == side ? 1 : 0;
        }
      }
    }
  }
  for (std::size_t t = 0; t < kLanes; ++t) {
    indices[t] = static_cast<std::uint8_t>(passed[t] & table.mask);
  }
}

template <std::size_t kLanes>
POLARQUANT_ALWAYS_INLINE void quantize_quadrant(const AngleTable& table, const float* a,
                                                const float* b, std::uint8_t* indices) {
  std::int32_t passed[kLanes] = {};
  for (const float tangent : table.tangents) {
    for (std::size_t t = 0; t < kLanes; ++t) passed[t] += b[t] > tangent * a[t] ? 1 : 0;
  }
  for (std::size_t t = 0; t < kLanes; ++t) indices[t] = static_cast<std::uint8_t>(passed[t]);
}

// Square roots of `count` numbers in place. A square root may set errno, so a loop over it does not
// vectorise; instruction sets bring their own.
struct PlainRoots {
  static void take(float* values, std::size_t count) {
    for (std::size_t t = 0; t < count; ++t) values[t] = square_root(values[t]);
  }
};

// One node of the recursion: the radii a and b become an index and one radius, which may take the
// place of a.
template <std::size_t kLanes, typename Roots>
POLARQUANT_ALWAYS_INLINE void fold_node(const AngleTable& table, bool circular, const float* a,
                                        const float* b, std::uint8_t* indices, float* radius) {
  if (circular) {
    quantize_circle<kLanes>(table, a, b, indices);
  } else {
    quantize_quadrant<kLanes>(table, a, b, indices);
  }
  for (std::size_t t = 0; t < kLanes; ++t) radius[t] = fused(a[t], a[t], b[t] * b[t]);
  Roots::take(radius, kLanes);
}

// Beside the radii the alignments, which start as y itself, become
// g = g_left cos theta + g_right sin theta: at the end g is <y, u> of a block for a reconstruction
// u of radius 1.
template <std::size_t kLanes>
POLARQUANT_ALWAYS_INLINE void fold_alignment(const AngleTable& table, const std::uint8_t* indices,
                                             const float* left, const float* right, float* out) {
  const float* const cosines = table.cosines.data<float>();
  const float* const sines = table.sines.data<float>();
  for (std::size_t t = 0; t < kLanes; ++t) {
    out[t] = fused(left[t], cosines[indices[t]], right[t] * sines[indices[t]]);
  }
}

// True if each vector has a factor of its own, which takes the alignments to know.
inline bool factor_depends_on_vector(RadiusMeaning meaning) {
  return meaning == RadiusMeaning::kProjection || meaning == RadiusMeaning::kLeastSquares;
}

// factors[t]: what the radii of vector t are multiplied by.
template <std::size_t kLanes>
POLARQUANT_ALWAYS_INLINE void radius_factors(const CodecTables& tables,
                                             const EncodeScratch& scratch, float* factors) {
  const RadiusMeaning meaning = tables.format.radius_meaning;
  for (std::size_t t = 0; t < kLanes; ++t) {
    factors[t] = meaning == RadiusMeaning::kUnbiased ? tables.inverse_rho : 1.0f;
    if (!factor_depends_on_vector(meaning)) continue;
    float norm2 = 0.0f;    // ||x||^2 = ||u||^2
    float product = 0.0f;  // <x, u>
    for (std::size_t block = 0; block < tables.num_radii(); ++block) {
      const float radius = scratch.radii[block * kLanes + t];
      norm2 = fused(radius, radius, norm2);
      product = fused(radius, scratch.alignments[block * kLanes + t], product);
    }
    if (!(norm2 > 0.0f)) continue;
    // With one bit per angle <x,u> can come arbitrarily close to 0.
    factors[t] = meaning == RadiusMeaning::kLeastSquares ? product / norm2
                 : 2.0f * product > norm2                ? norm2 / product
                                                         : 2.0f;
  }
}

// Writes word `word` (or the last byte) of kLanes codes; a single code is a tile of one.
template <std::size_t kLanes>
POLARQUANT_ALWAYS_INLINE void store_word(std::byte* tile, std::size_t num_bytes, std::size_t word,
                                         const std::uint32_t* values) {
  std::byte* const row = tile + word * kLanes * 2;
  if (2 * word + 1 < num_bytes) {
    std::uint16_t words[kLanes];
    for (std::size_t t = 0; t < kLanes; ++t) words[t] = static_cast<std::uint16_t>(values[t]);
    std::memcpy(row, words, sizeof words);
  } else {
    for (std::size_t t = 0; t < kLanes; ++t) row[t] = static_cast<std::byte>(values[t]);
  }
}

// Writes the radii of block `block`. Returns false if one overflows its type.
template <std::size_t kLanes>
POLARQUANT_ALWAYS_INLINE bool store_radii(const CodecTables& tables, const EncodeScratch& scratch,
                                          const float* factors, const double* scales,
                                          std::size_t block, std::byte* tile) {
  const std::size_t num_words =
      static_cast<std::size_t>(float_type_bytes(tables.format.radius_type)) / 2;
  std::uint32_t words[4][kLanes] = {};
  bool fits = true;
  if (tables.format.radius_type == FloatType::kBFloat16) {  // The usual one, without branches.
    std::uint32_t largest = 0;
    std::uint32_t smallest = 0xffffu;
    for (std::size_t t = 0; t < kLanes; ++t) {
      const double radius =
          static_cast<double>(scratch.radii[block * kLanes + t] * factors[t]) * scales[t];
      words[0][t] = float_to_bfloat16(static_cast<float>(radius));
      largest = words[0][t] > largest ? words[0][t] : largest;
      smallest = words[0][t] < smallest ? words[0][t] : smallest;
    }
    if (smallest < 0x0080u) {  // A subnormal float, which a processor may have flushed, or zero.
      for (std::size_t t = 0; t < kLanes; ++t) {
        const double radius =
            static_cast<double>(scratch.radii[block * kLanes + t] * factors[t]) * scales[t];
        words[0][t] = float_bits_to_bfloat16(double_to_float_bits(radius));
      }
    }
    store_word<kLanes>(tile, tables.layout.num_bytes(), block, words[0]);
    return largest < 0x7f80u;
  }
  for (std::size_t t = 0; t < kLanes; ++t) {
    std::byte bytes[8];
    const double radius =
        static_cast<double>(scratch.radii[block * kLanes + t] * factors[t]) * scales[t];
    fits &= store_radius(tables.format.radius_type, radius, bytes);
    for (std::size_t word = 0; word < num_words; ++word) {
      std::uint16_t value;
      std::memcpy(&value, bytes + 2 * word, sizeof value);
      words[word][t] = value;
    }
  }
  for (std::size_t word = 0; word < num_words; ++word) {
    store_word<kLanes>(tile, tables.layout.num_bytes(), block * num_words + word, words[word]);
  }
  return fits;
}

// Writes the indices, in the order of the stream.
template <std::size_t kLanes>
POLARQUANT_ALWAYS_INLINE void store_indices(const CodecTables& tables, const std::uint8_t* indices,
                                            std::byte* tile) {
  const std::size_t num_bytes = tables.layout.num_bytes();
  std::size_t word = tables.layout.num_radius_bytes() / 2;
  std::uint32_t stream[kLanes] = {};
  std::uint32_t num_bits = 0;
  for (const std::uint16_t angle : tables.layout.stream_order()) {
    const std::uint8_t* const own = indices + angle * kLanes;
    for (std::size_t t = 0; t < kLanes; ++t) {
      stream[t] |= static_cast<std::uint32_t>(own[t]) << num_bits;
    }
    num_bits += tables.layout.fields()[angle].num_bits;
    if (num_bits < 16) continue;
    store_word<kLanes>(tile, num_bytes, word++, stream);
    for (std::size_t t = 0; t < kLanes; ++t) stream[t] >>= 16;
    num_bits -= 16;
  }
  if (num_bits > 0) store_word<kLanes>(tile, num_bytes, word, stream);
}

// Rotates and encodes kLanes vectors, scratch.given, of magnitude about 1, into a tile of kLanes
// slots; vector t is scales[t] * given. Returns false if a radius overflows its type; that code is
// then unspecified.
template <std::size_t kLanes, typename Roots>
POLARQUANT_ALWAYS_INLINE bool encode(const CodecTables& tables, const Rotation& rotation,
                                     const double* scales, const EncodeScratch& scratch,
                                     std::byte* tile) {
  const std::size_t d = tables.head_dim();
  const bool align = factor_depends_on_vector(tables.format.radius_meaning);
  rotation.apply_lanes<kLanes>(scratch.given, scratch.radii);
  for (std::size_t i = 0; align && i < d * kLanes; ++i) scratch.alignments[i] = scratch.radii[i];
  for (std::size_t level = 1; level <= tables.levels.size(); ++level) {
    const AngleTable& table = tables.levels[level - 1];
    for (std::size_t j = 0; j < d >> level; ++j) {
      std::uint8_t* const indices = scratch.indices + (tables.first_angle[level] + j) * kLanes;
      const std::size_t left = 2 * j * kLanes;
      fold_node<kLanes, Roots>(table, level == 1, scratch.radii + left,
                               scratch.radii + left + kLanes, indices, scratch.radii + j * kLanes);
      if (!align) continue;
      fold_alignment<kLanes>(table, indices, scratch.alignments + left,
                             scratch.alignments + left + kLanes, scratch.alignments + j * kLanes);
    }
  }
  for (std::size_t join = 0; join < tables.joins.size(); ++join) {
    const AngleTable& table = tables.joins[join];
    const std::size_t part = tables.join_position(join) * kLanes;
    std::uint8_t* const indices =
        scratch.indices + (tables.first_angle[tables.levels.size() + 1] + join) * kLanes;
    fold_node<kLanes, Roots>(table, false, scratch.radii, scratch.radii + part, indices,
                             scratch.radii);
    if (!align) continue;
    fold_alignment<kLanes>(table, indices, scratch.alignments, scratch.alignments + part,
                           scratch.alignments);
  }
  float factors[kLanes];
  radius_factors<kLanes>(tables, scratch, factors);
  bool fits = true;
  for (std::size_t block = 0; block < tables.num_radii(); ++block) {
    fits &= store_radii<kLanes>(tables, scratch, factors, scales, block, tile);
  }
  store_indices<kLanes>(tables, scratch.indices, tile);
  return fits;
}

}  // namespace loops
}  // namespace detail
POLARQUANT_END_NAMESPACE
