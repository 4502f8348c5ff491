#include "polarquant/codes/tile_tables.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "test_util.hpp"

namespace {

using namespace polarquant;
using polarquant::detail::TileTables;
using namespace polarquant_test;

TileTables tables_of(const PolarFormat& format) {
  return TileTables(format, CodeLayout(format), offline_codebooks(format));
}

bool is_usable(const PolarFormat& format) { return tables_of(format).usable; }

// One and many radii, joins, odd sizes, angles of 0 to 5 bits, combined tables and not.
std::vector<PolarFormat> usable_formats() {
  return {PolarFormat::paper(16),
          PolarFormat::paper(64),
          PolarFormat::paper(128),
          PolarFormat::full_depth(64, 4.625),
          PolarFormat::full_depth(80, 3.25),
          PolarFormat::full_depth(112, 3.25),
          PolarFormat::full_depth(128, 2.625),
          PolarFormat::full_depth(1024, 3.25),
          format_of(48, {5, 5, 0, 1}),
          PolarFormat::full_depth(192, 4.625),
          format_of(48, {2, 0, 5, 0, 3}, {5})};
}

// ---- Which formats ----

TEST(TileTablesTest, PresetsOfTheWidthsInUseAreUsable) {
  for (const int d : {64, 80, 96, 112, 128, 192, 256}) {
    EXPECT_TRUE(is_usable(PolarFormat::paper(d))) << d;
    for (const double bits : {2.25, 2.625, 3.25, 3.625, 4.25, 4.625}) {
      const PolarFormat format = PolarFormat::full_depth(d, bits);
      EXPECT_TRUE(is_usable(format)) << d << " " << format.description();
    }
  }
  for (const PolarFormat& format : usable_formats()) EXPECT_TRUE(is_usable(format));
}

TEST(TileTablesTest, UncompressedIsNotUsable) {
  EXPECT_FALSE(is_usable(PolarFormat::uncompressed(128)));
}

TEST(TileTablesTest, AWidthThatIsNotWholeBlocksIsNotUsable) {
  EXPECT_FALSE(is_usable(PolarFormat::full_depth(40, 3.25)));
  EXPECT_FALSE(is_usable(PolarFormat::full_depth(72, 3.25)));
  EXPECT_TRUE(is_usable(PolarFormat::full_depth(48, 3.25)));
}

TEST(TileTablesTest, FewerThanFourLevelsAreNotUsable) {
  EXPECT_FALSE(is_usable(format_of(64, {4, 2, 2})));
  EXPECT_TRUE(is_usable(format_of(64, {4, 2, 2, 2})));
}

TEST(TileTablesTest, BlocksWiderThan16AreUsableAtFullDepthAlone) {
  EXPECT_FALSE(is_usable(format_of(64, {4, 2, 2, 2, 2})));
  EXPECT_TRUE(is_usable(format_of(64, {4, 2, 2, 2, 2, 2})));
}

TEST(TileTablesTest, RadiiOtherThanBfloat16AreNotUsable) {
  PolarFormat format = PolarFormat::paper(64);
  for (const FloatType type : {FloatType::kFloat16, FloatType::kFloat32}) {
    format.radius_type = type;
    EXPECT_FALSE(is_usable(format));
  }
}

TEST(TileTablesTest, AnAngleWithinABlockHasUpToFiveBits) {
  EXPECT_FALSE(is_usable(format_of(64, {6, 2, 2, 2})));
  EXPECT_FALSE(is_usable(format_of(64, {4, 2, 2, 6})));
  EXPECT_TRUE(is_usable(format_of(80, {5, 5, 5, 5, 5, 5}, {5})));
}

TEST(TileTablesTest, AnAngleAboveTheBlocksMayHaveAllSixBits) {
  EXPECT_TRUE(is_usable(format_of(80, {4, 2, 2, 2, 6, 2}, {6})));
}

// 2 b1 + b2 is at most 15 with five bits each, so the window of 16 always holds a subtree.
TEST(TileTablesTest, ASubtreeOfTwoLevelsFitsAWindowWheneverItsAnglesFitTheirTables) {
  EXPECT_TRUE(is_usable(format_of(48, {5, 5, 0, 1})));
  EXPECT_FALSE(is_usable(format_of(48, {6, 5, 0, 1})));
}

TEST(TileTablesTest, ATableThatIsNotUsableHoldsNothing) {
  const TileTables tables = tables_of(format_of(64, {4, 2, 2}));
  EXPECT_TRUE(tables.windows.empty());
  EXPECT_TRUE(tables.cosines.empty());
  EXPECT_EQ(tables.memory_bytes(), 0u);
}

TEST(TileTablesTest, LevelsOneAndTwoAreCombinedUpToSixBits) {
  EXPECT_TRUE(tables_of(PolarFormat::paper(64)).combined);  // 4 + 2
  EXPECT_TRUE(tables_of(format_of(64, {3, 3, 2, 2})).combined);
  EXPECT_TRUE(tables_of(format_of(64, {5, 1, 2, 2})).combined);
  EXPECT_FALSE(tables_of(format_of(64, {4, 3, 2, 2})).combined);
  EXPECT_FALSE(tables_of(format_of(64, {5, 2, 2, 2})).combined);
}

// ---- Where the fields lie ----

// The 16 bits that a window shows of a code, as the kernels read it: two words, shifted together.
std::uint32_t read_window(const std::vector<std::uint8_t>& code, const TileTables::Window& window) {
  const auto word = [&code](std::size_t row_offset) {
    const std::size_t index = row_offset / 64;
    const std::uint32_t low = code[2 * index];
    const std::uint32_t high = 2 * index + 1 < code.size() ? code[2 * index + 1] : 0u;
    return low | (high << 8);
  };
  return ((word(window.low) | (word(window.high) << 16)) >> window.shift) & 0xffffu;
}

std::uint32_t read_field(const std::vector<std::uint8_t>& code, const CodeLayout::Field& field) {
  std::uint32_t value = 0;
  for (std::uint32_t bit = 0; bit < field.num_bits; ++bit) {
    const std::uint32_t position = field.bit_offset + bit;
    value |= ((code[position / 8] >> (position % 8)) & 1u) << bit;
  }
  return value;
}

std::vector<std::uint8_t> random_code(std::size_t num_bytes, std::uint64_t seed) {
  polarquant::Random random(seed);
  std::vector<std::uint8_t> code(num_bytes);
  for (std::uint8_t& byte : code) byte = static_cast<std::uint8_t>(random.next() & 0xffu);
  return code;
}

// The low bits of `window` are the field, in every one of many random codes.
void expect_shows(const PolarFormat& format, const TileTables::Window& window,
                  const CodeLayout::Field& field, std::uint32_t shift = 0) {
  const std::size_t num_bytes = format.bytes_per_vector();
  ASSERT_LT(window.low, 64 * ((num_bytes + 1) / 2));
  ASSERT_LT(window.high, 64 * ((num_bytes + 1) / 2));
  ASSERT_LT(window.shift, 16u);
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    const std::vector<std::uint8_t> code = random_code(num_bytes, seed);
    const std::uint32_t mask = (1u << field.num_bits) - 1u;
    ASSERT_EQ((read_window(code, window) >> shift) & mask, read_field(code, field))
        << format.description();
  }
}

