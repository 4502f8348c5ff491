#include "polarquant/storage/key_matrices.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "kv_cache_test_util.hpp"

namespace {

using polarquant::KeyMatrices;
using polarquant::KeyTransform;
using polarquant::Random;
using polarquant_test::expect_invalid;

TEST(KeyMatricesTest, MatricesAreSymmetricAndInversesAreInverses) {
  Random random(1);
  for (const int d : {2, 5, 64}) {
    const auto matrices = polarquant_test::random_key_matrices(3, d, random);
    const std::size_t width = static_cast<std::size_t>(d);
    EXPECT_EQ(matrices->num_kv_heads(), 3u);
    EXPECT_EQ(matrices->head_dim(), width);
    const std::vector<float> triangles = matrices->triangles();
    ASSERT_EQ(triangles.size(), 3 * width * (width + 1) / 2);
    std::size_t entry = 0;
    for (std::size_t head = 0; head < 3; ++head) {
      const KeyTransform<double> transform = matrices->transform<double>(head);
      EXPECT_EQ(transform.scales, nullptr);
      double largest = 0.0;
      for (std::size_t i = 0; i < width; ++i) {
        double row_sum = 0.0;
        for (std::size_t j = 0; j < width; ++j) {
          if (j <= i) {
            EXPECT_EQ(transform.matrix[i * width + j], triangles[entry++]);
          }
          EXPECT_EQ(transform.matrix[i * width + j], transform.matrix[j * width + i]);
          EXPECT_EQ(transform.inverse[i * width + j], transform.inverse[j * width + i]);
          double product = 0.0;
          for (std::size_t k = 0; k < width; ++k) {
            product += static_cast<double>(transform.matrix[i * width + k]) *
                       static_cast<double>(transform.inverse[k * width + j]);
          }
          EXPECT_NEAR(product, i == j ? 1.0 : 0.0, 1e-5);
          row_sum += std::fabs(static_cast<double>(transform.matrix[i * width + j]));
        }
        largest = std::fmax(largest, row_sum);
      }
      EXPECT_NEAR(matrices->largest_stretch(head), largest, 1e-9 * largest);
    }
    EXPECT_TRUE(KeyMatrices(3, width, triangles) == *matrices);
    EXPECT_FALSE(*polarquant_test::random_key_matrices(3, d, random) == *matrices);
  }
}

TEST(KeyMatricesTest, BadMatricesAreNamed) {
  const std::vector<float> good = {2.0f, 1.0f, 3.0f};
  expect_invalid([&] { KeyMatrices(1, 1, {1.0f}); }, {"width 1", "at least 2"});
  expect_invalid([&] { KeyMatrices(2, 2, good); }, {"3 entries", "= 6"});
  expect_invalid([&] { KeyMatrices(0, 2, {}); }, {"0 entries", "not 0"});
  const auto error = [&](std::size_t entry, float number) {
    std::vector<float> entries = good;
    entries.insert(entries.end(), good.begin(), good.end());
    entries[entry] = number;
    std::string problem;
    EXPECT_EQ(KeyMatrices::try_make(2, 2, entries, problem), nullptr);
    expect_invalid([&] { KeyMatrices(2, 2, entries); }, {problem.c_str()});
    return problem;
  };
  EXPECT_EQ(error(1, HUGE_VALF),
            "the key matrix of KV head 0 has a NaN or an infinity in row 1, column 0");
  EXPECT_EQ(error(4, 3.0f), "the key matrix of KV head 1 is not positive definite");
  EXPECT_EQ(error(3, 0.0f), "the key matrix of KV head 1 is not positive definite");
  EXPECT_NE(error(5, 1e6f).find("condition of"), std::string::npos);
  std::string problem = "before";
  EXPECT_NE(KeyMatrices::try_make(1, 2, good, problem), nullptr);
  EXPECT_EQ(problem, "");
}

}  // namespace
