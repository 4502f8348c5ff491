// The bytes of a code: the same for every type, batch, stride and tile, and on every machine.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "polarquant/codec/polar_codec.hpp"
#include "test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

template <typename T>
class CodecBytesOfTypeTest : public testing::Test {};
// clang++ wants the empty argument in C++17.
TYPED_TEST_SUITE(CodecBytesOfTypeTest, polarquant_test::ElementTypes, );

TYPED_TEST(CodecBytesOfTypeTest, EqualValuesGiveTheBytesOfFloat) {
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
    const std::vector<std::byte> codes =
        encode_rows(PolarCodec<AccumulatorOf<TypeParam>>(format, rotation), rows);
    ASSERT_FALSE(codes.empty());
    EXPECT_EQ(codes, encode_rows(PolarCodec<float>(format, rotation), singles))
        << format.description();
  }
}

TEST(CodecBytesTest, AnyDivisionIntoBatchesGivesTheSameBytes) {
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
      EXPECT_EQ(codec
                    .encode({rows.data() + first * d, count, d},
                            {pieces.data() + first * codec.bytes_per_vector(), count,
                             codec.bytes_per_vector()},
                            scratch.data())
                    .num_encoded,
                count);
      first += count;
    }
    EXPECT_EQ(whole, pieces) << format.description();
  }
}

TEST(CodecBytesTest, EncodeWritesNothingBetweenTheCodes) {
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
    EXPECT_EQ(
        codec.encode({rows.data(), 20, d}, {codes.data(), 20, stride}, scratch.data()).num_encoded,
        20u);
    for (std::size_t row = 0; row < 20; ++row) {
      for (std::size_t byte = codec.bytes_per_vector(); byte < stride; ++byte) {
        ASSERT_EQ(codes[row * stride + byte], std::byte{0x77}) << format.description();
      }
    }
  }
}

TEST(CodecBytesTest, DecodeWritesNothingBetweenTheRows) {
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

TYPED_TEST(CodecBytesOfTypeTest, EncodeTileHoldsTheCodesOfEncode) {
  Random random(59);
  for (int trial = 0; trial < 20; ++trial) {
    const PolarFormat format =
        trial == 0 ? PolarFormat::uncompressed(64) : random_format(random, 256);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<AccumulatorOf<TypeParam>> codec(
        format, make_rotation(RotationKind::kHadamard, format.head_dim));
    const std::size_t num_bytes = codec.bytes_per_vector();
    const std::vector<TypeParam> rows = gaussian_vector<TypeParam>(7 * d, random.next());
    const std::vector<std::byte> codes = encode_rows(codec, rows);
    GuardedBytes tile(polarquant::tile_bytes(num_bytes));
    GuardedBytes scratch(codec.scratch_bytes());
    const EncodeResult result =
        codec.encode_tile(Rows<const TypeParam>{rows.data(), 7, d}, 5, tile.data(), scratch.data());
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

TEST(CodecBytesTest, DecodeTileGivesTheRowsOfDecode) {
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
    EXPECT_EQ(codec.encode_tile({rows.data(), kTileTokens, d}, 0, tile.data(), scratch.data())
                  .num_encoded,
              kTileTokens);
    std::vector<float> decoded(9 * d + 1, 77.0f);
    codec.decode_tile(tile.data(), {decoded.data(), 9, d}, scratch.data());
    for (std::size_t i = 0; i < 9 * d; ++i) {
      ASSERT_NEAR(decoded[i], expected[i], 1e-5) << format.description();
    }
    EXPECT_EQ(decoded[9 * d], 77.0f);
  }
}

// ---- Golden bytes ----

// Encodes x_i = ((37 i) mod 101 - 50) / 16 and returns the code as hexadecimal digits.
template <typename A>
std::string golden_code(const PolarFormat& format, RotationKind kind, Isa isa) {
  const PolarCodec<A> codec(format, make_rotation(kind, format.head_dim, 42),
                            Arithmetic::kFixedPoint, isa);
  std::vector<A> x;
  for (int i = 0; i < format.head_dim; ++i) x.push_back(static_cast<A>(i * 37 % 101 - 50) / A(16));
  std::string text;
  for (const std::byte byte : encode_rows(codec, x)) {
    const char* const digits = "0123456789abcdef";
    text += digits[static_cast<unsigned>(byte) / 16];
    text += digits[static_cast<unsigned>(byte) % 16];
  }
  return text;
}

// Every instruction set this machine has, and both types, write the same bytes.
void expect_golden(const PolarFormat& format, RotationKind kind, const std::string& golden) {
  for (const Isa isa : available_isas()) {
    EXPECT_EQ(golden_code<float>(format, kind, isa), golden) << polarquant::isa_name(isa);
    EXPECT_EQ(golden_code<double>(format, kind, isa), golden) << polarquant::isa_name(isa);
  }
}

TEST(GoldenBytesTest, OfThePaperWithoutRotation) {
  expect_golden(PolarFormat::paper(128), RotationKind::kNone,
                "f040f240ec40f240eb40e840e940ed4058479d2e479e3b95683799df51a7cb95"
                "a84f25d64ee6d7d4e97225ea8e8976a3f97574ba5c857a9361dd747e1d79");
}

TEST(GoldenBytesTest, OfThePaperAfterAHaarRotation) {
  expect_golden(PolarFormat::paper(64), RotationKind::kHaar,
                "2b41c440b440d140580ed40da93783a6fb76f9f782e7525565a592efd2beaf");
}

TEST(GoldenBytesTest, OfJoinedPartsAfterAHadamardRotation) {
  expect_golden(PolarFormat::full_depth(80, 3.25), RotationKind::kHadamard,
                "86414581993972561819dd6ca8e6de695d52b5f9b988c7340da5f4d4a6d0d9da");
}

TEST(GoldenBytesTest, OfFloat16RadiiThatAreLeastSquares) {
  PolarFormat format = PolarFormat::full_depth(64, 2.25);
  format.radius_type = FloatType::kFloat16;
  format.radius_meaning = RadiusMeaning::kLeastSquares;
  expect_golden(format, RotationKind::kHadamard, "064b8fd647d0760f7bd85312792652cefa7c");
}

TEST(GoldenBytesTest, OfAnUncompressedVector) {
  expect_golden(PolarFormat::uncompressed(2), RotationKind::kNone, "40c280ba");
}

}  // namespace
