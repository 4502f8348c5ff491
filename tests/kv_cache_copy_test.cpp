// Copies of a cache, the front that it drops, and the memory it gives back.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "counting_memory.hpp"
#include "kv_cache_test_util.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using polarquant::detail::kPageTokens;
using namespace polarquant_test;

constexpr Index kPage = static_cast<Index>(kPageTokens);

void append(KVCache<float>& cache, Index num_tokens, std::uint64_t seed) {
  polarquant_test::append_random(cache, num_tokens, seed);
}

RowMatrix<float> attend(const KVCache<float>& cache) {
  return cache.attend(polarquant_test::random_queries<float>(cache.config(), 2, 9));
}

template <typename Family>
class KVCacheCopyTest : public testing::Test {
 protected:
  static KVCacheConfig make_config() { return polarquant_test::make_config<Family>(); }
  static KVCache<float> filled_cache(Index num_tokens) {
    return polarquant_test::filled_cache<float>(num_tokens, make_config());
  }
};
TYPED_TEST_SUITE(KVCacheCopyTest, polarquant_test::Families, );  // clang++ wants the empty one.

TYPED_TEST(KVCacheCopyTest, ACopyHoldsTheSameCodesAndAnswersTheSame) {
  const KVCache<float> cache = TestFixture::filled_cache(kPage + 77);
  const KVCache<float> copy = cache.copy();
  EXPECT_EQ(copy.num_tokens(), cache.num_tokens());
  EXPECT_EQ(copy.codec(), cache.codec());
  EXPECT_EQ(all_codes(copy), all_codes(cache));
  EXPECT_EQ(attend(copy), attend(cache));
}

TYPED_TEST(KVCacheCopyTest, NeitherSeesWhatTheOtherAppends) {
  for (const Index num_tokens : {Index{1}, Index{33}, kPage - 1, kPage, kPage + 40}) {
    KVCache<float> cache = TestFixture::filled_cache(num_tokens);
    const std::vector<std::byte> before = all_codes(cache);
    KVCache<float> copy = cache.copy();
    append(copy, 40, 5);
    EXPECT_EQ(all_codes(cache), before);
    append(cache, 40, 7);
    KVCache<float> expected = TestFixture::filled_cache(num_tokens);
    append(expected, 40, 5);
    EXPECT_EQ(all_codes(copy), all_codes(expected));
    expected.truncate(static_cast<std::size_t>(num_tokens));
    append(expected, 40, 7);
    EXPECT_EQ(all_codes(cache), all_codes(expected));
  }
}

TYPED_TEST(KVCacheCopyTest, AppendAfterTruncatingIntoSharedPagesLeavesTheOtherAlone) {
  KVCache<float> cache = TestFixture::filled_cache(3 * kPage);
  const std::vector<std::byte> before = all_codes(cache);
  KVCache<float> copy = cache.copy();
  copy.truncate(kPageTokens + 9);
  append(copy, kPage, 5);
  EXPECT_EQ(all_codes(cache), before);
  KVCache<float> expected = TestFixture::filled_cache(3 * kPage);
  expected.truncate(kPageTokens + 9);
  append(expected, kPage, 5);
  EXPECT_EQ(all_codes(copy), all_codes(expected));
}

TYPED_TEST(KVCacheCopyTest, CapacityIsWhatFitsWithoutAnAllocation) {
  KVCache<float> cache = TestFixture::filled_cache(100);
  cache.reserve(2 * kPageTokens);
  KVCache<float> copy = cache.copy();
  EXPECT_EQ(cache.capacity(), 100u);
  EXPECT_EQ(copy.capacity(), 100u);
  cache.reserve(101);
  EXPECT_EQ(cache.capacity(), 2 * kPageTokens);
  EXPECT_EQ(copy.capacity(), kPageTokens);  // It is alone now.
}

TYPED_TEST(KVCacheCopyTest, AFailedAppendToACopyChangesNeither) {
  KVCache<float> cache = TestFixture::filled_cache(100);
  const std::vector<std::byte> before = all_codes(cache);
  KVCache<float> copy = cache.copy();
  RowMatrix<float> keys = gaussian_matrix<float>(5, 64, 5);
  keys(3, 40) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(copy.append(keys, gaussian_matrix<float>(5, 96, 6)), std::invalid_argument);
  EXPECT_EQ(all_codes(copy), before);
  EXPECT_EQ(all_codes(cache), before);
}

