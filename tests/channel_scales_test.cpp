#include "polarquant/calibration/channel_scales.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "polarquant/base/random.hpp"
#include "test_util.hpp"

namespace {

using Eigen::Index;
using polarquant::channel_scales;
using polarquant::ChannelScaleOptions;
using polarquant::Random;
using polarquant_test::expect_invalid;
using polarquant_test::random_int;
using Matrix = polarquant::RowMatrix<double>;

// The minimum: enough rounds for random matrices, and nothing added to the sums.
ChannelScaleOptions converged() {
  ChannelScaleOptions options;
  options.num_rounds = 2000;
  options.regularization = 0.0;
  return options;
}

// F(s), from its definition.
double objective(const Matrix& moments, const std::vector<double>& scales) {
  double sum = 0.0;
  for (Index i = 0; i < moments.rows(); ++i) {
    for (Index j = 0; j < moments.cols(); ++j) {
      const double ratio =
          scales[static_cast<std::size_t>(j)] / scales[static_cast<std::size_t>(i)];
      sum += moments(i, j) * ratio * ratio;
    }
  }
  return sum;
}

std::vector<double> exponentials(const std::vector<double>& logs) {
  std::vector<double> result;
  for (const double x : logs) result.push_back(std::exp(x));
  return result;
}

// dF / d log s by differences of F alone.
std::vector<double> gradient(const Matrix& moments, const std::vector<double>& logs) {
  constexpr double kStep = 1e-5;
  std::vector<double> result;
  for (std::size_t i = 0; i < logs.size(); ++i) {
    std::vector<double> moved = logs;
    moved[i] += kStep;
    const double above = objective(moments, exponentials(moved));
    moved[i] -= 2.0 * kStep;
    result.push_back((above - objective(moments, exponentials(moved))) / (2.0 * kStep));
  }
  return result;
}

// The least F by descent along the gradient in log s, with a step that is found by trial.
double least_objective(const Matrix& moments) {
  std::vector<double> logs(static_cast<std::size_t>(moments.rows()), 0.0);
  double best = objective(moments, exponentials(logs));
  double step = 0.1 / best;
  for (int round = 0; round < 20000 && step * best > 1e-12; ++round) {
    const std::vector<double> slope = gradient(moments, logs);
    std::vector<double> moved = logs;
    for (std::size_t i = 0; i < logs.size(); ++i) moved[i] -= step * slope[i];
    const double found = objective(moments, exponentials(moved));
    if (found < best) {
      best = found;
      logs = moved;
      step *= 1.5;
    } else {
      step *= 0.5;
    }
  }
  return best;
}

std::vector<double> logs_of(const std::vector<double>& scales) {
  std::vector<double> logs;
  for (const double scale : scales) logs.push_back(std::log(scale));
  return logs;
}

double mean_log(const std::vector<double>& scales) {
  double sum = 0.0;
  for (const double x : logs_of(scales)) sum += x;
  return sum / static_cast<double>(scales.size());
}

Matrix random_moments(Random& random, Index d, double spread) {
  Matrix moments(d, d);
  for (Index i = 0; i < moments.size(); ++i) {
    moments.data()[i] = std::exp(spread * random.gaussian());
  }
  return moments;
}

// Of causal attention between random queries and keys whose channels differ in size, as a model's.
Matrix attention_moments(std::uint64_t seed, Index d, Index num_tokens) {
  Random random(seed);
  const auto rows = [&] {
    Matrix result(num_tokens, d);
    for (Index i = 0; i < d; ++i) {
      const double size = std::exp(0.8 * random.gaussian());
      for (Index token = 0; token < num_tokens; ++token) {
        result(token, i) = size * random.gaussian();
      }
    }
    return result;
  };
  const Matrix queries = rows();
  const Matrix keys = rows();
  Matrix moments = Matrix::Zero(d, d);
  for (Index query = 0; query < num_tokens; ++query) {
    Eigen::VectorXd weights = keys.topRows(query + 1) * queries.row(query).transpose();
    weights /= std::sqrt(static_cast<double>(d));
    weights = (weights.array() - weights.maxCoeff()).exp().matrix().eval();
    weights /= weights.sum();
    const Eigen::VectorXd sums =
        keys.topRows(query + 1).cwiseAbs2().transpose() * weights.cwiseAbs2();
    moments += queries.row(query).cwiseAbs2().transpose() * sums.transpose();
  }
  return moments;
}

TEST(ChannelScalesTest, ConvergesToTheMinimum) {
  Random random(1);
  for (int trial = 0; trial < 12; ++trial) {
    const Matrix moments = random_moments(random, random_int(random, 4, 8), 1.5);
    const std::vector<double> scales = channel_scales(moments, converged());
    const double found = objective(moments, scales);
    const double least = least_objective(moments);
    EXPECT_LE(found, least * (1.0 + 1e-9));
    EXPECT_GE(found, least * (1.0 - 1e-6));
    EXPECT_LT(found, objective(moments, std::vector<double>(scales.size(), 1.0)));

    const std::vector<double> logs = logs_of(scales);
    for (const double slope : gradient(moments, logs)) EXPECT_NEAR(slope, 0.0, 1e-7 * found);
    for (int other = 0; other < 50; ++other) {
      // Neighbours, and scales far away.
      std::vector<double> moved = logs;
      for (double& x : moved) x += (other % 2 == 0 ? 0.01 : 1.0) * random.gaussian();
      EXPECT_GT(objective(moments, exponentials(moved)), found);
    }
  }
}

TEST(ChannelScalesTest, AFewRoundsComeCloseOnAttention) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    const Matrix moments = attention_moments(seed, 64, 200);
    const double least = objective(moments, channel_scales(moments, converged()));
    const double found = objective(moments, channel_scales(moments));
    EXPECT_GE(found, least * (1.0 - 1e-9));
    EXPECT_LE(found, 1.01 * least);
    // What is lost is the regularization's; three rounds without it are enough.
    EXPECT_GE(found, 1.001 * least);
    EXPECT_LE(objective(moments, channel_scales(moments, {3, 0.0})), 1.0001 * least);
    // There was something to gain.
    EXPECT_GT(objective(moments, std::vector<double>(64, 1.0)), 1.5 * least);
  }
}

