#include "polarquant/method/polar_transform.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "method_test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

// Every depth of every kind of width.
std::vector<PolarShape> shapes() {
  std::vector<PolarShape> result;
  for (const int d : {2, 4, 8, 16, 64, 128, 256, 1024}) {
    for (int levels = 1; (d >> levels) != 0; ++levels) result.push_back({d, levels});
  }
  for (const int d : {6, 10, 14, 48, 80, 96, 112, 192, 576, 1022}) {
    for (int levels = 1; (d >> levels) != 0; ++levels) {
      if (d % (1 << levels) == 0 || (d >> levels) == 1) result.push_back({d, levels});
    }
  }
  return result;
}

std::string name_of(const PolarShape& shape) {
  return "head_dim " + std::to_string(shape.head_dim) + ", levels " + std::to_string(shape.levels);
}

template <typename T>
struct Polar {
  std::vector<T> radii;
  std::vector<T> angles;
};

template <typename T>
Polar<T> polar_of(const PolarShape& shape, const std::vector<T>& x) {
  Polar<T> polar{std::vector<T>(static_cast<std::size_t>(shape.num_radii())),
                 std::vector<T>(static_cast<std::size_t>(shape.num_angles()))};
  to_polar(shape, x.data(), polar.radii.data(), polar.angles.data());
  return polar;
}

template <typename T>
std::vector<T> cartesian_of(const PolarShape& shape, const Polar<T>& polar) {
  std::vector<T> x(static_cast<std::size_t>(shape.head_dim));
  from_polar(shape, polar.radii.data(), polar.angles.data(), x.data());
  return x;
}

template <typename T>
double norm(const T* x, std::size_t count) {
  double total = 0.0;
  for (std::size_t i = 0; i < count; ++i) total += static_cast<double>(x[i]) * x[i];
  return std::sqrt(total);
}

// The definition once more, as a recursion over intervals of coordinates: the angle of an interval
// compares the norms of its halves, or the signed coordinates themselves.
void naive_angles(const double* x, std::size_t width, std::size_t level,
                  std::vector<std::vector<double>>& by_level) {
  if (width == 1) return;
  const std::size_t half = width / 2;
  double psi = half == 1 ? std::atan2(x[1], x[0]) : std::atan2(norm(x + half, half), norm(x, half));
  if (psi < 0.0) psi += 2.0 * kPi;
  by_level[level - 1].push_back(psi);
  naive_angles(x, half, level - 1, by_level);
  naive_angles(x + half, half, level - 1, by_level);
}

Polar<double> naive_polar(const PolarShape& shape, const std::vector<double>& x) {
  const std::size_t block = std::size_t{1} << shape.levels;
  const std::size_t num_blocks = x.size() / block;
  std::vector<std::vector<double>> by_level(static_cast<std::size_t>(shape.levels));
  Polar<double> polar;
  std::size_t first = 0;
  for (; first < num_blocks * block; first += block) {
    polar.radii.push_back(norm(x.data() + first, block));
    naive_angles(x.data() + first, block, static_cast<std::size_t>(shape.levels), by_level);
  }
  std::vector<double> joins;
  while (first < x.size()) {
    std::size_t part = 1;
    std::size_t level = 0;
    while (first + 2 * part <= x.size()) {
      part *= 2;
      ++level;
    }
    joins.push_back(std::atan2(norm(x.data() + first, part), norm(x.data(), first)));
    naive_angles(x.data() + first, part, level, by_level);
    first += part;
    polar.radii[0] = norm(x.data(), first);
  }
  for (const std::vector<double>& level : by_level) {
    polar.angles.insert(polar.angles.end(), level.begin(), level.end());
  }
  polar.angles.insert(polar.angles.end(), joins.begin(), joins.end());
  return polar;
}

TEST(PolarTransformTest, AnglesAndRadiiAreThoseOfTheDefinition) {
  for (const PolarShape& shape : shapes()) {
    const std::size_t d = static_cast<std::size_t>(shape.head_dim);
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      const std::vector<double> x = gaussian_vector<double>(d, seed);
      const Polar<double> polar = polar_of(shape, x);
      const Polar<double> naive = naive_polar(shape, x);
      ASSERT_EQ(polar.angles.size(), naive.angles.size()) << name_of(shape);
      ASSERT_EQ(polar.radii.size(), naive.radii.size()) << name_of(shape);
      for (std::size_t k = 0; k < naive.angles.size(); ++k) {
        ASSERT_NEAR(polar.angles[k], naive.angles[k], 1e-14) << name_of(shape) << " " << k;
      }
      for (std::size_t k = 0; k < naive.radii.size(); ++k) {
        ASSERT_NEAR(polar.radii[k], naive.radii[k], 1e-13) << name_of(shape) << " " << k;
      }
    }
  }
}

