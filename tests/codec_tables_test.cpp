#include "polarquant/codes/codec_tables.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "polarquant/kernels/loops/encode.hpp"
#include "test_util.hpp"

namespace {

using namespace polarquant;
using polarquant::detail::AngleTable;
using polarquant::detail::CodecTables;
using polarquant::detail::kHalfPi;
using polarquant::detail::kTwoPi;
using namespace polarquant_test;

// The index that the table gives to the direction `psi`.
int table_index(const AngleTable& table, bool circular, double psi) {
  const float x = static_cast<float>(std::cos(psi));
  const float y = static_cast<float>(std::sin(psi));
  std::uint8_t index = 0xff;
  if (circular) {
    polarquant::detail::loops::quantize_circle<1>(table, &x, &y, &index);
  } else {
    polarquant::detail::loops::quantize_quadrant<1>(table, &x, &y, &index);
  }
  return index;
}

// Compares table and codebook on a grid, except within 1e-6 of a boundary.
void expect_same_cells(const AngleCodebook& codebook) {
  const AngleTable table(codebook);
  const double upper = codebook.is_circular() ? kTwoPi : kHalfPi;
  for (int i = 0; i < 20000; ++i) {
    const double psi = upper * (i + 0.5) / 20000;
    bool is_near = false;
    for (const double boundary : codebook.boundaries()) {
      const double gap = std::abs(psi - boundary);
      is_near |= std::min(gap, codebook.is_circular() ? kTwoPi - gap : gap) < 1e-6;
    }
    if (is_near) continue;
    ASSERT_EQ(table_index(table, codebook.is_circular(), psi), codebook.index(psi)) << psi;
  }
}

TEST(AngleTableTest, CellsOfTheUniformCircleAreTheCodebooks) {
  for (int bits = 1; bits <= 8; ++bits) {
    expect_same_cells(AngleCodebook::lloyd_max(AngleDistribution::of_level(1), bits));
  }
}

TEST(AngleTableTest, CellsOfDeeperLevelsAreTheCodebooks) {
  for (int level = 2; level <= 10; ++level) {
    for (int bits = 0; bits <= 6; ++bits) {
      expect_same_cells(AngleCodebook::lloyd_max(AngleDistribution::of_level(level), bits));
    }
  }
}

// The cell across the angle 0 may begin before the cut or behind it.
TEST(AngleTableTest, CellsOfIrregularCirclesAreTheCodebooks) {
  expect_same_cells(AngleCodebook::from_centroids({0.1, 1.0, 3.0, 4.0}, true));
  expect_same_cells(AngleCodebook::from_centroids({1.5, 2.0, 3.3, 6.2}, true));
  expect_same_cells(AngleCodebook::from_centroids({0.0, 3.5}, true));
  expect_same_cells(AngleCodebook::from_centroids({5.0, 6.0}, true));
  expect_same_cells(AngleCodebook::from_centroids({0.2, 0.4}, true));
}

TEST(AngleTableTest, TheAxesFallIntoTheCellsThatBeginThere) {
  const AngleTable table(AngleCodebook::lloyd_max(AngleDistribution::of_level(1), 2));
  const float xs[] = {1.0f, 0.0f, -1.0f, 0.0f};
  const float ys[] = {0.0f, 1.0f, 0.0f, -1.0f};
  std::uint8_t indices[4];
  polarquant::detail::loops::quantize_circle<4>(table, xs, ys, indices);
  // A boundary itself may go to either side, by one cell.
  for (int quadrant = 0; quadrant < 4; ++quadrant) {
    const int before = (quadrant + 3) % 4;
    EXPECT_TRUE(indices[quadrant] == quadrant || indices[quadrant] == before) << quadrant;
  }
}

TEST(AngleTableTest, HoldsCosineAndSineOfEveryCentroid) {
  for (const AngleCodebook& codebook :
       {AngleCodebook::lloyd_max(AngleDistribution::of_level(1), 5),
        AngleCodebook::lloyd_max(AngleDistribution::of_join(64, 16), 6)}) {
    const AngleTable table(codebook);
    for (std::size_t i = 0; i < codebook.centroids().size(); ++i) {
      const double theta = codebook.centroids()[i];
      EXPECT_NEAR(table.cosines.data<double>()[i], std::cos(theta), 1e-15);
      EXPECT_NEAR(table.sines.data<double>()[i], std::sin(theta), 1e-15);
      EXPECT_NEAR(table.cosines.data<float>()[i], std::cos(theta), 6e-8);
      EXPECT_NEAR(table.sines.data<float>()[i], std::sin(theta), 6e-8);
    }
  }
}

TEST(CodecTablesTest, InverseRhoIsThatOfTheFormat) {
  const PolarFormat format = PolarFormat::paper(128);
  const CodecTables tables(format, offline_codebooks(format));
  EXPECT_NEAR(tables.inverse_rho, 1.0 / 0.98396, 1e-5);  // paper.md: rho .98396
}

// In floats: a table per pair, or the query itself, in whole registers of 16; for the kernels on
// tiles one register of scalars, the query in pairs of 16 bits, and its 16-bit tables.
TEST(CodecTablesTest, PreparedSizeIsATablePerPairAndTheTablesOfTiles) {
  // 4 + 2 bits: 16 registers per block of 16 coordinates.
  const PolarFormat paper = PolarFormat::paper(128);
  EXPECT_EQ(CodecTables(paper, offline_codebooks(paper)).prepared_size(),
            64u * 16u + 16u + 64u + 8u * 16u * 16u);
  // 5 + 3 bits: 8 registers.
  const PolarFormat deep = format_of(64, {5, 3, 3, 3, 3, 3});
  EXPECT_EQ(CodecTables(deep, offline_codebooks(deep)).prepared_size(),
            32u * 32u + 16u + 32u + 4u * 8u * 16u);
}

TEST(CodecTablesTest, PreparedSizeWithoutKernelsOnTilesIsATablePerPairOrTheQuery) {
  const PolarFormat shallow = format_of(64, {4, 2, 2});
  EXPECT_EQ(CodecTables(shallow, offline_codebooks(shallow)).prepared_size(), 32u * 16u);
  const PolarFormat narrow = format_of(22, {3, 2, 2, 2}, {2, 2});
  EXPECT_EQ(CodecTables(narrow, offline_codebooks(narrow)).prepared_size(), 96u);  // 11 * 8 = 88
  const PolarFormat plain = PolarFormat::uncompressed(128);
  EXPECT_EQ(CodecTables(plain, offline_codebooks(plain)).prepared_size(), 128u);
}

// Folding in place leaves at position 2^k - 1 .. what found no partner at the level of its width.
TEST(CodecTablesTest, JoinPositionIsWhereFoldingLeavesTheUnpairedPart) {
  for (const int d : {80, 96, 112, 22, 1000, 576}) {
    int levels = 0;
    while ((2 << levels) <= d) ++levels;
    PolarFormat format = format_of(d, {});
    format.levels = levels;
    format.level_bits[0] = 1;
    const CodecTables tables(format, offline_codebooks(format));
    ASSERT_GE(tables.num_joins(), 1u);
    // Each entry carries the number of coordinates that were folded into it.
    std::vector<int> width(static_cast<std::size_t>(d), 1);
    for (int level = 1; level <= levels; ++level) {
      for (int j = 0; j < d >> level; ++j) {
        width[static_cast<std::size_t>(j)] =
            width[static_cast<std::size_t>(2 * j)] + width[static_cast<std::size_t>(2 * j + 1)];
      }
    }
    for (std::size_t join = 0; join < tables.num_joins(); ++join) {
      EXPECT_EQ(width[tables.join_position(join)], tables.shape.join_right(static_cast<int>(join)))
          << "width " << d << " join " << join;
      EXPECT_GT(tables.join_position(join), 0u);
    }
  }
}

// The tables of tiles read level 1 without asking.
TEST(CodecTablesTest, AnEmptySetIsAnErrorBeforeAnyTableIsMade) {
  EXPECT_EQ(message_of<std::invalid_argument>(
                [] { CodecTables(PolarFormat::paper(128), CodebookSet{}); }),
            "polarquant: codebooks for 0 levels, the format has 4");
}

TEST(CodecTablesTest, ASetWithAMissingLevelIsAnError) {
  const PolarFormat format = PolarFormat::paper(64);
  CodebookSet codebooks = offline_codebooks(format);
  codebooks.levels.pop_back();
  EXPECT_EQ(message_of<std::invalid_argument>([&] { CodecTables(format, codebooks); }),
            "polarquant: codebooks for 3 levels, the format has 4");
}

TEST(CodecTablesTest, ASetWithAMissingJoinIsAnError) {
  const PolarFormat format = PolarFormat::full_depth(80, 3.25);
  CodebookSet codebooks = offline_codebooks(format);
  codebooks.joins.clear();
  EXPECT_EQ(message_of<std::invalid_argument>([&] { CodecTables(format, codebooks); }),
            "polarquant: codebooks for 0 joins, the format has 1");
}

TEST(CodecTablesTest, ACodebookOfOtherBitsIsAnErrorThatNamesBoth) {
  const PolarFormat format = PolarFormat::paper(64);
  CodebookSet codebooks = offline_codebooks(format);
  codebooks.levels[1] = AngleCodebook::lloyd_max(AngleDistribution::of_level(2), 3);
  const std::string message =
      message_of<std::invalid_argument>([&] { CodecTables(format, codebooks); });
  EXPECT_NE(message.find("has 3 bits, must have 2"), std::string::npos) << message;
}

TEST(CodecTablesTest, AFirstLevelThatIsNotACircleIsAnError) {
  const PolarFormat format = PolarFormat::paper(64);
  CodebookSet codebooks = offline_codebooks(format);
  codebooks.levels[0] = AngleCodebook::lloyd_max(AngleDistribution::of_level(2), 4);
  const std::string message =
      message_of<std::invalid_argument>([&] { CodecTables(format, codebooks); });
  EXPECT_NE(message.find("must have 4 and be circular"), std::string::npos) << message;
}

TEST(CodecTablesTest, ADeeperLevelThatIsACircleIsAnError) {
  const PolarFormat format = PolarFormat::paper(64);
  CodebookSet codebooks = offline_codebooks(format);
  codebooks.levels[2] = AngleCodebook::lloyd_max(AngleDistribution::of_level(1), 2);
  const std::string message =
      message_of<std::invalid_argument>([&] { CodecTables(format, codebooks); });
  EXPECT_NE(message.find("must have 2 and not be circular"), std::string::npos) << message;
}

}  // namespace
