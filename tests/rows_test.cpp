#include "polarquant/base/rows.hpp"

#include <gtest/gtest.h>

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

}  // namespace
