#include "polarquant/codec.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "count_allocations.hpp"
#include "test_util.hpp"

namespace {

using polarquant::CodeLayout;
using polarquant::EncodeFailure;
using polarquant::EncodeResult;
using polarquant::FloatType;
using polarquant::kTileTokens;
using polarquant::PolarCodec;
using polarquant::PolarFormat;
using polarquant::PolarShape;
using polarquant::RadiusMeaning;
using polarquant::Random;
using polarquant::RotationKind;
using polarquant_test::AccumulatorOf;
using polarquant_test::count_allocations;
using polarquant_test::decode_rows;
using polarquant_test::Distortion;
using polarquant_test::encode_rows;
using polarquant_test::format_of;
using polarquant_test::gaussian_vector;
using polarquant_test::GuardedBytes;
using polarquant_test::inner_product;
using polarquant_test::kSanitized;
using polarquant_test::make_rotation;
using polarquant_test::measure_distortion;
using polarquant_test::norm_of;
using polarquant_test::random_format;
using polarquant_test::random_int;

constexpr RotationKind kRotations[] = {RotationKind::kNone, RotationKind::kHadamard,
                                       RotationKind::kHaar};

PolarFormat with_meaning(PolarFormat format, RadiusMeaning meaning,
                         FloatType type = FloatType::kBFloat16) {
  format.radius_meaning = meaning;
  format.radius_type = type;
  return format;
}

// A Haar matrix costs head_dim^3; the widest formats take the fast rotation instead.
RotationKind random_rotation(Random& random, int head_dim) {
  const RotationKind kind = kRotations[random_int(random, 0, 2)];
  return kind == RotationKind::kHaar && head_dim > 256 ? RotationKind::kHadamard : kind;
}

TEST(CodecTest, UncompressedFloat32IsExact) {
  const PolarCodec<float> codec(PolarFormat::uncompressed(80, FloatType::kFloat32),
                                make_rotation(RotationKind::kNone, 80));
  const std::vector<float> rows = gaussian_vector<float>(80 * 20, 1, 1e20);
  EXPECT_EQ(decode_rows(codec, encode_rows(codec, rows)), rows);
}

TEST(CodecTest, UncompressedFloat64IsExactForDoubles) {
  const PolarCodec<double> codec(PolarFormat::uncompressed(80, FloatType::kFloat64),
                                 make_rotation(RotationKind::kNone, 80));
  std::vector<double> rows = gaussian_vector<double>(80 * 20, 1);
  for (double& value : rows) value = std::sqrt(std::abs(value)) * 1e300;
  EXPECT_EQ(decode_rows(codec, encode_rows(codec, rows)), rows);
}

TEST(CodecTest, UncompressedIsNotRotated) {
  const PolarCodec<float> codec(PolarFormat::uncompressed(64),
                                make_rotation(RotationKind::kHaar, 64));
  std::vector<float> rows(64);
  for (std::size_t i = 0; i < 64; ++i) rows[i] = static_cast<float>(i) / 64.0f - 0.5f;
  EXPECT_EQ(codec.rotation().kind(), RotationKind::kNone);
  EXPECT_EQ(decode_rows(codec, encode_rows(codec, rows)), rows);
}

TEST(CodecTest, UncompressedFloat16RoundsToHalfAUnitOfElevenBits) {
  const PolarCodec<float> codec(PolarFormat::uncompressed(64),
                                make_rotation(RotationKind::kNone, 64));
  const std::vector<float> rows = gaussian_vector<float>(64 * 100, 1);
  const std::vector<float> decoded = decode_rows(codec, encode_rows(codec, rows));
  ASSERT_EQ(decoded.size(), rows.size());
  bool any_was_rounded = false;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    any_was_rounded |= decoded[i] != rows[i];
    EXPECT_LE(std::abs(decoded[i] - rows[i]), std::ldexp(std::abs(rows[i]), -11) + 0x1p-25f);
  }
  EXPECT_TRUE(any_was_rounded);
}

// ---- The indices are the definition's ----

// Index of angle `angle` as it stands in a code.
int stored_index(const CodeLayout& layout, const std::byte* code, std::size_t angle) {
  const CodeLayout::Field field = layout.fields()[angle];
  int index = 0;
  for (std::uint32_t bit = 0; bit < field.num_bits; ++bit) {
    const std::uint32_t position = field.bit_offset + bit;
    const int value = std::to_integer<int>(code[position / 8] >> (position % 8)) & 1;
    index |= value << bit;
  }
  return index;
}

