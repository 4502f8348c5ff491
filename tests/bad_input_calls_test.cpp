// Every call with what it must refuse: one exception whose message names the value and the rule,
// and a cache that is as it was before.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "kv_cache_test_util.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using namespace polarquant_test;

// A cache of 20 tokens and a record of everything that can be seen of it.
class BadCallTest : public testing::Test {
 protected:
  BadCallTest() {
    memory_bytes_ = cache_.memory_bytes();
    capacity_ = cache_.capacity();
    output_ = cache_.attend(queries_);
    scores_ = cache_.attention_scores(queries_);
    codes_ = all_codes(cache_);
  }

  void expect_unchanged() const {
    ASSERT_EQ(cache_.num_tokens(), 20u);
    EXPECT_LE(cache_.memory_bytes(), memory_bytes_);
    EXPECT_EQ(cache_.capacity(), capacity_);
    EXPECT_TRUE(cache_.removed_tokens().empty());
    EXPECT_EQ(cache_.attend(queries_), output_);
    EXPECT_EQ(cache_.attention_scores(queries_), scores_);
    EXPECT_EQ(all_codes(cache_), codes_);
  }

  // After a failure the cache must go on as one that never saw the failed call.
  void expect_append_still_works() {
    KVCache<float> other = filled_cache<float>(20);
    for (KVCache<float>* cache : {&cache_, &other}) append_random(*cache, 30, 5);
    EXPECT_EQ(all_codes(cache_), all_codes(other));
    EXPECT_EQ(cache_.attend(queries_), other.attend(queries_));
  }

  KVCache<float> cache_ = filled_cache<float>(20);
  const RowMatrix<float> queries_ = polarquant_test::random_queries<float>(cache_.config(), 2);
  std::size_t memory_bytes_ = 0;
  std::size_t capacity_ = 0;
  RowMatrix<float> output_;
  RowMatrix<float> scores_;
  std::vector<std::byte> codes_;
};

TEST_F(BadCallTest, AppendOfKeysOfTheWrongWidth) {
  expect_invalid(
      [&] { cache_.append(RowMatrix<float>::Zero(3, 65), RowMatrix<float>::Zero(3, 96)); },
      {"keys are 3 x 65, must be [rows, num_kv_heads * head_dim = 2 * 32 = 64]"});
  expect_unchanged();
}

TEST_F(BadCallTest, AppendOfValuesOfTheWrongWidth) {
  expect_invalid(
      [&] { cache_.append(RowMatrix<float>::Zero(3, 64), RowMatrix<float>::Zero(3, 64)); },
      {"values are 3 x 64, must be [rows, num_kv_heads * head_dim = 2 * 48 = 96]"});
  expect_unchanged();
}

TEST_F(BadCallTest, AppendOfMoreKeysThanValues) {
  expect_invalid(
      [&] { cache_.append(RowMatrix<float>::Zero(3, 64), RowMatrix<float>::Zero(2, 96)); },
      {"3 keys and 2 values", "as many of each"});
  expect_unchanged();
}

// Tokens are counted from the start of the cache.
TEST_F(BadCallTest, AppendOfANonFiniteKeyNamesTokenAndHead) {
  using Limits = std::numeric_limits<float>;
  for (const float bad : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()}) {
    for (const Index row : {0, 11, 12, 299}) {
      for (const int head : {0, 1}) {
        RowMatrix<float> keys = gaussian_matrix<float>(300, 64, 5);
        keys(row, head * 32 + 13) = bad;
        expect_invalid([&] { cache_.append(keys, gaussian_matrix<float>(300, 96, 6)); },
                       {("the key of token " + std::to_string(20 + row) + ", KV head " +
                         std::to_string(head) + " has a NaN or an infinity")
                            .c_str(),
                        "nothing was appended"});
      }
    }
  }
  expect_unchanged();
  expect_append_still_works();
}

TEST_F(BadCallTest, AppendOfANonFiniteValueNamesTokenAndHead) {
  for (const Index row : {0, 12, 299}) {
    for (const int head : {0, 1}) {
      RowMatrix<float> values = gaussian_matrix<float>(300, 96, 6);
      values(row, head * 48 + 47) = std::numeric_limits<float>::quiet_NaN();
      expect_invalid([&] { cache_.append(gaussian_matrix<float>(300, 64, 5), values); },
                     {("the value of token " + std::to_string(20 + row) + ", KV head " +
                       std::to_string(head) + " has a NaN or an infinity")
                          .c_str(),
                      "nothing was appended"});
    }
  }
  expect_unchanged();
  expect_append_still_works();
}

TEST_F(BadCallTest, AFailedAppendKeepsWhatWasReserved) {
  cache_.reserve(5000);
  const std::size_t capacity = cache_.capacity();
  RowMatrix<float> keys = gaussian_matrix<float>(300, 64, 5);
  keys(299, 0) = std::numeric_limits<float>::quiet_NaN();
  expect_invalid([&] { cache_.append(keys, gaussian_matrix<float>(300, 96, 6)); },
                 {"the key of token 319"});
  EXPECT_EQ(cache_.capacity(), capacity);
}

TEST_F(BadCallTest, AFailedAppendToAFreshCacheLeavesItFresh) {
  KVCache<float> fresh = make_cache<float>(make_config());
  const std::size_t memory_bytes = fresh.memory_bytes();
  RowMatrix<float> keys = gaussian_matrix<float>(3, 64, 5);
  keys(2, 0) = std::numeric_limits<float>::infinity();
  expect_invalid([&] { fresh.append(keys, gaussian_matrix<float>(3, 96, 6)); },
                 {"the key of token 2, KV head 0"});
  EXPECT_EQ(fresh.num_tokens(), 0u);
  EXPECT_EQ(fresh.memory_bytes(), memory_bytes);
}