// Errors of levels add up: a few ULP of the norm for each of at most 10.
template <typename T>
void expect_inverse() {
  for (const PolarShape& shape : shapes()) {
    const std::size_t d = static_cast<std::size_t>(shape.head_dim);
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      const std::vector<T> x = gaussian_vector<T>(d, 100 + seed);
      const std::vector<T> y = cartesian_of(shape, polar_of(shape, x));
      const double tolerance =
          4.0 * (shape.levels + 1) * static_cast<double>(std::numeric_limits<T>::epsilon());
      for (std::size_t i = 0; i < d; ++i) {
        ASSERT_NEAR(x[i], y[i], tolerance * 6.0) << name_of(shape) << " " << i;
      }
    }
  }
}

TEST(PolarTransformTest, InverseReturnsTheVectorInDouble) { expect_inverse<double>(); }

TEST(PolarTransformTest, InverseReturnsTheVectorInFloat) { expect_inverse<float>(); }

TEST(PolarTransformTest, Level1IsWrappedToOneTurn) {
  const PolarShape shape{2, 1};
  const double directions[][3] = {{1, 0, 0.0},         {1, 1, 0.25 * kPi}, {0, 1, 0.5 * kPi},
                                  {-1, 1, 0.75 * kPi}, {-1, 0, kPi},       {-1, -1, 1.25 * kPi},
                                  {0, -1, 1.5 * kPi},  {1, -1, 1.75 * kPi}};
  for (const auto& direction : directions) {
    const Polar<double> polar = polar_of<double>(shape, {direction[0], direction[1]});
    EXPECT_NEAR(polar.angles[0], direction[2], 1e-15);
  }
}

// -1e-30 + 2 pi rounds to 2 pi itself, which is the angle 0.
template <typename T>
void expect_tiny_negative_angles_below_a_turn() {
  const PolarShape shape{2, 1};
  for (const double y : {-1e-3, -1e-7, -1e-8, -1e-16, -1e-30, -0.0}) {
    const Polar<T> polar = polar_of<T>(shape, {T(1), static_cast<T>(y)});
    EXPECT_GE(polar.angles[0], T(0)) << y;
    EXPECT_LT(polar.angles[0], static_cast<T>(2.0 * kPi)) << y;
  }
}

TEST(PolarTransformTest, TinyNegativeAnglesStayBelowATurnInDouble) {
  expect_tiny_negative_angles_below_a_turn<double>();
}

TEST(PolarTransformTest, TinyNegativeAnglesStayBelowATurnInFloat) {
  expect_tiny_negative_angles_below_a_turn<float>();
}

TEST(PolarTransformTest, Level1FillsTheCircleAndDeeperLevelsTheQuadrant) {
  for (const PolarShape& shape : {PolarShape{128, 7}, PolarShape{112, 6}}) {
    const std::size_t num_first = static_cast<std::size_t>(shape.num_angles(1));
    double smallest_first = 10.0;
    double largest_first = 0.0;
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
      const Polar<float> polar =
          polar_of(shape, gaussian_vector<float>(static_cast<std::size_t>(shape.head_dim), seed));
      for (std::size_t k = 0; k < polar.angles.size(); ++k) {
        const double psi = static_cast<double>(polar.angles[k]);
        ASSERT_GE(psi, 0.0);
        ASSERT_LT(psi, k < num_first ? 2.0 * kPi : 0.5 * kPi + 1e-7);
        if (k < num_first) {
          smallest_first = std::min(smallest_first, psi);
          largest_first = std::max(largest_first, psi);
        }
      }
    }
    EXPECT_LT(smallest_first, 0.01);
    EXPECT_GT(largest_first, 6.27);
  }
}

TEST(PolarTransformTest, RadiiAreTheNormsOfBlocks) {
  const PolarShape shape{96, 4};
  const std::vector<double> x = gaussian_vector<double>(96, 7);
  const Polar<double> polar = polar_of(shape, x);
  ASSERT_EQ(polar.radii.size(), 6u);
  for (std::size_t block = 0; block < 6; ++block) {
    EXPECT_NEAR(polar.radii[block], norm(x.data() + 16 * block, 16), 1e-14);
  }
}

TEST(PolarTransformTest, ScalingTheVectorScalesRadiiAndKeepsAngles) {
  const PolarShape shape{80, 6};
  std::vector<double> x = gaussian_vector<double>(80, 8);
  const Polar<double> polar = polar_of(shape, x);
  for (double& value : x) value *= 1024.0;
  const Polar<double> scaled = polar_of(shape, x);
  EXPECT_EQ(scaled.radii[0], 1024.0 * polar.radii[0]);
  EXPECT_EQ(scaled.angles, polar.angles);
}