double distance_to_boundary(const polarquant::AngleCodebook& codebook, double psi) {
  double distance = std::numeric_limits<double>::infinity();
  for (const double boundary : codebook.boundaries()) {
    double gap = std::abs(psi - boundary);
    if (codebook.is_circular()) gap = std::min(gap, polarquant::detail::kTwoPi - gap);
    distance = std::min(distance, gap);
  }
  return distance;
}

// First coordinate and number of coordinates below angle `angle` of the shape.
std::pair<std::size_t, std::size_t> coordinates_of(const PolarShape& shape, int angle) {
  int level = 1;
  while (level <= shape.levels && angle >= shape.first_angle(level + 1)) ++level;
  const int position = angle - shape.first_angle(level);
  if (level <= shape.levels) {
    return {static_cast<std::size_t>(position) << level, std::size_t{1} << level};
  }
  return {0, static_cast<std::size_t>(shape.join_left(position) + shape.join_right(position))};
}

void expect_indices_of_definition(const PolarFormat& format, RotationKind kind,
                                  const polarquant::CodebookSet& codebooks) {
  const PolarShape shape = format.shape();
  const std::size_t d = static_cast<std::size_t>(format.head_dim);
  const auto rotation = make_rotation(kind, format.head_dim, 5);
  const PolarCodec<float> codec(format, rotation, codebooks);
  const CodeLayout layout(format);
  const std::size_t n = 4000 / d + 1;
  const std::vector<float> rows = gaussian_vector<float>(n * d, 17);
  const std::vector<std::byte> codes = encode_rows(codec, rows);
  ASSERT_FALSE(codes.empty());
  std::vector<double> x(d), y(d), radii(d), angles(d);
  for (std::size_t row = 0; row < n; ++row) {
    for (std::size_t i = 0; i < d; ++i) x[i] = static_cast<double>(rows[row * d + i]);
    rotation->apply(x.data(), y.data());
    polarquant::to_polar(shape, y.data(), radii.data(), angles.data());
    for (int angle = 0; angle < shape.num_angles(); ++angle) {
      int level = 1;
      while (level <= shape.levels && angle >= shape.first_angle(level + 1)) ++level;
      const polarquant::AngleCodebook& codebook =
          level <= shape.levels
              ? codebooks.levels[static_cast<std::size_t>(level - 1)]
              : codebooks
                    .joins[static_cast<std::size_t>(angle - shape.first_angle(shape.levels + 1))];
      const double psi = angles[static_cast<std::size_t>(angle)];
      const int index = stored_index(layout, codes.data() + row * codec.bytes_per_vector(),
                                     static_cast<std::size_t>(angle));
      if (index == codebook.index(psi)) continue;
      // Float arithmetic moves a coordinate by some 1e-7 of the norm, and so an angle by that over
      // the radius below it.
      const auto [first, count] = coordinates_of(shape, angle);
      const double radius = norm_of(y.data() + first, count);
      EXPECT_LT(distance_to_boundary(codebook, psi), 1e-6 * norm_of(y.data(), d) / radius)
          << format.description() << " row " << row << " angle " << angle;
    }
  }
}

TEST(CodecTest, IndicesAreThoseOfPolarTransformAndNearestCentroid) {
  Random random(23);
  for (int trial = 0; trial < 40; ++trial) {
    const PolarFormat format = random_format(random);
    expect_indices_of_definition(format, random_rotation(random, format.head_dim),
                                 polarquant::offline_codebooks(format));
  }
}

TEST(CodecTest, IndicesOfOnlineCodebooksAreThoseOfTheNearestCentroid) {
  Random random(29);
  for (int trial = 0; trial < 10; ++trial) {
    PolarFormat format = random_format(random, 128);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const std::vector<float> rows = gaussian_vector<float>(300 * d, random.next());
    const auto rotation = make_rotation(RotationKind::kHaar, format.head_dim, 5);
    expect_indices_of_definition(
        format, RotationKind::kHaar,
        polarquant::online_codebooks<float>(format, *rotation, {rows.data(), 300, d}));
  }
}

