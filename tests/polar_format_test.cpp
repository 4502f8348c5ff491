#include "polarquant/method/polar_format.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

// Sizes -------------------------------------------------------------------------------------------

TEST(PolarFormatTest, PaperHasThePapersSize) {
  EXPECT_EQ(PolarFormat::paper(128).bytes_per_vector(), 62u);
  EXPECT_EQ(PolarFormat::paper(64).bytes_per_vector(), 31u);
  EXPECT_EQ(PolarFormat::paper(128).bits_per_coordinate(), 3.875);
  EXPECT_EQ(PolarFormat::paper(64).bits_per_coordinate(), 3.875);
}

TEST(PolarFormatTest, PaperHasThePapersConfiguration) {
  const PolarFormat format = PolarFormat::paper(256);
  EXPECT_EQ(format.head_dim, 256);
  EXPECT_EQ(format.levels, 4);
  EXPECT_EQ(format.level_bits, (std::array<std::uint8_t, 10>{4, 2, 2, 2}));
  EXPECT_EQ(format.num_radii(), 16);
  EXPECT_EQ(format.num_angle_bits(), 16 * (32 + 8 + 4 + 2));
}

TEST(PolarFormatTest, SizesOfTheTableAreReached) {
  EXPECT_EQ(format_of(128, {4, 2, 2, 2, 2, 2, 2}).num_angle_bits(), 382);
  const std::pair<std::vector<int>, double> table[] = {{{4, 2, 2, 2, 2, 2, 2}, 3.109},
                                                       {{5, 3, 3, 3, 3, 3, 3}, 4.102},
                                                       {{5, 4, 4, 4, 4, 4, 4}, 4.594},
                                                       {{3, 1, 1, 1, 1, 1, 1}, 2.117}};
  for (const auto& [bits, per_coordinate] : table) {
    const PolarFormat format = format_of(128, bits);
    // The table counts bits, a code whole bytes.
    EXPECT_NEAR((format.num_angle_bits() + 16) / 128.0, per_coordinate, 5e-4);
    EXPECT_EQ(format.bytes_per_vector(),
              static_cast<std::size_t>((format.num_angle_bits() + 16 + 7) / 8));
  }
}

TEST(PolarFormatTest, FullDepthFillsTheStoredBytes) {
  EXPECT_EQ(PolarFormat::full_depth(128, 3.25).bytes_per_vector(), 52u);
  EXPECT_EQ(PolarFormat::full_depth(64, 3.25).bytes_per_vector(), 26u);
}

TEST(PolarFormatTest, FullDepthStaysWithinTheBudgetAndEndsInOneRadius) {
  for (const int d : {2, 6, 16, 48, 64, 80, 96, 112, 128, 192, 256, 576, 1024}) {
    for (const double bits : {7.0, 3.25}) {
      if (bits * d < 16 + d + 7) continue;
      const PolarFormat format = PolarFormat::full_depth(d, bits);
      EXPECT_NO_THROW(format.validate());
      EXPECT_EQ(format.num_radii(), 1) << d;
      EXPECT_LE(format.bits_per_coordinate(), bits) << d;
    }
  }
}

TEST(PolarFormatTest, BudgetThatIsWholeBytesIsNotLostToRounding) {
  // 3.1 * 80 / 8 is 31 but for rounding.
  EXPECT_EQ(PolarFormat::full_depth(80, 3.1).bytes_per_vector(), 31u);
}

TEST(PolarFormatTest, LargestBudgetGivesEveryAngleItsMostBits) {
  const PolarFormat format = PolarFormat::full_depth(96, 86.0 * 8.0 / 96.0);
  EXPECT_EQ(format.level_bits, (std::array<std::uint8_t, 10>{8, 6, 6, 6, 6, 6}));
  EXPECT_EQ(format.join_bits[0], 6);
}

TEST(PolarFormatTest, ABudgetThatCannotBeUsedIsAnErrorThatNamesTheMostBits) {
  expect_invalid([] { PolarFormat::full_depth(64, 20); },
                 {"full_depth at 20 bits", "head_dim 64 can use at most 7.25", "uncompressed"});
  expect_invalid([] { PolarFormat::full_depth(96, 7.34); }, {"at most 7.16667"});
  expect_invalid([] { PolarFormat::full_depth(96, 1e300); }, {"at most 7.16667"});
}

