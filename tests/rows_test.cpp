#include "polarquant/base/rows.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <type_traits>
#include <vector>

namespace {

using polarquant::Rows;

TEST(RowsTest, StrideCountsElementsNotBytes) {
  std::vector<double> values(12);
  const Rows<double> rows = {values.data(), 3, 4};
  EXPECT_EQ(rows.row(0), values.data());
  EXPECT_EQ(rows.row(2), values.data() + 8);
}

TEST(RowsTest, RowsOfConstElementsCannotBeWritten) {
  const std::vector<float> values = {1.0f, 2.0f};
  const Rows<const float> rows = {values.data(), 2, 1};
  EXPECT_EQ(*rows.row(1), 2.0f);
  static_assert(std::is_same_v<decltype(rows.row(0)), const float*>);
}

TEST(RowsTest, DefaultHasNoRows) {
  const Rows<float> rows;
  EXPECT_EQ(rows.data, nullptr);
  EXPECT_EQ(rows.count, 0u);
}

// An engine's counts are ints, or whatever it has.
TEST(RowsTest, CountsAndStridesOfAnyIntegerTypeComeIn) {
  float values[12] = {};
  const int count = 3;
  const long long stride = 4;
  const Rows<float> rows = {values, count, stride};
  EXPECT_EQ(rows.count, 3u);
  EXPECT_EQ(rows.stride, 4u);
  EXPECT_EQ(rows.row(2), values + 8);
  const Rows<const float> narrow = {values, static_cast<std::uint8_t>(3), short{4}};
  EXPECT_EQ(narrow.row(2), values + 8);
  static_assert(!std::is_constructible_v<Rows<float>, float*, double, int>);
  static_assert(!std::is_constructible_v<Rows<float>, const float*, int, int>);
}

TEST(RowsTest, ABlockIsRowsAndColumnsOfIt) {
  std::vector<double> values(30);
  const Rows<double> rows = {values.data(), 5, 6};
  const Rows<double> block = rows.block(2, 3, 4);
  EXPECT_EQ(block.count, 3u);
  EXPECT_EQ(block.stride, 6u);
  EXPECT_EQ(block.row(0), values.data() + 2 * 6 + 4);
  EXPECT_EQ(rows.block(1, 2).row(1), values.data() + 12);
}

TEST(RowsTest, RowsThatCanBeWrittenAreRowsThatCanBeRead) {
  std::vector<double> values(6);
  const Rows<double> rows = {values.data(), 2, 3};
  const Rows<const double> read = rows;
  EXPECT_EQ(read.row(1), values.data() + 3);
  EXPECT_EQ(read.count, 2u);
  static_assert(!std::is_convertible_v<Rows<const double>, Rows<double>>);
}

}  // namespace
