#include "polarquant/storage/page_pool.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "counting_memory.hpp"
#include "test_util.hpp"

namespace {

using polarquant::kTileTokens;
using polarquant::detail::kPageTiles;
using polarquant::detail::kPageTokens;
using polarquant::detail::PagePool;
using polarquant_test::CountingMemory;

TEST(PagePoolTest, HoldsNothingAtFirst) {
  const PagePool pages(62);
  EXPECT_EQ(pages.capacity(), 0u);
  EXPECT_EQ(pages.memory_bytes(), 0u);
}

TEST(PagePoolTest, CapacityIsTheNextWholePage) {
  for (const std::size_t num_tokens : {std::size_t{1}, kPageTokens - 1, kPageTokens,
                                       kPageTokens + 1, 10 * kPageTokens, 10 * kPageTokens + 1}) {
    PagePool pages(31);
    pages.reserve(num_tokens);
    EXPECT_GE(pages.capacity(), num_tokens);
    EXPECT_LT(pages.capacity(), num_tokens + kPageTokens);
  }
}

// Half a page for few tokens, which becomes a whole one; what it held is still there.
TEST(PagePoolTest, FewTokensTakeHalfAPage) {
  constexpr std::size_t kCenterBytes = 66;
  PagePool pages(31, {}, kCenterBytes), whole(31, {}, kCenterBytes);
  pages.reserve(1);
  whole.reserve(kPageTokens);
  EXPECT_EQ(pages.capacity(), kPageTokens / 2);
  EXPECT_EQ(whole.memory_bytes() - pages.memory_bytes(), kPageTokens / 2 * 31);
  EXPECT_EQ(pages.writable_end(0), kPageTokens / 2);
  EXPECT_TRUE(pages.is_writable(0, kPageTokens / 2));
  EXPECT_FALSE(pages.is_writable(0, kPageTokens / 2 + 1));
  std::memset(pages.tile(0), 3, kPageTiles / 2 * kTileTokens * 31);
  std::memset(pages.center(0), 5, 4 * kCenterBytes);
  const PagePool copy = pages.share(kPageTokens / 2);
  EXPECT_EQ(copy.capacity(), kPageTokens / 2);
  pages.reserve(kPageTokens / 2 + 1, kPageTokens / 2);
  EXPECT_EQ(pages.capacity(), kPageTokens);
  EXPECT_EQ(pages.memory_bytes() - whole.memory_bytes(), 0u);
  EXPECT_EQ(pages.shared_bytes(), 0u);
  for (const PagePool* const each : {const_cast<const PagePool*>(&pages), &copy}) {
    EXPECT_EQ(each->tile(kPageTiles / 2 - 1)[kTileTokens * 31 - 1], std::byte{3});
    EXPECT_EQ(each->center(3)[kCenterBytes - 1], std::byte{5});
  }
  EXPECT_EQ(pages.tile(kPageTiles / 2)[0], std::byte{0});
  // It comes back when it is enough again, and nobody else holds the page.
  pages.shrink(kPageTokens / 2);
  EXPECT_EQ(pages.capacity(), kPageTokens / 2);
  EXPECT_EQ(std::as_const(pages).tile(kPageTiles / 2 - 1)[kTileTokens * 31 - 1], std::byte{3});
  EXPECT_EQ(std::as_const(pages).center(3)[kCenterBytes - 1], std::byte{5});
  const PagePool other = whole.share(10);
  whole.shrink(10);
  EXPECT_EQ(whole.capacity(), kPageTokens);
  // Another page has a whole one before it.
  PagePool two(31);
  two.reserve(kPageTokens / 2);
  two.reserve(kPageTokens + 1, 0);
  EXPECT_EQ(two.capacity(), 2 * kPageTokens);
}

// The centres of a page's eight spans go with it.
TEST(PagePoolTest, APageHasTheCentresOfItsSpans) {
  PagePool pages(31, {}, 66);
  pages.reserve(2 * kPageTokens);
  for (std::size_t span = 0; span < 16; ++span) {
    EXPECT_EQ(pages.center(span)[0], std::byte{0});
    std::memset(pages.center(span), static_cast<int>(span + 1), 66);
  }
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pages.tile(0)) % 64, 0u);
  EXPECT_EQ(pages.tile(0)[0], std::byte{0});
  PagePool copy = pages.share(2 * kPageTokens);
  copy.reserve(2 * kPageTokens, kPageTokens + 5);  // Its own second page.
  copy.center(9)[0] = std::byte{77};
  EXPECT_EQ(pages.center(9)[0], std::byte{10});
  EXPECT_EQ(copy.center(8)[65], std::byte{9});
  EXPECT_EQ(copy.center(15)[65], std::byte{16});
  pages.drop_front(kPageTokens);
  EXPECT_EQ(pages.center(14)[1], std::byte{15});
}

