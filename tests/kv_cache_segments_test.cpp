// Exact segments: which tokens stay exact, when they are encoded, and that attention sees all of
// them under one softmax.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "count_allocations.hpp"
#include "kv_cache_test_util.hpp"
#include "plain_attention.hpp"
#include "plain_cache.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using namespace polarquant_test;

constexpr std::size_t kTile = kTileTokens;

KVCacheConfig config_of(std::size_t num_sinks, std::size_t num_recent,
                        FloatType exact_type = FloatType::kFloat32) {
  KVCacheConfig config = segments_config(num_sinks, num_recent);
  config.exact_type = exact_type;
  return config;
}

template <typename Case>
class KVCacheSegmentsTest : public testing::Test {
 protected:
  using T = typename Case::T;
  using Cache = KVCache<T>;

  static KVCacheConfig config_of(std::size_t num_sinks, std::size_t num_recent,
                                 FloatType exact_type = FloatType::kFloat32) {
    KVCacheConfig config = segments_config<typename Case::Family>(num_sinks, num_recent);
    config.exact_type = exact_type;
    return config;
  }
  static Cache cache_of(std::size_t num_sinks, std::size_t num_recent,
                        FloatType exact_type = FloatType::kFloat32) {
    return make_cache<T>(config_of(num_sinks, num_recent, exact_type));
  }
  void append(Cache& cache, Index first, Index count) const {
    tokens_.append_to(cache, first, count);
  }
  void expect_attention_of_decoded(const Cache& cache) const {
    const RowMatrix<double> output = cache.attend(queries_).template cast<double>();
    ASSERT_LE((output - plain_attention(cache, queries_)).cwiseAbs().maxCoeff(),
              attention_tolerance<T>(48))
        << cache.num_tokens() << " tokens";
  }

  const TokenRows<T> tokens_{config_of(0, 0), 700, 1};
  const RowMatrix<T> queries_ = random_queries<T>(config_of(0, 0), 3);
};
TYPED_TEST_SUITE(KVCacheSegmentsTest,
                 polarquant_test::CacheCases, );  // clang++ wants the empty argument.

TYPED_TEST(KVCacheSegmentsTest, ATokenLeavesTheWindowInWholeTiles) {
  auto cache = TestFixture::cache_of(4, 50);
  for (Index token = 0; token < 300; ++token) {
    this->append(cache, token, 1);
    const std::size_t behind_sinks =
        cache.num_tokens() - std::min<std::size_t>(4, static_cast<std::size_t>(token) + 1);
    const std::size_t outside = behind_sinks > 50 ? behind_sinks - 50 : 0;
    ASSERT_EQ(cache.num_encoded_tokens(), outside / kTile * kTile) << token;
  }
}

TYPED_TEST(KVCacheSegmentsTest, ExactTokensAreWhatCameIn) {
  // The type of the rows themselves is the default.
  KVCacheConfig config = TestFixture::config_of(5, 60);
  config.exact_type = {};
  auto cache = make_cache<typename TypeParam::T>(config);
  this->append(cache, 0, 200);
  const std::size_t num_encoded = cache.num_encoded_tokens();
  ASSERT_EQ(num_encoded, 135 / kTile * kTile);
  const auto decoded = cache.decode_keys(1);
  const auto decoded_values = cache.decode_values(0);
  for (Index token = 0; token < 200; ++token) {
    const bool is_exact = token < 5 || token >= static_cast<Index>(5 + num_encoded);
    const auto given =
        this->tokens_.keys.row(token).tail(32).template cast<typename TypeParam::A>();
    const auto given_value =
        this->tokens_.values.row(token).head(48).template cast<typename TypeParam::A>();
    EXPECT_EQ(decoded.row(token) == given, is_exact) << token;
    EXPECT_EQ(decoded_values.row(token) == given_value, is_exact) << token;
  }
}

TYPED_TEST(KVCacheSegmentsTest, Float16RowsAreWithinHalfAUnit) {
  auto cache = TestFixture::cache_of(5, 60, FloatType::kFloat16);
  this->append(cache, 0, 60);
  const RowMatrix<double> decoded = cache.decode_keys(0).template cast<double>();
  const RowMatrix<double> given = this->tokens_.keys.topLeftCorner(60, 32).template cast<double>();
  EXPECT_LE(((decoded - given).array() / given.array().abs().max(1e-4)).abs().maxCoeff(), 0x1p-11);
}

