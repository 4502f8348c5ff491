#include "polarquant/codec/codec_format.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "plain_8bit_codec.hpp"
#include "test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

// ---- Not set ----

TEST(CodecFormatTest, IsNotSetAsItComes) {
  const CodecFormat format;
  EXPECT_FALSE(format.is_set());
  EXPECT_EQ(format.polar(), nullptr);
  EXPECT_EQ(format.problem(),
            "no format is set: take PolarFormat::paper(head_dim), full_depth(head_dim, bits) or "
            "uncompressed(head_dim), or TrellisFormat(head_dim, bits)");
  EXPECT_EQ(format.trellis(), nullptr);
}

TEST(CodecFormatTest, SaysWhichOfTheLibrarysFormatsItHolds) {
  const CodecFormat polar = polarquant::PolarFormat::paper(64);
  const CodecFormat trellis = polarquant::TrellisFormat(64, 2.5);
  EXPECT_EQ(polar.trellis(), nullptr);
  EXPECT_EQ(trellis.polar(), nullptr);
  ASSERT_NE(trellis.trellis(), nullptr);
  EXPECT_TRUE(*trellis.trellis() == polarquant::TrellisFormat(64, 2.5));
  EXPECT_FALSE(trellis.is_uncompressed());
  EXPECT_TRUE(trellis != polar);
  EXPECT_DOUBLE_EQ(trellis.bits_per_coordinate(), 2.75);
}

TEST(CodecFormatTest, WhatNeedsAFormatSaysThatNoneIsSet) {
  const CodecFormat format;
  const char* const parts[] = {"no format is set", "PolarFormat::paper(head_dim)"};
  expect_invalid([&] { format.head_dim(); }, {parts[0], parts[1]});
  expect_invalid([&] { format.is_uncompressed(); }, {parts[0], parts[1]});
  expect_invalid([&] { format.bytes_per_vector(); }, {parts[0], parts[1]});
  expect_invalid([&] { format.bits_per_coordinate(); }, {parts[0], parts[1]});
  expect_invalid([&] { format.expected_relative_mse(); }, {parts[0], parts[1]});
  expect_invalid([&] { format.description(); }, {parts[0], parts[1]});
  expect_invalid([&] { format.model(); }, {parts[0], parts[1]});
}

// ---- Of the library's format ----

TEST(CodecFormatTest, SaysWhatItsPolarFormatSays) {
  for (const PolarFormat& polar : {PolarFormat::paper(64), PolarFormat::full_depth(80, 3.25),
                                   PolarFormat::uncompressed(48, FloatType::kFloat32)}) {
    const CodecFormat format = polar;
    EXPECT_TRUE(format.is_set());
    ASSERT_NE(format.polar(), nullptr);
    EXPECT_TRUE(*format.polar() == polar);
    EXPECT_EQ(format.head_dim(), polar.head_dim);
    EXPECT_EQ(format.is_uncompressed(), polar.is_uncompressed());
    EXPECT_EQ(format.bytes_per_vector(), polar.bytes_per_vector());
    EXPECT_EQ(format.bits_per_coordinate(), polar.bits_per_coordinate());
    EXPECT_EQ(format.expected_relative_mse(), polar.expected_relative_mse());
    EXPECT_EQ(format.model().number_type(), polar.radius_type);
    EXPECT_EQ(format.problem(), "");
  }
}

TEST(CodecFormatTest, IsDescribedWithItsFamilyWidthAndCodebooks) {
  const PolarFormat paper = PolarFormat::paper(64);
  EXPECT_EQ(CodecFormat(paper).description(), "polar 4/2/2/2 4 bfloat16 at head_dim 64");
  EXPECT_EQ(CodecFormat(PolarFormat::uncompressed(64)).description(),
            "uncompressed 64 float16 at head_dim 64");
  EXPECT_EQ(CodecFormat(with_codebooks(paper, offline_codebooks(paper))).description(),
            "polar 4/2/2/2 4 bfloat16 at head_dim 64, given codebooks");
}

TEST(CodecFormatTest, HasTheProblemOfItsPolarFormat) {
  PolarFormat polar = format_of(64, {9, 2});
  EXPECT_EQ(CodecFormat(polar).problem(), polar.problem());
  EXPECT_NE(CodecFormat(polar).problem(), "");
}

