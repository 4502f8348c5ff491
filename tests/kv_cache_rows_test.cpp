// The calls of the cache on plain pointers: what the calls on matrices give, without an allocation.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cstddef>
#include <utility>

#include "count_allocations.hpp"
#include "kv_cache_test_util.hpp"

namespace {

using Eigen::Index;
using polarquant::KVCache;
using polarquant::RowMatrix;
using polarquant::Rows;
using polarquant_test::AccumulatorOf;
using polarquant_test::all_codes;
using polarquant_test::count_allocations;
using polarquant_test::gaussian_matrix;
using polarquant_test::GuardedBytes;
using polarquant_test::make_config;

template <typename T>
class KVCacheTypedTest : public testing::Test {};
using ElementTypes = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(KVCacheTypedTest, ElementTypes, );  // clang++ wants the empty argument in C++17.

// A cache filled by one call on Rows with strides, and memory for what it gives.
template <typename T>
class RowsTwin {
 public:
  using Accumulator = AccumulatorOf<T>;

  RowsTwin() : cache_(make_config()), scratch_(cache_.scratch_bytes()) {
    cache_.reserve(300);
    for (Index token = 0; token < 300; ++token) {
      for (Index i = 0; i < 64; ++i) keys_(token, i) = given_keys_(token, i);
      for (Index i = 0; i < 96; ++i) values_(token, i) = given_values_(token, i);
    }
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

  const RowMatrix<T> given_keys_ = gaussian_matrix<T>(300, 64, 1);
  const RowMatrix<T> given_values_ = gaussian_matrix<T>(300, 96, 2);
  const RowMatrix<T> queries_ = gaussian_matrix<T>(5, 192, 3);
  RowMatrix<T> keys_ = RowMatrix<T>::Constant(300, 70, T(0.0f));
  RowMatrix<T> values_ = RowMatrix<T>::Constant(300, 99, T(0.0f));
  RowMatrix<Accumulator> output_ = RowMatrix<Accumulator>::Constant(5, 300, Accumulator(77));
  RowMatrix<Accumulator> scores_ = RowMatrix<Accumulator>::Constant(30, 310, Accumulator(77));
  RowMatrix<Accumulator> decoded_keys_ = RowMatrix<Accumulator>::Constant(300, 40, Accumulator(77));
  RowMatrix<Accumulator> decoded_values_ =
      RowMatrix<Accumulator>::Constant(300, 50, Accumulator(77));
  KVCache<T> cache_;
  GuardedBytes scratch_;
  polarquant::AppendResult result_;
};

TYPED_TEST(KVCacheTypedTest, TheCallsOnRowsGiveWhatTheCallsOnMatricesGive) {
  RowsTwin<TypeParam> twin;
  KVCache<TypeParam> cache(make_config());
  cache.append(twin.given_keys_, twin.given_values_);
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

TYPED_TEST(KVCacheTypedTest, TheCallsOnRowsWriteNothingElse) {
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

TYPED_TEST(KVCacheTypedTest, TheCallsOnRowsAllocateNothing) {
  RowsTwin<TypeParam> twin;
  EXPECT_EQ(count_allocations([&] { twin.append(); }), 0u);
  EXPECT_EQ(count_allocations([&] { twin.attend(); }), 0u);
  EXPECT_EQ(count_allocations([&] { twin.score(); }), 0u);
  EXPECT_EQ(count_allocations([&] { twin.decode(); }), 0u);
  EXPECT_EQ(twin.cache_.num_tokens(), 300u);
}

TYPED_TEST(KVCacheTypedTest, TheCallsOnRowsAreNoexcept) {
  using Cache = KVCache<TypeParam>;
  using In = Rows<const TypeParam>;
  using Out = Rows<AccumulatorOf<TypeParam>>;
  std::byte* const scratch = nullptr;
  static_assert(noexcept(std::declval<Cache&>().append(In{}, In{}, scratch)));
  static_assert(noexcept(std::declval<const Cache&>().attend(In{}, Out{}, scratch)));
  static_assert(noexcept(std::declval<const Cache&>().attention_scores(In{}, Out{}, scratch)));
  static_assert(noexcept(std::declval<const Cache&>().decode_keys(0, Out{}, scratch)));
  static_assert(noexcept(std::declval<const Cache&>().decode_values(0, Out{}, scratch)));
}

}  // namespace