// ---- Inner products and weighted sums on codes ----

template <typename T>
class CodecTypedTest : public testing::Test {};
using ElementTypes = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(CodecTypedTest, ElementTypes);

TYPED_TEST(CodecTypedTest, DotIsTheInnerProductWithTheDecodedVector) {
  using Accumulator = AccumulatorOf<TypeParam>;
  const double tolerance = std::is_same_v<Accumulator, double> ? 1e-13 : 1e-5;
  Random random(31);
  for (int trial = 0; trial < 20; ++trial) {
    const PolarFormat format = trial < 3 ? PolarFormat::uncompressed(48 << trial)
                                         : random_format(random, kSanitized ? 256 : 1024);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<TypeParam> codec(
        format, make_rotation(random_rotation(random, format.head_dim), format.head_dim, 3));
    const std::vector<TypeParam> query = gaussian_vector<TypeParam>(d, random.next());
    const std::vector<TypeParam> rows = gaussian_vector<TypeParam>(10 * d, random.next());
    const std::vector<std::byte> codes = encode_rows(codec, rows);
    const std::vector<Accumulator> decoded = decode_rows(codec, codes);
    std::vector<Accumulator> prepared(codec.prepared_size());
    GuardedBytes scratch(codec.scratch_bytes());
    codec.prepare_query(query.data(), prepared.data(), scratch.data());
    for (std::size_t row = 0; row < 10; ++row) {
      const Accumulator* const key = decoded.data() + row * d;
      EXPECT_NEAR(
          static_cast<double>(codec.dot(
              prepared.data(), codes.data() + row * codec.bytes_per_vector(), scratch.data())),
          inner_product(query.data(), key, d),
          tolerance * norm_of(query.data(), d) * norm_of(key, d))
          << format.description();
    }
  }
}

TYPED_TEST(CodecTypedTest, AccumulateAndFinishAreTheWeightedSumOfTheDecodedVectors) {
  using Accumulator = AccumulatorOf<TypeParam>;
  const double tolerance = std::is_same_v<Accumulator, double> ? 1e-13 : 1e-5;
  Random random(37);
  for (int trial = 0; trial < 20; ++trial) {
    const PolarFormat format = trial < 3 ? PolarFormat::uncompressed(48 << trial)
                                         : random_format(random, kSanitized ? 256 : 1024);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<TypeParam> codec(
        format, make_rotation(random_rotation(random, format.head_dim), format.head_dim, 3));
    const std::size_t n = 12;
    const std::vector<std::byte> codes =
        encode_rows(codec, gaussian_vector<TypeParam>(n * d, random.next()));
    const std::vector<Accumulator> decoded = decode_rows(codec, codes);
    std::vector<Accumulator> sum(d), output(d);
    std::vector<double> expected(d);
    double scale = 0.0;
    GuardedBytes scratch(codec.scratch_bytes());
    for (std::size_t row = 0; row < n; ++row) {
      const Accumulator weight = static_cast<Accumulator>(random.gaussian());
      codec.accumulate(weight, codes.data() + row * codec.bytes_per_vector(), sum.data(),
                       scratch.data());
      for (std::size_t i = 0; i < d; ++i) {
        expected[i] += static_cast<double>(weight) * static_cast<double>(decoded[row * d + i]);
      }
      scale += std::abs(static_cast<double>(weight)) * norm_of(decoded.data() + row * d, d);
    }
    codec.finish(sum.data(), output.data());
    for (std::size_t i = 0; i < d; ++i) {
      ASSERT_NEAR(static_cast<double>(output[i]), expected[i], tolerance * scale)
          << format.description();
    }
  }
}

// ---- Bytes ----

TYPED_TEST(CodecTypedTest, EqualValuesGiveTheBytesOfFloat) {
  Random random(41);
  for (int trial = 0; trial < 20; ++trial) {
    const PolarFormat format =
        trial == 0 ? PolarFormat::uncompressed(64) : random_format(random, 256);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const auto rotation = make_rotation(random_rotation(random, format.head_dim), format.head_dim);
    // Six bits of mantissa: exact in every type.
    std::vector<float> singles(20 * d);
    std::vector<TypeParam> rows(20 * d);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      singles[i] =
          std::ldexp(static_cast<float>(random_int(random, -63, 63)), random_int(random, -8, 2));
      rows[i] = static_cast<TypeParam>(singles[i]);
      ASSERT_EQ(static_cast<float>(rows[i]), singles[i]);
    }
    const std::vector<std::byte> codes = encode_rows(PolarCodec<TypeParam>(format, rotation), rows);
    ASSERT_FALSE(codes.empty());
    EXPECT_EQ(codes, encode_rows(PolarCodec<float>(format, rotation), singles))
        << format.description();
  }
}

