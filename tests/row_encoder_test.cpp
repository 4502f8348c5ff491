#include "polarquant/codec/row_encoder.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "polarquant/codec/codec.hpp"
#include "test_util.hpp"

namespace {

using polarquant::EncodeFailure;
using polarquant::EncodeResult;
using polarquant::kTileTokens;
using polarquant::PolarCodec;
using polarquant::PolarFormat;
using polarquant::RotationKind;
using polarquant::detail::CodecScratch;
using polarquant::detail::RowEncoder;
using polarquant_test::gaussian_vector;
using polarquant_test::GuardedBytes;
using polarquant_test::make_rotation;

// An encoder of vectors of 16 coordinates, and its scratch.
class RowEncoderTest : public testing::Test {
 protected:
  RowEncoderTest()
      : codec_(PolarFormat::paper(16), make_rotation(RotationKind::kHaar, 16)),
        memory_(codec_.scratch_bytes()),
        work_(codec_.tables(), memory_.data()),
        encoder_{codec_.tables(), codec_.rotation(), codec_.kernels()} {}

  PolarCodec<float> codec_;
  GuardedBytes memory_;
  CodecScratch<float> work_;
  RowEncoder<float> encoder_;
};

TEST_F(RowEncoderTest, ARowIsScaledByAPowerOfTwo) {
  for (const float size : {1e-37f, 0.3f, 1.0f, 5e37f}) {
    std::vector<float> row(16, size);
    row[3] = 2.5f * size;
    float out[32];
    double scale;
    ASSERT_TRUE(encoder_.load_row(row.data(), 2, out, &scale));
    int exponent;
    EXPECT_EQ(std::frexp(scale, &exponent), 0.5);
    EXPECT_GE(out[6], 1.0f);
    EXPECT_LT(out[6], 2.0f);
    for (std::size_t i = 0; i < 16; ++i) {
      EXPECT_EQ(static_cast<double>(out[2 * i]) * scale, static_cast<double>(row[i]));
    }
  }
}

TEST_F(RowEncoderTest, LanesWithoutARowAreZero) {
  const std::vector<float> rows = gaussian_vector<float>(3 * 16, 1);
  EXPECT_EQ(encoder_.load_rows({rows.data(), 3, 16}, kTileTokens, work_), 3u);
  for (std::size_t lane = 3; lane < kTileTokens; ++lane) {
    EXPECT_EQ(work_.scales[lane], 1.0);
    for (std::size_t i = 0; i < 16; ++i)
      EXPECT_EQ(work_.encode.given[i * kTileTokens + lane], 0.0f);
  }
}

TEST_F(RowEncoderTest, LoadingStopsAtARowThatIsNotFinite) {
  std::vector<float> rows = gaussian_vector<float>(5 * 16, 1);
  rows[3 * 16 + 7] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(encoder_.load_rows({rows.data(), 5, 16}, kTileTokens, work_), 3u);
}

TEST_F(RowEncoderTest, CodesComeInOrderUpToTheFirstFailure) {
  std::vector<float> rows = gaussian_vector<float>(100 * 16, 1);
  rows[77 * 16] = std::numeric_limits<float>::quiet_NaN();
  std::vector<std::size_t> seen;
  const EncodeResult result =
      encoder_.encode_batches({rows.data(), 100, 16}, work_,
                              [&seen](std::size_t row, const std::byte*) { seen.push_back(row); });
  EXPECT_EQ(result.num_encoded, 77u);
  EXPECT_EQ(result.failure, EncodeFailure::kNotFinite);
  ASSERT_EQ(seen.size(), 77u);
  for (std::size_t row = 0; row < 77; ++row) EXPECT_EQ(seen[row], row);
}

}  // namespace
