// What the tests of codebooks share: laws, samples of them, and the distortion by integration.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "method_test_util.hpp"
#include "polarquant/method/codebook.hpp"

namespace polarquant_test {

using polarquant::AngleCodebook;
using polarquant::AngleDistribution;
using polarquant::Random;

// Laws of the formats in use: levels 2 .. 8 and some joins.
inline std::vector<AngleDistribution> laws() {
  std::vector<AngleDistribution> result;
  for (int level = 2; level <= 8; ++level) result.push_back(AngleDistribution::of_level(level));
  for (const auto& [a, b] : {std::pair<int, int>{64, 16}, {512, 64}, {4, 2}, {64, 32}}) {
    result.push_back(AngleDistribution::of_join(a, b));
  }
  return result;
}

// The integral of psi^power times the exact density over a cell.
inline double cell_moment(const AngleDistribution& law, double low, double high, int power) {
  const double width = 1.0 / std::sqrt(2.0 * (law.a() + law.b()));
  const double center = std::atan2(std::sqrt(law.b()), std::sqrt(law.a()));
  low = std::max(low, center - 14.0 * width);
  high = std::min(high, center + 14.0 * width);
  return simpson(low, high, 500, [&law, power](double psi) {
    if (psi <= 0.0 || psi >= 0.5 * kPi) return 0.0;
    return std::pow(psi, power) * join_density(law.a(), law.b(), psi);
  });
}

inline std::vector<double> edges_of(const AngleCodebook& codebook) {
  std::vector<double> edges = codebook.boundaries();
  edges.insert(edges.begin(), 0.0);
  edges.push_back(0.5 * kPi);
  return edges;
}

// E (psi - theta)^2.
inline double distortion(const AngleDistribution& law, const AngleCodebook& codebook) {
  const std::vector<double> edges = edges_of(codebook);
  double total = 0.0;
  for (std::size_t i = 0; i < codebook.centroids().size(); ++i) {
    const double theta = codebook.centroids()[i];
    total += cell_moment(law, edges[i], edges[i + 1], 2) -
             2.0 * theta * cell_moment(law, edges[i], edges[i + 1], 1) +
             theta * theta * cell_moment(law, edges[i], edges[i + 1], 0);
  }
  return total;
}

inline double circular_distance(double x, double y) {
  const double gap = std::fmod(std::abs(x - y), 2.0 * kPi);
  return std::min(gap, 2.0 * kPi - gap);
}

// Angles that follow the law of a level: atan2 of the norms of two Gaussian halves.
inline std::vector<double> samples_of_level(int level, std::size_t count, std::uint64_t seed) {
  Random random(seed);
  const int half = level == 1 ? 1 : 1 << (level - 1);
  std::vector<double> angles(count);
  for (double& angle : angles) {
    if (level == 1) {
      angle = random.uniform() * 2.0 * kPi;
      continue;
    }
    double left = 0.0;
    double right = 0.0;
    for (int i = 0; i < half; ++i) {
      const double x = random.gaussian();
      const double y = random.gaussian();
      left += x * x;
      right += y * y;
    }
    angle = std::atan2(std::sqrt(right), std::sqrt(left));
  }
  return angles;
}

}  // namespace polarquant_test
