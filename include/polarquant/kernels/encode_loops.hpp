// Encoding of rotated vectors, in plain loops and without trigonometry.
//
// The code is a bit-exact function of its input: products that feed a sum are explicit fmas, and
// every sum has a fixed order.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "polarquant/codec_tables.hpp"
#include "polarquant/fixed_math.hpp"
#include "polarquant/float_types.hpp"
#include "polarquant/kernels/isa.hpp"
#include "polarquant/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace loops {

// Working memory for one vector: the folded radii, their halves, the alignments, the indices.
struct EncodeScratch {
  float* radii;           // [head_dim]
  float* first;           // [head_dim / 2], also the cosines' side of g
  float* second;          // [head_dim / 2]
  float* alignments;      // [head_dim]
  std::uint8_t* indices;  // [head_dim]
};

POLARQUANT_ALWAYS_INLINE bool store_radius(FloatType type, double value, std::byte* out) {
  const float single = static_cast<float>(value);
  if (type == FloatType::kBFloat16) {
    const std::uint16_t bits = float_to_bfloat16(single);
    std::memcpy(out, &bits, 2);
    return (bits & 0x7f80u) != 0x7f80u;
  }
  if (type == FloatType::kFloat16) {
    const std::uint16_t bits = float_to_float16(single);
    std::memcpy(out, &bits, 2);
    return (bits & 0x7c00u) != 0x7c00u;
  }
  if (type == FloatType::kFloat32) {
    std::memcpy(out, &single, 4);
    return (float_bits(single) & 0x7f800000u) != 0x7f800000u;
  }
  std::memcpy(out, &value, 8);
  return true;
}

// Level-1 index of every pair, without trigonometry: how many boundaries each pair has passed.
POLARQUANT_ALWAYS_INLINE void quantize_circle(const AngleTable& table, const float* x,
                                              const float* y, std::size_t count,
                                              std::uint8_t* indices) {
  for (std::size_t j = 0; j < count; ++j) {
    indices[j] = static_cast<std::uint8_t>(y[j] < 0.0f ? table.lower.base : table.upper.base);
  }
  for (std::size_t k = 0; k < table.upper.cosines.size(); ++k) {
    const float cosine = table.upper.cosines[k];
    const float sine = table.upper.sines[k];
    for (std::size_t j = 0; j < count; ++j) {
      const bool passed = !(y[j] < 0.0f) && y[j] * cosine > x[j] * sine;
      indices[j] = static_cast<std::uint8_t>(indices[j] + passed);
    }
  }
  for (std::size_t k = 0; k < table.lower.cosines.size(); ++k) {
    const float cosine = table.lower.cosines[k];
    const float sine = table.lower.sines[k];
    for (std::size_t j = 0; j < count; ++j) {
      const bool passed = y[j] < 0.0f && y[j] * cosine < x[j] * sine;
      indices[j] = static_cast<std::uint8_t>(indices[j] + passed);
    }
  }
  for (std::size_t j = 0; j < count; ++j) {
    indices[j] = static_cast<std::uint8_t>(indices[j] & table.mask);
  }
}

POLARQUANT_ALWAYS_INLINE void quantize_quadrant(const AngleTable& table, const float* a,
                                                const float* b, std::size_t count,
                                                std::uint8_t* indices) {
  for (std::size_t j = 0; j < count; ++j) indices[j] = 0;
  for (const float tangent : table.tangents) {
    for (std::size_t j = 0; j < count; ++j) {
      indices[j] = static_cast<std::uint8_t>(indices[j] + (b[j] > tangent * a[j]));
    }
  }
}

// One step of the recursion: `count` pairs of radii become indices and half as many radii. Beside
// them the alignments, which start as y itself, become g = g_left cos theta + g_right sin theta: at
// the end g is <y, u> of a block for a reconstruction u of radius 1.
POLARQUANT_ALWAYS_INLINE void fold_pairs(const AngleTable& table, bool circular, std::size_t count,
                                         std::uint8_t* indices, const EncodeScratch& scratch) {
  float* const a = scratch.first;
  float* const b = scratch.second;
  for (std::size_t j = 0; j < count; ++j) {
    a[j] = scratch.radii[2 * j];
    b[j] = scratch.radii[2 * j + 1];
  }
  if (circular) {
    quantize_circle(table, a, b, count, indices);
  } else {
    quantize_quadrant(table, a, b, count, indices);
  }
  const float* const cosines = table.cosines.data<float>();
  const float* const sines = table.sines.data<float>();
  for (std::size_t j = 0; j < count; ++j) {
    const float left = scratch.alignments[2 * j];
    const float right = scratch.alignments[2 * j + 1];
    scratch.alignments[j] = fused(left, cosines[indices[j]], right * sines[indices[j]]);
  }
  for (std::size_t j = 0; j < count; ++j) {
    scratch.radii[j] = std::sqrt(fused(a[j], a[j], b[j] * b[j]));
  }
}

