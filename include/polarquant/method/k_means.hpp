// Codebooks fitted to angles: 1-D k-means on samples. paper: section 4.1, the online codebooks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "polarquant/base/error.hpp"
#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/random.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/method/codebook.hpp"

POLARQUANT_BEGIN_NAMESPACE

// How to fit a codebook to samples.
struct KMeansOptions {
  int bits = 2;            // 2^bits centroids
  bool circular = false;   // level 1: the angles live on the circle [0, 2 pi)
  std::uint64_t seed = 0;  // of the k-means++ start
  int max_num_iterations = 200;
};

inline AngleCodebook AngleCodebook::k_means(std::vector<double> angles,
                                            const KMeansOptions& options) {
  const int least_bits = options.circular ? 1 : 0;
  if (options.bits < least_bits || options.bits > 8) {
    detail::throw_invalid_argument(
        {"a codebook of ", options.bits, " bits: must be ", least_bits, " .. 8"});
  }
  const std::size_t count = std::size_t{1} << options.bits;
  if (angles.size() < count) {
    detail::throw_invalid_argument(
        {"k-means of ", count, " centroids over ", angles.size(), " angles: too few"});
  }
  const double upper = options.circular ? detail::kTwoPi : detail::kHalfPi;
  for (const double angle : angles) {
    if (!(angle >= 0.0 && (options.circular ? angle < upper : angle <= upper))) {
      detail::throw_invalid_argument(
          {"angle ", angle, " is outside [0, ", options.circular ? "2 pi)" : "pi/2]"});
    }
  }
  std::sort(angles.begin(), angles.end());
  const std::size_t n = angles.size();

  // k-means++: every further centre is a sample drawn with probability proportional to its squared
  // distance from the nearest centre so far.
  Random random(options.seed);
  std::vector<double> centers;
  std::vector<double> distance(n, std::numeric_limits<double>::infinity());
  std::size_t chosen = static_cast<std::size_t>(random.uniform() * static_cast<double>(n));
  while (true) {
    centers.push_back(angles[chosen]);
    if (centers.size() == count) break;
    double total = 0.0;
    for (std::size_t i = 0; i < n; ++i) {
      double gap = std::abs(angles[i] - centers.back());
      if (options.circular) gap = (std::min)(gap, detail::kTwoPi - gap);
      distance[i] = (std::min)(distance[i], gap * gap);
      total += distance[i];
    }
    double target = random.uniform() * total;
    chosen = 0;
    while (chosen + 1 < n && !(target < distance[chosen])) target -= distance[chosen++];
  }
  std::sort(centers.begin(), centers.end());

  // Lloyd's iteration on the sorted samples: a cell is a range, its mean a difference of prefix
  // sums. The circle is unrolled to three turns, so that a cell across the cut is a range too.
  const std::size_t num_turns = options.circular ? 3 : 1;
  std::vector<double> samples;
  for (std::size_t turn = 0; turn < num_turns; ++turn) {
    const double shift = options.circular ? (static_cast<double>(turn) - 1.0) * upper : 0.0;
    for (const double angle : angles) samples.push_back(angle + shift);
  }
  std::vector<double> prefix(samples.size() + 1, 0.0);
  for (std::size_t i = 0; i < samples.size(); ++i) prefix[i + 1] = prefix[i] + samples[i];
  const auto first_from = [&samples](double edge) {
    return static_cast<std::size_t>(std::lower_bound(samples.begin(), samples.end(), edge) -
                                    samples.begin());
  };
  for (int iteration = 0; iteration < options.max_num_iterations; ++iteration) {
    double change = 0.0;
    std::vector<double> next(count);
    for (std::size_t k = 0; k < count; ++k) {
      double low = k > 0 ? 0.5 * (centers[k - 1] + centers[k]) : samples.front();
      double high = k + 1 < count ? 0.5 * (centers[k] + centers[k + 1])
                                  : std::numeric_limits<double>::infinity();
      if (options.circular) {
        if (k == 0) low = 0.5 * (centers.back() - upper + centers[0]);
        if (k + 1 == count) high = 0.5 * (centers[k] + (centers[0] + upper));
      }
      const std::size_t begin = first_from(low);
      const std::size_t end = first_from(high);
      // An empty cell keeps its centre.
      next[k] = end > begin ? (prefix[end] - prefix[begin]) / static_cast<double>(end - begin)
                            : centers[k];
      change = (std::max)(change, std::abs(next[k] - centers[k]));
    }
    centers = next;
    if (change < 1e-12) break;
  }
  if (options.circular) {
    for (double& center : centers) {
      if (center < 0.0) center += upper;
      if (center >= upper) center -= upper;
    }
  } else {
    for (double& center : centers) center = (std::min)((std::max)(center, 0.0), upper);
  }
  std::sort(centers.begin(), centers.end());
  return AngleCodebook(std::move(centers), options.circular);
}

POLARQUANT_END_NAMESPACE