// ---- Equality ----

TEST(CodecFormatTest, EqualFormatsAreEqualWhereverTheyStand) {
  EXPECT_TRUE(CodecFormat() == CodecFormat());
  EXPECT_TRUE(CodecFormat(PolarFormat::paper(64)) == PolarFormat::paper(64));
  EXPECT_TRUE(plain_8bit(64) == plain_8bit(64));
  const CodecFormat format = plain_8bit(64);
  const CodecFormat copy = format;
  EXPECT_TRUE(format == copy);
  EXPECT_FALSE(format != copy);
}

TEST(CodecFormatTest, FormatsThatDifferAreUnequal) {
  const PolarFormat paper = PolarFormat::paper(64);
  const std::vector<CodecFormat> formats = {
      {},
      paper,
      PolarFormat::paper(128),
      with_meaning(paper, RadiusMeaning::kNorm),
      with_meaning(paper, RadiusMeaning::kUnbiased, FloatType::kFloat16),
      format_of(64, {4, 2, 2, 3}),
      with_codebooks(paper, offline_codebooks(paper)),
      PolarFormat::uncompressed(64),
      plain_8bit(64),
      plain_8bit(128)};
  for (std::size_t i = 0; i < formats.size(); ++i) {
    for (std::size_t j = 0; j < formats.size(); ++j) {
      EXPECT_EQ(formats[i] == formats[j], i == j) << i << " " << j;
      EXPECT_EQ(formats[i] != formats[j], i != j) << i << " " << j;
    }
  }
}

// ---- Of another family ----

TEST(CodecFormatTest, SaysWhatItsModelSays) {
  const CodecFormat format = plain_8bit(48);
  EXPECT_TRUE(format.is_set());
  EXPECT_EQ(format.polar(), nullptr);
  EXPECT_EQ(format.head_dim(), 48);
  EXPECT_EQ(format.bytes_per_vector(), 52u);
  EXPECT_EQ(format.bits_per_coordinate(), 52.0 * 8.0 / 48.0);
  EXPECT_FALSE(format.is_uncompressed());
  EXPECT_EQ(format.description(), "plain 8 bits at head_dim 48");
  EXPECT_EQ(format.problem(), "");
  EXPECT_EQ(plain_8bit(3).problem(), "plain 8 bits: head_dim is 3");
}

// ---- Settings, as saved files hold them ----

// Always as many, in the same order, and unequal for unequal formats.
TEST(FormatSettingsTest, OfPolarFormatsAreAsManyAndTellThemApart) {
  const PolarFormat paper = PolarFormat::paper(64);
  polarquant::CodebookSet other = offline_codebooks(paper);
  other.levels[3] = polarquant::AngleCodebook::from_centroids({0.1, 0.2, 0.3, 0.4}, false);
  const std::vector<CodecFormat> formats = {
      paper,
      PolarFormat::paper(128),
      with_meaning(paper, RadiusMeaning::kNorm),
      with_meaning(paper, RadiusMeaning::kUnbiased, FloatType::kFloat16),
      format_of(64, {4, 2, 2, 3}),
      format_of(112, {4, 2, 2, 2, 2, 2}, {2, 3}),
      format_of(112, {4, 2, 2, 2, 2, 2}, {3, 2}),
      with_codebooks(paper, other),
      PolarFormat::uncompressed(64),
      PolarFormat::uncompressed(64, FloatType::kFloat32)};
  const std::vector<std::uint64_t> first = formats[0].model().settings();
  EXPECT_EQ(first[0], 64u);
  for (std::size_t i = 0; i < formats.size(); ++i) {
    const std::vector<std::uint64_t> settings = formats[i].model().settings();
    ASSERT_EQ(settings.size(), first.size());
    for (std::size_t j = 0; j < i; ++j) EXPECT_NE(settings, formats[j].model().settings());
  }
}

// Bits that no code has do not count.
TEST(FormatSettingsTest, WhatNoCodeDependsOnIsZero) {
  PolarFormat paper = PolarFormat::paper(64);
  const std::vector<std::uint64_t> expected = CodecFormat(paper).model().settings();
  paper.level_bits[7] = 3;
  paper.join_bits[2] = 1;
  EXPECT_EQ(CodecFormat(paper).model().settings(), expected);
}

}  // namespace
