#include "polarquant/kv_cache.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "kv_cache_test_util.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using namespace polarquant_test;

// ---- The README's first example, statement for statement ----

TEST(KVCacheContractTest, TheFirstExampleRunsAsPrinted) {
  using polarquant::RowMatrix;

  polarquant::KVCacheConfig config;
  config.num_kv_heads = 8;
  config.num_query_heads = 32;
  config.key_format = polarquant::PolarFormat::paper(128);
  config.value_format = polarquant::PolarFormat::full_depth(128, 3.25);
  config.rotation = polarquant::RotationKind::kHaar;
  config.seed = 42;
  polarquant::KVCache<float> cache(config);

  const RowMatrix<float> keys = gaussian_matrix<float>(20, 8 * 128, 1);
  const RowMatrix<float> values = gaussian_matrix<float>(20, 8 * 128, 2);
  const RowMatrix<float> queries = gaussian_matrix<float>(2, 32 * 128, 3);

  cache.append(keys, values);
  RowMatrix<float> output = cache.attend(queries);
  RowMatrix<float> scores = cache.attention_scores(queries);
  RowMatrix<float> keys0 = cache.decode_keys(0);
  cache.truncate(cache.num_tokens() - 3);
  double bits = config.key_format.bits_per_coordinate();
  std::size_t bytes = cache.memory_bytes();

  EXPECT_EQ(output.rows(), 2);
  EXPECT_EQ(output.cols(), 32 * 128);
  EXPECT_EQ(scores.rows(), 2 * 32);
  EXPECT_EQ(scores.cols(), 20);
  EXPECT_EQ(keys0.rows(), 20);
  EXPECT_EQ(keys0.cols(), 128);
  EXPECT_EQ(cache.num_tokens(), 17u);
  EXPECT_EQ(bits, 3.875);
  EXPECT_GE(bytes, 20u * 8u * (62u + 52u));
}

// ---- Storage ----

template <typename Case>
class KVCacheTypedTest : public testing::Test {
 protected:
  using T = typename Case::T;
  static KVCache<T> empty_cache() { return make_cache<T>(make_config<typename Case::Family>()); }

  const TokenRows<T> tokens_{make_config(), 600, 1};
  const RowMatrix<T> queries_ = random_queries<T>(make_config(), 3);
};
TYPED_TEST_SUITE(KVCacheTypedTest, polarquant_test::CacheCases, );  // clang++ wants the empty one.

// The cache's bytes are the codec's, so that a code can move between the two.
TYPED_TEST(KVCacheTypedTest, CodesAndRowsAreThoseOfTheCodec) {
  auto cache = TestFixture::empty_cache();
  this->tokens_.append_to(cache, 0, 37);
  const auto& keys = cache.codec()->keys();
  const auto& values = cache.codec()->values();
  GuardedBytes scratch(values.scratch_bytes());
  std::vector<std::byte> code(values.bytes_per_vector());
  for (const int head : {0, 1}) {
    for (const Index token : {0, 31, 32, 36}) {
      const auto* const row = this->tokens_.values.row(token).data() + head * 48;
      const polarquant::Rows<const typename TypeParam::T> given = {row, 1, 48};
      EXPECT_EQ(values.encode(given, {code.data(), 1, code.size()}, scratch.data()).num_encoded,
                1u);
      EXPECT_EQ(cache.value_code(head, static_cast<std::size_t>(token)), code);
    }
    const auto decoded = cache.decode_keys(head);
    ASSERT_EQ(decoded.rows(), 37);
    ASSERT_EQ(decoded.cols(), 32);
    for (std::size_t token = 0; token < 37; ++token) {
      const auto expected = polarquant_test::decode_rows(keys, cache.key_code(head, token));
      for (std::size_t i = 0; i < 32; ++i) {
        EXPECT_NEAR(decoded(static_cast<Index>(token), static_cast<Index>(i)), expected[i], 2e-6);
      }
    }
  }
}

TYPED_TEST(KVCacheTypedTest, AppendInPiecesIsAppendAtOnceByteForByte) {
  auto whole = TestFixture::empty_cache(), pieces = TestFixture::empty_cache();
  this->tokens_.append_to(whole, 0, 600);
  Index first = 0;
  for (const Index count : {0, 1, 1, 29, 32, 33, 65, 1, 350, 88}) {
    this->tokens_.append_to(pieces, first, count);
    first += count;
  }
  ASSERT_EQ(first, 600);
  EXPECT_EQ(all_codes(pieces), all_codes(whole));
  EXPECT_EQ(pieces.attend(this->queries_), whole.attend(this->queries_));
}

