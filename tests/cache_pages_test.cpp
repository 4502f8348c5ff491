#include "polarquant/cache_pages.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <stdexcept>
#include <utility>

#include "counting_memory.hpp"

namespace {

using polarquant::detail::CachePages;
using polarquant::detail::kPageTiles;
using polarquant::detail::kPageTokens;
using polarquant_test::CountingMemory;

constexpr std::size_t kKeyPage = kPageTokens * 6 + 64;
constexpr std::size_t kValuePage = kPageTokens * 9 + 64;

CachePages make_pages(std::size_t num_tokens, const polarquant::PageAllocator& allocator = {}) {
  CachePages pages(3, {6, 9}, allocator);
  pages.reserve(num_tokens, 0);
  return pages;
}

TEST(CachePagesTest, EveryHeadOfBothSidesHasRoom) {
  const CachePages pages = make_pages(kPageTokens + 1);
  EXPECT_EQ(pages.num_heads(), 3u);
  EXPECT_EQ(pages.capacity(), 2 * kPageTokens);
  EXPECT_EQ(pages.writable_end(0), 2 * kPageTokens);
  for (std::size_t head = 0; head < 3; ++head) {
    EXPECT_EQ(pages.keys[head].capacity(), 2 * kPageTokens);
    EXPECT_EQ(pages.values[head].capacity(), 2 * kPageTokens);
  }
}

TEST(CachePagesTest, MemoryIsThatOfAllHeads) {
  const std::size_t empty = CachePages(3, {6, 9}, {}).memory_bytes();
  const std::size_t codes = 3 * 2 * (kKeyPage + kValuePage);
  const std::size_t bytes = make_pages(2 * kPageTokens).memory_bytes();
  EXPECT_GE(bytes, empty + codes);
  EXPECT_LE(bytes, empty + codes + 3 * 2 * 4 * sizeof(void*));
}

TEST(CachePagesTest, TheLeastOfAllHeadsIsTheCapacity) {
  CachePages pages = make_pages(2 * kPageTokens);
  pages.values[2].shrink(kPageTokens);
  EXPECT_EQ(pages.capacity(), kPageTokens);
  const auto share = pages.keys[1].share(kPageTokens);
  EXPECT_EQ(pages.writable_end(3), 3u);
}

TEST(CachePagesTest, AShareHoldsEveryPageOfTheTokens) {
  const CachePages pages = make_pages(3 * kPageTokens);
  const CachePages share = pages.share(kPageTokens + 1);
  EXPECT_EQ(share.capacity(), 2 * kPageTokens);
  EXPECT_EQ(share.shared_bytes(), 3 * 2 * (kKeyPage + kValuePage));
  EXPECT_EQ(pages.shared_bytes(), share.shared_bytes());
}

TEST(CachePagesTest, DropFrontAndShrinkReachEveryHead) {
  CountingMemory memory;
  CachePages pages = make_pages(5 * kPageTokens, memory.allocator());
  EXPECT_EQ(memory.num_held, 3u * 2 * 5);
  const std::byte* const second = pages.values[2].tile(kPageTiles);
  pages.drop_front(1);
  EXPECT_EQ(memory.num_held, 3u * 2 * 4);
  EXPECT_EQ(pages.values[2].tile(0), second);
  pages.shrink(1);
  EXPECT_EQ(memory.num_held, 3u * 2);
}

// What a failure half way leaves behind is a cache with the capacity it had.
TEST(CachePagesTest, OneHeadWithoutMemoryIsNoCapacityGained) {
  CountingMemory memory;
  memory.limit = 6 + 3;
  CachePages pages = make_pages(1, memory.allocator());
  EXPECT_THROW(pages.reserve(2 * kPageTokens, 0), std::runtime_error);
  EXPECT_EQ(pages.capacity(), kPageTokens);
}

}  // namespace
