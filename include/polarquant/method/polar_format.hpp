// What a code holds: how deep the polar transform goes, how many bits each angle gets, how a radius
// is stored. From it follow the exact size and the exact expected distortion.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "polarquant/method/angle_distribution.hpp"
#include "polarquant/method/codebook.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/method/polar_transform.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// What the stored radii mean: one common factor per vector on the exact block radii. With u the
// reconstruction from exact radii and rho = E<x,u> / ||x||^2 (see PolarFormat::rho):
enum class RadiusMeaning : std::uint8_t {
  kNorm = 0,          // 1: the radius is the norm; inner products shrink by rho
  kUnbiased = 1,      // 1 / rho: inner products are right on average
  kProjection = 2,    // ||x||^2 / <x,u>, at most 2: the part along x is exact for every vector
  kLeastSquares = 3,  // <x,u> / ||u||^2: the least squared error; shrinks by rho^2
};

// The format of one compressed key or value. An aggregate: take a preset, change members, and what
// is built from it validates it.
//
// The polar transform of `levels` levels (see PolarShape) leaves num_radii() radii, stored as
// `radius_type`; an angle of level l gets level_bits[l-1] bits and join j, for a width that is no
// power of two, join_bits[j]. 0 bits: the angle is its mean. levels = 0 is the uncompressed format:
// every coordinate is its own radius, stored with its sign.
struct PolarFormat {
  static constexpr int kMaxLevels = 10;
  static constexpr int kMaxJoins = 8;
  static constexpr int kMaxFirstLevelBits = 8;
  static constexpr int kMaxBits = 6;  // of deeper levels and joins

  int head_dim = 128;
  int levels = 0;
  std::array<std::uint8_t, kMaxLevels> level_bits{};
  std::array<std::uint8_t, kMaxJoins> join_bits{};
  FloatType radius_type = FloatType::kBFloat16;
  RadiusMeaning radius_meaning = RadiusMeaning::kUnbiased;

  // The paper's configuration (section 4.1): L = 4, 4/2/2/2 bits, a 16-bit radius per 16
  // coordinates; 3.875 bits per coordinate. Throws std::invalid_argument unless head_dim is a
  // multiple of 16, 16 .. 1024.
  static PolarFormat paper(int head_dim);

  // One radius per vector and, of all allocations of bits to levels whose code fits `bits` stored
  // bits per coordinate, the one of least distortion; for any even head_dim, 2 .. 1024. A budget
  // beyond what kMaxFirstLevelBits and kMaxBits can use (about 7 bits) is not filled. Throws
  // std::invalid_argument if not even one bit per level-1 angle fits. Cost: about 20 ms.
  static PolarFormat full_depth(int head_dim, double bits);

  // Every coordinate as it is, in `type`. Not rotated.
  static PolarFormat uncompressed(int head_dim, FloatType type = FloatType::kFloat16);

  // The first rule that is broken, with the value that breaks it; empty if all hold.
  std::string problem() const;

  // Throws std::invalid_argument with problem(), if there is one.
  void validate() const {
    const std::string found = problem();
    if (!found.empty()) detail::throw_invalid_argument(found);
  }

  bool is_uncompressed() const { return levels == 0; }
  PolarShape shape() const { return PolarShape{head_dim, levels}; }
  int num_radii() const { return head_dim >> levels; }

  // Bits of all angles of one vector.
  int num_angle_bits() const;

  // Stored size of one vector: radii and angles, padded to whole bytes once.
  std::size_t bytes_per_vector() const {
    const int bits = num_radii() * float_type_bytes(radius_type) * 8 + num_angle_bits();
    return static_cast<std::size_t>((bits + 7) / 8);
  }

  // bytes_per_vector() * 8 / head_dim.
  double bits_per_coordinate() const {
    return static_cast<double>(bytes_per_vector()) * 8.0 / head_dim;
  }

  // rho = E<x,u> / ||x||^2, u being the reconstruction with exact radii and offline codebooks, for
  // x in a random direction: the product over levels of E cos(psi - theta), with a sum where
  // unequal parts are joined. 1 for uncompressed.
  double rho() const;

