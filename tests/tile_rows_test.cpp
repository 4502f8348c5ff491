#include "polarquant/codes/tile.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "test_util.hpp"

namespace {

using polarquant::kTileTokens;
using polarquant::read_tile_slot;
using polarquant::tile_bytes;
using polarquant::write_tile_slot;
using polarquant::detail::read_tile_rows;
using polarquant::detail::write_tile_rows;
using polarquant_test::GuardedBytes;

void fill(std::byte* bytes, std::size_t count, std::uint32_t seed) {
  for (std::size_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    bytes[i] = static_cast<std::byte>(seed >> 24);
  }
}

// Every size of a code, numbers of rows, and strides.
template <typename Check>
void for_each_shape(const Check& check) {
  for (const std::size_t num_bytes : {1u, 2u, 3u, 7u, 8u, 9u, 10u, 15u, 31u, 52u, 62u, 68u, 257u}) {
    for (const std::size_t count : {std::size_t{1}, std::size_t{5}, kTileTokens - 1, kTileTokens}) {
      for (const std::size_t stride : {num_bytes, num_bytes + 3}) check(num_bytes, count, stride);
    }
  }
}

TEST(TileRowsTest, ReadIsReadingSlotBySlot) {
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

TEST(TileRowsTest, WriteIsWritingSlotBySlotAndNoOther) {
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

TEST(TileRowsTest, BytesBetweenRowsStay) {
  GuardedBytes tile(tile_bytes(10));
  std::vector<std::byte> rows(kTileTokens * 12, std::byte{0x77});
  read_tile_rows(tile.data(), 10, {rows.data(), kTileTokens, 12});
  for (std::size_t slot = 0; slot < kTileTokens; ++slot) {
    EXPECT_EQ(rows[slot * 12 + 10], std::byte{0x77});
    EXPECT_EQ(rows[slot * 12 + 11], std::byte{0x77});
  }
}

}  // namespace
