#include "polarquant/codec/families.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "test_util.hpp"

namespace {

using namespace polarquant;
using polarquant::detail::read_format;
using polarquant::detail::SavedFormat;
using namespace polarquant_test;

std::vector<std::uint64_t> numbers_of(const CodecFormat& format) {
  return format.model().settings();
}

TEST(FamiliesTest, APolarFormatIsReadFromItsSettings) {
  Random random(7);
  for (int trial = 0; trial < 40; ++trial) {
    const CodecFormat format =
        trial == 0 ? PolarFormat::uncompressed(48, FloatType::kFloat64) : random_format(random);
    const SavedFormat read = read_format("polar", numbers_of(format));
    EXPECT_TRUE(read.format == format) << format.description();
    EXPECT_EQ(read.description, format.description());
  }
}

TEST(FamiliesTest, ATrellisFormatIsReadFromItsSettings) {
  for (const double bits : {2.0, 2.5, 6.0, 8.0}) {
    const CodecFormat format = TrellisFormat(80, bits);
    const SavedFormat read = read_format("trellis", numbers_of(format));
    EXPECT_TRUE(read.format == format) << format.description();
    EXPECT_EQ(read.description, format.description());
  }
  EXPECT_EQ(CodecFormat(TrellisFormat(80, 2.5)).description(), "trellis 2.5 bits at head_dim 80");
  for (const std::vector<std::uint64_t>& wrong : {std::vector<std::uint64_t>{},
                                                  {80},
                                                  {80, 6, 0},
                                                  {80, 14},
                                                  {80, 3},
                                                  {81, 6},
                                                  {1026, 6},
                                                  {std::uint64_t{1} << 32, 6},
                                                  {80, std::uint64_t{1} << 32}}) {
    const SavedFormat read = read_format("trellis", wrong);
    EXPECT_FALSE(read.format.is_set()) << wrong.size();
    EXPECT_EQ(read.description, "trellis with wrong settings");
  }
}

TEST(FamiliesTest, GivenCodebooksCannotBeReadAndAreSaid) {
  const PolarFormat paper = PolarFormat::paper(64);
  polarquant::CodebookSet codebooks = offline_codebooks(paper);
  codebooks.levels[3] = polarquant::AngleCodebook::from_centroids({0.1, 0.2, 0.3, 0.4}, false);
  const SavedFormat read = read_format("polar", numbers_of(with_codebooks(paper, codebooks)));
  EXPECT_FALSE(read.format.is_set());
  EXPECT_EQ(read.description, CodecFormat(paper).description() + ", given codebooks");
}

TEST(FamiliesTest, AnotherFamilyIsNamed) {
  const SavedFormat read = read_format("plain", {64});
  EXPECT_FALSE(read.format.is_set());
  EXPECT_EQ(read.description, "a format of the family \"plain\"");
}

// Whatever number is out of its range, or however many there are.
TEST(FamiliesTest, WrongSettingsAreNoFormat) {
  const std::vector<std::uint64_t> right = numbers_of(PolarFormat::full_depth(80, 3.25));
  for (std::size_t i = 0; i + 1 < right.size(); ++i) {
    for (const std::uint64_t wrong :
         {std::uint64_t{1025}, std::uint64_t{1} << 32, ~std::uint64_t{0}}) {
      std::vector<std::uint64_t> numbers = right;
      numbers[i] = wrong;
      const SavedFormat read = read_format("polar", numbers);
      EXPECT_FALSE(read.format.is_set()) << i;
      EXPECT_EQ(read.description, "polar with wrong settings") << i;
    }
  }
  std::vector<std::uint64_t> numbers = right;
  numbers.pop_back();
  EXPECT_FALSE(read_format("polar", numbers).format.is_set());
  EXPECT_FALSE(read_format("polar", {}).format.is_set());
  numbers = right;
  numbers.push_back(0);
  EXPECT_FALSE(read_format("polar", numbers).format.is_set());
}

// What is kept in a byte must not come in as what is left of it: 256 + 2 is not 2.
TEST(FamiliesTest, NumbersAreNotCutToAByte) {
  const std::vector<std::uint64_t> right = numbers_of(PolarFormat::paper(64));
  for (std::size_t i = 2; i + 1 < right.size(); ++i) {
    std::vector<std::uint64_t> numbers = right;
    numbers[i] += 256;
    EXPECT_FALSE(read_format("polar", numbers).format.is_set()) << i;
  }
}

}  // namespace
