#include "polarquant/calibration/bit_budget.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <limits>
#include <vector>

#include "polarquant/base/random.hpp"
#include "test_util.hpp"

namespace {

using polarquant::allocate_bits;
using polarquant::divergence_at;
using polarquant::LayerBits;
using polarquant::LayerRates;
using polarquant::Random;
using polarquant::RatePoint;
using polarquant_test::expect_invalid;
using polarquant_test::random_int;

double total_bits(const std::vector<LayerBits>& bits) {
  double sum = 0.0;
  for (const LayerBits& layer : bits) sum += layer.keys + layer.values;
  return sum;
}

double total_divergence(const std::vector<LayerRates>& layers, const std::vector<LayerBits>& bits) {
  double sum = 0.0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    sum += divergence_at(layers[i].keys, bits[i].keys);
    sum += divergence_at(layers[i].values, bits[i].values);
  }
  return sum;
}

// The least sum of divergences from side `side` on, over every choice of rates.
double exhaustive(const std::vector<LayerRates>& layers, const std::vector<double>& rates,
                  double bits_left, std::size_t side = 0) {
  if (side == 2 * layers.size()) return bits_left < -1e-9 ? HUGE_VAL : 0.0;
  const LayerRates& layer = layers[side / 2];
  double least = HUGE_VAL;
  for (const double rate : rates) {
    const double rest = exhaustive(layers, rates, bits_left - rate, side + 1);
    least = std::fmin(least, rest + divergence_at(side % 2 == 0 ? layer.keys : layer.values, rate));
  }
  return least;
}

// Some points near a curve that falls by a factor of 4 a bit.
std::vector<RatePoint> random_points(Random& random, int num_points) {
  std::vector<RatePoint> points;
  const double size = std::exp(2.0 * random.gaussian());
  double bits = 1.5 + random.uniform();
  for (int i = 0; i < num_points; ++i) {
    points.push_back({bits, size * std::pow(4.0, -bits) * std::exp(0.3 * random.gaussian())});
    bits += 0.3 + random.uniform();
  }
  return points;
}

TEST(BitBudgetTest, EqualsExhaustiveSearch) {
  const std::vector<std::vector<double>> menus = {
      {2.25, 3.25, 4.25}, {2.0, 2.5, 2.75, 4.0}, {3.0},
      {2.1, 2.4, 2.5},    {1.0, 16.0},           {2.0, 2.0 + 1.0 / 3.0, 2.0 + 2.0 / 3.0, 3.0}};
  Random random(1);
  for (int trial = 0; trial < 300; ++trial) {
    const std::vector<double>& rates = menus[static_cast<std::size_t>(trial) % menus.size()];
    std::vector<LayerRates> layers(static_cast<std::size_t>(random_int(random, 1, 3)));
    for (LayerRates& layer : layers) {
      layer.keys = random_points(random, random_int(random, 1, 3));
      layer.values = random_points(random, random_int(random, 1, 3));
    }
    const double average = rates[0] + (rates.back() - rates[0] + 0.2) * random.uniform();
    const double num_sides = 2.0 * static_cast<double>(layers.size());
    const std::vector<LayerBits> bits = allocate_bits(layers, rates, average);
    ASSERT_EQ(bits.size(), layers.size());
    EXPECT_LE(total_bits(bits), num_sides * average + 1e-5);
    const double least = exhaustive(layers, rates, num_sides * average);
    EXPECT_NEAR(total_divergence(layers, bits) / least, 1.0, 1e-9) << "trial " << trial;
  }
}

TEST(BitBudgetTest, FollowsTheFormulaOfContinuousBits) {
  // The sum of s 4^-b within a mean of b is least for b = mean + log4(s / geometric mean of s).
  Random random(2);
  std::vector<LayerRates> layers(30);
  std::vector<double> rates, logs;
  for (int i = 0; i <= 16 * 7; ++i) rates.push_back(0.5 + i / 16.0);
  double mean_log = 0.0;
  for (LayerRates& layer : layers) {
    for (std::vector<RatePoint>* const side : {&layer.keys, &layer.values}) {
      const double log4 = 0.6 * random.gaussian();
      logs.push_back(log4);
      mean_log += log4 / 60.0;
      side->push_back({3.25, std::pow(4.0, log4)});
    }
  }
  const std::vector<LayerBits> bits = allocate_bits(layers, rates, 3.25);
  EXPECT_NEAR(total_bits(bits), 60 * 3.25, 1e-9);
  for (std::size_t i = 0; i < 30; ++i) {
    EXPECT_NEAR(bits[i].keys, 3.25 + logs[2 * i] - mean_log, 1.0 / 16.0);
    EXPECT_NEAR(bits[i].values, 3.25 + logs[2 * i + 1] - mean_log, 1.0 / 16.0);
  }
}