TYPED_TEST(KVCacheTypedTest, TruncateThenAppendIsNeverHavingAppended) {
  for (const Index kept : {0, 1, 31, 32, 33, 512, 550, 600}) {
    auto truncated = TestFixture::empty_cache(), direct = TestFixture::empty_cache();
    this->tokens_.append_to(truncated, 0, 600);
    truncated.truncate(static_cast<std::size_t>(kept));
    EXPECT_EQ(truncated.num_tokens(), static_cast<std::size_t>(kept));
    this->tokens_.append_to(direct, 0, kept);
    for (auto* const cache : {&truncated, &direct}) polarquant_test::append_random(*cache, 50, 5);
    EXPECT_EQ(all_codes(truncated), all_codes(direct)) << kept;
    EXPECT_EQ(truncated.attend(this->queries_), direct.attend(this->queries_)) << kept;
  }
}

// ---- Equal values of another type ----

// Values that a 16-bit type holds, given to a float cache as well: the same codes, whatever is
// subtracted before. Rows once were rounded back to 16 bits when they were less the mean.
template <typename T>
class KVCacheEqualValuesTest : public testing::Test {};
using SixteenBitTypes = testing::Types<Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(KVCacheEqualValuesTest, SixteenBitTypes, );

TYPED_TEST(KVCacheEqualValuesTest, GiveEqualCodes) {
  using polarquant::Centering;
  for (const auto centering : {Centering::kNone, Centering::kGiven, Centering::kLocal}) {
    for (const std::size_t num_recent : {std::size_t{0}, std::size_t{40}}) {
      for (const bool is_plain : {false, true}) {
        KVCacheConfig config =
            is_plain ? polarquant_test::segments_config<polarquant_test::Plain8BitFamily>(
                           0, num_recent, centering)
                     : polarquant_test::segments_config(0, num_recent, centering);
        config.exact_type = {};  // that of each
        auto cache = make_cache<TypeParam>(config);
        auto floats = make_cache<float>(config);
        TokenRows<TypeParam> tokens(config, 400, 1);
        // A mean of its own in every column, as a model's keys have.
        tokens.keys.array().rowwise() += tokens.keys.row(0).array() * TypeParam(3.0f);
        tokens.append_to(cache, 0, 400);
        floats.append(tokens.keys.template cast<float>(), tokens.values.template cast<float>());
        ASSERT_EQ(cache.num_encoded_tokens(), floats.num_encoded_tokens());
        ASSERT_GE(cache.num_encoded_tokens(), 352u);
        const std::size_t end = cache.num_encoded_tokens();
        for (const int head : {0, 1}) {
          for (std::size_t token = 0; token < end; ++token) {
            ASSERT_EQ(cache.key_center(head, token), floats.key_center(head, token)) << token;
            ASSERT_EQ(cache.key_code(head, token), floats.key_code(head, token)) << token;
            ASSERT_EQ(cache.value_code(head, token), floats.value_code(head, token)) << token;
          }
        }
      }
    }
  }
}

TEST(KVCacheTest, AFreshCacheIsEmpty) {
  const KVCache<float> cache = make_cache<float>(make_config());
  EXPECT_EQ(cache.num_tokens(), 0u);
  EXPECT_EQ(cache.capacity(), 0u);
  EXPECT_EQ(cache.decode_keys(0).rows(), 0);
  EXPECT_EQ(cache.decode_values(1).cols(), 48);
}

TEST(KVCacheTest, AppendOfNoTokensChangesNothing) {
  KVCache<float> cache = make_cache<float>(make_config());
  const std::size_t bytes = cache.memory_bytes();
  cache.append(RowMatrix<float>(0, 64), RowMatrix<float>(0, 96));
  EXPECT_EQ(cache.num_tokens(), 0u);
  EXPECT_EQ(cache.memory_bytes(), bytes);
}

TEST(KVCacheTest, TruncateKeepsTheMemory) {
  KVCache<float> cache = filled_cache<float>(600);
  const std::size_t bytes = cache.memory_bytes();
  cache.truncate(0);
  EXPECT_EQ(cache.num_tokens(), 0u);
  EXPECT_EQ(cache.memory_bytes(), bytes);
}

TEST(KVCacheTest, BytesPerTokenAreTheCodesOfAllHeads) {
  KVCacheConfig config = make_config();
  config.key_format = PolarFormat::paper(128);
  config.value_format = PolarFormat::paper(64);
  EXPECT_EQ(KVCache<float>(config).bytes_per_token(), 2u * (62u + 31u));
}

TEST(KVCacheTest, EqualSeedsGiveEqualCaches) {
  KVCache<float> other(make_config());
  polarquant_test::append_random(other, 20, 1);
  EXPECT_EQ(all_codes(other), all_codes(filled_cache<float>(20)));
}

// ---- Arguments without a copy ----

