// Bits by layer and side, for a mean that is given.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// What a side of a layer costs at one rate: the divergence of the model's output when that side
// alone is compressed, to `bits` per coordinate, such as the mean KL divergence in nats.
struct RatePoint {
  double bits = 0.0;
  double divergence = 0.0;
};

// Of one layer: one point or more per side, by ascending bits.
struct LayerRates {
  std::vector<RatePoint> keys;
  std::vector<RatePoint> values;
};

// Bits per coordinate of one layer.
struct LayerBits {
  double keys = 0.0;
  double values = 0.0;
};

namespace detail {

// Of log2 of the divergence, per bit. Quantization error falls by a factor of 4. Where two points
// say otherwise, by noise, outside of them no slope is believed beyond a factor of 2 or of 8: a
// flat one would call further bits useless, a steep one all-important.
inline constexpr double kRateSlope = -2.0;
inline constexpr double kFlattestSlope = -1.0;
inline constexpr double kSteepestSlope = -3.0;

// Divergences below count as this: a measured 0 has no logarithm.
inline constexpr double kLeastDivergence = 1e-9;

inline void check_rate_points(const std::vector<RatePoint>& points, const char* side,
                              std::size_t layer) {
  if (points.empty()) throw_invalid_argument({side, " of layer ", layer, " have no point"});
  for (std::size_t i = 0; i < points.size(); ++i) {
    const RatePoint& point = points[i];
    if (!is_finite(point.bits) || !is_finite(point.divergence) || point.divergence < 0.0) {
      throw_invalid_argument({side, " of layer ", layer, ": a divergence of ", point.divergence,
                              " at ", point.bits, " bits, must be finite, at least 0"});
    }
    if (i > 0 && !(points[i - 1].bits < point.bits)) {
      throw_invalid_argument({side, " of layer ", layer, ": ", point.bits, " bits behind ",
                              points[i - 1].bits, ", points must be in order and apart"});
    }
  }
}

// The largest step of which all rates are multiples, counted from the first; 0 if there is none
// that is at least `least`.
inline double common_step(const std::vector<double>& rates, double least) {
  double step = 0.0;
  for (const double rate : rates) {
    // Euclid's algorithm; what rounding leaves over is below `least`.
    double rest = rate - rates[0];
    while (rest >= least) {
      const double next = step - std::floor(step / rest + 1e-6) * rest;
      step = rest;
      rest = next;
    }
  }
  for (const double rate : rates) {
    const double count = (rate - rates[0]) / step;
    if (std::abs(count - std::round(count)) > 1e-4) return 0.0;
  }
  return step;
}

inline constexpr double kMaxBudgetCost = 1e9;

}  // namespace detail

// The divergence at `bits` by points as above, at least one: log2 of it is linear in bits between
// two points, and goes on beyond the first and last of them with the slope of the nearest two, kept
// within a factor of 2 and a factor of 8 a bit; from a single point it falls by 4 a bit.
inline double divergence_at(const std::vector<RatePoint>& points, double bits) {
  POLARQUANT_DCHECK(!points.empty());
  const auto logarithm = [&points](std::size_t i) {
    return std::log2((std::max)(points[i].divergence, detail::kLeastDivergence));
  };
  const std::size_t last = points.size() - 1;
  std::size_t left = 0;  // of the two points whose slope it is
  while (left + 2 < points.size() && bits > points[left + 1].bits) ++left;
  double slope = detail::kRateSlope;
  if (last > 0) {
    slope = (logarithm(left + 1) - logarithm(left)) / (points[left + 1].bits - points[left].bits);
  }
  std::size_t from = left;
  if (bits < points[0].bits || bits > points[last].bits) {
    slope = (std::max)(detail::kSteepestSlope, (std::min)(slope, detail::kFlattestSlope));
    from = bits < points[0].bits ? 0 : last;
  }
  return std::exp2(logarithm(from) + slope * (bits - points[from].bits));
}

