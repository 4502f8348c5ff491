// The calls of the cache on plain pointers: what the calls on matrices give, without an allocation.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cstddef>
#include <utility>
#include <vector>

#include "count_allocations.hpp"
#include "kv_cache_test_util.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using namespace polarquant_test;

template <typename Case>
class KVCacheRowsTest : public testing::Test {};
TYPED_TEST_SUITE(KVCacheRowsTest, polarquant_test::CacheCases, );  // clang++ wants the empty one.

// A cache filled by one call on Rows with strides, and memory for what it gives.
template <typename Case>
class RowsTwin {
 public:
  using T = typename Case::T;
  using Accumulator = typename Case::A;

  RowsTwin() {
    cache_.reserve(300);
    keys_.leftCols(64) = given_.keys;
    values_.leftCols(96) = given_.values;
  }

  void append() {
    result_ = cache_.append({keys_.data(), 300, 70}, {values_.data(), 300, 99}, scratch_.data());
  }
  void attend() {
    cache_.attend({queries_.data(), 5, 192}, {output_.data(), 5, 300}, scratch_.data());
  }
  void score() {
    cache_.attention_scores({queries_.data(), 5, 192}, {scores_.data(), 30, 310}, scratch_.data());
  }
  void decode() {
    cache_.decode_keys(1, {decoded_keys_.data(), 300, 40}, scratch_.data());
    cache_.decode_values(1, {decoded_values_.data(), 300, 50}, scratch_.data());
  }

  KVCache<T> cache_ = make_cache<T>(make_config<typename Case::Family>());
  GuardedBytes scratch_{cache_.scratch_bytes()};
  const TokenRows<T> given_{cache_.config(), 300, 1};
  const RowMatrix<T> queries_ = random_queries<T>(cache_.config(), 5);
  RowMatrix<T> keys_ = RowMatrix<T>::Constant(300, 70, T(0.0f));
  RowMatrix<T> values_ = RowMatrix<T>::Constant(300, 99, T(0.0f));
  RowMatrix<Accumulator> output_ = RowMatrix<Accumulator>::Constant(5, 300, Accumulator(77));
  RowMatrix<Accumulator> scores_ = RowMatrix<Accumulator>::Constant(30, 310, Accumulator(77));
  RowMatrix<Accumulator> decoded_keys_ = RowMatrix<Accumulator>::Constant(300, 40, Accumulator(77));
  RowMatrix<Accumulator> decoded_values_ =
      RowMatrix<Accumulator>::Constant(300, 50, Accumulator(77));
  polarquant::AppendResult result_;
};

TYPED_TEST(KVCacheRowsTest, TheCallsOnRowsGiveWhatTheCallsOnMatricesGive) {
  RowsTwin<TypeParam> twin;
  auto cache = make_cache<typename TypeParam::T>(twin.cache_.config());
  twin.given_.append_to(cache, 0, 300);
  twin.append();
  twin.attend();
  twin.score();
  twin.decode();
  EXPECT_EQ(twin.result_.failure, polarquant::EncodeFailure::kNone);
  EXPECT_EQ(all_codes(twin.cache_), all_codes(cache));
  EXPECT_EQ(twin.output_.leftCols(288), cache.attend(twin.queries_));
  EXPECT_EQ(twin.scores_.leftCols(300), cache.attention_scores(twin.queries_));
  EXPECT_EQ(twin.decoded_keys_.leftCols(32), cache.decode_keys(1));
  EXPECT_EQ(twin.decoded_values_.leftCols(48), cache.decode_values(1));
}

TYPED_TEST(KVCacheRowsTest, TheCallsOnRowsWriteNothingElse) {
  RowsTwin<TypeParam> twin;
  twin.append();
  twin.attend();
  twin.score();
  twin.decode();
  EXPECT_TRUE((twin.output_.rightCols(12).array() == 77).all());
  EXPECT_TRUE((twin.scores_.rightCols(10).array() == 77).all());
  EXPECT_TRUE((twin.decoded_keys_.rightCols(8).array() == 77).all());
  EXPECT_TRUE((twin.decoded_values_.rightCols(2).array() == 77).all());
  EXPECT_TRUE(twin.scratch_.guard_is_intact());
}

TYPED_TEST(KVCacheRowsTest, TheCallsOnRowsAllocateNothing) {
  RowsTwin<TypeParam> twin;
  EXPECT_EQ(count_allocations([&] { twin.append(); }), 0u);
  EXPECT_EQ(count_allocations([&] { twin.attend(); }), 0u);
  EXPECT_EQ(count_allocations([&] { twin.score(); }), 0u);
  EXPECT_EQ(count_allocations([&] { twin.decode(); }), 0u);
  EXPECT_EQ(twin.cache_.num_tokens(), 300u);
}