TEST(TileTablesTest, WindowsOfABlockShowItsFields) {
  for (const PolarFormat& format : usable_formats()) {
    const TileTables tables = tables_of(format);
    const CodeLayout layout(format);
    const PolarShape shape = format.shape();
    const auto field = [&](int level, std::size_t node) {
      return layout.fields()[static_cast<std::size_t>(shape.first_angle(level)) + node];
    };
    ASSERT_EQ(tables.num_blocks, static_cast<std::size_t>(format.head_dim) / 16);
    ASSERT_EQ(tables.windows.size(), 7 * tables.num_blocks);
    const std::uint32_t first_bits = format.level_bits[0];
    const std::uint32_t second_bits = format.level_bits[1];
    for (std::size_t block = 0; block < tables.num_blocks; ++block) {
      const TileTables::Window* const windows = tables.windows.data() + 7 * block;
      for (std::size_t k = 0; k < 4; ++k) {
        const std::size_t pair = 8 * block + 2 * k;
        expect_shows(format, windows[k], field(1, pair));
        expect_shows(format, windows[k], field(2, pair / 2), first_bits);
        expect_shows(format, windows[k], field(1, pair + 1), first_bits + second_bits);
      }
      expect_shows(format, windows[4], field(3, 2 * block));
      expect_shows(format, windows[5], field(3, 2 * block + 1));
      expect_shows(format, windows[6], field(4, block));
    }
  }
}

// Folding the blocks' widths as the nodes say ends with the whole vector in number 0, and each node
// joins what its table and its window are for.
TEST(TileTablesTest, NodesFoldTheBlocksIntoOneVector) {
  for (const PolarFormat& format : usable_formats()) {
    const TileTables tables = tables_of(format);
    const CodeLayout layout(format);
    const PolarShape shape = format.shape();
    if (format.num_radii() > 1) {
      EXPECT_TRUE(tables.nodes.empty()) << format.description();
      continue;
    }
    std::vector<int> widths(tables.num_blocks, 16);
    std::size_t angle = static_cast<std::size_t>(shape.first_angle(5));
    for (const TileTables::Node& node : tables.nodes) {
      const int left = widths[node.left];
      const int right = widths[node.right];
      widths[node.target] = left + right;
      if (node.table < format.levels) {
        EXPECT_EQ(left, 1 << node.table);
        EXPECT_EQ(right, left);
      } else {
        const int join = node.table - format.levels;
        EXPECT_EQ(left, shape.join_left(join));
        EXPECT_EQ(right, shape.join_right(join));
      }
      expect_shows(format, node.window, layout.fields()[angle]);
      ++angle;
    }
    EXPECT_EQ(angle, layout.fields().size()) << format.description();
    EXPECT_EQ(widths[0], format.head_dim) << format.description();
  }
}

