#include "polarquant/codec/polar_codec.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "plain_8bit_codec.hpp"
#include "test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

TEST(PolarCodecTest, UncompressedFloat32IsExact) {
  const PolarCodec<float> codec(PolarFormat::uncompressed(80, FloatType::kFloat32),
                                make_rotation(RotationKind::kNone, 80));
  const std::vector<float> rows = gaussian_vector<float>(80 * 20, 1, 1e20);
  EXPECT_EQ(decode_rows(codec, encode_rows(codec, rows)), rows);
}

TEST(PolarCodecTest, UncompressedFloat64IsExactForDoubles) {
  const PolarCodec<double> codec(PolarFormat::uncompressed(80, FloatType::kFloat64),
                                 make_rotation(RotationKind::kNone, 80));
  std::vector<double> rows = gaussian_vector<double>(80 * 20, 1);
  for (double& value : rows) value = std::sqrt(std::abs(value)) * 1e300;
  EXPECT_EQ(decode_rows(codec, encode_rows(codec, rows)), rows);
}

TEST(PolarCodecTest, UncompressedIsNotRotated) {
  const PolarCodec<float> codec(PolarFormat::uncompressed(64),
                                make_rotation(RotationKind::kHaar, 64));
  std::vector<float> rows(64);
  for (std::size_t i = 0; i < 64; ++i) rows[i] = static_cast<float>(i) / 64.0f - 0.5f;
  EXPECT_EQ(codec.rotation().kind(), RotationKind::kNone);
  EXPECT_EQ(decode_rows(codec, encode_rows(codec, rows)), rows);
}

