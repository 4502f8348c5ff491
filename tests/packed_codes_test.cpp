#include "polarquant/codes/code_layout.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "method_test_codec.hpp"

namespace {

using method_test::expect_invalid_argument;
using method_test::make_rotation;
using polarquant::CodeLayout;
using polarquant::FloatType;
using polarquant::Isa;
using polarquant::kTileTokens;
using polarquant::PolarCodec;
using polarquant::PolarFormat;
using polarquant::PolarShape;
using polarquant::RadiusMeaning;
using polarquant::Random;
using polarquant::RotationKind;

// Where byte `byte` of vector `slot` lies in a tile: the table of docs/format.md.
std::size_t tile_position(std::size_t num_bytes, std::size_t slot, std::size_t byte) {
  if (byte + 1 == num_bytes && num_bytes % 2 != 0) return 32 * byte + slot;
  return (32 * (byte / 2) + slot) * 2 + byte % 2;
}

// Presets, joins, blocks, no bits, wide radii, odd sizes.
std::vector<PolarFormat> formats() {
  std::vector<PolarFormat> result = {PolarFormat::paper(128),
                                     PolarFormat::paper(64),
                                     PolarFormat::paper(16),
                                     PolarFormat::full_depth(128, 3.25),
                                     PolarFormat::full_depth(80, 3.25),
                                     PolarFormat::full_depth(112, 4.5),
                                     PolarFormat::full_depth(576, 2.5),
                                     PolarFormat::full_depth(2, 12.0),
                                     PolarFormat::full_depth(6, 6.0)};
  PolarFormat odd = PolarFormat::paper(96);
  odd.level_bits = {7, 0, 5, 1};
  odd.radius_type = FloatType::kFloat32;
  result.push_back(odd);
  return result;
}

// The coordinate before which an angle of the tree stands: it separates what is left of it from
// what is right of it. In the order of PolarShape::first_angle.
std::vector<int> separated_coordinates(const PolarShape& shape) {
  std::vector<int> result;
  for (int level = 1; level <= shape.levels; ++level) {
    for (int node = 0; node < shape.num_angles(level); ++node) {
      result.push_back((2 * node + 1) << (level - 1));
    }
  }
  for (int join = 0; join < shape.num_joins(); ++join) result.push_back(shape.join_left(join));
  return result;
}

TEST(CodeLayout, fields_stand_in_the_order_of_the_coordinates_they_separate) {
  for (const PolarFormat& format : formats()) {
    const CodeLayout layout(format);
    const std::vector<int> coordinates = separated_coordinates(format.shape());
    std::vector<int> in_stream;
    for (const std::uint16_t angle : layout.stream_order()) {
      in_stream.push_back(coordinates[angle]);
    }
    EXPECT_EQ(in_stream.size(), coordinates.size()) << format.description();
    EXPECT_TRUE(std::is_sorted(in_stream.begin(), in_stream.end())) << format.description();
    EXPECT_EQ(std::adjacent_find(in_stream.begin(), in_stream.end()), in_stream.end());
  }
}

TEST(CodeLayout, fields_follow_each_other_without_gaps_after_the_radii) {
  for (const PolarFormat& format : formats()) {
    const CodeLayout layout(format);
    std::size_t offset = 8 * layout.num_radius_bytes();
    for (const std::uint16_t angle : layout.stream_order()) {
      ASSERT_EQ(layout.fields()[angle].bit_offset, offset) << format.description();
      offset += layout.fields()[angle].num_bits;
    }
    EXPECT_LE(offset, 8 * layout.num_bytes()) << format.description();
    EXPECT_GT(offset + 8, 8 * layout.num_bytes()) << format.description();
  }
}

TEST(CodeLayout, fields_are_as_wide_as_their_level_and_join) {
  for (const PolarFormat& format : formats()) {
    const PolarShape shape = format.shape();
    const CodeLayout layout(format);
    std::size_t angle = 0;
    for (int level = 1; level <= format.levels; ++level) {
      for (int node = 0; node < shape.num_angles(level); ++node, ++angle) {
        ASSERT_EQ(layout.fields()[angle].num_bits,
                  format.level_bits[static_cast<std::size_t>(level - 1)]);
      }
    }
    for (int join = 0; join < shape.num_joins(); ++join, ++angle) {
      ASSERT_EQ(layout.fields()[angle].num_bits, format.join_bits[static_cast<std::size_t>(join)]);
    }
    EXPECT_EQ(layout.fields().size(), angle);
  }
}

TEST(CodeLayout, level_2_stands_between_its_two_level_1_angles) {
  const CodeLayout layout(PolarFormat::paper(64));
  for (std::size_t node = 0; node < 16; ++node) {
    const CodeLayout::Field left = layout.fields()[2 * node];
    const CodeLayout::Field middle = layout.fields()[32 + node];
    const CodeLayout::Field right = layout.fields()[2 * node + 1];
    EXPECT_EQ(middle.bit_offset, left.bit_offset + 4);
    EXPECT_EQ(right.bit_offset, middle.bit_offset + 2);
  }
}

TEST(CodeLayout, sizes_are_those_of_the_format) {
  for (const PolarFormat& format : formats()) {
    EXPECT_EQ(CodeLayout(format).num_bytes(), format.bytes_per_vector());
  }
  EXPECT_EQ(CodeLayout(PolarFormat::paper(128)).num_radius_bytes(), 16u);
  EXPECT_EQ(CodeLayout(PolarFormat::full_depth(128, 3.25)).num_radius_bytes(), 2u);
}

TEST(CodeLayout, uncompressed_is_radii_alone) {
  const CodeLayout layout(PolarFormat::uncompressed(80));
  EXPECT_EQ(layout.num_bytes(), 160u);
  EXPECT_EQ(layout.num_radius_bytes(), 160u);
  EXPECT_TRUE(layout.fields().empty());
}

TEST(CodeLayout, invalid_format_is_an_error) {
  PolarFormat format = PolarFormat::paper(128);
  format.level_bits[0] = 9;
  expect_invalid_argument([&format] { CodeLayout layout(format); }, {"level 1 has 9 bits"});
}

// Tiles -------------------------------------------------------------------------------------------

class Tile : public testing::TestWithParam<std::size_t> {};

TEST_P(Tile, positions_are_those_of_the_documented_formula) {
  const std::size_t num_bytes = GetParam();
  std::set<std::size_t> seen;
  for (std::size_t slot = 0; slot < kTileTokens; ++slot) {
    for (std::size_t byte = 0; byte < num_bytes; ++byte) {
      const std::size_t k = byte / 2;
      const bool is_last_odd = num_bytes % 2 != 0 && byte == num_bytes - 1;
      const std::size_t expected =
          is_last_odd ? 32 * (num_bytes - 1) + slot : (32 * k + slot) * 2 + byte % 2;
      const std::size_t position = tile_position(num_bytes, slot, byte);
      ASSERT_EQ(position, expected);
      ASSERT_LT(position, polarquant::tile_bytes(num_bytes));
      seen.insert(position);
    }
  }
  EXPECT_EQ(seen.size(), 32 * num_bytes);
}

TEST_P(Tile, slots_return_what_was_written) {
  const std::size_t num_bytes = GetParam();
  Random random(1);
  std::vector<std::byte> codes(kTileTokens * num_bytes);
  for (std::byte& byte : codes) byte = static_cast<std::byte>(random.next() & 0xffu);
  std::vector<std::byte> tile(polarquant::tile_bytes(num_bytes));
  for (std::size_t slot = kTileTokens; slot-- > 0;) {
    polarquant::write_tile_slot(tile.data(), num_bytes, slot, codes.data() + slot * num_bytes);
  }
  std::vector<std::byte> read(num_bytes);
  for (std::size_t slot = 0; slot < kTileTokens; ++slot) {
    polarquant::read_tile_slot(tile.data(), num_bytes, slot, read.data());
    ASSERT_TRUE(std::equal(read.begin(), read.end(),
                           codes.begin() + static_cast<std::ptrdiff_t>(slot * num_bytes)))
        << slot;
  }
}

TEST_P(Tile, writing_a_slot_leaves_the_others_alone) {
  const std::size_t num_bytes = GetParam();
  std::vector<std::byte> tile(polarquant::tile_bytes(num_bytes), std::byte{0x5a});
  const std::vector<std::byte> code(num_bytes, std::byte{0xc3});
  polarquant::write_tile_slot(tile.data(), num_bytes, 7, code.data());
  std::vector<std::byte> read(num_bytes);
  for (std::size_t slot = 0; slot < kTileTokens; ++slot) {
    polarquant::read_tile_slot(tile.data(), num_bytes, slot, read.data());
    EXPECT_EQ(read,
              std::vector<std::byte>(num_bytes, slot == 7 ? std::byte{0xc3} : std::byte{0x5a}));
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, Tile, testing::Values(1, 2, 3, 26, 31, 52, 62, 63, 256));

TEST(Tile, of_the_paper_has_1984_bytes) { EXPECT_EQ(polarquant::tile_bytes(62), 1984u); }

// Golden bytes ------------------------------------------------------------------------------------

// Encodes x_i = ((37 i) mod 101 - 50) / 16 and returns the code as hexadecimal digits.
template <typename T>
std::string golden_code(const PolarFormat& format, RotationKind kind) {
  const PolarCodec<T> codec(format, make_rotation(kind, format.head_dim, 42));
  std::vector<T> x;
  for (int i = 0; i < format.head_dim; ++i) x.push_back(static_cast<T>(i * 37 % 101 - 50) / T(16));
  std::vector<std::byte> code(codec.bytes_per_vector());
  polarquant::AlignedBuffer scratch(codec.scratch_bytes());
  const polarquant::EncodeResult result =
      codec.encode({x.data(), 1, x.size()}, {code.data(), 1, code.size()}, scratch.data());
  EXPECT_EQ(result.num_encoded, 1u);
  std::string text;
  for (const std::byte byte : code) {
    const char* const digits = "0123456789abcdef";
    text += digits[static_cast<unsigned>(byte) / 16];
    text += digits[static_cast<unsigned>(byte) % 16];
  }
  return text;
}

// Sets POLARQUANT_ISA for a scope.
class ForcedIsa {
 public:
  explicit ForcedIsa(Isa isa) { setenv("POLARQUANT_ISA", polarquant::isa_name(isa), 1); }
  ~ForcedIsa() { unsetenv("POLARQUANT_ISA"); }
  ForcedIsa(const ForcedIsa&) = delete;
  ForcedIsa& operator=(const ForcedIsa&) = delete;
};

// Every instruction set this machine has, and both types, write the same bytes.
void expect_golden(const PolarFormat& format, RotationKind kind, const std::string& golden) {
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kNeon}) {
    if (!polarquant::isa_is_available(isa)) continue;
    const ForcedIsa forced(isa);
    EXPECT_EQ(golden_code<float>(format, kind), golden) << polarquant::isa_name(isa);
    EXPECT_EQ(golden_code<double>(format, kind), golden) << polarquant::isa_name(isa);
  }
}

