// How many bits each level of the polar transform gets of a budget.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "polarquant/base/error.hpp"
#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/method/angle_distribution.hpp"
#include "polarquant/method/codebook.hpp"
#include "polarquant/method/polar_transform.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// The bits of an angle of each level, first level first, and of each join.
struct AngleBits {
  static constexpr int kMaxLevels = 10;
  static constexpr int kMaxJoins = 8;
  static constexpr int kMaxFirstLevelBits = 8;
  static constexpr int kMaxBits = 6;  // of deeper levels and joins

  std::array<std::uint8_t, kMaxLevels> level_bits{};
  std::array<std::uint8_t, kMaxJoins> join_bits{};
};

// The allocations of least distortion of all budgets up to one, for a shape of full depth.
//
// rho = E<x,u> / ||x||^2 is built from the top down: opening a level multiplies it by that level's
// E cos(psi - theta); joining a part of width 2^l, once level l + 1 is opened, makes it rho E[cos
// cos] + E[sin sin] (both to be multiplied by what the levels l .. 1 contribute). Each step grows
// with rho, so the best rho for every number of bits spent is found step by step.
class BitAllocator {
 public:
  // max_budget: bits of all angles of one vector, >= 0. Cost: about 20 ms, for codebooks.
  POLARQUANT_COLD BitAllocator(const PolarShape& shape, int max_budget) {
    int join = 0;
    for (int level = shape.levels; level >= 1; --level) {
      if (join < shape.num_joins() && shape.join_right(join) == (1 << level)) {
        steps_.push_back({true, join, 0, AngleBits::kMaxBits, 1,
                          AngleDistribution::of_join(shape.join_left(join), 1 << level)});
        ++join;
      }
      steps_.push_back({false, level - 1, level == 1 ? 1 : 0,
                        level == 1 ? AngleBits::kMaxFirstLevelBits : AngleBits::kMaxBits,
                        shape.num_angles(level), AngleDistribution::of_level(level)});
    }
    best_.assign(static_cast<std::size_t>(max_budget) + 1, -1.0);
    best_[0] = 1.0;
    for (const Step& step : steps_) take(step);
  }

  // The fewest bits within `budget` that reach the best rho that `budget` allows; -1 if not even
  // level 1 can be paid.
  int best_spending(int budget) const {
    int spent = -1;
    double rho = 0.0;
    for (int bits = 0; bits <= budget; ++bits) {
      if (rho_of(bits) > rho) {
        rho = rho_of(bits);
        spent = bits;
      }
    }
    return spent;
  }

  // The best rho of exactly so many bits; negative if they cannot be spent.
  double rho_of(int spent) const { return best_[static_cast<std::size_t>(spent)]; }

  // The allocation that reaches rho_of(spent).
  AngleBits allocation_of(int spent) const {
    AngleBits bits;
    std::size_t left = static_cast<std::size_t>(spent);
    for (std::size_t i = steps_.size(); i-- > 0;) {
      const std::uint8_t own = choices_[i][left];
      const std::size_t number = static_cast<std::size_t>(steps_[i].number);
      (steps_[i].is_join ? bits.join_bits[number] : bits.level_bits[number]) = own;
      left -= static_cast<std::size_t>(own * steps_[i].num_codes);
    }
    return bits;
  }

  // The most bits that a vector's angles can use.
  static int most_bits(const PolarShape& shape) {
    int total = AngleBits::kMaxBits * shape.num_joins();
    for (int level = 1; level <= shape.levels; ++level) {
      total += shape.num_angles(level) *
               (level == 1 ? AngleBits::kMaxFirstLevelBits : AngleBits::kMaxBits);
    }
    return total;
  }

 private:
  struct Step {
    bool is_join;
    int number;  // of the join, or of the level less one
    int min_bits;
    int max_bits;
    int num_codes;
    AngleDistribution law;
  };

  void take(const Step& step) {
    const std::size_t size = best_.size();
    std::vector<double> next(size, -1.0);
    std::vector<std::uint8_t> choice(size, 0);
    for (int bits = step.min_bits; bits <= step.max_bits; ++bits) {
      const std::size_t cost = static_cast<std::size_t>(bits * step.num_codes);
      if (cost >= size) break;
      const CosineMoments moments =
          cosine_moments(step.law, AngleCodebook::lloyd_max(step.law, bits));
      for (std::size_t spent = cost; spent < size; ++spent) {
        const double above = best_[spent - cost];
        if (above < 0.0) continue;
        const double rho = step.is_join ? exactly_fused(above, moments.cosine, moments.sine)
                                        : above * (moments.cosine + moments.sine);
        if (rho > next[spent]) {
          next[spent] = rho;
          choice[spent] = static_cast<std::uint8_t>(bits);
        }
      }
    }
    best_ = next;
    choices_.push_back(choice);
  }

  std::vector<Step> steps_;
  std::vector<double> best_;  // rho by bits spent; negative: cannot be spent
  std::vector<std::vector<std::uint8_t>> choices_;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