// The least budget that is not refused is the least whose error is below that of zeros, 1.
TEST(PolarFormatTest, ABudgetWorseThanZerosIsAnErrorThatNamesTheLeastBits) {
  expect_invalid(
      [] { PolarFormat::full_depth(64, 1.0); },
      {"full_depth at 1 bits", "head_dim 64 needs at least 1.25", "zeros would be nearer"});
  for (const int d : {48, 64, 80, 128}) {
    double bits = 8.0 / d;
    for (;; bits += 8.0 / d) {
      try {
        EXPECT_LT(PolarFormat::full_depth(d, bits).expected_relative_mse(), 1.0) << d;
        break;
      } catch (const std::invalid_argument& error) {
        ASSERT_LT(bits, 3.0);
      }
    }
    const std::string least =
        polarquant::detail::message({"at least ", std::ceil(bits * 1e4 - 1e-6) / 1e4, ";"});
    expect_invalid([&] { PolarFormat::full_depth(d, bits - 8.0 / d); }, {least.c_str()});
  }
}

TEST(PolarFormatTest, UncompressedIsAsLargeAsItsType) {
  EXPECT_EQ(PolarFormat::uncompressed(128).bytes_per_vector(), 256u);
  EXPECT_EQ(PolarFormat::uncompressed(80, FloatType::kFloat32).bytes_per_vector(), 320u);
  EXPECT_EQ(PolarFormat::uncompressed(80, FloatType::kFloat64).bits_per_coordinate(), 64.0);
  EXPECT_TRUE(PolarFormat::uncompressed(128).is_uncompressed());
  EXPECT_FALSE(PolarFormat::paper(128).is_uncompressed());
}

TEST(PolarFormatTest, WiderRadiiTakeTheirBytes) {
  PolarFormat format = PolarFormat::paper(128);
  format.radius_type = FloatType::kFloat32;
  EXPECT_EQ(format.bytes_per_vector(), 78u);
}

TEST(PolarFormatTest, JoinBitsCount) {
  PolarFormat format = format_of(112, {2, 2, 2, 2, 2, 2});
  const int before = format.num_angle_bits();
  format.join_bits = {5, 4};
  EXPECT_EQ(format.num_angle_bits(), before + 9);
}

// The best allocation -----------------------------------------------------------------------------

// The moments of one step of the recursion at so many bits.
CosineMoments moments_of(const AngleDistribution& law, int bits) {
  return cosine_moments(law, AngleCodebook::lloyd_max(law, bits));
}

class BudgetTest : public testing::TestWithParam<double> {};

// Every allocation of 1 .. 8 and six times 0 .. 6 bits.
TEST_P(BudgetTest, NoAllocationAt128HasLowerDistortion) {
  std::array<std::array<double, 9>, 8> factor{};
  for (int level = 1; level <= 7; ++level) {
    for (int bits = level == 1 ? 1 : 0; bits <= (level == 1 ? 8 : 6); ++bits) {
      const CosineMoments m = moments_of(AngleDistribution::of_level(level), bits);
      factor[static_cast<std::size_t>(level)][static_cast<std::size_t>(bits)] = m.cosine + m.sine;
    }
  }
  const int budget = static_cast<int>(GetParam() * 128.0 / 8.0) * 8 - 16;
  double best = 0.0;
  const auto search = [&](const auto& self, int level, int spent, double rho) -> void {
    if (level == 0) {
      best = std::max(best, rho);
      return;
    }
    for (int b = level == 1 ? 1 : 0; b <= (level == 1 ? 8 : 6); ++b) {
      const int total = spent + b * (128 >> level);
      if (total > budget) break;
      self(self, level - 1, total,
           rho * factor[static_cast<std::size_t>(level)][static_cast<std::size_t>(b)]);
    }
  };
  search(search, 7, 0, 1.0);
  const PolarFormat format = PolarFormat::full_depth(128, GetParam());
  EXPECT_GT(best, 0.5);
  EXPECT_NEAR(format.rho(), best, 1e-13);
  EXPECT_LE(format.num_angle_bits(), budget);
}

