#include "polarquant/trellis/trellis_format.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <polarquant/base/random.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using polarquant::TrellisFormat;

TEST(TrellisFormatTest, SizesAreANormAndTheBits) {
  const auto bytes = [](int head_dim, double bits) {
    return TrellisFormat(head_dim, bits).bytes_per_vector();
  };
  EXPECT_EQ(bytes(128, 3), 2u + 48u);
  EXPECT_EQ(bytes(64, 2), 2u + 16u);
  EXPECT_EQ(bytes(64, 2.5), 2u + 20u);
  EXPECT_EQ(bytes(80, 3.5), 2u + 48u / 8u * 3u + 32u / 8u * 4u);  // 40 is rounded up to 48
  EXPECT_EQ(bytes(16, 2.5), 2u + 2u + 3u);
  EXPECT_EQ(bytes(128, 8), 2u + 128u);
  EXPECT_EQ(bytes(100, 8), 2u + 100u);
  EXPECT_EQ(bytes(100, 3), 2u + 36u + 1u + 1u);  // four more: a byte of 4 bits, one of 8
  EXPECT_EQ(bytes(18, 6), 2u + 12u + 1u + 2u);   // two more: 2 bits, 10 bits
  EXPECT_DOUBLE_EQ(TrellisFormat(64, 3).bits_per_coordinate(), 3.25);
}

TEST(TrellisFormatTest, SaysWhatIsWrong) {
  EXPECT_EQ(TrellisFormat(128, 3).problem(), "");
  EXPECT_EQ(TrellisFormat(15, 3).problem(),
            "a trellis format is of even width, 16 to 1024; head_dim is 15");
  for (const int head_dim : {-2, 0, 14, 17, 1026}) {
    EXPECT_NE(TrellisFormat(head_dim, 3).problem(), "") << head_dim;
  }
  EXPECT_EQ(TrellisFormat(128, 3.25).problem(),
            "a trellis format has 2, 2.5, 3, .. 6 or 8 bits per coordinate, not 3.25");
  for (const double bits : {0.0, 1.5, 6.5, 7.0, 8.5, -3.0, 1e300, 0.0 / 0.0}) {
    EXPECT_NE(TrellisFormat(128, bits).problem(), "") << bits;
  }
  EXPECT_THROW(TrellisFormat(128, 7).validate(), std::invalid_argument);
  EXPECT_THROW(TrellisFormat(128, 7).expected_relative_mse(), std::invalid_argument);
}

// Every byte of a code belongs to one group, and all are used.
TEST(TrellisFormatTest, BytesHaveTheirPlaces) {
  for (const int head_dim : {16, 18, 24, 30, 64, 80, 100, 128, 1022}) {
    for (const double bits : {2.0, 2.5, 3.0, 3.5, 5.5, 6.0, 8.0}) {
      const TrellisFormat format(head_dim, bits);
      std::vector<int> uses(format.bytes_per_vector());
      for (int first = 0; first < head_dim; first += 8) {
        for (std::size_t byte = 0; byte < format.group_bytes(first); ++byte) {
          ++uses.at(format.byte_place(first, byte));
        }
      }
      for (std::size_t i = 0; i < uses.size(); ++i) {
        EXPECT_EQ(uses[i], i < 2 ? 0 : 1) << head_dim << " " << bits << " " << i;
      }
    }
  }
}

// Coordinate 0 is (2, 1), coordinate 9 is (1, 0), of two groups of eight that take turns.
TEST(TrellisFormatTest, BitsHaveTheirPlaces) {
  const polarquant::detail::TrellisLayout layout(TrellisFormat(16, 3));
  std::vector<std::uint8_t> codes(16);
  codes[0] = 2 * 2 + 1;
  codes[9] = 2 * 1;
  std::vector<std::byte> code(8);
  layout.pack(codes.data(), 1, code.data());
  const std::vector<std::byte> expected = {std::byte{0}, std::byte{0}, std::byte{1}, std::byte{0},
                                           std::byte{2}, std::byte{4}, std::byte{0}, std::byte{0}};
  EXPECT_EQ(code, expected);
}

TEST(TrellisFormatTest, CodesComeBackFromTheirBytes) {
  polarquant::Random random(3);
  for (const int head_dim : {16, 22, 64, 90, 1024}) {
    for (const double bits : {2.0, 2.5, 3.0, 4.0, 4.5, 5.0, 6.0, 8.0}) {
      const TrellisFormat format(head_dim, bits);
      const polarquant::detail::TrellisLayout layout(format);
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(head_dim) * 3);
      for (std::size_t i = 0; i < codes.size(); ++i) {
        const int own = bits == 8.0 ? 8 : format.code_bits(static_cast<int>(i / 3));
        codes[i] = static_cast<std::uint8_t>(random.next() & ((1u << own) - 1));
      }
      std::vector<std::byte> code(layout.num_bytes(), std::byte{0x55});
      layout.pack(codes.data(), 3, code.data());
      std::vector<std::uint8_t> back(static_cast<std::size_t>(head_dim));
      layout.unpack(code.data(), back.data());
      for (std::size_t i = 0; i < back.size(); ++i) ASSERT_EQ(back[i], codes[3 * i]);
      EXPECT_EQ(code[0], std::byte{0x55});
    }
  }
}

// The figures of simpler codes at the same bits (docs/design.md), which these are to beat.
TEST(TrellisFormatTest, ExpectedErrorsAreBelowThoseOfSimplerCodes) {
  const auto error = [](double bits) { return TrellisFormat(128, bits).expected_relative_mse(); };
  EXPECT_LT(error(2), 0.0886);
  EXPECT_LT(error(3), 0.0231);
  EXPECT_LT(error(4), 0.0061);
  EXPECT_LT(error(5), 0.0017);
  EXPECT_LT(error(6), 0.00057);
  EXPECT_LT(error(8), 4.2e-5 + 2.7e-6);
  for (double bits = 2; bits < 6; bits += 0.5) {
    EXPECT_LT(error(bits + 0.5), 0.75 * error(bits));
    EXPECT_GT(error(bits + 0.5), 0.4 * error(bits));
  }
}

TEST(TrellisFormatTest, IsItsWidthAndItsBits) {
  EXPECT_TRUE(TrellisFormat(64, 3) == TrellisFormat(64, 3.0));
  EXPECT_TRUE(TrellisFormat(64, 3) != TrellisFormat(64, 3.5));
  EXPECT_TRUE(TrellisFormat(64, 3) != TrellisFormat(128, 3));
  EXPECT_EQ(TrellisFormat(64, 3).description(), "trellis 3 bits");
  EXPECT_EQ(TrellisFormat(64, 4.5).description(), "trellis 4.5 bits");
}

}  // namespace