POLARQUANT_ALWAYS_INLINE float radius_factor(const CodecTables& tables, const float* radii,
                                             const float* alignments) {
  if (tables.format.radius_meaning == RadiusMeaning::kNorm) return 1.0f;
  if (tables.format.radius_meaning == RadiusMeaning::kUnbiased) return tables.inverse_rho;
  float norm2 = 0.0f;    // ||x||^2 = ||u||^2
  float product = 0.0f;  // <x, u>
  for (std::size_t block = 0; block < tables.num_radii(); ++block) {
    norm2 = fused(radii[block], radii[block], norm2);
    product = fused(radii[block], alignments[block], product);
  }
  if (!(norm2 > 0.0f)) return 1.0f;
  if (tables.format.radius_meaning == RadiusMeaning::kLeastSquares) return product / norm2;
  // With one bit per angle <x,u> can come arbitrarily close to 0.
  return 2.0f * product > norm2 ? norm2 / product : 2.0f;
}

// Encodes one rotated vector of a compressed format. y: [head_dim], of magnitude about 1; the
// vector is scale * y. Returns false if a radius overflows its type; `code` is then unspecified.
POLARQUANT_ALWAYS_INLINE bool encode_vector(const CodecTables& tables, const float* y, double scale,
                                            const EncodeScratch& scratch, std::byte* code) {
  const std::size_t d = tables.head_dim();
  const FloatType type = tables.format.radius_type;
  const std::size_t radius_bytes = static_cast<std::size_t>(float_type_bytes(type));
  for (std::size_t i = 0; i < d; ++i) scratch.radii[i] = scratch.alignments[i] = y[i];
  for (std::size_t level = 1; level <= tables.levels.size(); ++level) {
    fold_pairs(tables.levels[level - 1], level == 1, d >> level,
               scratch.indices + tables.first_angle[level], scratch);
  }
  for (std::size_t join = 0; join < tables.joins.size(); ++join) {
    const std::size_t position = tables.join_position(join);
    // The pair to fold must stand side by side.
    scratch.radii[1] = scratch.radii[position];
    scratch.alignments[1] = scratch.alignments[position];
    fold_pairs(tables.joins[join], false, 1,
               scratch.indices + tables.first_angle[tables.levels.size() + 1] + join, scratch);
  }
  const float factor = radius_factor(tables, scratch.radii, scratch.alignments);
  bool fits = true;
  for (std::size_t block = 0; block < tables.num_radii(); ++block) {
    const double radius = static_cast<double>(scratch.radii[block] * factor) * scale;
    fits &= store_radius(type, radius, code + block * radius_bytes);
  }
  std::byte* out = code + tables.layout.num_radius_bytes();
  std::uint64_t stream = 0;
  std::uint32_t num_bits = 0;
  for (const std::uint16_t angle : tables.layout.stream_order()) {
    stream |= static_cast<std::uint64_t>(scratch.indices[angle]) << num_bits;
    num_bits += tables.layout.fields()[angle].num_bits;
    for (; num_bits >= 8; num_bits -= 8, stream >>= 8) *out++ = static_cast<std::byte>(stream);
  }
  if (num_bits > 0) *out = static_cast<std::byte>(stream);
  return fits;
}

// Encodes `count` rotated rows of head_dim floats to codes of num_bytes() each, one after another.
// Returns the index of the first row whose radius overflows, or `count`.
POLARQUANT_ALWAYS_INLINE std::size_t encode(const CodecTables& tables, const float* rows,
                                            const double* scales, std::size_t count,
                                            const EncodeScratch& scratch, std::byte* codes) {
  for (std::size_t row = 0; row < count; ++row) {
    if (!encode_vector(tables, rows + row * tables.head_dim(), scales[row], scratch,
                       codes + row * tables.layout.num_bytes())) {
      return row;
    }
  }
  return count;
}

}  // namespace loops
}  // namespace detail
POLARQUANT_END_NAMESPACE