TYPED_TEST(KVCacheSegmentsTest, AttentionIsThatOverAllTokens) {
  for (const FloatType type :
       {FloatType::kFloat16, FloatType::kBFloat16, FloatType::kFloat32, FloatType::kFloat64}) {
    for (const std::size_t num_recent : {0u, 1u, 33u, 128u, 600u}) {
      auto cache = TestFixture::cache_of(num_recent % 5, num_recent, type);
      for (const Index count : {2, 40, 600, 3}) {
        this->append(cache, static_cast<Index>(cache.num_tokens()), count);
        this->expect_attention_of_decoded(cache);
        if (this->HasFailure()) FAIL() << num_recent << " recent";
      }
    }
  }
}

TYPED_TEST(KVCacheSegmentsTest, ScoresAreThoseOfAllTokens) {
  auto cache = TestFixture::cache_of(3, 40);
  this->append(cache, 0, 650);
  const RowMatrix<double> scores = cache.attention_scores(this->queries_).template cast<double>();
  for (Index head = 0; head < 6; ++head) {
    const RowMatrix<double> keys =
        cache.decode_keys(static_cast<int>(head / 3)).template cast<double>();
    const RowMatrix<double> expected =
        this->queries_.middleCols(head * 32, 32).template cast<double>() * keys.transpose();
    for (Index query = 0; query < 3; ++query) {
      EXPECT_LE((scores.row(query * 6 + head) - expected.row(query)).cwiseAbs().maxCoeff(),
                40 * attention_tolerance<typename TypeParam::T>(1));
    }
  }
}

TYPED_TEST(KVCacheSegmentsTest, AppendInPiecesIsAppendAtOnce) {
  for (const Centering centering : {Centering::kNone, Centering::kLocal}) {
    for (const std::size_t num_recent : {0u, 5u, 100u}) {
      KVCacheConfig config = TestFixture::config_of(3, num_recent, FloatType::kFloat16);
      config.centering = centering;
      typename TestFixture::Cache whole = make_cache<typename TypeParam::T>(config);
      typename TestFixture::Cache pieces(config, whole.codec()), single(config, whole.codec());
      this->append(whole, 0, 400);
      for (const Index count : {0, 1, 1, 29, 32, 33, 65, 1, 150, 88}) {
        this->append(pieces, static_cast<Index>(pieces.num_tokens()), count);
      }
      for (Index token = 0; token < 400; ++token) this->append(single, token, 1);
      EXPECT_TRUE(state_of(pieces) == state_of(whole));
      EXPECT_TRUE(state_of(single) == state_of(whole));
      EXPECT_EQ(single.attend(this->queries_), whole.attend(this->queries_));
    }
  }
}

// Encoded tokens keep their bytes whatever comes later.
TYPED_TEST(KVCacheSegmentsTest, ATokenIsEncodedOnce) {
  auto cache = TestFixture::cache_of(2, 20);
  std::vector<std::vector<std::byte>> codes;
  for (Index token = 0; token < 300; ++token) {
    this->append(cache, token, 1);
    while (codes.size() < cache.num_encoded_tokens()) {
      codes.push_back(cache.key_code(1, 2 + codes.size()));
    }
  }
  ASSERT_GT(codes.size(), 200u);
  for (std::size_t i = 0; i < codes.size(); ++i) EXPECT_EQ(cache.key_code(1, 2 + i), codes[i]);
}

TYPED_TEST(KVCacheSegmentsTest, WithFullPrecisionTheCodesAreThoseOfAFullyEncodedCache) {
  auto windowed = TestFixture::cache_of(0, 64, FloatType::kFloat64);
  auto plain = TestFixture::cache_of(0, 0);
  this->append(windowed, 0, 500);
  this->append(plain, 0, 500);
  ASSERT_GT(windowed.num_encoded_tokens(), 400u);
  for (std::size_t token = 0; token < windowed.num_encoded_tokens(); ++token) {
    EXPECT_EQ(windowed.value_code(0, token), plain.value_code(0, token)) << token;
  }
}