  // E||x - x'||^2 / ||x||^2 with the given radius meaning and offline codebooks, for x in a random
  // direction; the rounding of the stored radius (2.7e-6 for bfloat16) is not counted. Computes
  // codebooks.
  //   kNorm 2 (1 - rho);  kUnbiased 1/rho^2 - 1;  kLeastSquares 1 - E[g^2], g = <x,u>/||x||^2;
  //   kProjection E[1/g^2] - 1 to second order in the deviation of g.
  // The first three are exact.
  double expected_relative_mse() const;

  // Like "4/2/2/2 8 bfloat16": the bits of levels (then "+" and those of joins), the radii.
  std::string description() const;

  // Equal codes: bits beyond the levels, or the meaning of radii where there are none, do not
  // count.
  friend bool operator==(const PolarFormat& x, const PolarFormat& y) {
    if (x.head_dim != y.head_dim || x.levels != y.levels || x.radius_type != y.radius_type) {
      return false;
    }
    return x.is_uncompressed() ||
           (x.radius_meaning == y.radius_meaning && x.description() == y.description());
  }
  friend bool operator!=(const PolarFormat& x, const PolarFormat& y) { return !(x == y); }
};

// The paper's offline codebooks: Lloyd-Max of every level's law (and every join's), from the format
// alone. Throws std::invalid_argument if the format is invalid.
CodebookSet offline_codebooks(const PolarFormat& format);

namespace detail {

// Mean and mean square of g = <x,u> / ||x||^2.
struct Alignment {
  double mean;
  double mean_square;
};

// g of a node whose halves have g_left and g_right: g = g_left cos psi cos theta + g_right sin psi
// sin theta, and all three are independent.
inline Alignment join_alignments(const Alignment& left, const Alignment& right,
                                 const CosineMoments& node) {
  // The mean decides the bytes of kUnbiased radii: one rounding order everywhere.
  return {fused(left.mean, node.cosine, right.mean * node.sine),
          left.mean_square * node.cosine_squared + right.mean_square * node.sine_squared +
              2.0 * left.mean * right.mean * node.cross};
}

inline Alignment format_alignment(const PolarFormat& format, const CodebookSet& codebooks) {
  if (format.is_uncompressed()) return {1.0, 1.0};
  const PolarShape shape = format.shape();
  std::vector<Alignment> by_level;  // g of a part of 2^level coordinates
  for (int level = 1; level <= format.levels; ++level) {
    const CosineMoments moments = cosine_moments(
        AngleDistribution::of_level(level), codebooks.levels[static_cast<std::size_t>(level - 1)]);
    by_level.push_back(level == 1 ? Alignment{moments.cosine, moments.cosine_squared}
                                  : join_alignments(by_level.back(), by_level.back(), moments));
  }
  Alignment g = by_level.back();
  for (int join = 0; join < shape.num_joins(); ++join) {
    int level = 0;
    while ((2 << level) < shape.join_right(join)) ++level;
    const AngleDistribution law =
        AngleDistribution::of_join(shape.join_left(join), shape.join_right(join));
    g = join_alignments(g, by_level[static_cast<std::size_t>(level)],
                        cosine_moments(law, codebooks.joins[static_cast<std::size_t>(join)]));
  }
  // Several blocks: g is their mean weighted by the shares of ||x||^2, which follow a Dirichlet
  // law with parameter half a block's width.
  const double n = shape.num_radii();
  const double alpha = 0.5 * (1 << format.levels);
  const double total = n * alpha;
  const double own = n * alpha * (alpha + 1.0) / (total * (total + 1.0));
  return {g.mean, own * g.mean_square + (1.0 - own) * g.mean * g.mean};
}

// The rule of full_depth. rho is built from the top down: opening a level multiplies it by that
// level's E cos(psi - theta); joining a part of width 2^l, once level l + 1 is opened, makes it
// rho E[cos cos] + E[sin sin] (both to be multiplied by what the levels l .. 1 contribute). Each
// step grows with rho, so the best rho for every number of bits spent is found step by step.
inline void allocate_bits(PolarFormat& format, int budget) {
  const PolarShape shape = format.shape();
  struct Step {
    std::uint8_t* bits;
    int min_bits;
    int max_bits;
    int num_codes;
    AngleDistribution law;
    bool is_join;
  };
  std::vector<Step> steps;
  int join = 0;
  for (int level = format.levels; level >= 1; --level) {
    if (join < shape.num_joins() && shape.join_right(join) == (1 << level)) {
      steps.push_back({&format.join_bits[static_cast<std::size_t>(join)], 0, PolarFormat::kMaxBits,
                       1, AngleDistribution::of_join(shape.join_left(join), 1 << level), true});
      ++join;
    }
    steps.push_back({&format.level_bits[static_cast<std::size_t>(level - 1)], level == 1 ? 1 : 0,
                     level == 1 ? PolarFormat::kMaxFirstLevelBits : PolarFormat::kMaxBits,
                     shape.num_angles(level), AngleDistribution::of_level(level), false});
  }
  const std::size_t size = static_cast<std::size_t>(budget) + 1;
  std::vector<double> best(size, -1.0);  // rho for each number of bits spent; < 0: not reachable
  best[0] = 1.0;
  std::vector<std::vector<std::uint8_t>> choices;
  for (const Step& step : steps) {
    std::vector<double> next(size, -1.0);
    std::vector<std::uint8_t> choice(size, 0);
    for (int bits = step.min_bits; bits <= step.max_bits; ++bits) {
      const std::size_t cost = static_cast<std::size_t>(bits * step.num_codes);
      if (cost >= size) break;
      const CosineMoments moments =
          cosine_moments(step.law, AngleCodebook::lloyd_max(step.law, bits));
      for (std::size_t spent = cost; spent < size; ++spent) {
        const double above = best[spent - cost];
        if (above < 0.0) continue;
        const double rho = step.is_join ? fused(above, moments.cosine, moments.sine)
                                        : above * (moments.cosine + moments.sine);
        if (rho > next[spent]) {
          next[spent] = rho;
          choice[spent] = static_cast<std::uint8_t>(bits);
        }
      }
    }
    best = next;
    choices.push_back(choice);
  }
  std::size_t spent = 0;
  for (std::size_t i = 0; i < size; ++i) {
    if (best[i] > best[spent]) spent = i;
  }
  for (std::size_t i = steps.size(); i-- > 0;) {
    *steps[i].bits = choices[i][spent];
    spent -= static_cast<std::size_t>(choices[i][spent] * steps[i].num_codes);
  }
}

inline std::string head_dim_problem(int head_dim, int multiple) {
  if (head_dim >= multiple && head_dim <= 1024 && head_dim % multiple == 0) return {};
  return "head_dim is " + std::to_string(head_dim) + ", must be a multiple of " +
         std::to_string(multiple) + ", at most 1024";
}

inline void check_head_dim(int head_dim, int multiple) {
  const std::string found = head_dim_problem(head_dim, multiple);
  if (!found.empty()) throw_invalid_argument(found);
}

}  // namespace detail