TYPED_TEST(KVCacheRowsTest, TheCallsOnRowsAreNoexcept) {
  using Cache = KVCache<typename TypeParam::T>;
  using In = Rows<const typename TypeParam::T>;
  using Out = Rows<typename TypeParam::A>;
  std::byte* const scratch = nullptr;
  static_assert(noexcept(std::declval<Cache&>().append(In{}, In{}, scratch)));
  static_assert(noexcept(std::declval<const Cache&>().attend(In{}, Out{}, scratch)));
  static_assert(noexcept(std::declval<const Cache&>().attend_partial(
      In{}, polarquant::PartialRows<typename TypeParam::A>{}, scratch)));
  static_assert(noexcept(std::declval<const Cache&>().attention_scores(In{}, Out{}, scratch)));
  static_assert(noexcept(std::declval<const Cache&>().decode_keys(0, Out{}, scratch)));
  static_assert(noexcept(std::declval<const Cache&>().decode_values(0, Out{}, scratch)));
}

// ---- Room: an append on rows allocates nothing, and so fails where there is none ----

template <typename Case>
class KVCacheRoomTest : public testing::Test {
 protected:
  using T = typename Case::T;

  // With a window, without, and with tokens that wait for a mean.
  static std::vector<polarquant::KVCacheConfig> configs() {
    using Family = typename Case::Family;
    using polarquant::Centering;
    return {make_config<Family>(), polarquant_test::segments_config<Family>(4, 40),
            polarquant_test::segments_config<Family>(0, 0, Centering::kLocal),
            polarquant_test::segments_config<Family>(4, 40, Centering::kLocal)};
  }

  // Fails, and changes nothing that can be seen.
  void expect_no_room(KVCache<T>& cache, std::size_t count = 1) const {
    const polarquant_test::CacheState<T> before(cache);
    const std::size_t capacity = cache.capacity();
    const std::size_t memory_bytes = cache.memory_bytes();
    EXPECT_EQ(tokens_.append_on_rows(cache, 0, count).failure,
              polarquant::EncodeFailure::kNoCapacity);
    EXPECT_TRUE(polarquant_test::state_of(cache) == before);
    EXPECT_EQ(cache.capacity(), capacity);
    EXPECT_EQ(cache.memory_bytes(), memory_bytes);
  }

  // Reserves for `count` more, and then they fit.
  void expect_room_after_reserve(KVCache<T>& cache, std::size_t count) const {
    cache.reserve(cache.num_tokens() + count);
    EXPECT_EQ(tokens_.append_on_rows(cache, 0, count).failure, polarquant::EncodeFailure::kNone);
  }

  const TokenRows<T> tokens_{make_config<typename Case::Family>(), 1100, 1};
};
TYPED_TEST_SUITE(KVCacheRoomTest, polarquant_test::CacheCases, );

TYPED_TEST(KVCacheRoomTest, ThereIsNoneInAFreshCache) {
  for (const auto& config : TestFixture::configs()) {
    auto cache = make_cache<typename TypeParam::T>(config);
    EXPECT_EQ(cache.capacity(), 0u);
    this->expect_no_room(cache);
    this->expect_no_room(cache, 600);
    EXPECT_EQ(this->tokens_.append_on_rows(cache, 0, 0).failure, polarquant::EncodeFailure::kNone);
    this->expect_room_after_reserve(cache, 600);
  }
}

TYPED_TEST(KVCacheRoomTest, ItEndsWithWhatWasReserved) {
  for (const auto& config : TestFixture::configs()) {
    auto cache = make_cache<typename TypeParam::T>(config);
    cache.reserve(600);
    EXPECT_EQ(this->tokens_.append_on_rows(cache, 0, 600).failure,
              polarquant::EncodeFailure::kNone);
    this->expect_no_room(cache, 1100);
    this->expect_room_after_reserve(cache, 1100);
  }
}

// 1,200 reserved, 300 held, a copy: both used to write into the same page.
TYPED_TEST(KVCacheRoomTest, AfterACopyBothHaveNoneUntilTheyReserve) {
  for (const auto& config : TestFixture::configs()) {
    auto cache = make_cache<typename TypeParam::T>(config);
    cache.reserve(1200);
    this->tokens_.append_to(cache, 0, 300);
    auto copy = cache.copy();
    const polarquant_test::CacheState<typename TypeParam::T> before(cache);
    // More than what a window can take before it encodes.
    this->expect_no_room(cache, 64);
    this->expect_no_room(copy, 64);
    this->expect_room_after_reserve(copy, 64);
    EXPECT_TRUE(polarquant_test::state_of(cache) == before);
    this->expect_room_after_reserve(cache, 64);
    EXPECT_TRUE(polarquant_test::state_of(cache) == polarquant_test::state_of(copy));
  }
}

TYPED_TEST(KVCacheRoomTest, AfterLoadingThereIsNoneUntilItIsReserved) {
  for (const auto& config : TestFixture::configs()) {
    auto cache = make_cache<typename TypeParam::T>(config);
    this->tokens_.append_to(cache, 0, 512 + (config.num_recent_tokens > 0 ? 0 : 4));
    std::vector<std::byte> bytes(polarquant::saved_bytes(cache));
    polarquant::save(cache, bytes.data(), bytes.size());
    KVCache<typename TypeParam::T> loaded(config, cache.codec());
    loaded.reserve(2000);
    polarquant::load(bytes.data(), bytes.size(), loaded);
    this->expect_no_room(loaded, 600);
    this->expect_room_after_reserve(loaded, 600);
    this->tokens_.append_to(cache, 0, 600);
    EXPECT_TRUE(polarquant_test::state_of(cache) == polarquant_test::state_of(loaded));
  }
}

}  // namespace