// Into the window, to its edge, into the codes, into the sinks; then the window fills again.
TYPED_TEST(KVCacheSegmentsTest, TruncateIsExactEverywhere) {
  for (const Index kept : {0, 2, 3, 4, 34, 35, 40, 99, 163, 164, 170, 199, 200}) {
    auto cache = TestFixture::cache_of(3, 40);
    this->append(cache, 0, 200);
    const CacheState<typename TypeParam::T> before(cache);
    cache.truncate(static_cast<std::size_t>(kept));
    const CacheState<typename TypeParam::T> after(cache);
    for (std::size_t i = 0; i < before.rows.size(); ++i) {
      EXPECT_EQ(after.rows[i], before.rows[i].topRows(kept)) << kept;
    }
    for (Index token = 200; token < 420; ++token) this->append(cache, token, 1);
    auto at_once = TestFixture::cache_of(3, 40);
    this->append(at_once, 0, 200);
    at_once.truncate(static_cast<std::size_t>(kept));
    this->append(at_once, 200, 220);
    EXPECT_TRUE(state_of(cache) == state_of(at_once)) << kept;
    const std::size_t num_recent = cache.num_tokens() -
                                   std::min<std::size_t>(3, cache.num_tokens()) -
                                   cache.num_encoded_tokens();
    EXPECT_GE(num_recent, 40u) << kept;
    EXPECT_LT(num_recent, 40u + kTile) << kept;
    this->expect_attention_of_decoded(cache);
  }
}

TYPED_TEST(KVCacheSegmentsTest, GeneratedTokensCanStayExact) {
  auto cache = TestFixture::cache_of(0, KVCacheConfig::kAllTokens);
  this->append(cache, 0, 300);  // The prompt.
  EXPECT_EQ(cache.num_encoded_tokens(), 0u);
  cache.encode_recent();
  EXPECT_EQ(cache.num_encoded_tokens(), 300u);
  this->append(cache, 300, 250);
  EXPECT_EQ(cache.num_encoded_tokens(), 300u);
  this->expect_attention_of_decoded(cache);
  cache.encode_recent(7);
  EXPECT_EQ(cache.num_encoded_tokens(), 543u);
  cache.encode_recent(7);
  EXPECT_EQ(cache.num_encoded_tokens(), 543u);
}

// Speculative decoding without a loss: while drafts come and go, nothing is encoded, and what was
// accepted is encoded when it has been.
TYPED_TEST(KVCacheSegmentsTest, DraftsLeaveNothingBehindIfEncodingWaitsForThem) {
  polarquant::Random random(31);
  for (const Centering centering : {Centering::kNone, Centering::kLocal}) {
    KVCacheConfig config = TestFixture::config_of(4, KVCacheConfig::kAllTokens);
    config.centering = centering;
    auto drafted = make_cache<typename TypeParam::T>(config);
    auto plain = make_cache<typename TypeParam::T>(config);
    const auto accept = [](auto& cache) {
      const std::size_t num_kept = 40;
      const std::size_t num_exact = cache.num_tokens() - cache.num_encoded_tokens();
      if (num_exact >= 4 + num_kept + kTile) cache.encode_recent(num_kept);
    };
    for (Index token = 0; token + 8 < 400;) {
      // Eight drafts, of which some are right.
      const int num_right = polarquant_test::random_int(random, 0, 8);
      this->append(drafted, token, num_right);
      const Index num_wrong = 8 - num_right;
      drafted.append(this->tokens_.keys.middleRows(500 + token / 4, num_wrong),
                     this->tokens_.values.middleRows(500 + token / 4, num_wrong));
      drafted.truncate(static_cast<std::size_t>(token + num_right));
      for (Index i = 0; i < num_right; ++i) this->append(plain, token + i, 1);
      accept(drafted);
      accept(plain);
      token += num_right;
      ASSERT_EQ(drafted.num_encoded_tokens(), plain.num_encoded_tokens());
    }
    EXPECT_GT(plain.num_encoded_tokens(), 300u);
    EXPECT_TRUE(state_of(drafted) == state_of(plain));
    EXPECT_EQ(drafted.attend(this->queries_), plain.attend(this->queries_));
  }
}

TYPED_TEST(KVCacheSegmentsTest, CallsOnRowsAllocateNothing) {
  using Result = typename TypeParam::A;
  KVCacheConfig config = TestFixture::config_of(3, 40, FloatType::kFloat16);
  config.centering = Centering::kLocal;
  auto cache = make_cache<typename TypeParam::T>(config);
  cache.reserve(700);
  ASSERT_GE(cache.capacity(), 700u);
  polarquant_test::GuardedBytes scratch(cache.scratch_bytes());
  RowMatrix<Result> output(3, 288);
  const auto keys = TokenRows<typename TypeParam::T>::rows_of(this->tokens_.keys);
  const auto values = TokenRows<typename TypeParam::T>::rows_of(this->tokens_.values);
  std::size_t num_failures = 0;
  const auto append = [&](std::size_t first, std::size_t count) {
    num_failures +=
        cache.append(keys.block(first, count), values.block(first, count), scratch.data())
            .failure != polarquant::EncodeFailure::kNone;
  };
  const std::size_t count = polarquant_test::count_allocations([&] {
    for (std::size_t token = 0; token < 700; token += 7) {
      append(token, 7);
      cache.attend({this->queries_.data(), 3, 192}, {output.data(), 3, 288}, scratch.data());
    }
    cache.clear();
    append(0, 700);
  });
  EXPECT_EQ(count, 0u);
  EXPECT_EQ(num_failures, 0u);
  EXPECT_EQ(cache.num_tokens(), 700u);
  EXPECT_TRUE(scratch.guard_is_intact());
}