TEST(ChannelScalesTest, OneRoundIsEnoughForAProduct) {
  // M = a b^T: u_i^2 = a_i / b_i up to a factor, whatever u was before.
  Random random(2);
  Matrix moments(6, 6);
  std::vector<double> a, b, expected;
  for (std::size_t i = 0; i < 6; ++i) {
    a.push_back(std::exp(2.0 * random.gaussian()));
    b.push_back(std::exp(2.0 * random.gaussian()));
    expected.push_back(std::pow(a[i] / b[i], 0.25));
  }
  for (Index i = 0; i < 6; ++i) {
    for (Index j = 0; j < 6; ++j) {
      moments(i, j) = a[static_cast<std::size_t>(i)] * b[static_cast<std::size_t>(j)];
    }
  }
  const double mean = std::exp(mean_log(expected));
  for (const int num_rounds : {1, 2, 7}) {
    ChannelScaleOptions options = converged();
    options.num_rounds = num_rounds;
    const std::vector<double> scales = channel_scales(moments, options);
    for (std::size_t i = 0; i < 6; ++i) EXPECT_NEAR(scales[i] * mean / expected[i], 1.0, 1e-8);
  }
}

TEST(ChannelScalesTest, RegularizationIsAddedToBothSums) {
  // One round from u = 1: u_i^2 = (row_i + share mean) / (column_i + share mean).
  Random random(3);
  const Index d = 7;
  const Matrix moments = random_moments(random, d, 2.0);
  for (const double share : {0.01, 0.5, 1e6}) {
    std::vector<double> expected;
    const double added = share * moments.sum() / static_cast<double>(d);
    for (Index i = 0; i < d; ++i) {
      expected.push_back(
          std::pow((moments.row(i).sum() + added) / (moments.col(i).sum() + added), 0.25));
    }
    const double mean = std::exp(mean_log(expected));
    const std::vector<double> scales = channel_scales(moments, {1, share});
    for (std::size_t i = 0; i < scales.size(); ++i) {
      EXPECT_NEAR(scales[i] * mean / expected[i], 1.0, 1e-12);
      if (share == 1e6) {
        EXPECT_NEAR(scales[i], 1.0, 1e-4);
      }
    }
  }
}

TEST(ChannelScalesTest, ScalesHaveAGeometricMeanOfOne) {
  Random random(4);
  for (const Index d : {1, 2, 5, 64}) {
    const Matrix moments = random_moments(random, d, 3.0);
    EXPECT_NEAR(mean_log(channel_scales(moments)), 0.0, 1e-12);
    EXPECT_NEAR(mean_log(channel_scales(moments, converged())), 0.0, 1e-12);
    EXPECT_EQ(channel_scales(moments, {0, 0.01}), std::vector<double>(std::size_t(d), 1.0));
  }
}

