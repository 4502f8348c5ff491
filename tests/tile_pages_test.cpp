#include "polarquant/tile_pages.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using polarquant::kTileTokens;
using polarquant::detail::kPageTiles;
using polarquant::detail::kPageTokens;
using polarquant::detail::TilePages;

TEST(TilePagesTest, HoldsNothingAtFirst) {
  const TilePages pages(62);
  EXPECT_EQ(pages.capacity(), 0u);
  EXPECT_EQ(pages.memory_bytes(), 0u);
}

TEST(TilePagesTest, CapacityIsTheNextWholePage) {
  for (const std::size_t num_tokens : {std::size_t{1}, kPageTokens - 1, kPageTokens,
                                       kPageTokens + 1, 10 * kPageTokens, 10 * kPageTokens + 1}) {
    TilePages pages(31);
    pages.reserve(num_tokens);
    EXPECT_GE(pages.capacity(), num_tokens);
    EXPECT_LT(pages.capacity(), num_tokens + kPageTokens);
  }
}

TEST(TilePagesTest, EveryPageIsAlignedToACacheLine) {
  for (const std::size_t num_bytes : {1u, 31u, 62u, 63u}) {
    TilePages pages(num_bytes);
    pages.reserve(5 * kPageTokens);
    for (std::size_t tile = 0; tile < 5 * kPageTiles; tile += kPageTiles) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pages.tile(tile)) % 64, 0u);
    }
  }
}

TEST(TilePagesTest, TilesOfAPageFollowOneAnother) {
  TilePages pages(31);
  pages.reserve(2 * kPageTokens);
  for (std::size_t tile = 0; tile < 2 * kPageTiles; ++tile) {
    const std::size_t first = tile / kPageTiles * kPageTiles;
    EXPECT_EQ(pages.tile(tile), pages.tile(first) + (tile - first) * kTileTokens * 31);
  }
}

TEST(TilePagesTest, NewPagesAreZero) {
  TilePages pages(7);
  pages.reserve(kPageTokens);
  const std::vector<std::byte> zeros(kPageTiles * kTileTokens * 7);
  EXPECT_EQ(std::memcmp(pages.tile(0), zeros.data(), zeros.size()), 0);
}

TEST(TilePagesTest, GrowingMovesNothing) {
  TilePages pages(62);
  pages.reserve(1);
  const std::byte* const first = pages.tile(0);
  std::memset(pages.tile(0), 0x5a, kTileTokens * 62);
  pages.reserve(100 * kPageTokens);
  EXPECT_EQ(pages.tile(0), first);
  EXPECT_EQ(pages.tile(0)[kTileTokens * 62 - 1], std::byte{0x5a});
}

TEST(TilePagesTest, ReservingLessChangesNothing) {
  TilePages pages(62);
  pages.reserve(1000);
  const std::size_t bytes = pages.memory_bytes();
  pages.reserve(10);
  EXPECT_EQ(pages.memory_bytes(), bytes);
  EXPECT_GE(pages.capacity(), 1000u);
}

TEST(TilePagesTest, ShrinkKeepsThePagesThatTheTokensNeed) {
  TilePages pages(62);
  pages.reserve(10 * kPageTokens);
  pages.tile(kPageTiles)[0] = std::byte{1};
  pages.shrink(kPageTokens + 1);
  EXPECT_EQ(pages.capacity(), 2 * kPageTokens);
  EXPECT_EQ(pages.tile(kPageTiles)[0], std::byte{1});
  pages.shrink(0);
  EXPECT_EQ(pages.capacity(), 0u);
}

TEST(TilePagesTest, ShrinkNeverGrows) {
  TilePages pages(62);
  pages.reserve(1);
  pages.shrink(100 * kPageTokens);
  EXPECT_EQ(pages.capacity(), kPageTokens);
}

TEST(TilePagesTest, ShrinkGivesTheMemoryBack) {
  TilePages pages(62);
  pages.reserve(kPageTokens);
  const std::size_t before = pages.memory_bytes();
  pages.reserve(100 * kPageTokens);
  pages.shrink(kPageTokens);
  EXPECT_LE(pages.memory_bytes(), before);
}

// Growth by doubling would hold up to twice what is used.
TEST(TilePagesTest, MemoryIsWithinOnePageAndItsPointersOfTheTokensHeld) {
  TilePages pages(62);
  for (std::size_t num_tokens = 1; num_tokens < 60000; num_tokens += 501) {
    pages.reserve(num_tokens);
    const std::size_t page_bytes = kPageTokens * 62;
    const std::size_t num_pages = (num_tokens + kPageTokens - 1) / kPageTokens;
    EXPECT_GE(pages.memory_bytes(), num_pages * page_bytes);
    EXPECT_LE(pages.memory_bytes(), num_pages * (page_bytes + 2 * sizeof(void*)));
  }
}

}  // namespace