TEST(GoldenBytes, of_the_paper_without_rotation) {
  expect_golden(PolarFormat::paper(128), RotationKind::kNone,
                "f040f240ec40f240eb40e840e940ed4058479d2e479e3b95683799df51a7cb95"
                "a84f25d64ee6d7d4e97225ea8e8976a3f97574ba5c857a9361dd747e1d79");
}

TEST(GoldenBytes, of_the_paper_after_a_haar_rotation) {
  expect_golden(PolarFormat::paper(64), RotationKind::kHaar,
                "2b41c440b440d140580ed40da93783a6fb76f9f782e7525565a592efd2beaf");
}

TEST(GoldenBytes, of_joined_parts_after_a_hadamard_rotation) {
  expect_golden(PolarFormat::full_depth(80, 3.25), RotationKind::kHadamard,
                "86414581993972561819dd6ca8e6de695d52b5f9b988c7340da5f4d4a6d0d9da");
}

TEST(GoldenBytes, of_float16_radii_that_are_least_squares) {
  PolarFormat format = PolarFormat::full_depth(64, 2.25);
  format.radius_type = FloatType::kFloat16;
  format.radius_meaning = RadiusMeaning::kLeastSquares;
  expect_golden(format, RotationKind::kHadamard, "064b8fd647d0760f7bd85312792652cefa7c");
}