TEST(PagePoolTest, EveryPageIsAlignedToACacheLine) {
  for (const std::size_t num_bytes : {1u, 31u, 62u, 63u}) {
    PagePool pages(num_bytes);
    pages.reserve(5 * kPageTokens);
    for (std::size_t tile = 0; tile < 5 * kPageTiles; tile += kPageTiles) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pages.tile(tile)) % 64, 0u);
    }
  }
}

TEST(PagePoolTest, TilesOfAPageFollowOneAnother) {
  PagePool pages(31);
  pages.reserve(2 * kPageTokens);
  for (std::size_t tile = 0; tile < 2 * kPageTiles; ++tile) {
    const std::size_t first = tile / kPageTiles * kPageTiles;
    EXPECT_EQ(pages.tile(tile), pages.tile(first) + (tile - first) * kTileTokens * 31);
  }
}

TEST(PagePoolTest, NewPagesAreZero) {
  PagePool pages(7);
  pages.reserve(kPageTokens);
  const std::vector<std::byte> zeros(kPageTiles * kTileTokens * 7);
  EXPECT_EQ(std::memcmp(pages.tile(0), zeros.data(), zeros.size()), 0);
}

TEST(PagePoolTest, GrowingMovesNothing) {
  PagePool pages(62);
  pages.reserve(kPageTokens);
  const std::byte* const first = pages.tile(0);
  std::memset(pages.tile(0), 0x5a, kTileTokens * 62);
  pages.reserve(100 * kPageTokens);
  EXPECT_EQ(pages.tile(0), first);
  EXPECT_EQ(pages.tile(0)[kTileTokens * 62 - 1], std::byte{0x5a});
}

TEST(PagePoolTest, ReservingLessChangesNothing) {
  PagePool pages(62);
  pages.reserve(1000);
  const std::size_t bytes = pages.memory_bytes();
  pages.reserve(10);
  EXPECT_EQ(pages.memory_bytes(), bytes);
  EXPECT_GE(pages.capacity(), 1000u);
}

TEST(PagePoolTest, ShrinkKeepsThePagesThatTheTokensNeed) {
  PagePool pages(62);
  pages.reserve(10 * kPageTokens);
  pages.tile(kPageTiles)[0] = std::byte{1};
  pages.shrink(kPageTokens + 1);
  EXPECT_EQ(pages.capacity(), 2 * kPageTokens);
  EXPECT_EQ(pages.tile(kPageTiles)[0], std::byte{1});
  pages.shrink(0);
  EXPECT_EQ(pages.capacity(), 0u);
}

TEST(PagePoolTest, ShrinkNeverGrows) {
  PagePool pages(62);
  pages.reserve(1);
  pages.shrink(100 * kPageTokens);
  EXPECT_EQ(pages.capacity(), kPageTokens / 2);
}

TEST(PagePoolTest, ShrinkGivesTheMemoryBack) {
  PagePool pages(62);
  pages.reserve(kPageTokens);
  const std::size_t before = pages.memory_bytes();
  pages.reserve(100 * kPageTokens);
  pages.shrink(kPageTokens);
  EXPECT_LE(pages.memory_bytes(), before);
}

// Growth by doubling would hold up to twice what is used.
TEST(PagePoolTest, MemoryIsWithinOnePageAndItsPointersOfTheTokensHeld) {
  PagePool pages(62);
  for (std::size_t num_tokens = 1; num_tokens < 60000; num_tokens += 501) {
    pages.reserve(num_tokens);
    const std::size_t page_bytes = kPageTokens * 62 + 64;  // the count of owners in a cache line
    const std::size_t num_pages = (num_tokens + kPageTokens - 1) / kPageTokens;
    const std::size_t spared = num_tokens <= kPageTokens / 2 ? kPageTokens / 2 * 62 : 0;
    EXPECT_GE(pages.memory_bytes() + spared, num_pages * page_bytes);
    EXPECT_LE(pages.memory_bytes() + spared, num_pages * (page_bytes + 2 * sizeof(void*)));
  }
}

// ---- Shared pages ----

TEST(PagePoolTest, ASharePointsToTheSamePages) {
  PagePool pages(62);
  pages.reserve(3 * kPageTokens);
  const PagePool share = pages.share(kPageTokens + 1);
  EXPECT_EQ(share.capacity(), 2 * kPageTokens);
  for (const std::size_t tile : {std::size_t{0}, kPageTiles, 2 * kPageTiles - 1}) {
    EXPECT_EQ(share.tile(tile), std::as_const(pages).tile(tile));
  }
  EXPECT_EQ(share.shared_bytes(), pages.shared_bytes());
  EXPECT_EQ(share.shared_bytes(), 2 * (kPageTokens * 62 + 64));
}

