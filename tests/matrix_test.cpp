#include "polarquant/attention/matrix.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

namespace {

using polarquant::RowMatrix;
using polarquant::RowMatrixRef;

TEST(RowMatrixTest, AMapWithAnOuterStrideIsNotCopied) {
  std::vector<float> memory(5 * 12);
  const Eigen::Map<const RowMatrix<float>, 0, Eigen::OuterStride<>> map(memory.data(), 5, 8,
                                                                        Eigen::OuterStride<>(12));
  const RowMatrixRef<float> reference = map;
  EXPECT_EQ(reference.data(), memory.data());
  EXPECT_EQ(reference.outerStride(), 12);
}

TEST(RowMatrixTest, ABlockIsNotCopied) {
  const RowMatrix<float> matrix(5, 12);
  const RowMatrixRef<float> reference = matrix.block(1, 2, 3, 8);
  EXPECT_EQ(reference.data(), matrix.data() + 12 + 2);
  EXPECT_EQ(reference.outerStride(), 12);
}

TEST(RowMatrixTest, ItsRowsAreItsMemory) {
  RowMatrix<float> matrix(5, 12);
  const polarquant::Rows<float> rows = polarquant::detail::rows_of(matrix);
  EXPECT_EQ(rows.row(3), matrix.row(3).data());
  EXPECT_EQ(rows.count, 5u);
  const polarquant::Rows<const float> block =
      polarquant::detail::rows_of<float>(matrix.block(1, 2, 3, 8));
  EXPECT_EQ(block.row(2), matrix.data() + 3 * 12 + 2);
  EXPECT_EQ(block.count, 3u);
}

}  // namespace