TEST_F(BadCallTest, TruncateToMoreThanThereIs) {
  expect_invalid([&] { cache_.truncate(21); }, {"truncate to 21 tokens: the cache holds 20"});
  const std::size_t negative = static_cast<std::size_t>(-3);
  expect_invalid(
      [&] { cache_.truncate(negative); },
      {("truncate to " + std::to_string(negative) + " tokens (a negative number?)").c_str(),
       "the cache holds 20"});
  expect_unchanged();
}

TEST_F(BadCallTest, RemoveOfTokensThatAreNotThere) {
  for (const polarquant::TokenRange range : {polarquant::TokenRange{20, 1},
                                             {21, 0},
                                             {5, 16},
                                             {0, 21},
                                             {},
                                             {static_cast<std::size_t>(-1), 3}}) {
    expect_invalid([&] { cache_.remove(range); }, {"remove of ", "the cache holds 20"});
  }
  expect_unchanged();
  cache_.remove({20, 0});  // Nothing.
  expect_unchanged();
}

TEST_F(BadCallTest, QueriesOfTheWrongWidth) {
  const RowMatrix<float> queries(1, 191);
  const char* const rule =
      "queries are 1 x 191, must be [rows, num_query_heads * head_dim = 6 * 32 = 192]";
  expect_invalid([&] { cache_.attend(queries); }, {rule});
  expect_invalid([&] { cache_.attend_partial(queries); }, {rule});
  expect_invalid([&] { cache_.attention_scores(queries); }, {rule});
}

TEST_F(BadCallTest, HeadsOutOfRange) {
  for (const int head : {-1, 2}) {
    const std::string name = "KV head " + std::to_string(head);
    expect_invalid([&] { cache_.decode_keys(head); }, {name.c_str(), "the cache has 2"});
    expect_invalid([&] { cache_.decode_values(head); }, {name.c_str(), "the cache has 2"});
    expect_invalid([&] { cache_.key_code(head, 0); }, {name.c_str(), "the cache has 2"});
    expect_invalid([&] { cache_.value_code(head, 0); }, {name.c_str(), "the cache has 2"});
  }
}

TEST_F(BadCallTest, TokensOutOfRange) {
  expect_invalid([&] { cache_.key_code(0, 20); }, {"token 20", "the cache holds 20"});
  expect_invalid([&] { cache_.value_code(1, 1000); }, {"token 1000", "the cache holds 20"});
}

TEST(BadAppendTest, AFloat16RadiusThatOverflowsNamesTokenHeadAndType) {
  KVCacheConfig config = make_config();
  config.key_format = polarquant_test::with_meaning(
      PolarFormat::paper(32), polarquant::RadiusMeaning::kUnbiased, FloatType::kFloat16);
  config.value_format = PolarFormat::uncompressed(48);
  KVCache<float> cache(config);
  const RowMatrix<float> keys = gaussian_matrix<float>(20, 64, 5);
  const RowMatrix<float> values = gaussian_matrix<float>(20, 96, 6);
  cache.append(keys, values);
  RowMatrix<float> large_keys = keys;
  large_keys.row(7).tail(32) *= 1e5f;
  expect_invalid(
      [&] { cache.append(large_keys, values); },
      {"the key of token 27, KV head 1 is beyond the range of float16", "nothing was appended"});
  RowMatrix<float> large_values = values;
  large_values(9, 3) = 65520.0f;
  expect_invalid([&] { cache.append(keys, large_values); },
                 {"the value of token 29, KV head 0 is beyond the range of float16"});
  EXPECT_EQ(cache.num_tokens(), 20u);
}

TEST(BadAppendTest, HalvesThatAreNotFiniteAreRefused) {
  KVCache<Eigen::half> cache = make_cache<Eigen::half>(make_config());
  RowMatrix<Eigen::half> keys = gaussian_matrix<Eigen::half>(3, 64, 5);
  keys(1, 40) = std::numeric_limits<Eigen::half>::infinity();
  expect_invalid([&] { cache.append(keys, gaussian_matrix<Eigen::half>(3, 96, 6)); },
                 {"the key of token 1, KV head 1 has a NaN or an infinity"});
}

// The result of the noexcept call says what the message of the other one says.
TEST(BadAppendTest, TheCallOnRowsReportsInsteadOfThrowing) {
  KVCache<float> cache = make_cache<float>(make_config());
  const RowMatrix<float> keys = gaussian_matrix<float>(40, 64, 5);
  RowMatrix<float> values = gaussian_matrix<float>(40, 96, 6);
  values(33, 50) = std::numeric_limits<float>::quiet_NaN();
  cache.reserve(40);
  polarquant_test::GuardedBytes scratch(cache.scratch_bytes());
  const polarquant::AppendResult result =
      cache.append({keys.data(), 40, 64}, {values.data(), 40, 96}, scratch.data());
  EXPECT_EQ(result.failure, polarquant::EncodeFailure::kNotFinite);
  EXPECT_EQ(result.token, 33u);
  EXPECT_EQ(result.kv_head, 1);
  EXPECT_EQ(result.side, polarquant::Side::kValues);
  EXPECT_EQ(cache.num_tokens(), 0u);
}

}  // namespace
