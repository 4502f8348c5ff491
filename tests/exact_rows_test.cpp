// Rows kept as they came, and the loops on them, on every instruction set.
#include "polarquant/storage/exact_rows.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <vector>

#include "polarquant/kernels/dispatch.hpp"
#include "polarquant/storage/token_segments.hpp"
#include "test_util.hpp"

namespace {

using polarquant::FloatType;
using polarquant::PolarFormat;
using polarquant::detail::ExactRows;
using polarquant::detail::TokenSegments;
using polarquant_test::gaussian_vector;

constexpr const float* kNoOffset = nullptr;

TEST(ExactRowsTest, ARingKeepsItsRowsWhileItGrows) {
  ExactRows rows(20, FloatType::kFloat32);
  EXPECT_EQ(rows.width(), 32u);
  rows.resize(32, 0, 0);
  const std::vector<float> given = gaussian_vector<float>(20 * 64, 1);
  for (std::size_t i = 40; i < 64; ++i) rows.store(i, given.data() + 20 * i);
  rows.resize(96, 40, 24);
  EXPECT_EQ(rows.memory_bytes(), 96u * 32u * 4u);
  const ExactRows copy = rows;
  for (std::size_t i = 40; i < 64; ++i) {
    float loaded[20], work[32];
    copy.load(i, kNoOffset, loaded, work);
    for (std::size_t j = 0; j < 20; ++j) EXPECT_EQ(loaded[j], given[20 * i + j]);
  }
}

TEST(ExactRowsTest, CheckSaysWhatCannotBeKept) {
  using polarquant::EncodeFailure;
  using polarquant::detail::check_exact_row;
  const auto check = [](std::vector<float> row, double norm) {
    return check_exact_row<float>(row.data(), row.size(), FloatType::kFloat16, norm);
  };
  EXPECT_EQ(check({0.0f, -65504.0f}, 1e9), EncodeFailure::kNone);
  EXPECT_EQ(check({0.0f, -65505.0f}, 1e9), EncodeFailure::kOutOfRange);
  EXPECT_EQ(check({NAN, 1.0f}, 1e9), EncodeFailure::kNotFinite);
  EXPECT_EQ(check({1.0f, -INFINITY}, 1e9), EncodeFailure::kNotFinite);
  EXPECT_EQ(check({3.0f, 4.0f}, 5.0), EncodeFailure::kNone);
  EXPECT_EQ(check({3.0f, 4.0f}, 4.99), EncodeFailure::kOutOfRange);
  EXPECT_EQ(check({0.0f, 0.0f}, 0.0), EncodeFailure::kNone);
}

TEST(TokenSegmentsTest, EveryTokenIsInOneSegment) {
  TokenSegments segments;
  segments.max_sinks = 3;
  segments.num_tokens = 100;
  segments.num_encoded = 64;
  EXPECT_EQ(segments.first_recent(), 67u);
  EXPECT_EQ(segments.num_recent(), 33u);
  for (std::size_t token = 0; token < 100; ++token) {
    EXPECT_EQ(segments.is_sink(token), token < 3);
    EXPECT_EQ(segments.is_encoded(token), token >= 3 && token < 67);
  }
  segments.truncate(50);
  EXPECT_EQ(segments.num_encoded, 47u);
  EXPECT_EQ(segments.num_recent(), 0u);
  segments.truncate(2);
  EXPECT_EQ(segments.num_sinks(), 2u);
  EXPECT_EQ(segments.num_encoded, 0u);
}

TEST(ExactLoopsTest, AgreeWithDoubleOnEveryInstructionSet) {
  using polarquant::Isa;
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (!polarquant::isa_is_available(isa)) continue;
    const polarquant_test::ScopedIsa scoped(polarquant::isa_name(isa));
    const polarquant::PolarCodec<float> codec(
        PolarFormat::uncompressed(16),
        polarquant_test::make_rotation(polarquant::RotationKind::kNone, 16));
    for (const std::size_t width : {std::size_t{16}, std::size_t{80}, std::size_t{128}}) {
      const std::vector<float> rows = gaussian_vector<float>(33 * width, 1);
      const std::vector<float> query = gaussian_vector<float>(width, 2);
      const std::vector<float> weights = gaussian_vector<float>(33, 3);
      std::vector<float> scores(33), sum(width, 1.0f);
      codec.kernels().dot_rows(query.data(), {rows.data(), 33, width}, width, scores.data());
      codec.kernels().add_rows(weights.data(), {rows.data(), 33, width}, width, sum.data());
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
    codec.kernels().cap_logits(logits.data(), logits.size(), 5.0f, 0.5f);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      EXPECT_NEAR(logits[i], 5.0 * std::tanh((static_cast<double>(given[i]) + 0.5) / 5.0), 1e-6);
    }
  }
}

}  // namespace
