// What the model evaluation makes of keys and values is what the codecs make of them.
#include "side_codec.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "test_util.hpp"

namespace {

using polarquant::RowMatrix;
using polarquant_test::gaussian_matrix;
using polarquant_test::message_of;

constexpr SideShape kShape = {2, 64};

SideFormat format_of(const std::string& codec, MeanOf mean = MeanOf::kNothing) {
  SideFormat format;
  format.codec = codec;
  format.mean = mean;
  return format;
}

// Tokens with a mean of their own in every coordinate.
RowMatrix<float> shifted_rows(Eigen::Index num_tokens, std::uint64_t seed) {
  RowMatrix<float> rows = gaussian_matrix<float>(num_tokens, 128, seed);
  rows.rowwise() += 2.0f * gaussian_matrix<float>(1, 128, 99).row(0);
  return rows;
}

RowMatrix<float> round_trip(const SideFormat& format, RowMatrix<float> rows,
                            bool is_value = false) {
  SideCodec(format, kShape, is_value).round_trip(0, rows);
  return rows;
}

double relative_mse(const RowMatrix<float>& exact, const RowMatrix<float>& decoded) {
  double sum = 0.0;
  for (Eigen::Index i = 0; i < exact.rows(); ++i) {
    for (Eigen::Index column = 0; column < exact.cols(); column += 64) {
      const auto x = exact.row(i).segment(column, 64).cast<double>();
      const auto y = decoded.row(i).segment(column, 64).cast<double>();
      sum += (x - y).squaredNorm() / x.squaredNorm();
    }
  }
  return sum / static_cast<double>(exact.rows() * (exact.cols() / 64));
}

TEST(SideCodecTest, PolarRowsHaveTheErrorOfTheirFormat) {
  const RowMatrix<float> rows = gaussian_matrix<float>(1500, 128, 1);
  for (const bool is_value : {false, true}) {
    for (const char* const codec : {"full_depth 3.25", "full_depth 4.25"}) {
      const double expected =
          polarquant::PolarFormat::full_depth(64, std::stod(codec + 11)).expected_relative_mse();
      const double measured = relative_mse(rows, round_trip(format_of(codec), rows, is_value));
      EXPECT_NEAR(measured, expected, 0.03 * expected) << codec;
    }
  }
}

TEST(SideCodecTest, CenteredRowsHaveTheErrorOfTheRest) {
  const RowMatrix<float> rows = shifted_rows(1000, 2);
  const RowMatrix<float> decoded =
      round_trip(format_of("full_depth 3.25", MeanOf::kFirstTokens), rows);
  RowMatrix<float> rest = rows;
  const std::vector<float> mean = mean_of_tokens(rows, 0, SideCodec::kNumMeanTokens);
  rest.rowwise() -= Eigen::Map<const Eigen::RowVectorXf>(mean.data(), 128);
  RowMatrix<float> decoded_rest = decoded;
  decoded_rest.rowwise() -= Eigen::Map<const Eigen::RowVectorXf>(mean.data(), 128);
  const double expected = polarquant::PolarFormat::full_depth(64, 3.25).expected_relative_mse();
  EXPECT_NEAR(relative_mse(rest, decoded_rest), expected, 0.03 * expected);
}

TEST(SideCodecTest, ScalarRowsHaveTheErrorOfTheirCodebook) {
  const RowMatrix<float> rows = gaussian_matrix<float>(800, 128, 3);
  const double expected = polarquant_baselines::ScalarCodebook(64, 3).distortion;
  EXPECT_NEAR(relative_mse(rows, round_trip(format_of("scalar 3"), rows)), expected,
              0.04 * expected);
}

TEST(SideCodecTest, UnbiasedScalarRowsHaveTheRightInnerProducts) {
  const RowMatrix<float> rows = gaussian_matrix<float>(2000, 128, 9);
  const auto mean_projection = [&rows](const char* codec) {
    const RowMatrix<float> decoded = round_trip(format_of(codec), rows);
    return (rows.cast<double>().cwiseProduct(decoded.cast<double>())).sum() /
           rows.cast<double>().squaredNorm();
  };
  const double distortion = polarquant_baselines::ScalarCodebook(64, 3).distortion;
  EXPECT_NEAR(mean_projection("unbiased_scalar 3"), 1.0, 0.001);
  EXPECT_NEAR(mean_projection("scalar 3"), 1.0 - distortion, 0.001);
}

TEST(SideCodecTest, TokensDependOnNoLaterOnes) {
  const RowMatrix<float> rows = shifted_rows(400, 4);
  RowMatrix<float> other = rows;
  other.bottomRows(200) = shifted_rows(200, 5);
  for (const char* const codec : {"full_depth 3.25", "scalar 3", "q4_0", "paper"}) {
    SideFormat format = format_of(codec, MeanOf::kFirstTokens);
    format.num_sinks = 4;
    EXPECT_EQ(round_trip(format, rows).topRows(200), round_trip(format, other).topRows(200))
        << codec;
  }
  // Fitted codebooks see the first half.
  SideFormat online = format_of("full_depth 3.25", MeanOf::kFirstTokens);
  online.online = true;
  EXPECT_EQ(round_trip(online, rows).topRows(200), round_trip(online, other).topRows(200));
}

TEST(SideCodecTest, SinksAreLeftAloneAndChunksMakeNoDifference) {
  const RowMatrix<float> rows = shifted_rows(300, 6);
  for (const char* const codec : {"full_depth 4.25", "scalar 4", "q8_0"}) {
    SideFormat format = format_of(codec, MeanOf::kFirstTokens);
    format.num_sinks = 4;
    const RowMatrix<float> whole = round_trip(format, rows);
    EXPECT_EQ(whole.topRows(4), rows.topRows(4)) << codec;
    EXPECT_NE(whole.row(4), rows.row(4)) << codec;
    SideCodec codec_in_chunks(format, kShape, true);
    RowMatrix<float> first = rows.topRows(180);
    RowMatrix<float> second = rows.bottomRows(120);
    codec_in_chunks.round_trip(0, first);
    codec_in_chunks.round_trip(0, second);
    EXPECT_EQ(first, whole.topRows(180)) << codec;
    EXPECT_EQ(second, whole.bottomRows(120)) << codec;
    // Of a new sequence, and of another layer, the first tokens are sinks again.
    RowMatrix<float> again = rows;
    codec_in_chunks.round_trip(1, again);
    EXPECT_EQ(again, whole) << codec;
    codec_in_chunks.start();
    again = rows;
    codec_in_chunks.round_trip(0, again);
    EXPECT_EQ(again, whole) << codec;
  }
}

// With a centre for each span the error is that of the rest too, whatever the codec, and its bits
// are counted.
TEST(SideCodecTest, SpansHaveCentresOfTheirOwn) {
  RowMatrix<float> rows = shifted_rows(1000, 2);
  rows.bottomRows(500).array() += 3.0f;  // Another mean from the middle on.
  const double expected = polarquant_baselines::ScalarCodebook(64, 3).distortion;
  for (const bool is_value : {false, true}) {
    const SideFormat format = format_of("scalar 3", MeanOf::kSpan);
    const RowMatrix<float> decoded = round_trip(format, rows, is_value);
    // Between the spans that have both means the rest is what varies: 1 + 1 / 128 a coordinate,
    // and the centre's own error.
    const double error =
        static_cast<double>((decoded - rows).topRows(400).squaredNorm()) / (400.0 * 128.0);
    EXPECT_GT(error, 0.95 * expected);
    EXPECT_LT(error, 1.15 * expected);
    EXPECT_EQ(SideCodec(format, kShape, is_value).bits_per_coordinate(),
              3.25 + 8.0 * 34.0 / (64.0 * 64.0));
  }
}

// Keys alone are scaled, and come back where they were.
TEST(SideCodecTest, KeysAreScaledByTheLayersCalibration) {
  auto calibration =
      std::make_shared<polarquant::Calibration>(polarquant::CalibrationShape{2, 2, 64});
  std::vector<float> scales(128, 1.0f);
  for (std::size_t i = 0; i < 128; i += 2) scales[i] = 4.0f;
  calibration->set_key_scales(1, scales);
  SideFormat format = format_of("full_depth 3.25");
  format.calibration = calibration;
  const RowMatrix<float> rows = gaussian_matrix<float>(600, 128, 12);
  RowMatrix<float> decoded = rows;
  SideCodec(format, kShape, false).round_trip(1, decoded);
  double error[2] = {};
  for (Eigen::Index i = 0; i < 128; ++i) {
    error[i % 2] += static_cast<double>((decoded - rows).col(i).squaredNorm());
  }
  EXPECT_NEAR(error[1] / error[0], 16.0, 2.0);  // As 1 / s^2.
  RowMatrix<float> values = rows;
  SideCodec(format, kShape, true).round_trip(1, values);
  EXPECT_EQ(values, round_trip(format_of("full_depth 3.25"), rows, true));
  EXPECT_THROW(SideCodec(format, kShape, false).round_trip(0, decoded), std::invalid_argument);
}

TEST(SideCodecTest, Fp16IsLeftAlone) {
  const RowMatrix<float> rows = gaussian_matrix<float>(50, 128, 7);
  EXPECT_EQ(round_trip(format_of("fp16"), rows), rows);
}

TEST(SideCodecTest, BitsAreStoredBytes) {
  const auto bits = [](const char* codec) {
    return SideCodec(format_of(codec), kShape, false).bits_per_coordinate();
  };
  EXPECT_EQ(bits("paper"), 3.875);
  EXPECT_EQ(bits("full_depth 4.5"), 4.5);
  EXPECT_EQ(bits("scalar 3"), 3.25);  // 24 bytes of codes and 2 of the norm
  EXPECT_EQ(bits("q4_0"), 4.5);
  EXPECT_EQ(bits("q8_0"), 8.5);
  EXPECT_EQ(bits("fp16"), 16.0);
  // 4 sinks of 128 coordinates, 11.5 bits more each, and a mean of 128 floats.
  SideFormat format = format_of("full_depth 4.5", MeanOf::kFirstTokens);
  format.num_sinks = 4;
  EXPECT_EQ(SideCodec(format, kShape, false).fixed_bytes(), 4u * 128u * 23u / 16u + 512u);
}

TEST(SideCodecTest, WhatIsNotKnownIsRefused) {
  EXPECT_NE(message_of<std::invalid_argument>([] {
              SideCodec(format_of("q5_7"), kShape, false);
            }).find("'q5_7'"),
            std::string::npos);
  SideFormat online = format_of("q4_0");
  online.online = true;
  EXPECT_THROW(SideCodec(online, kShape, false), std::invalid_argument);
  RowMatrix<float> rows = gaussian_matrix<float>(10, 128, 8);
  SideCodec other_text(format_of("paper", MeanOf::kOtherText), kShape, false);
  EXPECT_THROW(other_text.round_trip(0, rows), std::runtime_error);
}

}  // namespace
