// Scales of key channels from how queries look at keys.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <vector>

#include "polarquant/attention/matrix.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

struct ChannelScaleOptions {
  // Rounds of the iteration; 0: all scales are 1. Each shrinks what is missing by the second
  // eigenvalue of a random walk on the channels, and attention mixes well: after three F is at its
  // minimum to four digits.
  int num_rounds = 5;

  // What is added to the sums of a channel, of the mean of those of all. A channel that hardly
  // occurs in the calibration text, but may in another, keeps a scale like the others'. It costs
  // about 1 % of F on the text itself.
  double regularization = 0.01;
};

// Scales s of the channels of one KV head's keys. A rotation spreads a key's error evenly over all
// directions; of keys s * k and queries q / s it lies, at equal scores, where queries look least.
// To first order the attention output's squared error, for a code of relative error D, is D / d
// times
//
//   F(s) = sum_{q,t} p_qt^2 (sum_i q_i^2 / s_i^2) (sum_j s_j^2 k_tj^2) = sum_ij M_ij s_j^2 / s_i^2,
//   M_ij = sum_{q,t} p_qt^2 q_i^2 k_tj^2,
//
// over queries q and tokens t with softmax weights p_qt. As u = s^2, a stationary point has
//
//   u_i^2 = (sum_j M_ij u_j) / (sum_j M_ji / u_j),
//
// and it is the minimum, F being convex in log u. That is iterated from u = 1.
//
// moments: M, [d, d], finite, at least 0; a factor common to all makes no difference. Returns d
// scales, finite and above 0, of a geometric mean of 1; all 1 if M is 0. A channel in which neither
// keys nor queries have energy gets a scale between the others'. Throws std::invalid_argument for a
// matrix or options that break a rule. Cost: 2 d^2 products and quotients a round.
inline std::vector<double> channel_scales(const RowMatrixRef<double>& moments,
                                          const ChannelScaleOptions& options = {}) {
  using Eigen::Index;
  const Index d = moments.rows();
  if (d < 1 || moments.cols() != d) {
    detail::throw_invalid_argument(
        {"moments are ", d, " x ", moments.cols(), ", must be square and not empty"});
  }
  if (options.num_rounds < 0) {
    detail::throw_invalid_argument({"num_rounds is ", options.num_rounds, ", must be at least 0"});
  }
  if (!detail::is_finite(options.regularization) || options.regularization < 0.0) {
    detail::throw_invalid_argument(
        {"regularization is ", options.regularization, ", must be finite, at least 0"});
  }
  double largest = 0.0;
  for (Index i = 0; i < d; ++i) {
    for (Index j = 0; j < d; ++j) {
      const double moment = moments(i, j);
      if (!detail::is_finite(moment) || moment < 0.0) {
        detail::throw_invalid_argument(
            {"moment ", i, ", ", j, " is ", moment, ", must be finite, at least 0"});
      }
      if (moment > largest) largest = moment;
    }
  }
  const std::size_t size = static_cast<std::size_t>(d);
  std::vector<double> u(size, 1.0);
  if (largest == 0.0) return u;

  // Sums of channels that have no energy are never 0, so that no quotient is 0 / 0.
  constexpr double kLeastShare = 1e-12;
  const double share = options.regularization > kLeastShare ? options.regularization : kLeastShare;
  std::vector<double> query_sums(size), key_sums(size);
  for (int round = 0; round < options.num_rounds; ++round) {
    query_sums.assign(size, 0.0);
    key_sums.assign(size, 0.0);
    double query_total = 0.0, key_total = 0.0;
    for (std::size_t i = 0; i < size; ++i) {
      for (std::size_t j = 0; j < size; ++j) {
        const double moment = moments(static_cast<Index>(i), static_cast<Index>(j)) / largest;
        query_sums[i] += moment * u[j];
        key_sums[j] += moment / u[i];
      }
      query_total += query_sums[i];
    }
    for (const double sum : key_sums) key_total += sum;
    const double added = share / static_cast<double>(d);
    double mean_log = 0.0;
    for (std::size_t i = 0; i < size; ++i) {
      u[i] = detail::square_root((query_sums[i] + added * query_total) /
                                 (key_sums[i] + added * key_total));
      mean_log += std::log(u[i]);
    }
    // F does not depend on a common factor of u; without one the numbers stay near 1.
    const double factor = std::exp(-mean_log / static_cast<double>(d));
    for (double& entry : u) entry *= factor;
  }
  for (double& entry : u) entry = detail::square_root(entry);
  return u;
}

POLARQUANT_END_NAMESPACE
