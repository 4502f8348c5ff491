// What a code holds: how deep the polar transform goes, how many bits each angle gets, how a radius
// is stored. From it follow the exact size and the exact expected distortion.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/method/angle_distribution.hpp"
#include "polarquant/method/bit_allocation.hpp"
#include "polarquant/method/codebook.hpp"
#include "polarquant/method/polar_transform.hpp"

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
  static constexpr int kMaxLevels = detail::AngleBits::kMaxLevels;
  static constexpr int kMaxJoins = detail::AngleBits::kMaxJoins;
  static constexpr int kMaxFirstLevelBits = detail::AngleBits::kMaxFirstLevelBits;
  static constexpr int kMaxBits = detail::AngleBits::kMaxBits;  // of deeper levels and joins

  int head_dim = 128;
  int levels = 0;
  std::array<std::uint8_t, kMaxLevels> level_bits{};
  std::array<std::uint8_t, kMaxJoins> join_bits{};
  FloatType radius_type = FloatType::kBFloat16;
  RadiusMeaning radius_meaning = RadiusMeaning::kUnbiased;

  // Fitted to data, such as those of online_codebooks(): of every level and join, as many bits as
  // above, level 1 on the circle and nothing else. Shared, never changed.
  std::shared_ptr<const CodebookSet> codebooks;  // null: the offline ones

  // The paper's configuration (section 4.1): L = 4, 4/2/2/2 bits, a 16-bit radius per 16
  // coordinates; 3.875 bits per coordinate. Throws std::invalid_argument unless head_dim is a
  // multiple of 16, 16 .. 1024.
  static PolarFormat paper(int head_dim);

  // One radius per vector and, of all allocations of bits to levels whose code fits `bits` stored
  // bits per coordinate, the one of least distortion; for any even head_dim, 2 .. 1024. Throws
  // std::invalid_argument if `bits` is more than kMaxFirstLevelBits and kMaxBits can use (about 7),
  // or so few that zeros would be nearer to a vector than what is decoded (about 1.3; more for
  // narrow vectors, as the radius takes 16 bits). Cost: about 20 ms.
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

  // The first rule that `given` breaks as codebooks of this format, which is otherwise valid.
  // problem() asks it of `codebooks`.
  std::string problem_of(const CodebookSet& given) const;

  // `codebooks`, or the offline ones where it is null. Throws what offline_codebooks throws.
  CodebookSet codebooks_or_offline() const;

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

  // rho = E<x,u> / ||x||^2, u being the reconstruction with exact radii and this format's
  // codebooks, for x in a random direction: the product over levels of E cos(psi - theta), with a
  // sum where unequal parts are joined. 1 for uncompressed.
  double rho() const;

  // E||x - x'||^2 / ||x||^2 with this format's radius meaning and codebooks, for x in a random
  // direction; the rounding of the stored radius (2.7e-6 for bfloat16) is not counted. Computes
  // codebooks.
  //   kNorm 2 (1 - rho);  kUnbiased 1/rho^2 - 1;  kLeastSquares 1 - E[g^2], g = <x,u>/||x||^2;
  //   kProjection E[1/g^2] - 1 to second order in the deviation of g.
  // The first three are exact.
  double expected_relative_mse() const;

  // Like "4/2/2/2 8 bfloat16": the bits of levels (then "+" and those of joins), the radii.
  std::string description() const;

  // Equal codes: bits beyond the levels, or the meaning of radii where there are none, do not
  // count. Codebooks are compared by their centroids; given ones are unequal to the null of
  // offline ones, whatever they hold.
  friend bool operator==(const PolarFormat& x, const PolarFormat& y) {
    if (x.head_dim != y.head_dim || x.levels != y.levels || x.radius_type != y.radius_type) {
      return false;
    }
    return x.is_uncompressed() ||
           (x.radius_meaning == y.radius_meaning && x.description() == y.description() &&
            (x.codebooks == y.codebooks ||
             (x.codebooks != nullptr && y.codebooks != nullptr && *x.codebooks == *y.codebooks)));
  }
  friend bool operator!=(const PolarFormat& x, const PolarFormat& y) { return !(x == y); }
};

// The paper's offline codebooks: Lloyd-Max of every level's law (and every join's), from the bits
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
  return {exactly_fused(left.mean, node.cosine, right.mean * node.sine),
          left.mean_square * node.cosine_squared + right.mean_square * node.sine_squared +
              2.0 * left.mean * right.mean * node.cross};
}

