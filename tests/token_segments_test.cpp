#include "polarquant/storage/token_segments.hpp"

#include <gtest/gtest.h>

#include <cstddef>

namespace {

using polarquant::detail::TokenSegments;

TEST(TokenSegmentsTest, EveryTokenIsInOneSegment) {
  TokenSegments segments;
  segments.max_sinks = 3;
  segments.num_tokens = 100;
  segments.num_encoded = 64;
  EXPECT_EQ(segments.first_recent(), 67u);
  EXPECT_EQ(segments.num_recent(), 33u);
  for (std::size_t token = 0; token < 100; ++token) {
    EXPECT_EQ(segments.is_sink(token), token < 3);
    EXPECT_EQ(segments.is_encoded(token), token >= 3 && token < 67);
  }
  segments.truncate(50);
  EXPECT_EQ(segments.num_encoded, 47u);
  EXPECT_EQ(segments.num_recent(), 0u);
  segments.truncate(2);
  EXPECT_EQ(segments.num_sinks(), 2u);
  EXPECT_EQ(segments.num_encoded, 0u);
}

TEST(TokenSegmentsTest, ASlotStaysWhereItIsWhenTheFrontIsDropped) {
  TokenSegments segments;
  segments.max_sinks = 3;
  segments.num_tokens = 200;
  segments.num_encoded = 150;
  EXPECT_EQ(segments.rest_of_tile(), 10u);
  EXPECT_EQ(segments.slot(103), 100u);
  EXPECT_EQ(segments.drop(95), 64u);
  EXPECT_EQ(segments.num_tokens, 136u);
  EXPECT_EQ(segments.slot(103 - 64), 100u);
  EXPECT_EQ(segments.token_of(100), 39u);
  EXPECT_EQ(segments.end_of_codes(), 150u);
  EXPECT_EQ(segments.rest_of_tile(), 10u);
  EXPECT_EQ(segments.drop(1000), 64u);
  EXPECT_EQ(segments.drop(1000), 0u);
}

}  // namespace