TEST(KVCacheTest, MapsWithAnOuterStrideGiveWhatMatricesGive) {
  using Map = Eigen::Map<const RowMatrix<float>, 0, Eigen::OuterStride<>>;
  const RowMatrix<float> keys = gaussian_matrix<float>(40, 64, 1);
  const RowMatrix<float> values = gaussian_matrix<float>(40, 96, 2);
  const RowMatrix<float> queries = gaussian_matrix<float>(5, 192, 3);
  // An engine's own memory: keys and values of a token side by side.
  std::vector<float> fused_rows(40 * (64 + 96)), padded_queries(5 * 200);
  for (Index token = 0; token < 40; ++token) {
    std::copy_n(keys.row(token).data(), 64, fused_rows.data() + token * 160);
    std::copy_n(values.row(token).data(), 96, fused_rows.data() + token * 160 + 64);
  }
  for (Index i = 0; i < 5; ++i) {
    std::copy_n(queries.row(i).data(), 192, padded_queries.data() + i * 200);
  }
  KVCache<float> plain(make_config()), mapped(make_config());
  plain.append(keys, values);
  mapped.append(Map(fused_rows.data(), 40, 64, Eigen::OuterStride<>(160)),
                Map(fused_rows.data() + 64, 40, 96, Eigen::OuterStride<>(160)));
  EXPECT_EQ(all_codes(mapped), all_codes(plain));
  const Map mapped_queries(padded_queries.data(), 5, 192, Eigen::OuterStride<>(200));
  EXPECT_EQ(mapped.attend(mapped_queries), plain.attend(queries));
  EXPECT_EQ(mapped.attention_scores(mapped_queries), plain.attention_scores(queries));
}

TEST(KVCacheTest, BlocksGiveWhatMatricesGive) {
  const RowMatrix<float> both = gaussian_matrix<float>(50, 200, 1);
  const RowMatrix<float> keys = both.block(3, 7, 40, 64);
  const RowMatrix<float> values = both.block(3, 90, 40, 96);
  KVCache<float> plain(make_config()), blocks(make_config());
  plain.append(keys, values);
  blocks.append(both.block(3, 7, 40, 64), both.block(3, 90, 40, 96));
  EXPECT_EQ(all_codes(blocks), all_codes(plain));
}

// ---- Sharing and moving ----

TEST(KVCacheTest, CachesOfOneCodecHoldNoRotationOfTheirOwn) {
  const auto codec = std::make_shared<const polarquant::KVCodec<float>>(make_config());
  KVCache<float> first(make_config(), codec), second(make_config(), codec);
  EXPECT_EQ(first.codec().get(), codec.get());
  EXPECT_EQ(second.codec().get(), codec.get());
  polarquant_test::append_random(first, 20, 1);
  EXPECT_EQ(second.num_tokens(), 0u);
  EXPECT_EQ(all_codes(first), all_codes(filled_cache<float>(20)));
}

TEST(KVCacheTest, TheCodecOfACacheServesAnother) {
  const KVCache<float> first = filled_cache<float>(20);
  KVCache<float> second(make_config(), first.codec());
  polarquant_test::append_random(second, 20, 1);
  EXPECT_EQ(all_codes(second), all_codes(first));
}

TEST(KVCacheTest, ASharedCodecOutlivesItsCaches) {
  std::shared_ptr<const polarquant::KVCodec<float>> codec;
  {
    const KVCache<float> cache(make_config());
    codec = cache.codec();
  }
  EXPECT_EQ(codec->keys().head_dim(), 32u);
  EXPECT_EQ(codec.use_count(), 1);
}

TEST(KVCacheTest, MovingKeepsEverything) {
  static_assert(std::is_nothrow_move_constructible_v<KVCache<float>>);
  static_assert(std::is_nothrow_move_assignable_v<KVCache<float>>);
  static_assert(!std::is_copy_constructible_v<KVCache<float>>);
  KVCache<float> cache = filled_cache<float>(300);
  const std::vector<std::byte> codes = all_codes(cache);
  const RowMatrix<float> queries = random_queries<float>(make_config(), 3);
  const RowMatrix<float> output = cache.attend(queries);
  KVCache<float> constructed(std::move(cache));
  EXPECT_EQ(all_codes(constructed), codes);
  KVCache<float> assigned = filled_cache<float>(1);
  assigned = std::move(constructed);
  EXPECT_EQ(all_codes(assigned), codes);
  EXPECT_EQ(assigned.attend(queries), output);
  polarquant_test::append_random(assigned, 1, 7);
  EXPECT_EQ(assigned.num_tokens(), 301u);
}

// ---- Threads ----

TEST(KVCacheTest, ConstCallsFromTwoThreadsGiveWhatOneThreadGets) {
  const KVCache<float> cache = filled_cache<float>(600);
  const RowMatrix<float> queries = random_queries<float>(make_config(), 3);
  const RowMatrix<float> output = cache.attend(queries);
  const RowMatrix<float> scores = cache.attention_scores(queries);
  const RowMatrix<float> keys = cache.decode_keys(1);
  bool equal[2] = {true, true};
  std::vector<std::thread> threads;
  for (bool& result : equal) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        result &= cache.attend(queries) == output;
        result &= cache.attention_scores(queries) == scores;
        result &= cache.decode_keys(1) == keys;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(equal[0]);
  EXPECT_TRUE(equal[1]);
}

}  // namespace