TEST(CodecTest, AnyDivisionIntoBatchesGivesTheSameBytes) {
  Random random(43);
  for (int trial = 0; trial < 20; ++trial) {
    const PolarFormat format = random_format(random, 256);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<float> codec(
        format, make_rotation(random_rotation(random, format.head_dim), format.head_dim));
    const std::vector<float> rows = gaussian_vector<float>(90 * d, random.next());
    const std::vector<std::byte> whole = encode_rows(codec, rows);
    std::vector<std::byte> pieces(whole.size());
    GuardedBytes scratch(codec.scratch_bytes());
    for (std::size_t first = 0; first < 90;) {
      const std::size_t count =
          std::min<std::size_t>(90 - first, static_cast<std::size_t>(random_int(random, 1, 40)));
      codec.encode(
          {rows.data() + first * d, count, d},
          {pieces.data() + first * codec.bytes_per_vector(), count, codec.bytes_per_vector()},
          scratch.data());
      first += count;
    }
    EXPECT_EQ(whole, pieces) << format.description();
  }
}

TEST(CodecTest, EncodeWritesNothingBetweenTheCodes) {
  Random random(47);
  for (int trial = 0; trial < 20; ++trial) {
    const PolarFormat format =
        trial == 0 ? PolarFormat::uncompressed(64) : random_format(random, 256);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<float> codec(format, make_rotation(RotationKind::kHadamard, format.head_dim));
    const std::vector<float> rows = gaussian_vector<float>(20 * d, random.next());
    const std::size_t stride = codec.bytes_per_vector() + 3;
    std::vector<std::byte> codes(20 * stride, std::byte{0x77});
    GuardedBytes scratch(codec.scratch_bytes());
    codec.encode({rows.data(), 20, d}, {codes.data(), 20, stride}, scratch.data());
    for (std::size_t row = 0; row < 20; ++row) {
      for (std::size_t byte = codec.bytes_per_vector(); byte < stride; ++byte) {
        ASSERT_EQ(codes[row * stride + byte], std::byte{0x77}) << format.description();
      }
    }
  }
}

TEST(CodecTest, DecodeWritesNothingBetweenTheRows) {
  Random random(53);
  for (int trial = 0; trial < 20; ++trial) {
    const PolarFormat format =
        trial == 0 ? PolarFormat::uncompressed(64) : random_format(random, 256);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<float> codec(
        format, make_rotation(random_rotation(random, format.head_dim), format.head_dim));
    const std::vector<std::byte> codes =
        encode_rows(codec, gaussian_vector<float>(20 * d, random.next()));
    std::vector<float> rows(20 * (d + 2), 77.0f);
    GuardedBytes scratch(codec.scratch_bytes());
    codec.decode({codes.data(), 20, codec.bytes_per_vector()}, {rows.data(), 20, d + 2},
                 scratch.data());
    for (std::size_t row = 0; row < 20; ++row) {
      ASSERT_EQ(rows[row * (d + 2) + d], 77.0f) << format.description();
      ASSERT_EQ(rows[row * (d + 2) + d + 1], 77.0f) << format.description();
    }
  }
}