// One of `rates` for each side of each layer, such that their mean is at most average_bits and the
// sum of all divergences (divergence_at) is least: exactly that, by dynamic programming over the
// bits spent. Divergences of sides add up to the whole's as long as they are small. All sides count
// alike, as for heads of one width. Of equal sums the one of fewer bits is taken.
//
// layers: what was measured, on another text than the allocation is judged by. rates: bits per
// coordinate, ascending, of the formats to choose from, such as 2.25, 3.25, 4.25. Throws
// std::invalid_argument, naming the value and the rule, if there are no layers, points or rates, a
// number is not finite or not in order, the average is below the least rate, or the rates have no
// common step that is coarse enough. Cost: 2 layers * rates * the bits to spend in common steps, at
// most 1e9.
inline std::vector<LayerBits> allocate_bits(const std::vector<LayerRates>& layers,
                                            const std::vector<double>& rates, double average_bits) {
  using detail::throw_invalid_argument;
  if (layers.empty()) throw_invalid_argument("allocation of bits to no layers");
  if (rates.empty()) throw_invalid_argument("allocation of bits from no rates");
  for (std::size_t i = 0; i < rates.size(); ++i) {
    if (detail::is_finite(rates[i]) && rates[i] >= 0.0 && (i == 0 || rates[i - 1] < rates[i])) {
      continue;
    }
    throw_invalid_argument(
        {"rate ", i, " is ", rates[i], ", rates must be finite, at least 0, in order and apart"});
  }
  if (!detail::is_finite(average_bits) || average_bits < rates[0] - 1e-9) {
    throw_invalid_argument({"an average of ", average_bits,
                            " bits, must be finite and at least the least rate, ", rates[0]});
  }
  std::vector<const std::vector<RatePoint>*> sides;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    detail::check_rate_points(layers[i].keys, "keys", i);
    detail::check_rate_points(layers[i].values, "values", i);
    sides.push_back(&layers[i].keys);
    sides.push_back(&layers[i].values);
  }

  // Everything is counted in steps above the least rate.
  const double width = rates.back() - rates[0];
  const double step = rates.size() > 1 ? detail::common_step(rates, 1e-5 * width) : 1.0;
  const double num_sides = static_cast<double>(sides.size());
  const double mean_steps =
      (std::min)((average_bits - rates[0]) / step + 1e-6, std::round(width / step));
  const double cost = num_sides * static_cast<double>(rates.size()) * num_sides * mean_steps;
  if (step == 0.0 || !(cost <= detail::kMaxBudgetCost) ||
      rates.size() > (std::numeric_limits<std::uint16_t>::max)()) {
    throw_invalid_argument({rates.size(), " rates for ", sides.size(), " sides, in steps of ", step,
                            ": too many, or they have no coarse common step"});
  }
  std::vector<std::size_t> steps;
  for (const double rate : rates) {
    steps.push_back(static_cast<std::size_t>(std::lround((rate - rates[0]) / step)));
  }
  const std::size_t budget = static_cast<std::size_t>(num_sides * mean_steps);

  // least[b]: of the sides so far, within b steps. choices[side][b]: the rate of the last of them.
  std::vector<double> least(budget + 1, 0.0), next(budget + 1);
  std::vector<std::vector<std::uint16_t>> choices;
  for (const std::vector<RatePoint>* const points : sides) {
    std::fill(next.begin(), next.end(), std::numeric_limits<double>::infinity());
    choices.emplace_back(budget + 1, std::uint16_t{0});
    for (std::size_t rate = 0; rate < rates.size(); ++rate) {
      const double divergence = divergence_at(*points, rates[rate]);
      for (std::size_t spent = steps[rate]; spent <= budget; ++spent) {
        const double sum = least[spent - steps[rate]] + divergence;
        if (!(sum < next[spent])) continue;
        next[spent] = sum;
        choices.back()[spent] = static_cast<std::uint16_t>(rate);
      }
    }
    least.swap(next);
  }
  std::size_t left = budget;
  while (left > 0 && least[left - 1] <= least[budget]) --left;
  std::vector<LayerBits> result(layers.size());
  for (std::size_t side = sides.size(); side-- > 0;) {
    const std::size_t rate = choices[side][left];
    (side % 2 == 0 ? result[side / 2].keys : result[side / 2].values) = rates[rate];
    left -= steps[rate];
  }
  return result;
}

POLARQUANT_END_NAMESPACE
