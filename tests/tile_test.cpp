#include "polarquant/codes/tile.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <set>
#include <vector>

#include "test_util.hpp"

namespace {

using namespace polarquant;
using polarquant::detail::read_tile_rows;
using polarquant::detail::write_tile_rows;
using namespace polarquant_test;

// Where byte `byte` of vector `slot` lies in a tile: the table of docs/format.md.
std::size_t tile_position(std::size_t num_bytes, std::size_t slot, std::size_t byte) {
  if (byte + 1 == num_bytes && num_bytes % 2 != 0) return 32 * byte + slot;
  return (32 * (byte / 2) + slot) * 2 + byte % 2;
}

void fill(std::byte* bytes, std::size_t count, std::uint32_t seed) {
  for (std::size_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    bytes[i] = static_cast<std::byte>(seed >> 24);
  }
}

class TileSlotsTest : public testing::TestWithParam<std::size_t> {};

TEST_P(TileSlotsTest, BytesLieWhereTheDocumentedFormulaSays) {
  const std::size_t num_bytes = GetParam();
  std::vector<std::byte> tile(tile_bytes(num_bytes));
  std::set<std::size_t> seen;
  for (std::size_t slot = 0; slot < kTileTokens; ++slot) {
    std::vector<std::byte> code(num_bytes);
    fill(code.data(), num_bytes, static_cast<std::uint32_t>(slot));
    write_tile_slot(tile.data(), num_bytes, slot, code.data());
    for (std::size_t byte = 0; byte < num_bytes; ++byte) {
      const std::size_t position = tile_position(num_bytes, slot, byte);
      ASSERT_LT(position, tile_bytes(num_bytes));
      ASSERT_EQ(tile[position], code[byte]);
      seen.insert(position);
    }
  }
  EXPECT_EQ(seen.size(), kTileTokens * num_bytes);
}

TEST_P(TileSlotsTest, SlotsReturnWhatWasWritten) {
  const std::size_t num_bytes = GetParam();
  std::vector<std::byte> codes(kTileTokens * num_bytes);
  fill(codes.data(), codes.size(), 1);
  std::vector<std::byte> tile(tile_bytes(num_bytes));
  for (std::size_t slot = kTileTokens; slot-- > 0;) {
    write_tile_slot(tile.data(), num_bytes, slot, codes.data() + slot * num_bytes);
  }
  std::vector<std::byte> read(num_bytes);
  for (std::size_t slot = 0; slot < kTileTokens; ++slot) {
    read_tile_slot(tile.data(), num_bytes, slot, read.data());
    ASSERT_TRUE(std::equal(read.begin(), read.end(),
                           codes.begin() + static_cast<std::ptrdiff_t>(slot * num_bytes)))
        << slot;
  }
}

TEST_P(TileSlotsTest, WritingASlotLeavesTheOthersAlone) {
  const std::size_t num_bytes = GetParam();
  std::vector<std::byte> tile(tile_bytes(num_bytes), std::byte{0x5a});
  const std::vector<std::byte> code(num_bytes, std::byte{0xc3});
  write_tile_slot(tile.data(), num_bytes, 7, code.data());
  std::vector<std::byte> read(num_bytes);
  for (std::size_t slot = 0; slot < kTileTokens; ++slot) {
    read_tile_slot(tile.data(), num_bytes, slot, read.data());
    EXPECT_EQ(read,
              std::vector<std::byte>(num_bytes, slot == 7 ? std::byte{0xc3} : std::byte{0x5a}));
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, TileSlotsTest, testing::Values(1, 2, 3, 26, 31, 52, 62, 63, 256));

TEST(TileTest, OfThePaperHas1984Bytes) { EXPECT_EQ(tile_bytes(62), 1984u); }

// ---- Many rows at once ----

// Every size of a code, numbers of rows, and strides.
template <typename Check>
void for_each_shape(const Check& check) {
  for (const std::size_t num_bytes : {1u, 2u, 3u, 7u, 8u, 9u, 10u, 15u, 31u, 52u, 62u, 68u, 257u}) {
    for (const std::size_t count : {std::size_t{1}, std::size_t{5}, kTileTokens - 1, kTileTokens}) {
      for (const std::size_t stride : {num_bytes, num_bytes + 3}) check(num_bytes, count, stride);
    }
  }
}

TEST(TileTest, ReadIsReadingSlotBySlot) {
  for_each_shape([](std::size_t num_bytes, std::size_t count, std::size_t stride) {
    GuardedBytes tile(tile_bytes(num_bytes));
    fill(tile.data(), tile_bytes(num_bytes), 1);
    GuardedBytes rows((count - 1) * stride + num_bytes);
    read_tile_rows(tile.data(), num_bytes, {rows.data(), count, stride});
    std::vector<std::byte> code(num_bytes);
    for (std::size_t slot = 0; slot < count; ++slot) {
      read_tile_slot(tile.data(), num_bytes, slot, code.data());
      EXPECT_EQ(std::memcmp(rows.data() + slot * stride, code.data(), num_bytes), 0);
    }
    EXPECT_TRUE(rows.guard_is_intact());
  });
}

TEST(TileTest, WriteIsWritingSlotBySlotAndNoOther) {
  for_each_shape([](std::size_t num_bytes, std::size_t count, std::size_t stride) {
    GuardedBytes rows((count - 1) * stride + num_bytes);
    fill(rows.data(), (count - 1) * stride + num_bytes, 2);
    GuardedBytes tile(tile_bytes(num_bytes)), expected(tile_bytes(num_bytes));
    write_tile_rows(tile.data(), num_bytes, {rows.data(), count, stride});
    for (std::size_t slot = 0; slot < count; ++slot) {
      write_tile_slot(expected.data(), num_bytes, slot, rows.data() + slot * stride);
    }
    EXPECT_EQ(std::memcmp(tile.data(), expected.data(), tile_bytes(num_bytes)), 0);
    EXPECT_TRUE(tile.guard_is_intact());
  });
}

TEST(TileTest, BytesBetweenRowsStay) {
  GuardedBytes tile(tile_bytes(10));
  std::vector<std::byte> rows(kTileTokens * 12, std::byte{0x77});
  read_tile_rows(tile.data(), 10, {rows.data(), kTileTokens, 12});
  for (std::size_t slot = 0; slot < kTileTokens; ++slot) {
    EXPECT_EQ(rows[slot * 12 + 10], std::byte{0x77});
    EXPECT_EQ(rows[slot * 12 + 11], std::byte{0x77});
  }
}

}  // namespace
