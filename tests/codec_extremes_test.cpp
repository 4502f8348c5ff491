// What a codec makes of zeros, of the smallest and largest numbers, and of what it cannot encode.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <vector>

#include "polarquant/codec/polar_codec.hpp"
#include "test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

template <typename T>
class CodecExtremesOfTypeTest : public testing::Test {};
// clang++ wants the empty argument in C++17.
TYPED_TEST_SUITE(CodecExtremesOfTypeTest, polarquant_test::ElementTypes, );

// ---- Zeros, extremes ----

TYPED_TEST(CodecExtremesOfTypeTest, ZeroVectorsDecodeToExactZeros) {
  Random random(67);
  for (int trial = 0; trial < 30; ++trial) {
    const PolarFormat format =
        trial == 0 ? PolarFormat::uncompressed(64) : random_format(random, 256);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<AccumulatorOf<TypeParam>> codec(
        format, make_rotation(random_rotation(random, format.head_dim), format.head_dim));
    std::vector<TypeParam> rows = gaussian_vector<TypeParam>(3 * d, 1);
    std::fill_n(rows.begin() + static_cast<std::ptrdiff_t>(d), d, TypeParam(0.0f));
    const std::vector<AccumulatorOf<TypeParam>> decoded =
        decode_rows(codec, encode_rows(codec, rows));
    ASSERT_EQ(decoded.size(), rows.size());
    for (std::size_t i = d; i < 2 * d; ++i) EXPECT_EQ(decoded[i], 0) << format.description();
    EXPECT_GT(norm_of(decoded.data() + 2 * d, d), 0.0);
  }
}

TEST(CodecExtremesTest, AZeroBlockDecodesToExactZerosBesideAnotherBlock) {
  for (const RadiusMeaning meaning : polarquant_test::kRadiusMeanings) {
    const PolarCodec<float> codec(with_meaning(PolarFormat::paper(64), meaning),
                                  make_rotation(RotationKind::kNone, 64));
    std::vector<float> row = gaussian_vector<float>(64, 3);
    std::fill_n(row.begin() + 16, 16, 0.0f);
    const std::vector<float> decoded = decode_rows(codec, encode_rows(codec, row));
    ASSERT_EQ(decoded.size(), 64u);
    for (std::size_t i = 16; i < 32; ++i) EXPECT_EQ(decoded[i], 0.0f) << i;
    for (const std::size_t block : {0u, 2u, 3u}) {
      EXPECT_NEAR(norm_of(decoded.data() + 16 * block, 16) / norm_of(row.data() + 16 * block, 16),
                  1.0, 0.1);
    }
  }
}

class CodecNormTest : public testing::TestWithParam<double> {};

TEST_P(CodecNormTest, RelativeMseWithBfloat16RadiiDoesNotDependOnTheNorm) {
  for (const PolarFormat& format : {PolarFormat::paper(128), PolarFormat::full_depth(80, 3.25)}) {
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<float> codec(format, make_rotation(RotationKind::kHaar, format.head_dim));
    std::vector<float> rows = gaussian_vector<float>(2000 * d, 5);
    for (std::size_t row = 0; row < 2000; ++row) {
      const double factor = GetParam() / norm_of(rows.data() + row * d, d);
      for (std::size_t i = 0; i < d; ++i) {
        rows[row * d + i] = static_cast<float>(rows[row * d + i] * factor);
      }
    }
    const Distortion distortion = distortion_of(codec, rows);
    EXPECT_NEAR(distortion.relative_mse.mean(), format.expected_relative_mse(),
                5.0 * distortion.relative_mse.standard_error() + 3e-6);
    EXPECT_LT(distortion.relative_mse.standard_error(), 0.01 * format.expected_relative_mse());
  }
}

INSTANTIATE_TEST_SUITE_P(Norms, CodecNormTest,
                         testing::Values(1e-30, 1e-20, 1e-10, 1e-4, 1.0, 779.0, 1e5, 1e10, 1e20,
                                         1e30));

// Below 2^-126 a bfloat16 is a multiple of 2^-133: the radius is off by half of that at most.
TEST(CodecExtremesTest, SubnormalVectorsKeepTheirRadiusToTheGridOfBfloat16) {
  const PolarCodec<float> codec(
      with_meaning(format_of(64, {5, 3, 3, 3, 3, 3}), RadiusMeaning::kNorm),
      make_rotation(RotationKind::kHaar, 64));
  std::vector<float> row = gaussian_vector<float>(64, 7);
  for (float& value : row) value *= 0x1p-130f;
  const std::vector<float> decoded = decode_rows(codec, encode_rows(codec, row));
  ASSERT_EQ(decoded.size(), 64u);
  EXPECT_GT(norm_of(decoded.data(), 64), 0.0);
  EXPECT_NEAR(norm_of(decoded.data(), 64), norm_of(row.data(), 64), 0x1p-134 + 64 * 0x1p-149);
}

TEST(CodecExtremesTest, TheSmallestFloatIsEncodedWithFloat32Radii) {
  const PolarCodec<float> codec(
      with_meaning(format_of(16, {8, 6, 6, 6}), RadiusMeaning::kNorm, FloatType::kFloat32),
      make_rotation(RotationKind::kNone, 16));
  std::vector<float> row(16, 0.0f);
  row[3] = std::numeric_limits<float>::denorm_min();
  const std::vector<float> decoded = decode_rows(codec, encode_rows(codec, row));
  EXPECT_EQ(decoded, row);
}

TEST(CodecExtremesTest, DoublesBelowTheDocumentedLimitDecodeToZero) {
  const PolarCodec<double> codec(PolarFormat::paper(16), make_rotation(RotationKind::kNone, 16));
  const std::vector<double> decoded =
      decode_rows(codec, encode_rows(codec, std::vector<double>(16, 0x1p-161)));
  EXPECT_EQ(decoded, std::vector<double>(16, 0.0));
}