// Every allocation of 1 .. 8, five times 0 .. 6, and 0 .. 6 bits for the join 64 + 32.
TEST_P(BudgetTest, NoAllocationAt96HasLowerDistortion) {
  std::array<std::array<double, 9>, 7> factor{};
  for (int level = 1; level <= 6; ++level) {
    for (int bits = level == 1 ? 1 : 0; bits <= (level == 1 ? 8 : 6); ++bits) {
      const CosineMoments m = moments_of(AngleDistribution::of_level(level), bits);
      factor[static_cast<std::size_t>(level)][static_cast<std::size_t>(bits)] = m.cosine + m.sine;
    }
  }
  const int budget = static_cast<int>(GetParam() * 96.0 / 8.0) * 8 - 16;
  double best = 0.0;
  for (int join_bits = 0; join_bits <= 6; ++join_bits) {
    const CosineMoments join = moments_of(AngleDistribution::of_join(64, 32), join_bits);
    // Over the common levels 1 .. 5 rho of both parts is the same product.
    const auto search = [&](const auto& self, int level, int spent, double common) -> void {
      if (level == 6) {
        for (int b = 0; b <= 6 && spent + b <= budget; ++b) {
          best = std::max(
              best, common * (factor[6][static_cast<std::size_t>(b)] * join.cosine + join.sine));
        }
        return;
      }
      for (int b = level == 1 ? 1 : 0; b <= (level == 1 ? 8 : 6); ++b) {
        const int total = spent + b * (96 >> level);
        if (total > budget) break;
        self(self, level + 1, total,
             common * factor[static_cast<std::size_t>(level)][static_cast<std::size_t>(b)]);
      }
    };
    search(search, 1, join_bits, 1.0);
  }
  const PolarFormat format = PolarFormat::full_depth(96, GetParam());
  EXPECT_GT(best, 0.5);
  EXPECT_NEAR(format.rho(), best, 1e-13);
  EXPECT_LE(format.num_angle_bits(), budget);
}

INSTANTIATE_TEST_SUITE_P(Bits, BudgetTest, testing::Values(2.25, 2.625, 3.25, 3.625, 4.25, 4.625));

TEST(PolarFormatTest, MoreBitsNeverCostDistortion) {
  double previous = std::numeric_limits<double>::infinity();
  for (double bits = 1.25; bits <= 6.0; bits += 0.125) {
    const double now = PolarFormat::full_depth(80, bits).expected_relative_mse();
    EXPECT_LE(now, previous) << bits;
    previous = now;
  }
  EXPECT_LT(previous, 0.001);
}

// Codebooks ---------------------------------------------------------------------------------------

TEST(OfflineCodebooksTest, AreOneForEachLevelAndJoin) {
  PolarFormat format = format_of(112, {4, 3, 2, 2, 1, 0});
  format.join_bits = {3, 2};
  const CodebookSet codebooks = offline_codebooks(format);
  ASSERT_EQ(codebooks.levels.size(), 6u);
  ASSERT_EQ(codebooks.joins.size(), 2u);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(codebooks.levels[i].bits(), format.level_bits[i]);
    EXPECT_EQ(codebooks.levels[i].is_circular(), i == 0);
  }
  EXPECT_EQ(codebooks.joins[0].centroids(),
            AngleCodebook::lloyd_max(AngleDistribution::of_join(64, 32), 3).centroids());
  EXPECT_EQ(codebooks.joins[1].centroids(),
            AngleCodebook::lloyd_max(AngleDistribution::of_join(96, 16), 2).centroids());
}

TEST(OfflineCodebooksTest, OfAnUncompressedFormatAreNone) {
  const CodebookSet codebooks = offline_codebooks(PolarFormat::uncompressed(96));
  EXPECT_TRUE(codebooks.levels.empty());
  EXPECT_TRUE(codebooks.joins.empty());
}

// Text, comparison, errors ------------------------------------------------------------------------

TEST(PolarFormatTest, DescriptionNamesBitsRadiiAndType) {
  EXPECT_EQ(PolarFormat::paper(128).description(), "4/2/2/2 8 bfloat16");
  PolarFormat joined = format_of(112, {4, 3, 2, 2, 1, 0});
  joined.join_bits = {3, 2};
  joined.radius_type = FloatType::kFloat16;
  EXPECT_EQ(joined.description(), "4/3/2/2/1/0+3+2 1 float16");
  EXPECT_EQ(PolarFormat::uncompressed(128).description(), "128 float16");
}