TEST(CodecTest, EncodeTileHoldsTheCodesOfEncode) {
  Random random(59);
  for (int trial = 0; trial < 20; ++trial) {
    const PolarFormat format =
        trial == 0 ? PolarFormat::uncompressed(64) : random_format(random, 256);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<float> codec(format, make_rotation(RotationKind::kHadamard, format.head_dim));
    const std::size_t num_bytes = codec.bytes_per_vector();
    const std::vector<float> rows = gaussian_vector<float>(7 * d, random.next());
    const std::vector<std::byte> codes = encode_rows(codec, rows);
    GuardedBytes tile(polarquant::tile_bytes(num_bytes));
    GuardedBytes scratch(codec.scratch_bytes());
    const EncodeResult result =
        codec.encode_tile({rows.data(), 7, d}, 5, tile.data(), scratch.data());
    EXPECT_EQ(result.num_encoded, 7u);
    std::vector<std::byte> slot(num_bytes);
    for (std::size_t t = 0; t < kTileTokens; ++t) {
      polarquant::read_tile_slot(tile.data(), num_bytes, t, slot.data());
      if (t < 5 || t >= 12) {
        EXPECT_EQ(slot, std::vector<std::byte>(num_bytes, std::byte{0xa5})) << t;
      } else {
        EXPECT_EQ(std::memcmp(slot.data(), codes.data() + (t - 5) * num_bytes, num_bytes), 0) << t;
      }
    }
    EXPECT_TRUE(tile.guard_is_intact());
  }
}

TEST(CodecTest, DecodeTileGivesTheRowsOfDecode) {
  Random random(61);
  for (int trial = 0; trial < 20; ++trial) {
    const PolarFormat format =
        trial == 0 ? PolarFormat::uncompressed(64) : random_format(random, 256);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<float> codec(
        format, make_rotation(random_rotation(random, format.head_dim), format.head_dim));
    const std::vector<float> rows = gaussian_vector<float>(kTileTokens * d, random.next());
    const std::vector<float> expected = decode_rows(codec, encode_rows(codec, rows));
    std::vector<std::byte> tile(polarquant::tile_bytes(codec.bytes_per_vector()));
    GuardedBytes scratch(codec.scratch_bytes());
    codec.encode_tile({rows.data(), kTileTokens, d}, 0, tile.data(), scratch.data());
    std::vector<float> decoded(9 * d + 1, 77.0f);
    codec.decode_tile(tile.data(), {decoded.data(), 9, d}, scratch.data());
    for (std::size_t i = 0; i < 9 * d; ++i) {
      ASSERT_NEAR(decoded[i], expected[i], 1e-5) << format.description();
    }
    EXPECT_EQ(decoded[9 * d], 77.0f);
  }
}

// ---- Zeros, extremes ----