// ---- Failures ----

TYPED_TEST(CodecExtremesOfTypeTest, ANonFiniteEntryAnywhereIsReportedWithItsRow) {
  using Limits = std::numeric_limits<float>;
  for (const PolarFormat& format :
       {PolarFormat::paper(32), PolarFormat::full_depth(22, 4.0), PolarFormat::uncompressed(32)}) {
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<AccumulatorOf<TypeParam>> codec(
        format, make_rotation(RotationKind::kHaar, format.head_dim));
    const std::size_t num_bytes = codec.bytes_per_vector();
    const std::vector<TypeParam> good = gaussian_vector<TypeParam>(35 * d, 15);
    const std::vector<std::byte> expected = encode_rows(codec, good);
    GuardedBytes scratch(codec.scratch_bytes());
    for (const std::size_t row : {0u, 1u, 31u, 32u, 33u, 34u}) {
      for (std::size_t column = 0; column < d; column += row == 1 ? 1 : 7) {
        for (const float bad : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()}) {
          std::vector<TypeParam> rows = good;
          rows[row * d + column] = static_cast<TypeParam>(bad);
          std::vector<std::byte> codes(35 * num_bytes, std::byte{0x77});
          const EncodeResult result = codec.encode(Rows<const TypeParam>{rows.data(), 35, d},
                                                   {codes.data(), 35, num_bytes}, scratch.data());
          ASSERT_EQ(result.num_encoded, row);
          ASSERT_EQ(result.failure, EncodeFailure::kNotFinite);
          ASSERT_EQ(std::memcmp(codes.data(), expected.data(), row * num_bytes), 0);
          for (std::size_t i = row * num_bytes; i < codes.size(); ++i) {
            ASSERT_EQ(codes[i], std::byte{0x77});
          }
        }
      }
    }
  }
}

TEST(CodecExtremesTest, AFloat16RadiusThatOverflowsIsReportedWithItsRow) {
  PolarFormat compressed = PolarFormat::paper(64);
  compressed.radius_type = FloatType::kFloat16;
  for (const PolarFormat& format : {compressed, PolarFormat::uncompressed(64)}) {
    const PolarCodec<float> codec(format, make_rotation(RotationKind::kNone, 64));
    const std::size_t num_bytes = codec.bytes_per_vector();
    const std::vector<float> good = gaussian_vector<float>(35 * 64, 17);
    const std::vector<std::byte> expected = encode_rows(codec, good);
    GuardedBytes scratch(codec.scratch_bytes());
    for (const std::size_t row : {0u, 31u, 32u, 34u}) {
      std::vector<float> rows = good;
      rows[row * 64 + 63] = 70000.0f;
      std::vector<std::byte> codes(35 * num_bytes, std::byte{0x77});
      const EncodeResult result =
          codec.encode({rows.data(), 35, 64}, {codes.data(), 35, num_bytes}, scratch.data());
      EXPECT_EQ(result.num_encoded, row);
      EXPECT_EQ(result.failure, EncodeFailure::kOutOfRange);
      EXPECT_EQ(std::memcmp(codes.data(), expected.data(), row * num_bytes), 0);
      for (std::size_t i = row * num_bytes; i < codes.size(); ++i) {
        ASSERT_EQ(codes[i], std::byte{0x77});
      }
    }
  }
}

// 65520 is halfway between the largest half and the next power of two.
TEST(CodecExtremesTest, Float16OverflowBeginsWhereRoundingWouldLeaveTheRange) {
  const PolarCodec<float> codec(
      with_meaning(format_of(2, {8}), RadiusMeaning::kNorm, FloatType::kFloat16),
      make_rotation(RotationKind::kNone, 2));
  EXPECT_FALSE(encode_rows(codec, std::vector<float>{65519.0f, 0.0f}).empty());
  EXPECT_TRUE(encode_rows(codec, std::vector<float>{65520.0f, 0.0f}).empty());
}

TEST(CodecExtremesTest, ANormBeyondFloatIsReportedNotSaturated) {
  const PolarCodec<float> codec(PolarFormat::full_depth(64, 4.0),
                                make_rotation(RotationKind::kHaar, 64));
  const std::vector<float> row(64, std::numeric_limits<float>::max());
  std::vector<std::byte> code(codec.bytes_per_vector());
  GuardedBytes scratch(codec.scratch_bytes());
  const EncodeResult result =
      codec.encode({row.data(), 1, 64}, {code.data(), 1, code.size()}, scratch.data());
  EXPECT_EQ(result.num_encoded, 0u);
  EXPECT_EQ(result.failure, EncodeFailure::kOutOfRange);
}

// Of a NaN behind an overflow in one batch the first row is the one reported.
TEST(CodecExtremesTest, TheFirstOfTwoFailuresIsReported) {
  PolarFormat format = PolarFormat::paper(64);
  format.radius_type = FloatType::kFloat16;
  const PolarCodec<float> codec(format, make_rotation(RotationKind::kNone, 64));
  std::vector<float> rows = gaussian_vector<float>(10 * 64, 19);
  rows[3 * 64] = 1e6f;
  rows[5 * 64] = std::numeric_limits<float>::quiet_NaN();
  std::vector<std::byte> codes(10 * codec.bytes_per_vector());
  GuardedBytes scratch(codec.scratch_bytes());
  const EncodeResult result = codec.encode(
      {rows.data(), 10, 64}, {codes.data(), 10, codec.bytes_per_vector()}, scratch.data());
  EXPECT_EQ(result.num_encoded, 3u);
  EXPECT_EQ(result.failure, EncodeFailure::kOutOfRange);
}

}  // namespace