TEST(PagePoolTest, WhatIsSharedIsNotWritableUntilReserved) {
  PagePool pages(62);
  pages.reserve(3 * kPageTokens);
  EXPECT_EQ(pages.writable_end(40), 3 * kPageTokens);
  {
    PagePool share = pages.share(100);
    EXPECT_EQ(pages.writable_end(100), 100u);
    EXPECT_EQ(pages.writable_end(kPageTokens), 3 * kPageTokens);
    EXPECT_EQ(share.writable_end(100), 100u);
    share.reserve(101, 100);
    EXPECT_EQ(share.writable_end(100), kPageTokens);
    EXPECT_EQ(pages.writable_end(100), 3 * kPageTokens);
  }
  EXPECT_EQ(pages.shared_bytes(), 0u);
}

TEST(PagePoolTest, ReserveCopiesTheCodesHeldAndZeroesTheRest) {
  PagePool pages(5);
  pages.reserve(kPageTokens);
  std::memset(pages.tile(0), 0x11, kPageTokens * 5);
  PagePool share = pages.share(kTileTokens + 1);
  share.reserve(kTileTokens + 2, kTileTokens + 1);
  ASSERT_NE(share.tile(0), pages.tile(0));
  EXPECT_EQ(std::memcmp(share.tile(0), pages.tile(0), 2 * kTileTokens * 5), 0);
  const std::vector<std::byte> zeros((kPageTiles - 2) * kTileTokens * 5);
  EXPECT_EQ(std::memcmp(share.tile(2), zeros.data(), zeros.size()), 0);
  share.tile(0)[0] = std::byte{0x22};
  EXPECT_EQ(pages.tile(0)[0], std::byte{0x11});
}

TEST(PagePoolTest, ReserveTakesItsOwnOfEveryPageToBeWrittenAndNoOther) {
  PagePool pages(62);
  pages.reserve(4 * kPageTokens);
  PagePool share = pages.share(4 * kPageTokens);
  share.reserve(4 * kPageTokens, 2 * kPageTokens);  // as after a truncation
  const PagePool& before = pages;
  const PagePool& after = share;
  for (const std::size_t page : {0u, 1u}) {
    EXPECT_EQ(after.tile(page * kPageTiles), before.tile(page * kPageTiles));
  }
  for (const std::size_t page : {2u, 3u}) {
    EXPECT_NE(after.tile(page * kPageTiles), before.tile(page * kPageTiles));
  }
}

TEST(PagePoolTest, APageLivesAsLongAsAnOwner) {
  PagePool share(62);
  {
    PagePool pages(62);
    pages.reserve(kPageTokens);
    pages.tile(0)[0] = std::byte{7};
    share = pages.share(kPageTokens);
  }
  EXPECT_EQ(share.tile(0)[0], std::byte{7});
  EXPECT_EQ(share.shared_bytes(), 0u);
}

TEST(PagePoolTest, DropFrontGivesBackPagesAndTheOthersKeepTheirNumbers) {
  PagePool pages(62);
  pages.reserve(5 * kPageTokens);
  const std::byte* const third = pages.tile(2 * kPageTiles);
  const std::size_t page_bytes = kPageTokens * 62 + 64;
  const std::size_t before = pages.memory_bytes();
  pages.drop_front(3 * kPageTokens - 1);
  EXPECT_EQ(pages.capacity(), 5 * kPageTokens);
  EXPECT_EQ(pages.tile(2 * kPageTiles), third);
  EXPECT_EQ(pages.memory_bytes(), before - 2 * page_bytes);
  pages.drop_front(kPageTokens);  // They are gone already.
  EXPECT_EQ(pages.memory_bytes(), before - 2 * page_bytes);
}