inline PolarFormat PolarFormat::paper(int head_dim) {
  detail::check_head_dim(head_dim, 16);
  PolarFormat format;
  format.head_dim = head_dim;
  format.levels = 4;
  format.level_bits = {4, 2, 2, 2};
  return format;
}

inline PolarFormat PolarFormat::full_depth(int head_dim, double bits) {
  detail::check_head_dim(head_dim, 2);
  PolarFormat format;
  format.head_dim = head_dim;
  while ((2 << format.levels) <= head_dim) ++format.levels;
  // The tolerance lets 3.1 * 80 / 8 = 31 be 31 bytes in spite of rounding.
  const double max_bytes = 2.0 * head_dim;
  const double bytes = std::floor(bits * head_dim / 8.0 + 1e-9);
  const int radius_bits = 8 * float_type_bytes(format.radius_type);
  if (!(bytes * 8.0 >= radius_bits + head_dim / 2)) {
    detail::throw_invalid_argument(
        "full_depth at " + std::to_string(bits) + " bits per coordinate: head_dim " +
        std::to_string(head_dim) + " needs at least " +
        std::to_string(8.0 * ((radius_bits + head_dim / 2 + 7) / 8) / head_dim));
  }
  detail::allocate_bits(format, static_cast<int>(std::fmin(bytes, max_bytes)) * 8 - radius_bits);
  return format;
}

inline PolarFormat PolarFormat::uncompressed(int head_dim, FloatType type) {
  detail::check_head_dim(head_dim, 2);
  PolarFormat format;
  format.head_dim = head_dim;
  format.radius_type = type;
  return format;
}

