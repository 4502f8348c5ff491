// A batch gives what its items give alone.
#include "polarquant/kv_cache_batch.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "count_allocations.hpp"
#include "kv_cache_test_util.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using namespace polarquant_test;

// Sequences of unequal length, one of them empty, that share a codec.
template <typename Case>
std::vector<KVCache<typename Case::T>> make_caches(std::size_t count) {
  static constexpr Index kLengths[] = {37, 0, 1, 600, 512, 90, 31};
  KVCacheConfig config = make_config<typename Case::Family>();
  config.num_recent_tokens = 20;
  std::vector<KVCache<typename Case::T>> caches;
  for (std::size_t i = 0; i < count; ++i) {
    caches.push_back(polarquant_test::make_cache<typename Case::T>(config));
    polarquant_test::append_random(caches.back(), kLengths[i % 7], 10 + 2 * i);
  }
  return caches;
}

template <typename Case>
class KVCacheBatchTest : public testing::Test {};
TYPED_TEST_SUITE(KVCacheBatchTest, polarquant_test::CacheCases, );  // clang++ wants the empty one.

TYPED_TEST(KVCacheBatchTest, IsBitForBitTheCachesAloneAtEverySize) {
  using T = typename TypeParam::T;
  for (const std::size_t size : {1u, 2u, 3u, 7u, 16u}) {
    const std::vector<KVCache<T>> caches = make_caches<TypeParam>(size);
    std::vector<const KVCache<T>*> pointers;
    for (const KVCache<T>& cache : caches) pointers.push_back(&cache);
    for (const Index count : {0, 1, 3}) {
      const Index rows = static_cast<Index>(size) * count;
      const RowMatrix<T> queries = gaussian_matrix<T>(rows, 192, 3);
      const auto output = attend_batch<T>(pointers, queries);
      ASSERT_EQ(output.rows(), rows);
      for (std::size_t i = 0; i < size; ++i) {
        const Index first = static_cast<Index>(i) * count;
        EXPECT_EQ(output.middleRows(first, count),
                  caches[i].attend(queries.middleRows(first, count)));
      }
    }
  }
}

TYPED_TEST(KVCacheBatchTest, ItemsMayHaveQueriesAndOptionsOfTheirOwn) {
  using T = typename TypeParam::T;
  using A = typename TypeParam::A;
  const std::vector<KVCache<T>> caches = make_caches<TypeParam>(4);
  std::vector<RowMatrix<T>> queries;
  std::vector<RowMatrix<A>> outputs;
  std::vector<BatchItem<T>> items;
  for (std::size_t i = 0; i < 4; ++i) {
    const Index count = static_cast<Index>(i + 1);
    queries.push_back(gaussian_matrix<T>(count, 192, i));
    outputs.emplace_back(count, 288);
  }
  for (std::size_t i = 0; i < 4; ++i) {
    items.push_back(
        {&caches[i], {queries[i].data(), i + 1, 192}, {outputs[i].data(), i + 1, 288}, {}});
    items.back().options.window = 10 * (i + 1);
  }
  polarquant_test::GuardedBytes scratch(polarquant::batch_scratch_bytes(items.data(), 4));
  EXPECT_EQ(
      polarquant_test::count_allocations([&] { attend_batch(items.data(), 4, scratch.data()); }),
      0u);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(outputs[i], caches[i].attend(queries[i], items[i].options));
  }
  EXPECT_TRUE(scratch.guard_is_intact());
}

TEST(KVCacheBatchErrorTest, ShapesThatDoNotFitAreRefused) {
  const std::vector<KVCache<float>> caches = make_caches<CacheCase<float>>(2);
  const RowMatrix<float> queries = gaussian_matrix<float>(4, 192, 3);
  const auto message = [&](const std::vector<const KVCache<float>*>& batch, Index rows) {
    return message_of<std::invalid_argument>(
        [&] { attend_batch<float>(batch, queries.topRows(rows)); });
  };
  EXPECT_NE(message({&caches[0], &caches[1]}, 3).find("3 queries, must be a multiple of its 2"),
            std::string::npos);
  EXPECT_NE(message({}, 1).find("1 queries, must be a multiple of its 0"), std::string::npos);
  EXPECT_NE(message({&caches[0], nullptr}, 2).find("cache 1 of the batch is null"),
            std::string::npos);
  KVCacheConfig config = make_config();
  config.num_query_heads = 4;
  const KVCache<float> other(config);
  EXPECT_NE(
      message({&caches[0], &other}, 2)
          .find("cache 1 of the batch has num_query_heads * key head_dim = 128, the first has 192"),
      std::string::npos);
  EXPECT_EQ(attend_batch<float>({}, queries.topRows(0)).rows(), 0);
}

}  // namespace