TEST(PolarCodecTest, UncompressedFloat16RoundsToHalfAUnitOfElevenBits) {
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
  const std::size_t num_bits =
      8 * layout.num_radius_bytes() + static_cast<std::size_t>(format.num_angle_bits());
  for (std::size_t row = 0; row < n; ++row) {
    for (std::size_t i = 0; i < d; ++i) x[i] = static_cast<double>(rows[row * d + i]);
    const std::byte last = codes[(row + 1) * codec.bytes_per_vector() - 1];
    EXPECT_EQ(std::to_integer<unsigned>(last) >> (1 + (num_bits - 1) % 8), 0u) << "padding";
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

TEST(PolarCodecTest, IndicesAreThoseOfPolarTransformAndNearestCentroid) {
  Random random(23);
  for (int trial = 0; trial < 40; ++trial) {
    const PolarFormat format = random_format(random);
    expect_indices_of_definition(format, random_rotation(random, format.head_dim));
  }
}

TEST(PolarCodecTest, IndicesOfOnlineCodebooksAreThoseOfTheNearestCentroid) {
  Random random(29);
  for (int trial = 0; trial < 10; ++trial) {
    const PolarFormat format = random_format(random, 128);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const std::vector<float> rows = gaussian_vector<float>(300 * d, random.next());
    const auto rotation = make_rotation(RotationKind::kHaar, format.head_dim, 5);
    expect_indices_of_definition(
        with_codebooks(
            format, polarquant::online_codebooks<float>(format, *rotation, {rows.data(), 300, d})),
        RotationKind::kHaar);
  }
}

// ---- Settings ----

TEST(PolarCodecTest, RemembersWhatItIsMadeOf) {
  const auto rotation = make_rotation(RotationKind::kHadamard, 64, 9);
  const PolarFormat format = PolarFormat::full_depth(64, 3.25);
  const PolarCodec<double> codec(format, rotation, Arithmetic::kExact, Isa::kScalar);
  EXPECT_EQ(&codec.rotation(), rotation.get());
  EXPECT_EQ(codec.arithmetic(), Arithmetic::kExact);
  EXPECT_EQ(codec.isa(), Isa::kScalar);
  EXPECT_EQ(codec.head_dim(), 64u);
  EXPECT_EQ(codec.bytes_per_vector(), format.bytes_per_vector());
  ASSERT_NE(codec.format().polar(), nullptr);
  EXPECT_TRUE(*codec.format().polar() == format);
}

TEST(PolarCodecTest, FixedPointIsTheDefaultAndTheBestInstructionSet) {
  const polarquant_test::ScopedIsa no_variable(nullptr);
  const PolarCodec<float> codec(PolarFormat::paper(64), make_rotation(RotationKind::kNone, 64));
  EXPECT_EQ(codec.arithmetic(), Arithmetic::kFixedPoint);
  EXPECT_EQ(codec.isa(), polarquant::choose_isa());
}

// ---- What it refuses ----

TEST(BadPolarCodecTest, NoRotation) {
  expect_invalid([] { PolarCodec<float>(PolarFormat::paper(64), nullptr); },
                 {"a codec without a rotation"});
}

TEST(BadPolarCodecTest, RotationOfAnotherWidth) {
  expect_invalid(
      [] { PolarCodec<float>(PolarFormat::paper(64), make_rotation(RotationKind::kNone, 128)); },
      {"the rotation is 128 wide, the format 64"});
}

TEST(BadPolarCodecTest, InvalidFormat) {
  expect_invalid(
      [] { PolarCodec<float>(format_of(64, {9}), make_rotation(RotationKind::kNone, 64)); },
      {"level 1 has 9 bits"});
}

TEST(BadPolarCodecTest, CodebooksOfAnotherFormat) {
  for (const auto& [bits, problem] : {std::pair<std::vector<int>, const char*>{
                                          {4, 2, 2}, "codebooks for 3 levels, the format has 4"},
                                      {{4, 2, 3, 2}, "has 3 bits, must have 2"}}) {
    const PolarFormat format =
        with_codebooks(PolarFormat::paper(64), polarquant::offline_codebooks(format_of(64, bits)));
    expect_invalid([&] { PolarCodec<float>(format, make_rotation(RotationKind::kNone, 64)); },
                   {problem});
  }
}

TEST(BadPolarCodecTest, InvalidFormatWithGivenCodebooks) {
  PolarFormat format = with_codebooks(PolarFormat::paper(64), {});
  format.levels = 40;
  expect_invalid([&] { PolarCodec<float>(format, make_rotation(RotationKind::kNone, 64)); },
                 {"levels is 40"});
}

TEST(BadPolarCodecTest, AMissingInstructionSet) {
  const Isa missing = polarquant::isa_is_available(Isa::kNeon) ? Isa::kAvx2 : Isa::kNeon;
  expect_invalid(
      [missing] {
        PolarCodec<float>(PolarFormat::paper(64), make_rotation(RotationKind::kNone, 64),
                          Arithmetic::kExact, missing);
      },
      {"isa is ", polarquant::isa_name(missing), "which this machine or build does not have"});
}

// ---- make_codec ----

TEST(MakeCodecTest, OfAPolarFormatIsAPolarCodec) {
  const CodecSetup setup = {make_rotation(RotationKind::kHaar, 64), Arithmetic::kExact,
                            Isa::kScalar};
  const auto singles = make_codec<float>(PolarFormat::paper(64), setup);
  const auto doubles = make_codec<double>(PolarFormat::paper(64), setup);
  EXPECT_NE(dynamic_cast<const PolarCodec<float>*>(singles.get()), nullptr);
  EXPECT_NE(dynamic_cast<const PolarCodec<double>*>(doubles.get()), nullptr);
  EXPECT_EQ(singles->arithmetic(), Arithmetic::kExact);
  EXPECT_EQ(singles->isa(), Isa::kScalar);
}

// A stranger's family: the bytes go through its codec.
TEST(MakeCodecTest, OfAnotherFamilyIsItsOwnCodec) {
  const CodecSetup setup = {make_rotation(RotationKind::kHaar, 48), Arithmetic::kFixedPoint, {}};
  const CodecFormat format = polarquant_test::plain_8bit(48);
  EXPECT_EQ(format.polar(), nullptr);
  const auto codec = make_codec<float>(format, setup);
  EXPECT_EQ(codec->bytes_per_vector(), 52u);
  const std::vector<float> rows = gaussian_vector<float>(70 * 48, 1);
  const polarquant_test::Distortion distortion = polarquant_test::distortion_of(*codec, rows);
  EXPECT_NEAR(distortion.alignment.mean(), 1.0, 1e-3);
  EXPECT_LT(distortion.relative_mse.mean(), 1e-4);
  // Of equal values the bytes are equal in double.
  EXPECT_EQ(encode_rows(*make_codec<double>(format, setup),
                        std::vector<double>(rows.begin(), rows.end())),
            encode_rows(*codec, rows));
}

class NoCodecs final : public polarquant::FormatModel {
 public:
  const char* family() const override { return "none"; }
  int head_dim() const override { return 48; }
  std::size_t bytes_per_vector() const override { return 1; }
  bool is_uncompressed() const override { return false; }
  FloatType number_type() const override { return FloatType::kFloat32; }
  double expected_relative_mse() const override { return 1.0; }
  std::string description() const override { return "a format without codecs"; }
  std::string problem() const override { return {}; }
  std::vector<std::uint64_t> settings() const override { return {}; }
};

TEST(MakeCodecTest, AFamilyWithoutACodecOfThisTypeIsAnErrorThatNamesBoth) {
  const CodecFormat format(std::make_shared<const NoCodecs>());
  const CodecSetup setup = {make_rotation(RotationKind::kHaar, 48), Arithmetic::kFixedPoint, {}};
  expect_invalid([&] { make_codec<float>(format, setup); },
                 {"a format without codecs has no codec for results of float"});
  expect_invalid([&] { make_codec<double>(format, setup); },
                 {"a format without codecs has no codec for results of double"});
}

TEST(MakeCodecTest, WhatIsWrongWithAFormatIsSaid) {
  const CodecSetup setup = {make_rotation(RotationKind::kHaar, 48), Arithmetic::kFixedPoint, {}};
  expect_invalid([&] { make_codec<float>({}, setup); }, {"no format is set"});
  expect_invalid([&] { make_codec<float>(format_of(48, {9}), setup); }, {"level 1 has 9 bits"});
  expect_invalid([&] { make_codec<float>(polarquant_test::plain_8bit(3), setup); },
                 {"head_dim is 3"});
  expect_invalid([&] { make_codec<float>(polarquant_test::plain_8bit(64), setup); },
                 {"the rotation is 48 wide, the format 64"});
  expect_invalid([&] { make_codec<float>(polarquant_test::plain_8bit(48), {}); },
                 {"a codec without a rotation"});
}

}  // namespace