TEST(PolarFormatTest, EqualityComparesGivenCodebooksByTheirCentroids) {
  PolarFormat x = PolarFormat::paper(64);
  PolarFormat y = x;
  const CodebookSet offline = offline_codebooks(x);
  x = with_codebooks(x, offline);
  EXPECT_TRUE(x != y) << "given ones are unequal to null, whatever they hold";
  y = with_codebooks(y, offline);
  EXPECT_TRUE(x == y);
  CodebookSet other = offline;
  other.levels[3] = AngleCodebook::from_centroids({0.1, 0.2, 0.3, 0.4}, false);
  y = with_codebooks(y, other);
  EXPECT_TRUE(x != y);
}

TEST(PolarFormatTest, GivenCodebooksAreThoseItUses) {
  PolarFormat format = PolarFormat::paper(64);
  EXPECT_TRUE(format.codebooks_or_offline() == offline_codebooks(format));
  const double offline_rho = format.rho();
  CodebookSet given = offline_codebooks(format);
  given.levels[3] = AngleCodebook::from_centroids({0.1, 0.2, 0.3, 0.4}, false);
  format = with_codebooks(format, given);
  EXPECT_TRUE(format.codebooks_or_offline() == given);
  EXPECT_LT(format.rho(), offline_rho);
  EXPECT_GT(format.expected_relative_mse(), PolarFormat::paper(64).expected_relative_mse());
}

TEST(PolarFormatTest, EqualityComparesEveryMember) {
  const PolarFormat format = format_of(112, {4, 3, 2, 2, 1, 0});
  PolarFormat other = format;
  EXPECT_TRUE(other == format);
  EXPECT_FALSE(other != format);
  other.head_dim = 96;
  EXPECT_TRUE(other != format);
  other = format;
  other.levels = 4;
  EXPECT_TRUE(other != format);
  other = format;
  other.level_bits[1] = 4;
  EXPECT_TRUE(other != format);
  other = format;
  other.join_bits[1] = 4;
  EXPECT_TRUE(other != format);
  other = format;
  other.radius_type = FloatType::kFloat32;
  EXPECT_TRUE(other != format);
  other = format;
  other.radius_meaning = RadiusMeaning::kProjection;
  EXPECT_TRUE(other != format);
}

void expect_wrong(const PolarFormat& format, std::initializer_list<const char*> parts) {
  expect_invalid([&format] { format.validate(); }, parts);
}

TEST(PolarFormatTest, WrongWidthIsAnErrorThatNamesIt) {
  for (const int d : {-128, 0, 1, 127, 1026}) {
    PolarFormat format = PolarFormat::paper(128);
    format.head_dim = d;
    const std::string text = "head_dim is " + std::to_string(d);
    expect_wrong(format, {text.c_str()});
  }
}

TEST(PolarFormatTest, WrongWidthOfAPresetIsAnErrorThatNamesIt) {
  const auto named = [](int d) { return "head_dim is " + std::to_string(d); };
  for (const int d : {-16, 0, 8, 100, 120, 1040}) {
    expect_invalid([d] { PolarFormat::paper(d); },
                   {named(d).c_str(), "multiple of 16", "at most 1024"});
  }
  for (const int d : {-2, 0, 1, 81, 1026, 2048}) {
    const std::string text = named(d);
    expect_invalid([d] { PolarFormat::full_depth(d, 4.0); },
                   {text.c_str(), "multiple of 2", "at most 1024"});
    expect_invalid([d] { PolarFormat::uncompressed(d); },
                   {text.c_str(), "multiple of 2", "at most 1024"});
  }
}

// 16 + 64 bits fit 10 bytes, but decode to more than twice the error of zeros; 18 bytes do not.
TEST(PolarFormatTest, TooSmallABudgetIsAnErrorThatNamesIt) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const auto& [bits, text] : {std::pair<double, const char*>{0.6, "0.6"},
                                   {0.0, "0"},
                                   {-3.0, "-3"},
                                   {std::nan(""), "nan"},
                                   {-kInfinity, "-inf"}}) {
    expect_invalid([budget = bits] { PolarFormat::full_depth(128, budget); },
                   {("full_depth at " + std::string(text) + " bits").c_str(),
                    "head_dim 128 needs at least 1.125"});
  }
}

