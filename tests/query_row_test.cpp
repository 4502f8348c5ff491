#include "polarquant/attention/query_row.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

#include "test_util.hpp"

namespace {

using polarquant::AttentionOptions;
using polarquant::TokenRange;
using polarquant::detail::position_of;
using polarquant::detail::QueryRow;
using polarquant::detail::TokenSpan;
using polarquant_test::random_int;

TEST(TokenSpanTest, WithinIsWhatLiesInAPiece) {
  const auto expect = [](TokenSpan span, std::size_t begin, std::size_t end) {
    EXPECT_EQ(span.begin, begin);
    EXPECT_EQ(span.end, end);
  };
  expect(TokenSpan{10, 20}.within(0, 5), 5, 5);
  expect(TokenSpan{10, 20}.within(0, 15), 10, 15);
  expect(TokenSpan{10, 20}.within(12, 3), 0, 3);
  expect(TokenSpan{10, 20}.within(15, 100), 0, 5);
  expect(TokenSpan{10, 20}.within(20, 5), 0, 0);
  EXPECT_TRUE(TokenSpan{}.is_empty());
  EXPECT_TRUE((TokenSpan{3, 2}.is_empty()));
}

TEST(PositionTest, StaysAtTheLastOfTheType) {
  constexpr std::ptrdiff_t kLast = std::numeric_limits<std::ptrdiff_t>::max();
  EXPECT_EQ(position_of(-3, 5), 2);
  EXPECT_EQ(position_of(kLast - 1, 1), kLast);
  EXPECT_EQ(position_of(kLast - 1, 2), kLast);
  EXPECT_EQ(position_of(kLast, 1000), kLast);
  EXPECT_EQ(position_of(std::numeric_limits<std::ptrdiff_t>::min(), 0),
            std::numeric_limits<std::ptrdiff_t>::min());
}

// Token by token against the rule of AttentionOptions: what is seen and not hidden, and pieces of
// the tokens in which nothing is seen.
TEST(QueryRowTest, LooksAtTheTokensThatTheOptionsShow) {
  polarquant::Random random(7);
  for (int trial = 0; trial < 5000; ++trial) {
    AttentionOptions<float> options;
    options.causal = random_int(random, 0, 2) > 0;
    options.window = static_cast<std::size_t>(random_int(random, 0, 1) * random_int(random, 1, 60));
    options.window_sinks =
        static_cast<std::size_t>(random_int(random, 0, 1) * random_int(random, 1, 60));
    const auto num_tokens = static_cast<std::size_t>(random_int(random, 0, 100));
    TokenRange asked;
    if (random_int(random, 0, 1) == 0) {
      asked = {static_cast<std::size_t>(random_int(random, 0, 110)),
               static_cast<std::size_t>(random_int(random, 0, 110))};
    }
    QueryRow<float> row;
    row.position = random_int(random, -5, 150);
    row.look(options, asked, num_tokens);
    std::vector<bool> is_seen(num_tokens);
    for (std::size_t token = 0; token < num_tokens; ++token) {
      const auto at = static_cast<std::ptrdiff_t>(token);
      const bool is_in_window = options.window == 0 || token < options.window_sinks ||
                                row.position - at < static_cast<std::ptrdiff_t>(options.window);
      is_seen[token] = token >= asked.first && token < asked.end_within(num_tokens) &&
                       (!options.causal || at <= row.position) && is_in_window;
      const bool found = token >= row.visible.begin && token < row.visible.end &&
                         !(token >= row.hidden.begin && token < row.hidden.end);
      ASSERT_EQ(found, is_seen[token]) << "trial " << trial << ", token " << token;
    }
    const std::size_t first = num_tokens / 3;
    const bool sees_piece =
        std::count(is_seen.begin() + static_cast<std::ptrdiff_t>(first),
                   is_seen.begin() + static_cast<std::ptrdiff_t>(2 * first), true) > 0;
    // An unseen piece may be visited, a seen one must be.
    ASSERT_TRUE(!sees_piece || !row.seen(first, first).is_empty());
  }
}

}  // namespace