TYPED_TEST(CodecTypedTest, ZeroVectorsDecodeToExactZeros) {
  Random random(67);
  for (int trial = 0; trial < 30; ++trial) {
    const PolarFormat format =
        trial == 0 ? PolarFormat::uncompressed(64) : random_format(random, 256);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<TypeParam> codec(
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

TEST(CodecTest, AZeroBlockDecodesToExactZerosBesideAnotherBlock) {
  for (const RadiusMeaning meaning : {RadiusMeaning::kNorm, RadiusMeaning::kUnbiased,
                                      RadiusMeaning::kProjection, RadiusMeaning::kLeastSquares}) {
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
    const Distortion distortion = measure_distortion(codec, rows);
    EXPECT_NEAR(distortion.relative_mse.mean(), format.expected_relative_mse(),
                5.0 * distortion.relative_mse.standard_error() + 3e-6);
    EXPECT_LT(distortion.relative_mse.standard_error(), 0.01 * format.expected_relative_mse());
  }
}

INSTANTIATE_TEST_SUITE_P(Norms, CodecNormTest,
                         testing::Values(1e-30, 1e-20, 1e-10, 1e-4, 1.0, 779.0, 1e5, 1e10, 1e20,
                                         1e30));

// Below 2^-126 a bfloat16 is a multiple of 2^-133: the radius is off by half of that at most.
TEST(CodecTest, SubnormalVectorsKeepTheirRadiusToTheGridOfBfloat16) {
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

TEST(CodecTest, TheSmallestFloatIsEncodedWithFloat32Radii) {
  const PolarCodec<float> codec(
      with_meaning(format_of(16, {8, 6, 6, 6}), RadiusMeaning::kNorm, FloatType::kFloat32),
      make_rotation(RotationKind::kNone, 16));
  std::vector<float> row(16, 0.0f);
  row[3] = std::numeric_limits<float>::denorm_min();
  const std::vector<float> decoded = decode_rows(codec, encode_rows(codec, row));
  EXPECT_EQ(decoded, row);
}

TEST(CodecTest, DoublesBelowTheDocumentedLimitDecodeToZero) {
  const PolarCodec<double> codec(PolarFormat::paper(16), make_rotation(RotationKind::kNone, 16));
  const std::vector<double> decoded =
      decode_rows(codec, encode_rows(codec, std::vector<double>(16, 0x1p-161)));
  EXPECT_EQ(decoded, std::vector<double>(16, 0.0));
}

// ---- Failures ----

TYPED_TEST(CodecTypedTest, ANonFiniteEntryAnywhereIsReportedWithItsRow) {
  using Limits = std::numeric_limits<float>;
  for (const PolarFormat& format :
       {PolarFormat::paper(32), PolarFormat::full_depth(22, 4.0), PolarFormat::uncompressed(32)}) {
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<TypeParam> codec(format, make_rotation(RotationKind::kHaar, format.head_dim));
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
          const EncodeResult result =
              codec.encode({rows.data(), 35, d}, {codes.data(), 35, num_bytes}, scratch.data());
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

TEST(CodecTest, AFloat16RadiusThatOverflowsIsReportedWithItsRow) {
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
      EXPECT_EQ(result.failure, EncodeFailure::kRadiusOverflow);
      EXPECT_EQ(std::memcmp(codes.data(), expected.data(), row * num_bytes), 0);
      for (std::size_t i = row * num_bytes; i < codes.size(); ++i) {
        ASSERT_EQ(codes[i], std::byte{0x77});
      }
    }
  }
}

// 65520 is halfway between the largest half and the next power of two.
TEST(CodecTest, Float16OverflowBeginsWhereRoundingWouldLeaveTheRange) {
  const PolarCodec<float> codec(
      with_meaning(format_of(2, {8}), RadiusMeaning::kNorm, FloatType::kFloat16),
      make_rotation(RotationKind::kNone, 2));
  EXPECT_FALSE(encode_rows(codec, std::vector<float>{65519.0f, 0.0f}).empty());
  EXPECT_TRUE(encode_rows(codec, std::vector<float>{65520.0f, 0.0f}).empty());
}

TEST(CodecTest, ANormBeyondFloatIsReportedNotSaturated) {
  const PolarCodec<float> codec(PolarFormat::full_depth(64, 4.0),
                                make_rotation(RotationKind::kHaar, 64));
  const std::vector<float> row(64, std::numeric_limits<float>::max());
  std::vector<std::byte> code(codec.bytes_per_vector());
  GuardedBytes scratch(codec.scratch_bytes());
  const EncodeResult result =
      codec.encode({row.data(), 1, 64}, {code.data(), 1, code.size()}, scratch.data());
  EXPECT_EQ(result.num_encoded, 0u);
  EXPECT_EQ(result.failure, EncodeFailure::kRadiusOverflow);
}

// Of a NaN behind an overflow in one batch the first row is the one reported.
TEST(CodecTest, TheFirstOfTwoFailuresIsReported) {
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
  EXPECT_EQ(result.failure, EncodeFailure::kRadiusOverflow);
}

// ---- Scratch, allocations, noexcept ----

TYPED_TEST(CodecTypedTest, NoCallWritesBeyondScratchBytes) {
  using Accumulator = AccumulatorOf<TypeParam>;
  Random random(71);
  for (int trial = 0; trial < 40; ++trial) {
    const PolarFormat format =
        trial == 0 ? PolarFormat::uncompressed(64, FloatType::kFloat64) : random_format(random);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<TypeParam> codec(format,
                                      make_rotation(RotationKind::kHadamard, format.head_dim));
    const std::size_t num_bytes = codec.bytes_per_vector();
    const std::vector<TypeParam> rows = gaussian_vector<TypeParam>(33 * d, 1);
    GuardedBytes scratch(codec.scratch_bytes());
    GuardedBytes codes(33 * num_bytes);
    GuardedBytes tile(polarquant::tile_bytes(num_bytes));
    GuardedBytes decoded(33 * d * sizeof(Accumulator));
    GuardedBytes prepared(codec.prepared_size() * sizeof(Accumulator));
    Accumulator* const output = reinterpret_cast<Accumulator*>(decoded.data());
    Accumulator* const table = reinterpret_cast<Accumulator*>(prepared.data());
    codec.encode({rows.data(), 33, d}, {codes.data(), 33, num_bytes}, scratch.data());
    codec.decode({codes.data(), 33, num_bytes}, {output, 33, d}, scratch.data());
    codec.encode_tile({rows.data(), kTileTokens, d}, 0, tile.data(), scratch.data());
    codec.decode_tile(tile.data(), {output, kTileTokens, d}, scratch.data());
    codec.prepare_query(rows.data(), table, scratch.data());
    codec.dot(table, codes.data() + 32 * num_bytes, scratch.data());
    codec.accumulate(Accumulator(1), codes.data() + 32 * num_bytes, output, scratch.data());
    codec.finish(output, output + d);
    EXPECT_TRUE(scratch.guard_is_intact()) << format.description();
    EXPECT_TRUE(codes.guard_is_intact()) << format.description();
    EXPECT_TRUE(tile.guard_is_intact()) << format.description();
    EXPECT_TRUE(decoded.guard_is_intact()) << format.description();
    EXPECT_TRUE(prepared.guard_is_intact()) << format.description();
  }
}

TEST(CodecTest, TheCounterOfAllocationsCounts) {
  EXPECT_EQ(count_allocations([] { ::operator delete(::operator new(1)); }), 1u);
}

TYPED_TEST(CodecTypedTest, CallsWithScratchAllocateNothing) {
  using Accumulator = AccumulatorOf<TypeParam>;
  for (const RotationKind kind : kRotations) {
    for (const PolarFormat& format : {PolarFormat::paper(96), PolarFormat::full_depth(96, 3.25),
                                      PolarFormat::uncompressed(96)}) {
      const PolarCodec<TypeParam> codec(format, make_rotation(kind, 96));
      const std::size_t num_bytes = codec.bytes_per_vector();
      const std::vector<TypeParam> rows = gaussian_vector<TypeParam>(40 * 96, 1);
      std::vector<std::byte> codes(40 * num_bytes), tile(polarquant::tile_bytes(num_bytes));
      std::vector<Accumulator> decoded(40 * 96), prepared(codec.prepared_size()), output(96);
      GuardedBytes scratch(codec.scratch_bytes());
      EXPECT_EQ(
          count_allocations([&] {
            codec.encode({rows.data(), 40, 96}, {codes.data(), 40, num_bytes}, scratch.data());
            codec.encode_tile({rows.data(), 32, 96}, 0, tile.data(), scratch.data());
            codec.decode({codes.data(), 40, num_bytes}, {decoded.data(), 40, 96}, scratch.data());
            codec.decode_tile(tile.data(), {decoded.data(), 32, 96}, scratch.data());
            codec.prepare_query(rows.data(), prepared.data(), scratch.data());
            codec.dot(prepared.data(), codes.data(), scratch.data());
            codec.accumulate(Accumulator(1), codes.data(), decoded.data(), scratch.data());
            codec.finish(decoded.data(), output.data());
          }),
          0u);
    }
  }
}

TYPED_TEST(CodecTypedTest, HotCallsAreNoexcept) {
  using Codec = PolarCodec<TypeParam>;
  using Accumulator = AccumulatorOf<TypeParam>;
  using polarquant::Rows;
  std::byte* const bytes = nullptr;
  Accumulator* const numbers = nullptr;
  const TypeParam* const query = nullptr;
  static_assert(noexcept(
      std::declval<const Codec&>().encode(Rows<const TypeParam>{}, Rows<std::byte>{}, bytes)));
  static_assert(
      noexcept(std::declval<const Codec&>().encode_tile(Rows<const TypeParam>{}, 0, bytes, bytes)));
  static_assert(noexcept(
      std::declval<const Codec&>().decode(Rows<const std::byte>{}, Rows<Accumulator>{}, bytes)));
  static_assert(
      noexcept(std::declval<const Codec&>().decode_tile(bytes, Rows<Accumulator>{}, bytes)));
  static_assert(noexcept(std::declval<const Codec&>().prepare_query(query, numbers, bytes)));
  static_assert(noexcept(std::declval<const Codec&>().dot(numbers, bytes, bytes)));
  static_assert(
      noexcept(std::declval<const Codec&>().accumulate(Accumulator(1), bytes, numbers, bytes)));
  static_assert(noexcept(std::declval<const Codec&>().finish(numbers, numbers)));
}

}  // namespace
