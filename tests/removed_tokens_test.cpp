#include "polarquant/storage/removed_tokens.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include "test_util.hpp"

namespace {

using polarquant::TokenRange;
using polarquant::detail::RemovedTokens;
using polarquant_test::random_int;

using Ranges = std::vector<TokenRange>;

TEST(TokenRangeTest, EndsWhereTheTokensEnd) {
  EXPECT_EQ(TokenRange{}.end_within(10), 10u);
  EXPECT_EQ((TokenRange{3, 4}.end_within(10)), 7u);
  EXPECT_EQ((TokenRange{3, 100}.end_within(10)), 10u);
  EXPECT_EQ((TokenRange{20, 5}.end_within(10)), 10u);
  EXPECT_EQ((TokenRange{3, std::numeric_limits<std::size_t>::max()}.end_within(10)), 10u);
}

TEST(RemovedTokensTest, RangesThatTouchBecomeOne) {
  RemovedTokens removed;
  removed.add({10, 5});
  removed.add({20, 5});
  removed.add({30, 0});
  EXPECT_EQ(removed.ranges(), (Ranges{{10, 5}, {20, 5}}));
  removed.add({15, 5});
  EXPECT_EQ(removed.ranges(), (Ranges{{10, 15}}));
  removed.add({0, 2});
  removed.add({1, 40});
  EXPECT_EQ(removed.ranges(), (Ranges{{0, 41}}));
}

// Against a list of flags, through everything that happens to tokens.
TEST(RemovedTokensTest, IsAListOfFlags) {
  polarquant::Random random(3);
  for (int trial = 0; trial < 200; ++trial) {
    RemovedTokens removed;
    std::vector<bool> flags(static_cast<std::size_t>(random_int(random, 1, 300)));
    for (int step = 0; step < 20; ++step) {
      const int size = static_cast<int>(flags.size());
      const auto first = static_cast<std::size_t>(random_int(random, 0, size));
      const auto count =
          static_cast<std::size_t>(random_int(random, 0, size - static_cast<int>(first)));
      const auto begin = flags.begin() + static_cast<std::ptrdiff_t>(first);
      const auto end = begin + static_cast<std::ptrdiff_t>(count);
      switch (random_int(random, 0, 4)) {
        case 0:
          removed.forget(first, count);
          flags.erase(begin, end);
          break;
        case 1:
          removed.truncate(first);
          flags.resize(first);
          flags.resize(flags.size() + 50);
          break;
        default:
          removed.add({first, count});
          std::fill(begin, end, true);
      }
      std::vector<bool> found(flags.size());
      std::size_t last_end = 0;
      for (const TokenRange& range : removed.ranges()) {
        ASSERT_GT(range.count, 0u);
        ASSERT_TRUE(range.first > last_end || last_end == 0) << "ranges touch";
        last_end = range.first + range.count;
        ASSERT_LE(last_end, flags.size());
        for (std::size_t i = range.first; i < last_end; ++i) found[i] = true;
      }
      ASSERT_EQ(found, flags) << "trial " << trial << ", step " << step;
      // A part of the tokens, counted from its own start.
      const std::size_t part = flags.size() / 3;
      std::vector<bool> within(part);
      removed.for_each_within(part, part, [&](std::size_t at, std::size_t length) {
        for (std::size_t i = at; i < at + length; ++i) within[i] = true;
      });
      for (std::size_t i = 0; i < part; ++i) ASSERT_EQ(within[i], flags[part + i]);
    }
  }
}

}  // namespace