TEST(PagePoolTest, AfterADroppedFrontEverythingGoesOn) {
  PagePool pages(62);
  pages.reserve(3 * kPageTokens);
  pages.tile(2 * kPageTiles)[0] = std::byte{3};
  pages.drop_front(2 * kPageTokens);
  PagePool share = pages.share(2 * kPageTokens + 5);
  EXPECT_EQ(share.capacity(), 3 * kPageTokens);
  EXPECT_EQ(pages.writable_end(2 * kPageTokens + 5), 2 * kPageTokens + 5);
  pages.reserve(4 * kPageTokens, 2 * kPageTokens + 5);
  EXPECT_EQ(pages.writable_end(2 * kPageTokens + 5), 4 * kPageTokens);
  EXPECT_EQ(pages.tile(2 * kPageTiles)[0], std::byte{3});
  pages.tile(2 * kPageTiles)[0] = std::byte{4};
  EXPECT_EQ(std::as_const(share).tile(2 * kPageTiles)[0], std::byte{3});
  pages.shrink(kPageTokens);
  EXPECT_EQ(pages.capacity(), 2 * kPageTokens);
  pages.reserve(3 * kPageTokens);
  EXPECT_EQ(pages.tile(2 * kPageTiles)[0], std::byte{0});
}

TEST(PagePoolTest, DroppingAllAndRestarting) {
  PagePool pages(62);
  pages.reserve(3 * kPageTokens);
  pages.drop_front(100 * kPageTokens);
  EXPECT_EQ(pages.capacity(), 3 * kPageTokens);
  EXPECT_EQ(pages.share(3 * kPageTokens).capacity(), 3 * kPageTokens);
  pages.reserve(4 * kPageTokens, 3 * kPageTokens);
  pages.restart();
  EXPECT_EQ(pages.capacity(), kPageTokens);
  pages.tile(0)[0] = std::byte{1};
}

// Owners of the same pages in threads of their own, each growing, shrinking and sharing again.
TEST(PagePoolTest, OwnersInSeveralThreadsSeeOnlyWhatTheyWrote) {
  PagePool pages(8);
  pages.reserve(2 * kPageTokens);
  std::memset(pages.tile(0), 1, 4);
  const auto work = [](PagePool own, std::byte mark, bool* ok) {
    for (int round = 0; round < 200; ++round) {
      PagePool share = own.share(kPageTokens + 5);
      own.reserve(2 * kPageTokens, kPageTokens + 5);
      own.tile(kPageTiles)[7] = mark;
      share.reserve(2 * kPageTokens, kPageTokens + 5);
      *ok = *ok && share.tile(kPageTiles)[7] == (round == 0 ? std::byte{0} : mark) &&
            std::as_const(own).tile(0)[0] == std::byte{1};
    }
  };
  bool ok[3] = {true, true, true};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 3; ++t) {
    threads.emplace_back(work, pages.share(kPageTokens + 5), static_cast<std::byte>(t + 1), &ok[t]);
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(ok[0] && ok[1] && ok[2]);
  EXPECT_EQ(pages.shared_bytes(), 0u);
}

// ---- The caller's memory ----

TEST(PagePoolTest, PagesComeFromTheCallersMemoryAndGoBackToIt) {
  CountingMemory memory;
  {
    PagePool pages(62, memory.allocator());
    pages.reserve(3 * kPageTokens);
    EXPECT_EQ(memory.num_held, 3u);
    EXPECT_GE(pages.memory_bytes(), memory.num_bytes_held);
    EXPECT_LE(pages.memory_bytes(), memory.num_bytes_held + 8 * sizeof(void*));
    EXPECT_EQ(pages.tile(0)[0], std::byte{0});
    PagePool share = pages.share(3 * kPageTokens);
    EXPECT_EQ(memory.num_held, 3u);
    share.reserve(3 * kPageTokens, 2 * kPageTokens + 1);
    EXPECT_EQ(memory.num_held, 4u);
    pages.shrink(kPageTokens);
    EXPECT_EQ(memory.num_held, 3u);
  }
  EXPECT_EQ(memory.num_held, 0u);
  EXPECT_EQ(memory.num_bytes_held, 0u);
}

TEST(PagePoolTest, MemoryThatIsNotThereIsAnErrorThatKeepsWhatIsHeld) {
  CountingMemory memory;
  memory.limit = 2;
  PagePool pages(62, memory.allocator());
  EXPECT_EQ(
      polarquant_test::message_of<std::runtime_error>([&] { pages.reserve(5 * kPageTokens); }),
      "polarquant: the page allocator has no " + std::to_string(kPageTokens * 62 + 64) +
          " bytes for a page");
  EXPECT_EQ(pages.capacity(), 2 * kPageTokens);
  EXPECT_EQ(memory.num_held, 2u);
}

TEST(PagePoolTest, HalfAnAllocatorIsAnError) {
  CountingMemory memory;
  polarquant::PageAllocator allocator = memory.allocator();
  EXPECT_EQ(allocator.problem(), "");
  allocator.deallocate = nullptr;
  EXPECT_EQ(allocator.problem(),
            "the page allocator has no deallocate: set both functions or neither");
  EXPECT_EQ(polarquant::PageAllocator().problem(), "");
}

}  // namespace