TEST(PolarFormatTest, WrongDepthIsAnErrorThatNamesIt) {
  for (const int levels : {-1, 8, 11}) {
    PolarFormat format = PolarFormat::paper(128);
    format.levels = levels;
    const std::string text = "levels is " + std::to_string(levels);
    expect_wrong(format, {text.c_str()});
  }
  PolarFormat format = PolarFormat::paper(128);
  format.head_dim = 80;
  format.levels = 5;
  expect_wrong(format, {"head_dim is 80", "32"});
}

TEST(PolarFormatTest, WrongBitsOfALevelAreAnErrorThatNamesThem) {
  expect_wrong(format_of(128, {0, 2}), {"level 1 has 0 bits", "1 .. 8"});
  expect_wrong(format_of(128, {9, 2}), {"level 1 has 9 bits", "1 .. 8"});
  expect_wrong(format_of(128, {4, 7}), {"level 2 has 7 bits", "0 .. 6"});
  EXPECT_NO_THROW(format_of(128, {8, 6, 0}).validate());
}

TEST(PolarFormatTest, WrongBitsOfAJoinAreAnErrorThatNamesThem) {
  PolarFormat format = format_of(112, {4, 2, 2, 2, 2, 2});
  format.join_bits = {6, 7};
  expect_wrong(format, {"join 1 has 7 bits", "0 .. 6"});
  format.join_bits = {6, 6, 200};  // The third is not used.
  EXPECT_NO_THROW(format.validate());
}

TEST(PolarFormatTest, WrongRadiusTypeIsAnErrorThatNamesIt) {
  PolarFormat format = PolarFormat::paper(128);
  format.radius_type = static_cast<FloatType>(7);
  expect_wrong(format, {"radius_type is 7"});
  format.radius_type = FloatType::kFloat64;
  expect_wrong(format, {"radius_type is float64", "bfloat16, float16 or float32"});
  EXPECT_NO_THROW(PolarFormat::uncompressed(128, FloatType::kFloat64).validate());
}

TEST(PolarFormatTest, WrongRadiusMeaningIsAnErrorThatNamesIt) {
  expect_wrong(with_meaning(format_of(128, {4}), static_cast<RadiusMeaning>(4)),
               {"radius_meaning is 4"});
}

// Given codebooks of another number, size or range are errors that say so.
void expect_wrong_codebooks(const PolarFormat& shape, const CodebookSet& given,
                            const std::string& problem) {
  PolarFormat format = shape;
  format = with_codebooks(format, given);
  EXPECT_EQ(format.problem(), problem);
  expect_wrong(format, {problem.c_str()});
}

TEST(PolarFormatTest, WrongCodebooksAreAnErrorThatNamesThem) {
  const PolarFormat paper = PolarFormat::paper(64);
  const PolarFormat joined = PolarFormat::full_depth(80, 3.25);
  const CodebookSet right = offline_codebooks(paper);
  expect_wrong_codebooks(paper, {}, "codebooks for 0 levels, the format has 4");
  expect_wrong_codebooks(joined, {offline_codebooks(joined).levels, {}},
                         "codebooks for 0 joins, the format has 1");
  expect_wrong_codebooks(PolarFormat::uncompressed(64), right,
                         "codebooks for 4 levels, the format has 0");
  CodebookSet wrong = right;
  wrong.levels[1] = AngleCodebook::lloyd_max(AngleDistribution::of_level(2), 3);
  expect_wrong_codebooks(paper, wrong,
                         "the codebook of level number 1 has 3 bits, must have 2 and not be "
                         "circular");
  wrong = right;
  wrong.levels[0] = AngleCodebook::lloyd_max(AngleDistribution::of_level(2), 4);
  expect_wrong_codebooks(paper, wrong,
                         "the codebook of level number 0 has 4 bits, must have 4 and be circular");
  wrong = right;
  wrong.levels[2] = AngleCodebook::lloyd_max(AngleDistribution::of_level(1), 2);
  expect_wrong_codebooks(paper, wrong,
                         "the codebook of level number 2 has 2 bits on the circle, must have 2 and "
                         "not be circular");
  PolarFormat empty = PolarFormat::uncompressed(64);
  empty = with_codebooks(empty, {});
  EXPECT_EQ(empty.problem(), "");
}

TEST(OfflineCodebooksTest, InvalidFormatIsAnError) {
  expect_invalid([] { offline_codebooks(format_of(128, {9})); }, {"level 1 has 9 bits"});
}

}  // namespace