inline std::string PolarFormat::problem() const {
  const std::string of_head_dim = detail::head_dim_problem(head_dim, 2);
  if (!of_head_dim.empty()) return of_head_dim;
  if (static_cast<int>(radius_type) > static_cast<int>(FloatType::kFloat64)) {
    return "radius_type is " + std::to_string(static_cast<int>(radius_type)) + ", not a FloatType";
  }
  if (static_cast<int>(radius_meaning) > static_cast<int>(RadiusMeaning::kLeastSquares)) {
    return "radius_meaning is " + std::to_string(static_cast<int>(radius_meaning)) +
           ", not a RadiusMeaning";
  }
  if (levels == 0) return {};
  const std::string of_shape = shape().problem();
  if (!of_shape.empty()) return of_shape;
  if (radius_type == FloatType::kFloat64) {
    return "radius_type is float64, must be bfloat16, float16 or float32 in a compressed format";
  }
  for (int level = 1; level <= levels; ++level) {
    const int bits = level_bits[static_cast<std::size_t>(level - 1)];
    const int least = level == 1 ? 1 : 0;
    const int most = level == 1 ? kMaxFirstLevelBits : kMaxBits;
    if (bits < least || bits > most) {
      return "level " + std::to_string(level) + " has " + std::to_string(bits) + " bits, must be " +
             std::to_string(least) + " .. " + std::to_string(most);
    }
  }
  for (int join = 0; join < shape().num_joins(); ++join) {
    const int bits = join_bits[static_cast<std::size_t>(join)];
    if (bits > kMaxBits) {
      return "join " + std::to_string(join) + " has " + std::to_string(bits) +
             " bits, must be 0 .. " + std::to_string(kMaxBits);
    }
  }
  return {};
}

inline int PolarFormat::num_angle_bits() const {
  int total = 0;
  for (int level = 1; level <= levels; ++level) {
    total += (head_dim >> level) * level_bits[static_cast<std::size_t>(level - 1)];
  }
  for (int join = 0; levels > 0 && join < shape().num_joins(); ++join) {
    total += join_bits[static_cast<std::size_t>(join)];
  }
  return total;
}

inline CodebookSet offline_codebooks(const PolarFormat& format) {
  format.validate();
  CodebookSet codebooks;
  for (int level = 1; level <= format.levels; ++level) {
    codebooks.levels.push_back(
        AngleCodebook::lloyd_max(AngleDistribution::of_level(level),
                                 format.level_bits[static_cast<std::size_t>(level - 1)]));
  }
  const PolarShape shape = format.shape();
  for (int join = 0; format.levels > 0 && join < shape.num_joins(); ++join) {
    const AngleDistribution law =
        AngleDistribution::of_join(shape.join_left(join), shape.join_right(join));
    codebooks.joins.push_back(
        AngleCodebook::lloyd_max(law, format.join_bits[static_cast<std::size_t>(join)]));
  }
  return codebooks;
}

inline double PolarFormat::rho() const {
  return detail::format_alignment(*this, offline_codebooks(*this)).mean;
}

inline double PolarFormat::expected_relative_mse() const {
  if (is_uncompressed()) return 0.0;
  const detail::Alignment g = detail::format_alignment(*this, offline_codebooks(*this));
  const double inverse_square = 1.0 / (g.mean * g.mean);
  switch (radius_meaning) {
    case RadiusMeaning::kNorm:
      return 2.0 * (1.0 - g.mean);
    case RadiusMeaning::kUnbiased:
      return inverse_square - 1.0;
    case RadiusMeaning::kProjection:
      return inverse_square * (1.0 + 3.0 * (g.mean_square * inverse_square - 1.0)) - 1.0;
    case RadiusMeaning::kLeastSquares:
      break;
  }
  return 1.0 - g.mean_square;
}

inline std::string PolarFormat::description() const {
  std::string text;
  for (int level = 1; level <= levels; ++level) {
    text +=
        (level > 1 ? "/" : "") + std::to_string(level_bits[static_cast<std::size_t>(level - 1)]);
  }
  for (int join = 0; levels > 0 && join < shape().num_joins(); ++join) {
    text += "+" + std::to_string(join_bits[static_cast<std::size_t>(join)]);
  }
  return text + (levels > 0 ? " " : "") + std::to_string(num_radii()) + " " +
         float_type_name(radius_type);
}

POLARQUANT_END_NAMESPACE
