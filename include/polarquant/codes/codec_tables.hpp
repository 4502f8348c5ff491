// What the kernels read: a format and its codebooks turned into a layout, cosines and tangents.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "polarquant/base/error.hpp"
#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/codes/tile_tables.hpp"
#include "polarquant/method/codebook.hpp"
#include "polarquant/method/polar_format.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// A list of numbers in both precisions.
class DualTable {
 public:
  void push_back(double value) {
    doubles_.push_back(value);
    floats_.push_back(static_cast<float>(value));
  }

  std::size_t memory_bytes() const {
    return floats_.size() * sizeof(float) + doubles_.size() * sizeof(double);
  }

  template <typename T>
  const T* data() const {
    if constexpr (std::is_same_v<T, float>) {
      return floats_.data();
    } else {
      return doubles_.data();
    }
  }

 private:
  std::vector<float> floats_;
  std::vector<double> doubles_;
};

// One codebook, ready for use without trigonometry.
struct AngleTable {
  // [2^bits]: of the centroids.
  DualTable cosines;
  DualTable sines;

  // Angles in [0, pi/2]: the index of (a, b) is the number of tangents t with b > t a.
  std::vector<float> tangents;

  // Angles on the circle. (x, y) with y < 0 is turned by pi first. Then boundary beta is passed if
  // y cos beta > x sin beta; `upper` are the boundaries in (0, pi), `lower` those in (pi, 2 pi)
  // less pi. index = (base + number passed) & mask, the base counting the boundaries before.
  struct HalfCircle {
    std::vector<float> cosines;
    std::vector<float> sines;
    int base = 0;
  };
  HalfCircle upper;
  HalfCircle lower;
  bool halves_are_equal = false;  // so that after the turn no one need know which half it was
  int mask = 0;

  std::size_t memory_bytes() const {
    return cosines.memory_bytes() + sines.memory_bytes() +
           sizeof(float) * (tangents.size() + 2 * upper.cosines.size() + 2 * lower.cosines.size());
  }

  POLARQUANT_COLD explicit AngleTable(const AngleCodebook& codebook)
      : mask((1 << codebook.bits()) - 1) {
    for (const double theta : codebook.centroids()) {
      const SinCos s = fixed_sin_cos_full(theta);
      cosines.push_back(s.cos);
      sines.push_back(s.sin);
    }
    upper.base = lower.base = codebook.index_offset();
    for (const double beta : codebook.boundaries()) {
      const SinCos s = fixed_sin_cos_full(beta);
      if (!codebook.is_circular()) {
        tangents.push_back(static_cast<float>(s.sin / s.cos));
        continue;
      }
      if (beta <= 0.0) ++upper.base;
      if (beta <= kPi) ++lower.base;
      if (beta > 0.0 && beta < kPi) {
        upper.cosines.push_back(static_cast<float>(s.cos));
        upper.sines.push_back(static_cast<float>(s.sin));
      } else if (beta > kPi) {
        lower.cosines.push_back(static_cast<float>(-s.cos));
        lower.sines.push_back(static_cast<float>(-s.sin));
      }
    }
    halves_are_equal = upper.cosines == lower.cosines && upper.sines == lower.sines;
  }
};

// Everything about (format, codebooks) that a kernel reads. Immutable.
struct CodecTables {
  PolarFormat format;
  PolarShape shape;
  CodeLayout layout;
  std::vector<AngleTable> levels;        // [format.levels], first level first
  std::vector<AngleTable> joins;         // [shape.num_joins()]
  std::vector<std::size_t> first_angle;  // [l] of level l = 1 .. levels, [levels + 1] of the joins
  TileTables tile_tables;
  float inverse_rho = 1.0f;

  // Throws std::invalid_argument if the format is invalid or the codebooks are not of its shape.
  POLARQUANT_COLD CodecTables(const PolarFormat& given_format, const CodebookSet& codebooks)
      : format(checked(given_format, codebooks)),
        shape(given_format.shape()),
        layout(given_format),
        tile_tables(given_format, layout, codebooks) {
    for (const AngleCodebook& codebook : codebooks.levels) levels.emplace_back(codebook);
    for (const AngleCodebook& codebook : codebooks.joins) joins.emplace_back(codebook);
    for (int level = 0; level <= format.levels + 1; ++level) {
      first_angle.push_back(static_cast<std::size_t>(shape.first_angle(level)));
    }
    inverse_rho = static_cast<float>(1.0 / format_alignment(format, codebooks).mean);
  }

  std::size_t head_dim() const { return static_cast<std::size_t>(format.head_dim); }
  std::size_t num_radii() const { return static_cast<std::size_t>(format.num_radii()); }
  std::size_t num_angles() const { return head_dim() - num_radii(); }
  std::size_t num_joins() const {
    return format.is_uncompressed() ? 0 : static_cast<std::size_t>(shape.num_joins());
  }

  // While a tree of radii is folded in place, level by level, a radius that finds no partner stays
  // where it is. This is the place of the part that join `join` adds.
  std::size_t join_position(std::size_t join) const {
    return head_dim() / static_cast<std::size_t>(shape.join_right(static_cast<int>(join))) - 1;
  }

  std::size_t memory_bytes() const {
    std::size_t bytes = layout.memory_bytes() + tile_tables.memory_bytes();
    for (const std::vector<AngleTable>* set : {&levels, &joins}) {
      for (const AngleTable& table : *set) bytes += sizeof(AngleTable) + table.memory_bytes();
    }
    return bytes;
  }

  // Bytes of working memory of the kernels on tiles.
  std::size_t kernel_scratch_bytes() const {
    return tile_tables.num_scratch_lanes() * sizeof(Lanes);
  }

  // Entries of a prepared query: a table of 2^bits per level-1 angle, or the query itself; then,
  // for the kernels on whole tiles, a register of scalars and their tables.
  std::size_t prepared_size() const {
    if (!tile_tables.usable) return tile_tables_offset();
    // 16 bits: a register of scalars, the query in pairs of blocks, a table per pair of
    // coordinates.
    return tile_tables_offset() + 16 + 16 * tile_tables.num_pairs +
           16 * tile_tables.num_query_lanes();
  }
  std::size_t tile_tables_offset() const {
    const std::size_t entries =
        format.is_uncompressed() ? head_dim() : (head_dim() / 2) << format.level_bits[0];
    return (entries + 15) / 16 * 16;
  }

 private:
  // Asked before any table is made of them.
  static const PolarFormat& checked(const PolarFormat& format, const CodebookSet& codebooks) {
    format.validate();
    const std::string found = format.problem_of(codebooks);
    if (!found.empty()) throw_invalid_argument(found);
    return format;
  }
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
