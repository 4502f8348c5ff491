#include "polarquant/codec/polar_codec.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "test_util.hpp"

namespace {

using polarquant::CodeLayout;
using polarquant::FloatType;
using polarquant::PolarCodec;
using polarquant::PolarFormat;
using polarquant::PolarShape;
using polarquant::Random;
using polarquant::RotationKind;
using polarquant_test::AccumulatorOf;
using polarquant_test::decode_rows;
using polarquant_test::encode_rows;
using polarquant_test::gaussian_vector;
using polarquant_test::GuardedBytes;
using polarquant_test::inner_product;
using polarquant_test::kSanitized;
using polarquant_test::make_rotation;
using polarquant_test::norm_of;
using polarquant_test::random_format;
using polarquant_test::random_rotation;

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

void expect_indices_of_definition(const PolarFormat& format, RotationKind kind) {
  const PolarShape shape = format.shape();
  const polarquant::CodebookSet codebooks = format.codebooks_or_offline();
  const std::size_t d = static_cast<std::size_t>(format.head_dim);
  const auto rotation = make_rotation(kind, format.head_dim, 5);
  const PolarCodec<float> codec(format, rotation);
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
    expect_indices_of_definition(format, random_rotation(random, format.head_dim));
  }
}

TEST(CodecTest, IndicesOfOnlineCodebooksAreThoseOfTheNearestCentroid) {
  Random random(29);
  for (int trial = 0; trial < 10; ++trial) {
    PolarFormat format = random_format(random, 128);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const std::vector<float> rows = gaussian_vector<float>(300 * d, random.next());
    const auto rotation = make_rotation(RotationKind::kHaar, format.head_dim, 5);
    format.codebooks = std::make_shared<const polarquant::CodebookSet>(
        polarquant::online_codebooks<float>(format, *rotation, {rows.data(), 300, d}));
    expect_indices_of_definition(format, RotationKind::kHaar);
  }
}

// ---- Inner products and weighted sums on codes ----

template <typename T>
class CodecTypedTest : public testing::Test {};
using ElementTypes = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(CodecTypedTest, ElementTypes, );  // clang++ wants the empty argument in C++17.

TYPED_TEST(CodecTypedTest, DotIsTheInnerProductWithTheDecodedVector) {
  using Accumulator = AccumulatorOf<TypeParam>;
  const double tolerance = std::is_same_v<Accumulator, double> ? 1e-13 : 1e-5;
  Random random(31);
  for (int trial = 0; trial < 20; ++trial) {
    const PolarFormat format = trial < 3 ? PolarFormat::uncompressed(48 << trial)
                                         : random_format(random, kSanitized ? 256 : 1024);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<AccumulatorOf<TypeParam>> codec(
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

// A power of two scales every step exactly.
TYPED_TEST(CodecTypedTest, AQueryPreparedWithAScaleScalesItsInnerProducts) {
  using Accumulator = AccumulatorOf<TypeParam>;
  for (const PolarFormat& format :
       {PolarFormat::paper(64), PolarFormat::full_depth(80, 3.25), PolarFormat::uncompressed(64)}) {
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<AccumulatorOf<TypeParam>> codec(format, make_rotation(RotationKind::kHaar, format.head_dim));
    const std::vector<TypeParam> query = gaussian_vector<TypeParam>(d, 1);
    const std::vector<std::byte> codes = encode_rows(codec, gaussian_vector<TypeParam>(d, 2));
    GuardedBytes prepared(codec.prepared_size() * sizeof(Accumulator));
    GuardedBytes scratch(codec.scratch_bytes());
    Accumulator* const table = reinterpret_cast<Accumulator*>(prepared.data());
    codec.prepare_query(query.data(), table, scratch.data());
    const Accumulator plain = codec.dot(table, codes.data(), scratch.data());
    codec.prepare_query(query.data(), table, scratch.data(), Accumulator(0.125));
    EXPECT_EQ(codec.dot(table, codes.data(), scratch.data()), Accumulator(0.125) * plain);
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
    const PolarCodec<AccumulatorOf<TypeParam>> codec(
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

}  // namespace
