#include "polarquant/codec/row_encoder.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "test_util.hpp"

namespace {

using polarquant::kTileTokens;
using polarquant::detail::largest_magnitude;
using polarquant::detail::ScaledLanes;
using polarquant_test::gaussian_vector;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Lanes of vectors of 16 coordinates, and their memory, which holds rubbish at first.
class ScaledLanesTest : public testing::Test {
 protected:
  std::vector<double> scales_ = std::vector<double>(kTileTokens, -7.0);
  std::vector<float> entries_ = std::vector<float>(16 * kTileTokens, 7.0f);
  ScaledLanes lanes_ = {16, scales_.data(), entries_.data()};
};

TEST_F(ScaledLanesTest, ARowIsScaledByAPowerOfTwo) {
  for (const float size : {1e-37f, 0.3f, 1.0f, 5e37f}) {
    std::vector<float> row(16, size);
    row[3] = 2.5f * size;
    ASSERT_TRUE(lanes_.load_row(row.data(), 2, 1));
    int exponent;
    EXPECT_EQ(std::frexp(scales_[1], &exponent), 0.5);
    EXPECT_GE(entries_[7], 1.0f);
    EXPECT_LT(entries_[7], 2.0f);
    for (std::size_t i = 0; i < 16; ++i) {
      EXPECT_EQ(static_cast<double>(entries_[2 * i + 1]) * scales_[1], static_cast<double>(row[i]));
      EXPECT_EQ(entries_[2 * i], 7.0f);  // The other lane's.
    }
  }
}

TEST_F(ScaledLanesTest, DoublesAreScaledInDouble) {
  for (const double size : {1e-40, 1e-300, 1e300}) {
    const std::vector<double> row(16, size);
    ASSERT_TRUE(lanes_.load_row(row.data(), 1, 0));
    const double expected = size < 0x1p-160 ? 0.0 : size / scales_[0];
    EXPECT_EQ(entries_[5], static_cast<float>(expected)) << size;
    EXPECT_TRUE(expected == 0.0 || (expected >= 1.0 && expected < 2.0)) << size;
  }
}

TEST_F(ScaledLanesTest, LanesWithoutARowAreZero) {
  const std::vector<float> rows = gaussian_vector<float>(3 * 16, 1);
  EXPECT_EQ(lanes_.load_rows<float>({rows.data(), 3, 16}, kTileTokens), 3u);
  for (std::size_t lane = 3; lane < kTileTokens; ++lane) {
    EXPECT_EQ(scales_[lane], 1.0);
    for (std::size_t i = 0; i < 16; ++i) EXPECT_EQ(entries_[i * kTileTokens + lane], 0.0f);
  }
}

TEST_F(ScaledLanesTest, LoadingStopsAtARowThatIsNotFinite) {
  std::vector<float> rows = gaussian_vector<float>(5 * 16, 1);
  rows[3 * 16 + 7] = kInfinity;
  EXPECT_EQ(lanes_.load_rows<float>({rows.data(), 5, 16}, kTileTokens), 3u);
}

TEST_F(ScaledLanesTest, LoadingStopsWhenTheLanesAreFull) {
  const std::vector<float> rows = gaussian_vector<float>(40 * 16, 1);
  EXPECT_EQ(lanes_.load_rows<float>({rows.data(), 40, 16}, kTileTokens), kTileTokens);
}

// The largest at every position, and its sign does not count.
TEST(LargestMagnitudeTest, IsThatOfTheRow) {
  for (std::size_t at = 0; at < 19; ++at) {
    std::vector<float> row = gaussian_vector<float>(19, 1);
    row[at] = at % 2 == 0 ? 50.0f : -50.0f;
    EXPECT_EQ(largest_magnitude<float>(row.data(), 19), 50.0);
    EXPECT_EQ(largest_magnitude<double>(row.data(), 19), 50.0);
  }
  const float smallest = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(largest_magnitude<float>(&smallest, 1), static_cast<double>(smallest));
  const double widest = -std::numeric_limits<double>::max();
  EXPECT_EQ(largest_magnitude<double>(&widest, 1), -widest);
}

TEST(LargestMagnitudeTest, OfWhatIsNotFiniteIsInfinity) {
  for (const float bad : {kInfinity, -kInfinity, kNan, -kNan}) {
    std::vector<float> row(16, 1.0f);
    row[11] = bad;
    EXPECT_EQ(largest_magnitude<float>(row.data(), 16), static_cast<double>(kInfinity));
    EXPECT_EQ(largest_magnitude<double>(row.data(), 16), static_cast<double>(kInfinity));
  }
}

}  // namespace