TYPED_TEST(KVCacheCopyTest, CopiesOfCopiesInThreadsOfTheirOwn) {
  const KVCache<float> cache = TestFixture::filled_cache(kPage + 20);
  const std::vector<std::byte> before = all_codes(cache);
  std::vector<KVCache<float>> beams;
  for (int i = 0; i < 4; ++i) beams.push_back(cache.copy());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < beams.size(); ++i) {
    threads.emplace_back([&beam = beams[i], i] {
      for (std::uint64_t step = 0; step < 10; ++step) {
        KVCache<float> fork = beam.copy();
        append(beam, 3, 100 * i + step);
        append(fork, 2, step);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(all_codes(cache), before);
  for (std::size_t i = 0; i < beams.size(); ++i) {
    KVCache<float> expected = TestFixture::filled_cache(kPage + 20);
    for (std::uint64_t step = 0; step < 10; ++step) append(expected, 3, 100 * i + step);
    EXPECT_EQ(all_codes(beams[i]), all_codes(expected));
  }
}

// 100,000 tokens of 8 KV heads at 62 bytes a vector: 99.2 MB, of which nothing is copied.
TEST(KVCacheCopyOfManyTest, ItSharesEveryPageAndHoldsUnderOnePercentBeside) {
  CountingMemory memory;
  memory.limit = 100000;
  KVCacheConfig config;
  config.num_kv_heads = config.num_query_heads = 8;
  config.key_format = config.value_format = PolarFormat::paper(128);
  config.rotation = RotationKind::kHadamard;
  config.allocator = memory.allocator();
  polarquant_test::encode_all(config);
  KVCache<float> cache(config);
  const RowMatrix<float> rows = gaussian_matrix<float>(kSanitized ? 100 : 1000, 1024, 1);
  for (int piece = 0; piece < 100; ++piece) cache.append(rows, rows);
  const std::size_t pages_before = memory.num_held;

  KVCache<float> copy = cache.copy();
  EXPECT_EQ(memory.num_held, pages_before);
  EXPECT_EQ(copy.shared_bytes(), memory.num_bytes_held);
  EXPECT_EQ(cache.shared_bytes(), memory.num_bytes_held);
  EXPECT_LT(static_cast<double>(copy.memory_bytes() - copy.shared_bytes()),
            0.01 * static_cast<double>(cache.memory_bytes()));
  copy.append(rows.topRows(1), rows.topRows(1));  // One page of each head and side, no more.
  EXPECT_EQ(memory.num_held, pages_before + 16);
}

TYPED_TEST(KVCacheCopyTest, DropFrontForgetsWholeTilesOfTheOldest) {
  KVCache<float> cache = TestFixture::filled_cache(3 * kPage + 50);
  const RowMatrix<float> keys = cache.decode_keys(1);
  const RowMatrix<float> values = cache.decode_values(1);
  const RowMatrix<float> scores =
      cache.attention_scores(polarquant_test::random_queries<float>(cache.config(), 1));
  EXPECT_EQ(cache.drop_front(kTileTokens - 1), 0u);
  EXPECT_EQ(cache.num_tokens(), 3 * kPageTokens + 50);
  EXPECT_EQ(cache.drop_front(2 * kPageTokens + 3 * kTileTokens + 3),
            2 * kPageTokens + 3 * kTileTokens);
  const Index left = kPage + 50 - 3 * static_cast<Index>(kTileTokens);
  ASSERT_EQ(cache.num_tokens(), static_cast<std::size_t>(left));
  EXPECT_EQ(cache.decode_keys(1), keys.bottomRows(left));
  EXPECT_EQ(cache.decode_values(1), values.bottomRows(left));
  const RowMatrix<float> after =
      cache.attention_scores(polarquant_test::random_queries<float>(cache.config(), 1));
  EXPECT_LT((after - scores.rightCols(left)).norm(), 1e-5f * scores.norm());
}

TYPED_TEST(KVCacheCopyTest, DropFrontOfMoreThanAllForgetsNoMoreThanItsWholeTiles) {
  KVCache<float> cache = TestFixture::filled_cache(kPage + 5);
  EXPECT_EQ(cache.drop_front(100 * kPageTokens), kPageTokens);
  EXPECT_EQ(cache.num_tokens(), 5u);
}

TYPED_TEST(KVCacheCopyTest, DropFrontKeepsSinksAndExactTokens) {
  KVCacheConfig config = TestFixture::make_config();
  config.num_sink_tokens = 4;
  config.num_recent_tokens = 50;
  KVCache<float> cache = make_cache<float>(config);
  append(cache, 300, 1);
  const RowMatrix<float> keys = cache.decode_keys(0);
  const RowMatrix<float> values = cache.decode_values(1);
  const std::size_t num_encoded = cache.num_encoded_tokens();
  const std::size_t dropped = cache.drop_front(1000);
  EXPECT_EQ(dropped, num_encoded / kTileTokens * kTileTokens);
  const Index left = 300 - static_cast<Index>(dropped);
  ASSERT_EQ(cache.num_tokens(), static_cast<std::size_t>(left));
  EXPECT_EQ(cache.decode_keys(0).topRows(4), keys.topRows(4));
  EXPECT_EQ(cache.decode_keys(0).bottomRows(left - 4), keys.bottomRows(left - 4));
  EXPECT_EQ(cache.decode_values(1).bottomRows(left - 4), values.bottomRows(left - 4));
}

// Dropping now and then, with truncations and copies, is a cache that never held what was dropped.
TYPED_TEST(KVCacheCopyTest, AfterDropFrontEverythingGoesOn) {
  for (const std::size_t num_recent : {0u, 40u}) {
    KVCacheConfig config = TestFixture::make_config();
    config.num_sink_tokens = 3;
    config.num_recent_tokens = num_recent;
    KVCache<float> cache = make_cache<float>(config);
    RowMatrix<float> keys(3, 32);  // of head 0, as they are kept
    append(cache, 3, 99);
    keys = cache.decode_keys(0);
    for (std::uint64_t step = 0; step < 60; ++step) {
      append(cache, 37, step);
      if (step % 3 == 1) {
        const RowMatrix<float> before = cache.decode_keys(0);
        const Index dropped = static_cast<Index>(cache.drop_front(70));
        RowMatrix<float> expected(before.rows() - dropped, 32);
        expected << before.topRows(3), before.bottomRows(before.rows() - dropped - 3);
        ASSERT_EQ(cache.decode_keys(0), expected) << step;
      }
      if (step % 7 == 2) cache = cache.copy();
      if (step % 11 == 3) {
        const RowMatrix<float> before = cache.decode_values(1);
        cache.truncate(cache.num_tokens() - 25);
        ASSERT_EQ(cache.decode_values(1), before.topRows(before.rows() - 25)) << step;
      }
      if (step == 40) cache.shrink();
    }
    const RowMatrix<float> output = attend(cache);
    EXPECT_TRUE(output.allFinite());
    cache.clear();
    EXPECT_EQ(cache.num_tokens(), 0u);
    append(cache, 100, 1);
    KVCache<float> fresh = make_cache<float>(config);
    append(fresh, 100, 1);
    EXPECT_EQ(cache.decode_keys(0), fresh.decode_keys(0));
  }
}

TYPED_TEST(KVCacheCopyTest, ACopyHasTheExactTokensAndTheCentres) {
  KVCacheConfig config = TestFixture::make_config();
  config.num_sink_tokens = 4;
  config.num_recent_tokens = 50;
  config.centering = polarquant::Centering::kLocal;
  for (const Index num_tokens : {3, 20, 40, 300}) {
    KVCache<float> cache = make_cache<float>(config);
    append(cache, num_tokens, 1);
    KVCache<float> copy = cache.copy();
    EXPECT_EQ(copy.decode_keys(1), cache.decode_keys(1));
    append(cache, 100, 3);
    const RowMatrix<float> keys = cache.decode_keys(1);
    append(copy, 100, 3);
    EXPECT_EQ(copy.decode_keys(1), keys);
    EXPECT_EQ(attend(copy), attend(cache));
  }
}

TYPED_TEST(KVCacheCopyTest, DropFrontAndAppendAfterACopyLeaveTheCopyAlone) {
  KVCache<float> cache = TestFixture::filled_cache(2 * kPage + 5);
  const KVCache<float> copy = cache.copy();
  const std::vector<std::byte> before = all_codes(copy);
  cache.drop_front(kPageTokens + kTileTokens);
  append(cache, kPage, 5);
  EXPECT_EQ(all_codes(copy), before);
}

TYPED_TEST(KVCacheCopyTest, AWindowThatDropsItsFrontHoldsBoundedMemory) {
  CountingMemory memory;
  KVCacheConfig config = TestFixture::make_config();
  config.allocator = memory.allocator();
  KVCache<float> cache = make_cache<float>(config);
  for (std::uint64_t step = 0; step < 20; ++step) {
    append(cache, 300, step);
    if (cache.num_tokens() > 1000) cache.drop_front(cache.num_tokens() - 1000);
    EXPECT_LE(memory.num_held, 4 * ((1000 + 300) / kPageTokens + 2));
  }
  EXPECT_LT(cache.num_tokens(), 1000 + kTileTokens);
}

TYPED_TEST(KVCacheCopyTest, ShrinkGivesBackWhatTheTokensDoNotNeed) {
  CountingMemory memory;
  KVCacheConfig config = TestFixture::make_config();
  config.allocator = memory.allocator();
  KVCache<float> cache = make_cache<float>(config);
  append(cache, 3 * kPage, 1);
  cache.reserve(10 * kPageTokens);
  EXPECT_EQ(memory.num_held, 40u);
  cache.truncate(kPageTokens + 1);
  cache.shrink();
  EXPECT_EQ(memory.num_held, 8u);
  EXPECT_EQ(cache.capacity(), 2 * kPageTokens);
}

TYPED_TEST(KVCacheCopyTest, TheCallersMemoryRunsOutWithAnErrorAndTheCacheStaysAsItWas) {
  CountingMemory memory;
  memory.limit = 4;
  KVCacheConfig config = TestFixture::make_config();
  config.allocator = memory.allocator();
  KVCache<float> cache = make_cache<float>(config);
  append(cache, kPage, 1);
  const std::vector<std::byte> before = all_codes(cache);
  EXPECT_THROW(append(cache, 1, 2), std::runtime_error);
  EXPECT_EQ(all_codes(cache), before);
}

TYPED_TEST(KVCacheCopyTest, HalfAnAllocatorIsRefused) {
  KVCacheConfig config = TestFixture::make_config();
  config.allocator.deallocate = [](void*, void*, std::size_t) {};
  EXPECT_THROW(KVCache<float>{config}, std::invalid_argument);
}

}  // namespace
