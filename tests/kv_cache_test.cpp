#include "polarquant/kv_cache.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "count_allocations.hpp"
#include "test_util.hpp"

namespace {

using Eigen::Index;
using polarquant::KVCache;
using polarquant::KVCacheConfig;
using polarquant::PolarFormat;
using polarquant::RotationKind;
using polarquant::RowMatrix;
using polarquant::Rows;
using polarquant_test::AccumulatorOf;
using polarquant_test::count_allocations;
using polarquant_test::gaussian_matrix;
using polarquant_test::GuardedBytes;
using polarquant_test::kSanitized;

// Keys 32 wide, values 48, two KV heads, six query heads; odd and even numbers of bytes.
KVCacheConfig make_config() {
  KVCacheConfig config;
  config.num_kv_heads = 2;
  config.num_query_heads = 6;
  config.key_format = PolarFormat::full_depth(32, 3.5);
  config.value_format = PolarFormat::paper(48);
  config.rotation = RotationKind::kHaar;
  config.seed = 3;
  return config;
}

template <typename T>
std::vector<std::byte> all_codes(const KVCache<T>& cache) {
  std::vector<std::byte> codes;
  for (std::size_t token = 0; token < cache.num_tokens(); ++token) {
    for (int head = 0; head < cache.config().num_kv_heads; ++head) {
      for (const std::vector<std::byte>& code :
           {cache.key_code(head, token), cache.value_code(head, token)}) {
        codes.insert(codes.end(), code.begin(), code.end());
      }
    }
  }
  return codes;
}

template <typename T>
KVCache<T> filled_cache(Index num_tokens) {
  KVCache<T> cache(make_config());
  cache.append(gaussian_matrix<T>(num_tokens, 64, 1), gaussian_matrix<T>(num_tokens, 96, 2));
  return cache;
}

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

template <typename T>
class KVCacheTypedTest : public testing::Test {};
using ElementTypes = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(KVCacheTypedTest, ElementTypes);

// The cache's bytes are the codec's, so that a code can move between the two.
TYPED_TEST(KVCacheTypedTest, CodesAreThoseOfTheCodec) {
  const KVCache<TypeParam> cache = filled_cache<TypeParam>(37);
  const RowMatrix<TypeParam> values = gaussian_matrix<TypeParam>(37, 96, 2);
  const polarquant::PolarCodec<TypeParam>& codec = cache.codec()->values;
  GuardedBytes scratch(codec.scratch_bytes());
  std::vector<std::byte> code(codec.bytes_per_vector());
  for (const Index token : {0, 31, 32, 36}) {
    for (const int head : {0, 1}) {
      codec.encode({values.data() + token * 96 + head * 48, 1, 96}, {code.data(), 1, code.size()},
                   scratch.data());
      EXPECT_EQ(cache.value_code(head, static_cast<std::size_t>(token)), code);
    }
  }
}

TYPED_TEST(KVCacheTypedTest, AppendInPiecesIsAppendAtOnceByteForByte) {
  const RowMatrix<TypeParam> keys = gaussian_matrix<TypeParam>(600, 64, 1);
  const RowMatrix<TypeParam> values = gaussian_matrix<TypeParam>(600, 96, 2);
  KVCache<TypeParam> whole(make_config()), pieces(make_config());
  whole.append(keys, values);
  Index first = 0;
  for (const Index count : {0, 1, 1, 29, 32, 33, 65, 1, 350, 88}) {
    pieces.append(keys.middleRows(first, count), values.middleRows(first, count));
    first += count;
  }
  ASSERT_EQ(first, 600);
  EXPECT_EQ(all_codes(pieces), all_codes(whole));
  const RowMatrix<TypeParam> queries = gaussian_matrix<TypeParam>(3, 192, 3);
  EXPECT_EQ(pieces.attend(queries), whole.attend(queries));
}

TYPED_TEST(KVCacheTypedTest, TruncateThenAppendIsNeverHavingAppended) {
  const RowMatrix<TypeParam> keys = gaussian_matrix<TypeParam>(600, 64, 1);
  const RowMatrix<TypeParam> values = gaussian_matrix<TypeParam>(600, 96, 2);
  const RowMatrix<TypeParam> other_keys = gaussian_matrix<TypeParam>(50, 64, 5);
  const RowMatrix<TypeParam> other_values = gaussian_matrix<TypeParam>(50, 96, 6);
  const RowMatrix<TypeParam> queries = gaussian_matrix<TypeParam>(3, 192, 3);
  for (const Index kept : {0, 1, 31, 32, 33, 512, 550, 600}) {
    KVCache<TypeParam> truncated(make_config()), direct(make_config());
    truncated.append(keys, values);
    truncated.truncate(static_cast<std::size_t>(kept));
    EXPECT_EQ(truncated.num_tokens(), static_cast<std::size_t>(kept));
    truncated.append(other_keys, other_values);
    direct.append(keys.topRows(kept), values.topRows(kept));
    direct.append(other_keys, other_values);
    EXPECT_EQ(all_codes(truncated), all_codes(direct)) << kept;
    EXPECT_EQ(truncated.attend(queries), direct.attend(queries)) << kept;
  }
}

TYPED_TEST(KVCacheTypedTest, DecodeGivesTheRowsOfTheCodec) {
  const KVCache<TypeParam> cache = filled_cache<TypeParam>(37);
  const polarquant::PolarCodec<TypeParam>& codec = cache.codec()->keys;
  for (const int head : {0, 1}) {
    const auto decoded = cache.decode_keys(head);
    ASSERT_EQ(decoded.rows(), 37);
    ASSERT_EQ(decoded.cols(), 32);
    for (std::size_t token = 0; token < 37; ++token) {
      const auto expected = polarquant_test::decode_rows(codec, cache.key_code(head, token));
      for (std::size_t i = 0; i < 32; ++i) {
        EXPECT_NEAR(decoded(static_cast<Index>(token), static_cast<Index>(i)), expected[i], 2e-6);
      }
    }
  }
}

TEST(KVCacheTest, AFreshCacheIsEmpty) {
  const KVCache<float> cache(make_config());
  EXPECT_EQ(cache.num_tokens(), 0u);
  EXPECT_EQ(cache.capacity(), 0u);
  EXPECT_EQ(cache.decode_keys(0).rows(), 0);
  EXPECT_EQ(cache.decode_values(1).cols(), 48);
}

TEST(KVCacheTest, AppendOfNoTokensChangesNothing) {
  KVCache<float> cache(make_config());
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
  EXPECT_EQ(all_codes(filled_cache<float>(20)), all_codes(filled_cache<float>(20)));
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
  first.append(gaussian_matrix<float>(20, 64, 1), gaussian_matrix<float>(20, 96, 2));
  EXPECT_EQ(second.num_tokens(), 0u);
  EXPECT_EQ(all_codes(first), all_codes(filled_cache<float>(20)));
}

TEST(KVCacheTest, TheCodecOfACacheServesAnother) {
  const KVCache<float> first = filled_cache<float>(20);
  KVCache<float> second(make_config(), first.codec());
  second.append(gaussian_matrix<float>(20, 64, 1), gaussian_matrix<float>(20, 96, 2));
  EXPECT_EQ(all_codes(second), all_codes(first));
}

TEST(KVCacheTest, ASharedCodecOutlivesItsCaches) {
  std::shared_ptr<const polarquant::KVCodec<float>> codec;
  {
    const KVCache<float> cache = filled_cache<float>(20);
    codec = cache.codec();
  }
  EXPECT_EQ(codec->keys.head_dim(), 32u);
  EXPECT_EQ(codec.use_count(), 1);
}

TEST(KVCacheTest, MovingKeepsEverything) {
  static_assert(std::is_nothrow_move_constructible_v<KVCache<float>>);
  static_assert(std::is_nothrow_move_assignable_v<KVCache<float>>);
  static_assert(!std::is_copy_constructible_v<KVCache<float>>);
  KVCache<float> cache = filled_cache<float>(300);
  const std::vector<std::byte> codes = all_codes(cache);
  const RowMatrix<float> queries = gaussian_matrix<float>(3, 192, 3);
  const RowMatrix<float> output = cache.attend(queries);
  KVCache<float> constructed(std::move(cache));
  EXPECT_EQ(all_codes(constructed), codes);
  KVCache<float> assigned = filled_cache<float>(1);
  assigned = std::move(constructed);
  EXPECT_EQ(all_codes(assigned), codes);
  EXPECT_EQ(assigned.attend(queries), output);
  assigned.append(gaussian_matrix<float>(1, 64, 7), gaussian_matrix<float>(1, 96, 8));
  EXPECT_EQ(assigned.num_tokens(), 301u);
}

// ---- The twins on plain pointers ----

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

// ---- Threads ----

TEST(KVCacheTest, ConstCallsFromTwoThreadsGiveWhatOneThreadGets) {
  const KVCache<float> cache = filled_cache<float>(600);
  const RowMatrix<float> queries = gaussian_matrix<float>(3, 192, 3);
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

// ---- Memory ----

std::size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t total = 0;
  std::size_t resident = 0;
  file >> total >> resident;
  return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

KVCacheConfig paper_config() {
  KVCacheConfig config;
  config.num_kv_heads = 8;
  config.num_query_heads = 8;
  config.key_format = PolarFormat::paper(128);
  config.value_format = PolarFormat::paper(128);
  config.rotation = RotationKind::kHadamard;
  return config;
}

// 100,000 tokens of 8 KV heads at 62 bytes a vector: 99.2 MB.
TEST(KVCacheMemoryTest, MemoryBytesIsTheCodesAndOnePercentAtMostMore) {
  const std::size_t num_tokens = 100000;
  const std::size_t num_pieces = kSanitized ? 1 : 100;
  KVCache<float> cache(paper_config());
  const RowMatrix<float> keys = gaussian_matrix<float>(1000, 1024, 1);
  const RowMatrix<float> values = gaussian_matrix<float>(1000, 1024, 2);
  cache.append(keys, values);  // What the first call allocates by the way is not the cache's.
  cache.truncate(0);

  const std::size_t memory_before = cache.memory_bytes();
  const std::size_t resident_before = resident_bytes();
  for (std::size_t piece = 0; piece < num_pieces; ++piece) cache.append(keys, values);
  cache.reserve(num_tokens);
  const std::size_t resident_growth = resident_bytes() - resident_before;
  const std::size_t memory_growth = cache.memory_bytes() - memory_before;

  EXPECT_EQ(cache.num_tokens(), 1000 * num_pieces);
  const double codes = 100000.0 * 8 * 2 * 62;
  EXPECT_GE(static_cast<double>(cache.memory_bytes()), codes);
  EXPECT_LE(static_cast<double>(cache.memory_bytes()), 1.01 * codes);
  RecordProperty("memory_bytes", std::to_string(cache.memory_bytes()));
  RecordProperty("resident_growth", std::to_string(resident_growth));
  if (kSanitized) return;  // The sanitizer's own memory would be measured with it.
  EXPECT_NEAR(static_cast<double>(resident_growth) / static_cast<double>(memory_growth), 1.0, 0.03);
}

// Growth by doubling would hold up to twice the codes.
TEST(KVCacheMemoryTest, MemoryIsNeverMoreThanAPagePerHeadAndSideBeyondTheCodes) {
  KVCache<float> cache(paper_config());
  const std::size_t empty = cache.memory_bytes();
  for (std::size_t num_tokens = 1; num_tokens < 20000; num_tokens += 777) {
    cache.reserve(num_tokens);
    const std::size_t codes = num_tokens * cache.bytes_per_token();
    const std::size_t page = 512 * cache.bytes_per_token();
    EXPECT_GE(cache.memory_bytes(), codes);
    EXPECT_LE(cache.memory_bytes(), empty + codes + codes / 500 + page + page / 500);
  }
}

}  // namespace