// ---- Failures leave the cache as it was ----

TEST(KVCacheSegmentsFailureTest, NothingIsAppendedIfATokenCannotBe) {
  for (const std::size_t num_recent : {0u, 40u}) {
    for (const Centering centering : {Centering::kNone, Centering::kLocal}) {
      KVCacheConfig config = config_of(3, num_recent, FloatType::kFloat16);
      config.centering = centering;
      KVCache<float> cache(config);
      const RowMatrix<float> keys = gaussian_matrix<float>(300, 64, 1);
      RowMatrix<float> values = gaussian_matrix<float>(300, 96, 2);
      for (const Index first : {0, 1, 30, 100}) {
        cache.append(keys.topRows(first), values.topRows(first));
        const CacheState<float> before(cache);
        const std::size_t num_tokens = cache.num_tokens();
        for (const Index bad : {2, 30, 90, 270}) {
          RowMatrix<float> bad_values = values;
          bad_values(bad, 70) = std::numeric_limits<float>::infinity();
          const std::string message =
              message_of<std::invalid_argument>([&] { cache.append(keys, bad_values); });
          const std::string name = "the value of token " +
                                   std::to_string(num_tokens + static_cast<std::size_t>(bad)) +
                                   ", KV head 1 has a NaN or an infinity";
          EXPECT_NE(message.find(name), std::string::npos) << message;
          EXPECT_EQ(cache.num_tokens(), num_tokens);
          EXPECT_TRUE(state_of(cache) == before) << num_recent << " " << first << " " << bad;
        }
      }
    }
  }
}

TEST(KVCacheSegmentsFailureTest, NumbersBeyondTheExactTypeAreRefused) {
  KVCache<float> cache(config_of(0, 40, FloatType::kFloat16));
  RowMatrix<float> keys = gaussian_matrix<float>(3, 64, 1);
  keys(1, 50) = 7e4f;
  const std::string message = message_of<std::invalid_argument>(
      [&] { cache.append(keys, gaussian_matrix<float>(3, 96, 2)); });
  EXPECT_NE(message.find("the key of token 1, KV head 1 is beyond the range of float16"),
            std::string::npos)
      << message;
  EXPECT_EQ(cache.num_tokens(), 0u);
}

// What is encoded later must not fail later.
TEST(KVCacheSegmentsFailureTest, RadiiThatCouldOverflowLaterAreRefusedNow) {
  KVCacheConfig config = config_of(0, 40, FloatType::kFloat32);
  PolarFormat format = PolarFormat::paper(48);
  format.radius_type = FloatType::kFloat16;
  config.value_format = format;
  KVCache<float> cache(config);
  const RowMatrix<float> keys = gaussian_matrix<float>(100, 64, 1);
  RowMatrix<float> values = gaussian_matrix<float>(100, 96, 2);
  values.row(60).head(48).setConstant(1180.0f);  // Norm 8175, below 65504 / 8.
  cache.append(keys, values);
  EXPECT_EQ(cache.num_encoded_tokens(), 100u - 40u - (100u - 40u) % kTile);
  values.row(60).head(48).setConstant(1190.0f);
  const std::string message =
      message_of<std::invalid_argument>([&] { cache.append(keys, values); });
  EXPECT_NE(message.find("the value of token 160, KV head 0 is beyond the range of float16"),
            std::string::npos)
      << message;
  EXPECT_EQ(cache.num_tokens(), 100u);
}

