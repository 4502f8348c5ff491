#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "method_test_codec.hpp"
#include "polarquant/method/polar_format.hpp"

namespace {

using method_test::expect_invalid_argument;
using method_test::format_of;
using polarquant::AngleCodebook;
using polarquant::AngleDistribution;
using polarquant::CodebookSet;
using polarquant::cosine_moments;
using polarquant::CosineMoments;
using polarquant::FloatType;
using polarquant::offline_codebooks;
using polarquant::PolarFormat;
using polarquant::RadiusMeaning;

// Sizes -------------------------------------------------------------------------------------------

TEST(PolarFormat, paper_has_the_papers_size) {
  EXPECT_EQ(PolarFormat::paper(128).bytes_per_vector(), 62u);
  EXPECT_EQ(PolarFormat::paper(64).bytes_per_vector(), 31u);
  EXPECT_EQ(PolarFormat::paper(128).bits_per_coordinate(), 3.875);
  EXPECT_EQ(PolarFormat::paper(64).bits_per_coordinate(), 3.875);
}

TEST(PolarFormat, paper_has_the_papers_configuration) {
  const PolarFormat format = PolarFormat::paper(256);
  EXPECT_EQ(format.head_dim, 256);
  EXPECT_EQ(format.levels, 4);
  EXPECT_EQ(format.level_bits, (std::array<std::uint8_t, 10>{4, 2, 2, 2}));
  EXPECT_EQ(format.num_radii(), 16);
  EXPECT_EQ(format.num_angle_bits(), 16 * (32 + 8 + 4 + 2));
}

TEST(PolarFormat, sizes_of_the_table_are_reached) {
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

TEST(PolarFormat, full_depth_fills_the_stored_bytes) {
  EXPECT_EQ(PolarFormat::full_depth(128, 3.25).bytes_per_vector(), 52u);
  EXPECT_EQ(PolarFormat::full_depth(64, 3.25).bytes_per_vector(), 26u);
}

TEST(PolarFormat, full_depth_stays_within_the_budget_and_ends_in_one_radius) {
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

TEST(PolarFormat, budget_that_is_whole_bytes_is_not_lost_to_rounding) {
  // 3.1 * 80 / 8 is 31 but for rounding.
  EXPECT_EQ(PolarFormat::full_depth(80, 3.1).bytes_per_vector(), 31u);
}

TEST(PolarFormat, largest_budget_gives_every_angle_its_most_bits) {
  const PolarFormat format = PolarFormat::full_depth(96, 86.0 * 8.0 / 96.0);
  EXPECT_EQ(format.level_bits, (std::array<std::uint8_t, 10>{8, 6, 6, 6, 6, 6}));
  EXPECT_EQ(format.join_bits[0], 6);
}

TEST(PolarFormat, a_budget_that_cannot_be_used_is_an_error_that_names_the_most_bits) {
  expect_invalid_argument(
      [] { PolarFormat::full_depth(64, 20); },
      {"full_depth at 20 bits", "head_dim 64 can use at most 7.25", "uncompressed"});
  expect_invalid_argument([] { PolarFormat::full_depth(96, 7.34); }, {"at most 7.16667"});
  expect_invalid_argument([] { PolarFormat::full_depth(96, 1e300); }, {"at most 7.16667"});
}

// The least budget that is not refused is the least whose error is below that of zeros, 1.
TEST(PolarFormat, a_budget_worse_than_zeros_is_an_error_that_names_the_least_bits) {
  expect_invalid_argument(
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
    expect_invalid_argument([&] { PolarFormat::full_depth(d, bits - 8.0 / d); }, {least.c_str()});
  }
}

TEST(PolarFormat, uncompressed_is_as_large_as_its_type) {
  EXPECT_EQ(PolarFormat::uncompressed(128).bytes_per_vector(), 256u);
  EXPECT_EQ(PolarFormat::uncompressed(80, FloatType::kFloat32).bytes_per_vector(), 320u);
  EXPECT_EQ(PolarFormat::uncompressed(80, FloatType::kFloat64).bits_per_coordinate(), 64.0);
  EXPECT_TRUE(PolarFormat::uncompressed(128).is_uncompressed());
  EXPECT_FALSE(PolarFormat::paper(128).is_uncompressed());
}

TEST(PolarFormat, wider_radii_take_their_bytes) {
  PolarFormat format = PolarFormat::paper(128);
  format.radius_type = FloatType::kFloat32;
  EXPECT_EQ(format.bytes_per_vector(), 78u);
}

TEST(PolarFormat, join_bits_count) {
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

class Budget : public testing::TestWithParam<double> {};

// Every allocation of 1 .. 8 and six times 0 .. 6 bits.
TEST_P(Budget, no_allocation_at_128_has_lower_distortion) {
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
TEST_P(Budget, no_allocation_at_96_has_lower_distortion) {
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

INSTANTIATE_TEST_SUITE_P(Bits, Budget, testing::Values(2.25, 2.625, 3.25, 3.625, 4.25, 4.625));

TEST(PolarFormat, more_bits_never_cost_distortion) {
  double previous = std::numeric_limits<double>::infinity();
  for (double bits = 1.25; bits <= 6.0; bits += 0.125) {
    const double now = PolarFormat::full_depth(80, bits).expected_relative_mse();
    EXPECT_LE(now, previous) << bits;
    previous = now;
  }
  EXPECT_LT(previous, 0.001);
}

// Codebooks ---------------------------------------------------------------------------------------

TEST(OfflineCodebooks, are_one_for_each_level_and_join) {
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

TEST(OfflineCodebooks, of_an_uncompressed_format_are_none) {
  const CodebookSet codebooks = offline_codebooks(PolarFormat::uncompressed(96));
  EXPECT_TRUE(codebooks.levels.empty());
  EXPECT_TRUE(codebooks.joins.empty());
}

// Text, comparison, errors ------------------------------------------------------------------------

TEST(PolarFormat, description_names_bits_radii_and_type) {
  EXPECT_EQ(PolarFormat::paper(128).description(), "4/2/2/2 8 bfloat16");
  PolarFormat joined = format_of(112, {4, 3, 2, 2, 1, 0});
  joined.join_bits = {3, 2};
  joined.radius_type = FloatType::kFloat16;
  EXPECT_EQ(joined.description(), "4/3/2/2/1/0+3+2 1 float16");
  EXPECT_EQ(PolarFormat::uncompressed(128).description(), "128 float16");
}

std::shared_ptr<const CodebookSet> shared(const CodebookSet& codebooks) {
  return std::make_shared<const CodebookSet>(codebooks);
}

TEST(PolarFormat, equality_compares_given_codebooks_by_their_centroids) {
  PolarFormat x = PolarFormat::paper(64);
  PolarFormat y = x;
  const CodebookSet offline = offline_codebooks(x);
  x.codebooks = shared(offline);
  EXPECT_TRUE(x != y) << "given ones are unequal to null, whatever they hold";
  y.codebooks = shared(offline);
  EXPECT_TRUE(x == y);
  CodebookSet other = offline;
  other.levels[3] = AngleCodebook::from_centroids({0.1, 0.2, 0.3, 0.4}, false);
  y.codebooks = shared(other);
  EXPECT_TRUE(x != y);
}

TEST(PolarFormat, given_codebooks_are_those_it_uses) {
  PolarFormat format = PolarFormat::paper(64);
  EXPECT_TRUE(format.codebooks_or_offline() == offline_codebooks(format));
  const double offline_rho = format.rho();
  CodebookSet given = offline_codebooks(format);
  given.levels[3] = AngleCodebook::from_centroids({0.1, 0.2, 0.3, 0.4}, false);
  format.codebooks = shared(given);
  EXPECT_TRUE(format.codebooks_or_offline() == given);
  EXPECT_LT(format.rho(), offline_rho);
  EXPECT_GT(format.expected_relative_mse(), PolarFormat::paper(64).expected_relative_mse());
}

TEST(PolarFormat, equality_compares_every_member) {
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

void expect_invalid(const PolarFormat& format, std::initializer_list<const char*> parts) {
  expect_invalid_argument([&format] { format.validate(); }, parts);
}

TEST(PolarFormat, wrong_width_is_an_error_that_names_it) {
  for (const int d : {-128, 0, 1, 127, 1026}) {
    PolarFormat format = PolarFormat::paper(128);
    format.head_dim = d;
    const std::string text = "head_dim is " + std::to_string(d);
    expect_invalid(format, {text.c_str()});
  }
}

TEST(PolarFormat, wrong_width_of_a_preset_is_an_error_that_names_it) {
  expect_invalid_argument([] { PolarFormat::paper(120); }, {"head_dim is 120", "16"});
  expect_invalid_argument([] { PolarFormat::paper(0); }, {"head_dim is 0"});
  expect_invalid_argument([] { PolarFormat::full_depth(81, 4.0); }, {"head_dim is 81"});
  expect_invalid_argument([] { PolarFormat::full_depth(2048, 4.0); }, {"head_dim is 2048", "1024"});
  expect_invalid_argument([] { PolarFormat::uncompressed(3); }, {"head_dim is 3"});
}

TEST(PolarFormat, too_small_a_budget_is_an_error_that_names_it) {
  expect_invalid_argument([] { PolarFormat::full_depth(128, 0.5); },
                          {"0.5", "head_dim 128", "at least 1."});
  expect_invalid_argument([] { PolarFormat::full_depth(128, -3.0); }, {"-3 bits"});
  expect_invalid_argument([] { PolarFormat::full_depth(128, std::nan("")); }, {"nan"});
}

TEST(PolarFormat, wrong_depth_is_an_error_that_names_it) {
  for (const int levels : {-1, 8, 11}) {
    PolarFormat format = PolarFormat::paper(128);
    format.levels = levels;
    const std::string text = "levels is " + std::to_string(levels);
    expect_invalid(format, {text.c_str()});
  }
  PolarFormat format = PolarFormat::paper(128);
  format.head_dim = 80;
  format.levels = 5;
  expect_invalid(format, {"head_dim is 80", "32"});
}

TEST(PolarFormat, wrong_bits_of_a_level_are_an_error_that_names_them) {
  expect_invalid(format_of(128, {0, 2}), {"level 1 has 0 bits", "1 .. 8"});
  expect_invalid(format_of(128, {9, 2}), {"level 1 has 9 bits", "1 .. 8"});
  expect_invalid(format_of(128, {4, 7}), {"level 2 has 7 bits", "0 .. 6"});
  EXPECT_NO_THROW(format_of(128, {8, 6, 0}).validate());
}

TEST(PolarFormat, wrong_bits_of_a_join_are_an_error_that_names_them) {
  PolarFormat format = format_of(112, {4, 2, 2, 2, 2, 2});
  format.join_bits = {6, 7};
  expect_invalid(format, {"join 1 has 7 bits", "0 .. 6"});
  format.join_bits = {6, 6, 200};  // The third is not used.
  EXPECT_NO_THROW(format.validate());
}

TEST(PolarFormat, wrong_radius_type_is_an_error_that_names_it) {
  PolarFormat format = PolarFormat::paper(128);
  format.radius_type = static_cast<FloatType>(7);
  expect_invalid(format, {"radius_type is 7"});
  format.radius_type = FloatType::kFloat64;
  expect_invalid(format, {"radius_type is float64", "bfloat16, float16 or float32"});
  EXPECT_NO_THROW(PolarFormat::uncompressed(128, FloatType::kFloat64).validate());
}

TEST(PolarFormat, wrong_radius_meaning_is_an_error_that_names_it) {
  expect_invalid(format_of(128, {4}, static_cast<RadiusMeaning>(4)), {"radius_meaning is 4"});
}

// Given codebooks of another number, size or range are errors that say so.
void expect_wrong_codebooks(const PolarFormat& shape, const CodebookSet& given,
                            const std::string& problem) {
  PolarFormat format = shape;
  format.codebooks = shared(given);
  EXPECT_EQ(format.problem(), problem);
  expect_invalid(format, {problem.c_str()});
}

TEST(PolarFormat, wrong_codebooks_are_an_error_that_names_them) {
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
  empty.codebooks = shared({});
  EXPECT_EQ(empty.problem(), "");
}

TEST(OfflineCodebooks, invalid_format_is_an_error) {
  expect_invalid_argument([] { offline_codebooks(format_of(128, {9})); }, {"level 1 has 9 bits"});
}

}  // namespace