TEST(ChannelScalesTest, ACommonFactorChangesNothing) {
  Random random(5);
  const Matrix moments = random_moments(random, 8, 2.0);
  const std::vector<double> scales = channel_scales(moments);
  for (const double factor : {std::ldexp(1.0, 900), std::ldexp(1.0, -900), 3.0}) {
    const Matrix scaled = moments * factor;
    const std::vector<double> others = channel_scales(scaled);
    for (std::size_t i = 0; i < scales.size(); ++i) EXPECT_NEAR(others[i] / scales[i], 1.0, 1e-12);
  }
}

TEST(ChannelScalesTest, ScalesUndoScalesOfKeysAndOrderFollowsChannels) {
  Random random(6);
  const Index d = 6;
  const Matrix moments = random_moments(random, d, 1.0);
  const std::vector<double> scales = channel_scales(moments, converged());
  // Keys times c are best scaled by s / c; and channels in reverse order have scales in reverse
  // order.
  std::vector<double> factors;
  for (Index i = 0; i < d; ++i) factors.push_back(std::exp(random.gaussian()));
  Matrix moved(d, d);
  for (Index i = 0; i < d; ++i) {
    for (Index j = 0; j < d; ++j) {
      const double factor =
          factors[static_cast<std::size_t>(j)] / factors[static_cast<std::size_t>(i)];
      moved(d - 1 - i, d - 1 - j) = moments(i, j) * factor * factor;
    }
  }
  const std::vector<double> others = channel_scales(moved, converged());
  const double mean = std::exp(mean_log(factors));
  for (std::size_t i = 0; i < scales.size(); ++i) {
    EXPECT_NEAR(others[scales.size() - 1 - i] * factors[i] / mean / scales[i], 1.0, 1e-8);
  }
}

TEST(ChannelScalesTest, ChannelsWithoutEnergyGiveNumbers) {
  EXPECT_EQ(channel_scales(Matrix::Zero(5, 5)), std::vector<double>(5, 1.0));
  Random random(7);
  for (const ChannelScaleOptions& options : {ChannelScaleOptions{}, converged()}) {
    for (int which = 0; which < 5; ++which) {
      Matrix moments = random_moments(random, 6, 1.0);
      if (which == 0 || which == 2) moments.row(1).setZero();
      if (which == 1 || which == 2) moments.col(1).setZero();
      if (which == 3) moments = Matrix::Identity(6, 6);
      if (which == 4) {
        moments.setZero();
        moments(2, 4) = std::numeric_limits<double>::denorm_min();
      }
      const std::vector<double> scales = channel_scales(moments, options);
      EXPECT_NEAR(mean_log(scales), 0.0, 1e-12);
      const auto [least, most] = std::minmax_element(scales.begin(), scales.end());
      for (const double scale : scales) {
        // So that they are numbers in float too.
        EXPECT_GT(scale, 1e-10) << which;
        EXPECT_LT(scale, 1e10) << which;
      }
      // Queries that do not look at a channel let all its bits go elsewhere; and the other way
      // round.
      if (which == 0) {
        EXPECT_EQ(scales[1], *least);
      }
      if (which == 1) {
        EXPECT_EQ(scales[1], *most);
      }
      if (which == 2) {
        EXPECT_TRUE(*least < scales[1] && scales[1] < *most);
      }
      if (which == 3) {
        EXPECT_EQ(scales, std::vector<double>(6, 1.0));
      }
    }
  }
}

TEST(ChannelScalesTest, BadInputIsNamed) {
  expect_invalid([] { channel_scales(Matrix(0, 0)); }, {"0 x 0", "square"});
  expect_invalid([] { channel_scales(Matrix::Ones(2, 3)); }, {"2 x 3", "square"});
  for (const double bad :
       {-1.0, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    Matrix moments = Matrix::Ones(3, 3);
    moments(1, 2) = bad;
    expect_invalid([&] { channel_scales(moments); }, {"moment 1, 2 is", "finite, at least 0"});
    expect_invalid(
        [&] {
          channel_scales(Matrix::Ones(3, 3), {5, bad});
        },
        {"regularization is", "finite, at least 0"});
  }
  expect_invalid(
      [] {
        channel_scales(Matrix::Ones(3, 3), {-1, 0.0});
      },
      {"num_rounds is -1", "at least 0"});
}

}  // namespace