TEST(PolarTransformTest, ZeroVectorHasZeroRadiiAndReturnsToZeros) {
  for (const PolarShape& shape : shapes()) {
    const std::vector<float> zeros(static_cast<std::size_t>(shape.head_dim), 0.0f);
    const Polar<float> polar = polar_of(shape, zeros);
    for (const float radius : polar.radii) ASSERT_EQ(radius, 0.0f);
    for (const float psi : polar.angles) ASSERT_EQ(psi, 0.0f);
    ASSERT_EQ(cartesian_of(shape, polar), zeros) << name_of(shape);
  }
}

TEST(PolarTransformTest, ZeroBlockReturnsToZerosBesideOthers) {
  const PolarShape shape{64, 6};
  std::vector<double> x = gaussian_vector<double>(64, 9);
  for (std::size_t i = 16; i < 32; ++i) x[i] = 0.0;
  const std::vector<double> y = cartesian_of(shape, polar_of(shape, x));
  for (std::size_t i = 16; i < 32; ++i) EXPECT_NEAR(y[i], 0.0, 1e-15);
  for (std::size_t i = 0; i < 16; ++i) EXPECT_NEAR(y[i], x[i], 1e-14);
}

TEST(PolarTransformTest, NormsNearTheEndsOfTheRangeSurvive) {
  const PolarShape shape{16, 4};
  for (const double scale : {1e-300, 1e300}) {
    std::vector<double> x = gaussian_vector<double>(16, 10);
    for (double& value : x) value *= scale;
    const std::vector<double> y = cartesian_of(shape, polar_of(shape, x));
    for (std::size_t i = 0; i < 16; ++i) EXPECT_NEAR(y[i] / scale, x[i] / scale, 1e-13);
  }
}

// Shape -------------------------------------------------------------------------------------------

TEST(PolarShapeTest, CountsAddUpToTheCoordinates) {
  for (const PolarShape& shape : shapes()) {
    ASSERT_NO_THROW(shape.validate()) << name_of(shape);
    int angles = shape.num_joins();
    for (int level = 1; level <= shape.levels; ++level) {
      EXPECT_EQ(shape.first_angle(level), angles - shape.num_joins());
      angles += shape.num_angles(level);
    }
    EXPECT_EQ(shape.first_angle(shape.levels + 1), angles - shape.num_joins());
    EXPECT_EQ(shape.num_angles(), angles) << name_of(shape);
    EXPECT_EQ(shape.num_radii() + angles, shape.head_dim) << name_of(shape);
  }
}

TEST(PolarShapeTest, FullDepthEndsInOneRadius) {
  for (int d = 2; d <= 1024; d += 2) {
    int levels = 0;
    while ((2 << levels) <= d) ++levels;
    const PolarShape shape{d, levels};
    ASSERT_NO_THROW(shape.validate());
    ASSERT_EQ(shape.num_radii(), 1);
    int binary_ones = 0;
    for (int rest = d; rest != 0; rest /= 2) binary_ones += rest % 2;
    ASSERT_EQ(shape.num_joins(), binary_ones - 1) << d;
  }
}

TEST(PolarShapeTest, JoinsAddThePartsFromTheLargestDown) {
  const PolarShape shape{112, 6};
  ASSERT_EQ(shape.num_joins(), 2);
  EXPECT_EQ(shape.join_left(0), 64);
  EXPECT_EQ(shape.join_right(0), 32);
  EXPECT_EQ(shape.join_left(1), 96);
  EXPECT_EQ(shape.join_right(1), 16);
}

TEST(PolarShapeTest, BlocksAreNotJoined) { EXPECT_EQ((PolarShape{96, 5}.num_joins()), 0); }

TEST(PolarShapeTest, WidthOutOfRangeIsAnErrorThatNamesIt) {
  for (const int d : {-2, 0, 1, 7, 1026}) {
    const std::string text = "head_dim is " + std::to_string(d);
    expect_invalid([d] { PolarShape{d, 1}.validate(); }, {text.c_str(), "even, 2 .. 1024"});
  }
}

TEST(PolarShapeTest, DepthOutOfRangeIsAnErrorThatNamesIt) {
  for (const int levels : {-1, 0, 8, 11, 40}) {
    const std::string text = "levels is " + std::to_string(levels);
    expect_invalid(
        [levels] {
          PolarShape{128, levels}.validate();
        },
        {text.c_str(), "head_dim 128"});
  }
}

TEST(PolarShapeTest, WidthThatBlocksDoNotDivideIsAnErrorThatNamesIt) {
  expect_invalid(
      [] {
        PolarShape{80, 5}.validate();
      },
      {"head_dim is 80", "2^levels = 32", "unless the depth is full"});
}

}  // namespace