// A mean that is given makes small rows large; those near it are encoded from what is left.
TEST(KVCacheSegmentsFailureTest, WhatIsEncodedLaterIsCheckedLessTheGivenMean) {
  KVCacheConfig config = config_of(0, 32);
  PolarFormat format = PolarFormat::paper(32);
  format.radius_type = FloatType::kFloat16;
  config.key_format = format;
  config.centering = Centering::kGiven;
  config.key_mean.assign(64, 20000.0f);
  KVCache<float> cache(config);
  const TokenRows<float> tokens(config, 160, 1);
  const std::string message =
      message_of<std::invalid_argument>([&] { tokens.append_to(cache, 0, 160); });
  EXPECT_NE(message.find("the key of token 0, KV head 0 is beyond the range of float16"),
            std::string::npos)
      << message;
  EXPECT_EQ(cache.num_tokens(), 0u);
  cache.reserve(160);
  const polarquant::AppendResult result = tokens.append_on_rows(cache, 0, 160);
  EXPECT_EQ(result.failure, polarquant::EncodeFailure::kOutOfRange);
  EXPECT_EQ(result.type, FloatType::kFloat16);
  EXPECT_EQ(result.side, polarquant::Side::kKeys);
  EXPECT_EQ(cache.num_tokens(), 0u);
  const RowMatrix<float> near_mean = tokens.keys.array() + 20000.0f;
  cache.append(near_mean, tokens.values);
  EXPECT_EQ(cache.num_encoded_tokens(), 128u);
  EXPECT_LT((cache.decode_keys(1) - near_mean.rightCols(32)).norm() / std::sqrt(160.0f * 32.0f),
            0.5f);
}

TEST(KVCacheSegmentsFailureTest, ExactTokensHaveNoCode) {
  KVCache<float> cache(config_of(2, 40));
  cache.append(gaussian_matrix<float>(150, 64, 1), gaussian_matrix<float>(150, 96, 2));
  for (const std::size_t token : {std::size_t{0}, std::size_t{1}, std::size_t{149}}) {
    const std::string message =
        message_of<std::invalid_argument>([&] { cache.key_code(0, token); });
    EXPECT_NE(message.find("token " + std::to_string(token) + " is kept exact"), std::string::npos)
        << message;
  }
  EXPECT_EQ(cache.key_code(0, 2).size(), cache.codec()->keys().bytes_per_vector());
}

// ---- Memory ----

TEST(KVCacheSegmentsMemoryTest, ShrinkGivesBackAndChangesNothing) {
  for (const std::size_t num_recent : {0u, 40u}) {
    KVCacheConfig config = config_of(3, num_recent, FloatType::kFloat16);
    config.centering = Centering::kLocal;
    KVCache<float> cache(config);
    cache.reserve(5000);
    const RowMatrix<float> keys = gaussian_matrix<float>(300, 64, 1);
    const RowMatrix<float> values = gaussian_matrix<float>(300, 96, 2);
    cache.append(keys, values);
    const CacheState<float> before(cache);
    const std::size_t bytes = cache.memory_bytes();
    cache.shrink();
    EXPECT_LT(cache.memory_bytes(), bytes / 2);
    EXPECT_TRUE(state_of(cache) == before);
    EXPECT_GE(cache.capacity(), 300u);
    cache.append(keys, values);
    KVCache<float> unshrunk(config);
    unshrunk.append(keys, values);
    unshrunk.append(keys, values);
    EXPECT_TRUE(state_of(cache) == state_of(unshrunk));
    cache.clear();
    cache.shrink();
    EXPECT_EQ(cache.num_tokens(), 0u);
    EXPECT_LE(cache.memory_bytes(), KVCache<float>(config).memory_bytes() + 64);
    cache.append(keys, values);
    EXPECT_TRUE(state_of(cache) == before);
  }
}

// The window is memory too: m + a tile of rows, whatever the length.
TEST(KVCacheSegmentsMemoryTest, TheExactRowsAreCounted) {
  KVCache<float> plain(config_of(0, 0));
  KVCache<float> windowed(config_of(4, 128, FloatType::kFloat16));
  plain.reserve(20000);
  windowed.reserve(20000);
  const std::size_t rows = 4 + (128 + kTile);
  const std::size_t row_bytes = 2 * 2 * (32 + 48);  // Two heads, 16 bits.
  // Two heads, keys and values; each page has a cache line and a pointer beside its codes.
  const std::size_t page_bytes = 2 * (polarquant::detail::kPageTokens * (17 + 24) + 2 * (64 + 8));
  EXPECT_LE(windowed.memory_bytes(), plain.memory_bytes() + rows * row_bytes);
  EXPECT_GE(windowed.memory_bytes() + page_bytes, plain.memory_bytes() + rows * row_bytes);
}

}  // namespace