TEST(GoldenBytes, of_an_uncompressed_vector) {
  expect_golden(PolarFormat::uncompressed(2), RotationKind::kNone, "40c280ba");
}

// Independent of the encoder's own loops: the fields hold the indices of to_polar's angles, least
// significant bit first, and the padding is zero.
TEST(GoldenBytes, hold_the_indices_of_the_polar_transform) {
  const PolarFormat format = PolarFormat::full_depth(80, 3.25);
  const PolarShape shape = format.shape();
  std::vector<double> x = method_test::gaussian_rows<double>(1, 80, 3);
  for (double& value : x) value = static_cast<double>(static_cast<float>(value));
  const PolarCodec<double> codec(format, make_rotation(RotationKind::kNone, 80, 0));
  std::vector<std::byte> code(codec.bytes_per_vector());
  polarquant::AlignedBuffer scratch(codec.scratch_bytes());
  EXPECT_EQ(codec.encode({x.data(), 1, 80}, {code.data(), 1, code.size()}, scratch.data()).num_encoded, 1u);
  const auto bit = [&code](std::size_t k) {
    return (static_cast<unsigned>(code[k / 8]) >> (k % 8)) & 1u;
  };
  double radius = 0.0;
  std::vector<double> angles(79);
  to_polar(shape, x.data(), &radius, angles.data());
  const polarquant::CodebookSet codebooks = offline_codebooks(format);
  const CodeLayout layout(format);
  std::size_t num_used = 8 * layout.num_radius_bytes();
  for (std::size_t angle = 0; angle < angles.size(); ++angle) {
    int level = 1;
    while (level <= shape.levels && static_cast<int>(angle) >= shape.first_angle(level + 1)) {
      ++level;
    }
    const polarquant::AngleCodebook& codebook =
        level <= shape.levels ? codebooks.levels[static_cast<std::size_t>(level - 1)]
                              : codebooks.joins[0];
    const CodeLayout::Field field = layout.fields()[angle];
    unsigned index = 0;
    for (std::uint32_t k = 0; k < field.num_bits; ++k) {
      index |= bit(field.bit_offset + k) << k;
    }
    EXPECT_EQ(static_cast<int>(index), codebook.index(angles[angle])) << angle;
    num_used += field.num_bits;
  }
  for (std::size_t k = num_used; k < 8 * code.size(); ++k) EXPECT_EQ(bit(k), 0u) << k;
}

}  // namespace
