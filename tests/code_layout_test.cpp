#include "polarquant/codes/code_layout.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

// Presets, joins, blocks, no bits, wide radii, odd sizes.
std::vector<PolarFormat> formats() {
  std::vector<PolarFormat> result = {PolarFormat::paper(128),
                                     PolarFormat::paper(64),
                                     PolarFormat::paper(16),
                                     PolarFormat::full_depth(128, 3.25),
                                     PolarFormat::full_depth(80, 3.25),
                                     PolarFormat::full_depth(112, 4.5),
                                     PolarFormat::full_depth(576, 2.5),
                                     PolarFormat::full_depth(2, 12.0),
                                     PolarFormat::full_depth(6, 6.0)};
  PolarFormat odd = PolarFormat::paper(96);
  odd.level_bits = {7, 0, 5, 1};
  odd.radius_type = FloatType::kFloat32;
  result.push_back(odd);
  return result;
}

// The coordinate before which an angle of the tree stands: it separates what is left of it from
// what is right of it. In the order of PolarShape::first_angle.
std::vector<int> separated_coordinates(const PolarShape& shape) {
  std::vector<int> result;
  for (int level = 1; level <= shape.levels; ++level) {
    for (int node = 0; node < shape.num_angles(level); ++node) {
      result.push_back((2 * node + 1) << (level - 1));
    }
  }
  for (int join = 0; join < shape.num_joins(); ++join) result.push_back(shape.join_left(join));
  return result;
}

TEST(CodeLayoutTest, FieldsStandInTheOrderOfTheCoordinatesTheySeparate) {
  for (const PolarFormat& format : formats()) {
    const CodeLayout layout(format);
    const std::vector<int> coordinates = separated_coordinates(format.shape());
    std::vector<int> in_stream;
    for (const std::uint16_t angle : layout.stream_order()) {
      in_stream.push_back(coordinates[angle]);
    }
    EXPECT_EQ(in_stream.size(), coordinates.size()) << format.description();
    EXPECT_TRUE(std::is_sorted(in_stream.begin(), in_stream.end())) << format.description();
    EXPECT_EQ(std::adjacent_find(in_stream.begin(), in_stream.end()), in_stream.end());
  }
}

TEST(CodeLayoutTest, FieldsFollowEachOtherWithoutGapsAfterTheRadii) {
  for (const PolarFormat& format : formats()) {
    const CodeLayout layout(format);
    std::size_t offset = 8 * layout.num_radius_bytes();
    for (const std::uint16_t angle : layout.stream_order()) {
      ASSERT_EQ(layout.fields()[angle].bit_offset, offset) << format.description();
      offset += layout.fields()[angle].num_bits;
    }
    EXPECT_LE(offset, 8 * layout.num_bytes()) << format.description();
    EXPECT_GT(offset + 8, 8 * layout.num_bytes()) << format.description();
  }
}

TEST(CodeLayoutTest, FieldsAreAsWideAsTheirLevelAndJoin) {
  for (const PolarFormat& format : formats()) {
    const PolarShape shape = format.shape();
    const CodeLayout layout(format);
    std::size_t angle = 0;
    for (int level = 1; level <= format.levels; ++level) {
      for (int node = 0; node < shape.num_angles(level); ++node, ++angle) {
        ASSERT_EQ(layout.fields()[angle].num_bits,
                  format.level_bits[static_cast<std::size_t>(level - 1)]);
      }
    }
    for (int join = 0; join < shape.num_joins(); ++join, ++angle) {
      ASSERT_EQ(layout.fields()[angle].num_bits, format.join_bits[static_cast<std::size_t>(join)]);
    }
    EXPECT_EQ(layout.fields().size(), angle);
  }
}

TEST(CodeLayoutTest, Level2StandsBetweenItsTwoLevel1Angles) {
  const CodeLayout layout(PolarFormat::paper(64));
  for (std::size_t node = 0; node < 16; ++node) {
    const CodeLayout::Field left = layout.fields()[2 * node];
    const CodeLayout::Field middle = layout.fields()[32 + node];
    const CodeLayout::Field right = layout.fields()[2 * node + 1];
    EXPECT_EQ(middle.bit_offset, left.bit_offset + 4);
    EXPECT_EQ(right.bit_offset, middle.bit_offset + 2);
  }
}

TEST(CodeLayoutTest, SizesAreThoseOfTheFormat) {
  for (const PolarFormat& format : formats()) {
    EXPECT_EQ(CodeLayout(format).num_bytes(), format.bytes_per_vector());
  }
  EXPECT_EQ(CodeLayout(PolarFormat::paper(128)).num_radius_bytes(), 16u);
  EXPECT_EQ(CodeLayout(PolarFormat::full_depth(128, 3.25)).num_radius_bytes(), 2u);
}

TEST(CodeLayoutTest, UncompressedIsRadiiAlone) {
  const CodeLayout layout(PolarFormat::uncompressed(80));
  EXPECT_EQ(layout.num_bytes(), 160u);
  EXPECT_EQ(layout.num_radius_bytes(), 160u);
  EXPECT_TRUE(layout.fields().empty());
}

TEST(CodeLayoutTest, InvalidFormatIsAnError) {
  PolarFormat format = PolarFormat::paper(128);
  format.level_bits[0] = 9;
  expect_invalid([&format] { CodeLayout layout(format); }, {"level 1 has 9 bits"});
}

}  // namespace