// ---- What the tables hold ----

double entry_of(const polarquant::detail::Lanes64& table, std::size_t i) {
  return (i < 32 ? table.low.values[i] : table.high.values[i - 32]) / 32768.0;
}

TEST(TileTablesTest, TablesHoldCosinesAndSinesOfTheCentroidsOverAndOver) {
  for (const PolarFormat& format : usable_formats()) {
    const CodebookSet codebooks = offline_codebooks(format);
    const TileTables tables = tables_of(format);
    std::vector<AngleCodebook> all = codebooks.levels;
    all.insert(all.end(), codebooks.joins.begin(), codebooks.joins.end());
    ASSERT_EQ(tables.cosines.size(), all.size());
    ASSERT_EQ(tables.float_sines.size(), all.size());
    for (std::size_t table = 0; table < all.size(); ++table) {
      for (std::size_t i = 0; i < 64; ++i) {
        const double theta = all[table].centroids()[i % all[table].centroids().size()];
        EXPECT_NEAR(entry_of(tables.cosines[table], i), std::cos(theta), 0x1p-15);
        EXPECT_NEAR(entry_of(tables.sines[table], i), std::sin(theta), 0x1p-15);
        EXPECT_NEAR(tables.float_tables[128 * table + i], std::cos(theta), 6e-8);
        EXPECT_NEAR(tables.float_tables[128 * table + 64 + i], std::sin(theta), 6e-8);
        if (i >= 32) continue;
        EXPECT_NEAR(tables.float_cosines[table].values[i], std::cos(theta), 6e-8);
        EXPECT_NEAR(tables.float_sines[table].values[i], std::sin(theta), 6e-8);
      }
    }
  }
}

// By (index, joining index) the first two coordinates of four, by (joining index, index) the
// others.
TEST(TileTablesTest, CombinedTablesHoldTheCoordinatesOfASubtree) {
  for (const PolarFormat& format : {PolarFormat::paper(64), format_of(64, {3, 3, 2, 2}),
                                    format_of(64, {5, 1, 2, 2}), format_of(64, {2, 1, 2, 2})}) {
    const CodebookSet codebooks = offline_codebooks(format);
    const TileTables tables = tables_of(format);
    ASSERT_TRUE(tables.combined);
    const auto entry = [&tables](std::size_t k, std::size_t i) {
      return entry_of(tables.coordinate[k], i);
    };
    const std::size_t num_first = codebooks.levels[0].centroids().size();
    const std::size_t num_second = codebooks.levels[1].centroids().size();
    for (std::size_t garbage = 0; garbage < 64 / (num_first * num_second); ++garbage) {
      for (std::size_t first = 0; first < num_first; ++first) {
        for (std::size_t second = 0; second < num_second; ++second) {
          const double theta = codebooks.levels[0].centroids()[first];
          const double psi = codebooks.levels[1].centroids()[second];
          const std::size_t above = garbage * num_first * num_second;
          const std::size_t left = above + second * num_first + first;
          const std::size_t right = above + first * num_second + second;
          EXPECT_NEAR(entry(0, left), std::cos(psi) * std::cos(theta), 0x1p-15);
          EXPECT_NEAR(entry(1, left), std::cos(psi) * std::sin(theta), 0x1p-15);
          EXPECT_NEAR(entry(2, right), std::sin(psi) * std::cos(theta), 0x1p-15);
          EXPECT_NEAR(entry(3, right), std::sin(psi) * std::sin(theta), 0x1p-15);
        }
      }
    }
  }
}

TEST(TileTablesTest, FractionsSaturateBelowOne) {
  EXPECT_EQ(TileTables::to_fraction(1.0), 32767);
  EXPECT_EQ(TileTables::to_fraction(-1.0), -32768);
  EXPECT_EQ(TileTables::to_fraction(0.5), 16384);
  EXPECT_EQ(TileTables::to_fraction(0.0), 0);
}

TEST(TileTablesTest, MemoryIsThatOfItsLists) {
  const TileTables tables = tables_of(PolarFormat::full_depth(80, 3.25));
  // Seven windows for each of five blocks, nodes for 4 + 1 blocks, tables for six levels and a
  // join.
  EXPECT_EQ(tables.memory_bytes(), 35 * sizeof(TileTables::Window) + 4 * sizeof(TileTables::Node) +
                                       7 * (256 + 256 + 256 + 512) + 4 * (128 + 128));
}

}  // namespace
