// Rows kept as they came, and the loops on them, on every instruction set.
#include "polarquant/storage/exact_rows.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <vector>

#include "plain_cache.hpp"
#include "polarquant/kernels/dispatch.hpp"
#include "polarquant/storage/head_side.hpp"
#include "test_util.hpp"

namespace {

using polarquant::FloatType;
using polarquant::detail::ExactRows;
using polarquant_test::gaussian_vector;

TEST(ExactRowsTest, ARingKeepsItsRowsWhileItGrows) {
  ExactRows rows(20, FloatType::kFloat32);
  EXPECT_EQ(rows.width(), 32u);
  rows.resize(32, 0, 0);
  const auto vectors = polarquant::detail::choose_vector_kernels<float>(polarquant::Isa::kScalar);
  const std::vector<float> given = gaussian_vector<float>(20 * 64, 1);
  for (std::size_t i = 40; i < 64; ++i) rows.store(i, given.data() + 20 * i);
  rows.resize(96, 40, 24);
  EXPECT_EQ(rows.memory_bytes(), 96u * 32u * 4u);
  const ExactRows copy = rows;
  for (std::size_t i = 40; i < 64; ++i) {
    float loaded[32];
    copy.load(i, vectors, loaded);
    for (std::size_t j = 0; j < 20; ++j) EXPECT_EQ(loaded[j], given[20 * i + j]);
    for (std::size_t j = 20; j < 32; ++j) EXPECT_EQ(loaded[j], 0.0f);
  }
}

TEST(ExactRowsTest, EveryTypeHoldsItsOwnNumbers) {
  const auto vectors = polarquant::detail::choose_vector_kernels<double>(polarquant::Isa::kScalar);
  const std::vector<double> given = gaussian_vector<double>(16, 1);
  for (const FloatType type :
       {FloatType::kBFloat16, FloatType::kFloat16, FloatType::kFloat32, FloatType::kFloat64}) {
    ExactRows rows(16, type);
    rows.resize(32, 0, 0);
    rows.store(3, given.data());
    double loaded[16];
    rows.load(3, vectors, loaded);
    for (std::size_t i = 0; i < 16; ++i) {
      EXPECT_EQ(loaded[i], polarquant_test::rounded_to(type, given[i]));
    }
    // The largest number of the type is one of it.
    const std::vector<double> largest(16, polarquant::detail::largest_of(type));
    rows.store(3, largest.data());
    rows.load(3, vectors, loaded);
    EXPECT_EQ(loaded[0], largest[0]);
  }
}

TEST(HeadSideTest, CheckSaysWhatCannotBeKept) {
  using polarquant::EncodeFailure;
  const auto check = [](std::vector<float> row, double norm, const float* offset = nullptr,
                        const polarquant::detail::HeadTransform<float>& transform = {}) {
    return polarquant::detail::HeadSide<float>::check_exact(row.data(), {transform.get(), offset},
                                                            transform.largest_stretch(), row.size(),
                                                            65504.0, norm);
  };
  EXPECT_EQ(check({0.0f, -65504.0f}, 1e9), EncodeFailure::kNone);
  EXPECT_EQ(check({0.0f, -65505.0f}, 1e9), EncodeFailure::kOutOfRange);
  EXPECT_EQ(check({NAN, 1.0f}, 1e9), EncodeFailure::kNotFinite);
  EXPECT_EQ(check({1.0f, -INFINITY}, 1e9), EncodeFailure::kNotFinite);
  EXPECT_EQ(check({3.0f, 4.0f}, 5.0), EncodeFailure::kNone);
  EXPECT_EQ(check({3.0f, 4.0f}, 4.99), EncodeFailure::kOutOfRange);
  EXPECT_EQ(check({0.0f, 0.0f}, 1.0), EncodeFailure::kNone);
  // Less the offset: longer or shorter.
  const float offset[] = {-3.0f, -4.0f};
  EXPECT_EQ(check({3.0f, 4.0f}, 10.0, offset), EncodeFailure::kNone);
  EXPECT_EQ(check({3.0f, 4.0f}, 9.99, offset), EncodeFailure::kOutOfRange);
  EXPECT_EQ(check({-3.0f, -4.0f}, 0.01, offset), EncodeFailure::kNone);
  // Scaled: the offset is of what is scaled.
  const polarquant::detail::HeadTransform<float> scales({2.0f, 0.25f});
  EXPECT_EQ(check({1.5f, 16.0f}, 5.0, nullptr, scales), EncodeFailure::kNone);
  EXPECT_EQ(check({1.5f, 16.0f}, 4.99, nullptr, scales), EncodeFailure::kOutOfRange);
  EXPECT_EQ(check({-1.5f, -16.0f}, 0.01, offset, scales), EncodeFailure::kNone);
  // Times a matrix: (2, 1) becomes (5, 4) - (-3, -4) = (8, 8), and (-1, -1) becomes (0, 1).
  const polarquant::detail::HeadTransform<float> matrix(
      std::make_shared<const polarquant::KeyMatrices>(1, 2, std::vector<float>{2.0f, 1.0f, 2.0f}),
      0);
  EXPECT_EQ(check({2.0f, 1.0f}, 6.41, nullptr, matrix), EncodeFailure::kNone);
  EXPECT_EQ(check({2.0f, 1.0f}, 6.40, nullptr, matrix), EncodeFailure::kOutOfRange);
  EXPECT_EQ(check({2.0f, 1.0f}, 11.32, offset, matrix), EncodeFailure::kNone);
  EXPECT_EQ(check({2.0f, 1.0f}, 11.31, offset, matrix), EncodeFailure::kOutOfRange);
  EXPECT_EQ(check({-1.0f, -1.0f}, 1.01, offset, matrix), EncodeFailure::kNone);
}

TEST(ExactLoopsTest, AgreeWithDoubleOnEveryInstructionSet) {
  for (const polarquant::Isa isa : polarquant_test::available_isas()) {
    const auto vectors = polarquant::detail::choose_vector_kernels<float>(isa);
    for (const std::size_t width : {std::size_t{16}, std::size_t{80}, std::size_t{128}}) {
      const std::vector<float> rows = gaussian_vector<float>(33 * width, 1);
      const std::vector<float> query = gaussian_vector<float>(width, 2);
      const std::vector<float> weights = gaussian_vector<float>(33, 3);
      std::vector<float> scores(33), sum(width, 1.0f);
      vectors.dot_rows(query.data(), {rows.data(), 33, width}, width, scores.data());
      vectors.add_rows(weights.data(), {rows.data(), 33, width}, width, sum.data());
      for (std::size_t t = 0; t < 33; ++t) {
        EXPECT_NEAR(scores[t],
                    polarquant_test::inner_product(query.data(), rows.data() + t * width, width),
                    1e-5 * std::sqrt(static_cast<double>(width)));
      }
      for (std::size_t i = 0; i < width; ++i) {
        double expected = 1.0;
        for (std::size_t t = 0; t < 33; ++t) {
          expected += static_cast<double>(weights[t]) * static_cast<double>(rows[t * width + i]);
        }
        EXPECT_NEAR(sum[i], expected, 2e-5);
      }
    }
    std::vector<float> logits = {-1e30f, -3.0f, -1e-3f, 0.0f, 2.0f, 100.0f};
    const std::vector<float> given = logits;
    vectors.cap_logits(logits.data(), logits.size(), 5.0f, 0.5f);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      EXPECT_NEAR(logits[i], 5.0 * std::tanh((static_cast<double>(given[i]) + 0.5) / 5.0), 1e-6);
    }
  }
}

}  // namespace