TEST(BitBudgetTest, TheMeanIsReachedInSpiteOfRounding) {
  // 2.1 + 2.5 = 2 * 2.3 but for rounding.
  const std::vector<LayerRates> layers = {{{{2.0, 1.0}}, {{2.0, 0.1}}}};
  const std::vector<LayerBits> bits = allocate_bits(layers, {2.1, 2.3, 2.5}, 2.3);
  EXPECT_EQ(bits[0].keys, 2.5);
  EXPECT_EQ(bits[0].values, 2.1);
  // And the least rate may be asked for, or more than the largest.
  EXPECT_NEAR(total_bits(allocate_bits(layers, {2.1, 2.3, 2.5}, 2.1)), 4.2, 1e-12);
  EXPECT_NEAR(total_bits(allocate_bits(layers, {2.1, 2.3, 2.5}, 100.0)), 5.0, 1e-12);
}

TEST(BitBudgetTest, BitsThatGainNothingAreNotSpent) {
  const std::vector<RatePoint> flat = {{2.0, 0.5}, {3.0, 0.5}, {4.0, 0.5}};
  const std::vector<LayerBits> bits = allocate_bits({{flat, flat}}, {2.0, 3.0, 4.0}, 4.0);
  EXPECT_EQ(total_bits(bits), 4.0);
}

TEST(BitBudgetTest, OnePointFallsByFourPerBit) {
  const std::vector<RatePoint> points = {{3.25, 0.08}};
  EXPECT_DOUBLE_EQ(divergence_at(points, 3.25), 0.08);
  EXPECT_DOUBLE_EQ(divergence_at(points, 4.25), 0.02);
  EXPECT_DOUBLE_EQ(divergence_at(points, 2.25), 0.32);
  EXPECT_NEAR(divergence_at({{3.0, 0.0}}, 2.0), 4e-9, 1e-20);  // 1e-9 in place of 0
}

TEST(BitBudgetTest, PointsAreJoinedByLinesOfTheLogarithm) {
  const std::vector<RatePoint> points = {{2.0, 0.4}, {3.0, 0.1}, {5.0, 0.1 / 64.0}};
  EXPECT_DOUBLE_EQ(divergence_at(points, 2.0), 0.4);
  EXPECT_DOUBLE_EQ(divergence_at(points, 2.5), 0.2);
  EXPECT_DOUBLE_EQ(divergence_at(points, 3.0), 0.1);
  EXPECT_DOUBLE_EQ(divergence_at(points, 4.0), 0.0125);
  EXPECT_DOUBLE_EQ(divergence_at(points, 5.0), 0.1 / 64.0);
  // And go on as the nearest does.
  EXPECT_DOUBLE_EQ(divergence_at(points, 1.0), 1.6);
  EXPECT_DOUBLE_EQ(divergence_at(points, 6.0), 0.1 / 512.0);
}

TEST(BitBudgetTest, SlopesBeyondThePointsAreKeptWithinReason) {
  // Noise that rises, or falls by a thousand.
  const std::vector<RatePoint> rising = {{2.0, 0.1}, {3.0, 0.2}};
  EXPECT_DOUBLE_EQ(divergence_at(rising, 2.5), 0.1 * std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(divergence_at(rising, 4.0), 0.1);
  EXPECT_DOUBLE_EQ(divergence_at(rising, 1.0), 0.2);
  const std::vector<RatePoint> falling = {{2.0, 1.0}, {3.0, 0.001}};
  EXPECT_DOUBLE_EQ(divergence_at(falling, 4.0), 0.001 / 8.0);
  EXPECT_DOUBLE_EQ(divergence_at(falling, 1.0), 8.0);
}

TEST(BitBudgetTest, BadInputIsNamed) {
  const std::vector<double> rates = {2.25, 3.25};
  const std::vector<LayerRates> good = {{{{3.0, 0.1}}, {{3.0, 0.1}}}};
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto error = [](const std::vector<LayerRates>& layers, const std::vector<double>& menu,
                        double average, std::initializer_list<const char*> parts) {
    expect_invalid([&] { allocate_bits(layers, menu, average); }, parts);
  };
  error({}, rates, 3.0, {"no layers"});
  error(good, {}, 3.0, {"no rates"});
  error(good, {2.0, nan}, 3.0, {"rate 1 is nan", "in order"});
  error(good, {2.0, 2.0}, 3.0, {"rate 1 is 2", "in order"});
  error(good, {-1.0, 2.0}, 3.0, {"rate 0 is -1", "at least 0"});
  error(good, rates, 2.0, {"average of 2 bits", "least rate, 2.25"});
  error(good, rates, nan, {"average of nan bits"});
  error({good[0], {{{3.0, 0.1}}, {}}}, rates, 3.0, {"values of layer 1 have no point"});
  error({{{{3.0, nan}}, {{3.0, 0.1}}}}, rates, 3.0, {"keys of layer 0", "divergence of nan"});
  error({{{{3.0, -0.1}}, {{3.0, 0.1}}}}, rates, 3.0, {"divergence of -0.1", "at least 0"});
  error({{{{nan, 0.1}}, {{3.0, 0.1}}}}, rates, 3.0, {"at nan bits"});
  error({{{{3.0, 0.1}}, {{3.0, 0.1}, {2.0, 0.2}}}}, rates, 3.0,
        {"values of layer 0: 2 bits behind 3", "in order"});
  error(good, {0.0, std::sqrt(2.0), 2.0, 2.5, 2.5 + 1.0 / 3001.0}, 2.0, {"no coarse common step"});
}

}  // namespace