POLARQUANT_COLD inline Alignment format_alignment(const PolarFormat& format,
                                                  const CodebookSet& codebooks) {
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

POLARQUANT_COLD inline std::string head_dim_problem(int head_dim, int multiple) {
  if (head_dim >= multiple && head_dim <= 1024 && head_dim % multiple == 0) return {};
  return message(
      {"head_dim is ", head_dim, ", must be a multiple of ", multiple, ", at most 1024"});
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

POLARQUANT_COLD inline PolarFormat PolarFormat::full_depth(int head_dim, double bits) {
  detail::check_head_dim(head_dim, 2);
  PolarFormat format;
  format.head_dim = head_dim;
  while ((2 << format.levels) <= head_dim) ++format.levels;
  const PolarShape shape = format.shape();
  const int radius_bits = 8 * float_type_bytes(format.radius_type);
  const int most_bytes = (radius_bits + detail::BitAllocator::most_bits(shape) + 7) / 8;
  // The tolerance lets 3.1 * 80 / 8 = 31 be 31 bytes in spite of rounding.
  const double wanted_bytes = std::floor(bits * head_dim / 8.0 + 1e-9);
  if (wanted_bytes > most_bytes) {
    detail::throw_invalid_argument(
        {"full_depth at ", bits, " bits per coordinate: the angles of head_dim ", head_dim,
         " can use at most ", 8.0 * most_bytes / head_dim, "; for more, take uncompressed"});
  }
  // At rho^2 <= 1/2 the expected relative error 1/rho^2 - 1 of kUnbiased radii is that of zeros,
  // or more.
  const auto beats_zeros = [](double rho) { return rho > 0.0 && rho * rho > 0.5; };
  const bool pays_a_radius = wanted_bytes * 8.0 >= radius_bits;  // Not if bits is NaN.
  if (pays_a_radius) {
    const int budget = static_cast<int>(wanted_bytes) * 8 - radius_bits;
    const detail::BitAllocator allocator(shape, budget);
    const int spending = allocator.best_spending(budget);
    if (spending >= 0 && beats_zeros(allocator.rho_of(spending))) {
      const detail::AngleBits allocation = allocator.allocation_of(spending);
      format.level_bits = allocation.level_bits;
      format.join_bits = allocation.join_bits;
      return format;
    }
  }
  const detail::BitAllocator allocator(shape, 8 * most_bytes - radius_bits);
  int least = 0;
  while (!beats_zeros(allocator.rho_of(least))) ++least;
  // Rounded up, so that what is printed is enough.
  const double least_bits =
      std::ceil(8.0 * ((radius_bits + least + 7) / 8) / head_dim * 1e4 - 1e-6) / 1e4;
  detail::throw_invalid_argument({"full_depth at ", bits, " bits per coordinate: head_dim ",
                                  head_dim, " needs at least ", least_bits,
                                  "; with fewer, zeros would be nearer than what is decoded"});
}

inline PolarFormat PolarFormat::uncompressed(int head_dim, FloatType type) {
  detail::check_head_dim(head_dim, 2);
  PolarFormat format;
  format.head_dim = head_dim;
  format.radius_type = type;
  return format;
}

POLARQUANT_COLD inline std::string PolarFormat::problem() const {
  const std::string of_head_dim = detail::head_dim_problem(head_dim, 2);
  if (!of_head_dim.empty()) return of_head_dim;
  if (static_cast<int>(radius_type) > static_cast<int>(FloatType::kFloat64)) {
    return detail::message({"radius_type is ", static_cast<int>(radius_type), ", not a FloatType"});
  }
  if (static_cast<int>(radius_meaning) > static_cast<int>(RadiusMeaning::kLeastSquares)) {
    return detail::message(
        {"radius_meaning is ", static_cast<int>(radius_meaning), ", not a RadiusMeaning"});
  }
  if (levels == 0) return codebooks == nullptr ? std::string() : problem_of(*codebooks);
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
      return detail::message(
          {"level ", level, " has ", bits, " bits, must be ", least, " .. ", most});
    }
  }
  for (int join = 0; join < shape().num_joins(); ++join) {
    const int bits = join_bits[static_cast<std::size_t>(join)];
    if (bits > kMaxBits) {
      return detail::message({"join ", join, " has ", bits, " bits, must be 0 .. ", kMaxBits});
    }
  }
  return codebooks == nullptr ? std::string() : problem_of(*codebooks);
}

POLARQUANT_COLD inline std::string PolarFormat::problem_of(const CodebookSet& given) const {
  const auto find = [](const std::vector<AngleCodebook>& set, std::size_t count,
                       const std::uint8_t* bits, const char* what) -> std::string {
    if (set.size() != count) {
      return detail::message(
          {"codebooks for ", set.size(), " ", what, "s, the format has ", count});
    }
    const bool is_level = *what == 'l';
    for (std::size_t i = 0; i < count; ++i) {
      const bool circular = is_level && i == 0;
      if (set[i].bits() == bits[i] && set[i].is_circular() == circular) continue;
      return detail::message({"the codebook of ", what, " number ", i, " has ", set[i].bits(),
                              " bits", set[i].is_circular() ? " on the circle" : "", ", must have ",
                              bits[i], circular ? " and be circular" : " and not be circular"});
    }
    return {};
  };
  const std::string of_levels =
      find(given.levels, static_cast<std::size_t>(levels), level_bits.data(), "level");
  if (!of_levels.empty()) return of_levels;
  const int num_joins = is_uncompressed() ? 0 : shape().num_joins();
  return find(given.joins, static_cast<std::size_t>(num_joins), join_bits.data(), "join");
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

POLARQUANT_COLD inline CodebookSet offline_codebooks(const PolarFormat& format) {
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

POLARQUANT_COLD inline CodebookSet PolarFormat::codebooks_or_offline() const {
  return codebooks == nullptr ? offline_codebooks(*this) : *codebooks;
}

inline double PolarFormat::rho() const {
  validate();
  return detail::format_alignment(*this, codebooks_or_offline()).mean;
}

inline double PolarFormat::expected_relative_mse() const {
  if (is_uncompressed()) return 0.0;
  validate();
  const detail::Alignment g = detail::format_alignment(*this, codebooks_or_offline());
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

POLARQUANT_COLD inline std::string PolarFormat::description() const {
  std::string text;
  for (int level = 1; level <= levels; ++level) {
    text +=
        detail::message({level > 1 ? "/" : "", level_bits[static_cast<std::size_t>(level - 1)]});
  }
  for (int join = 0; levels > 0 && join < shape().num_joins(); ++join) {
    text += detail::message({"+", join_bits[static_cast<std::size_t>(join)]});
  }
  return detail::message(
      {text, levels > 0 ? " " : "", num_radii(), " ", float_type_name(radius_type)});
}

POLARQUANT_END_NAMESPACE
