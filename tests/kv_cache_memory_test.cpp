// The memory of a cache: what memory_bytes says, and what the process really holds.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstddef>
#include <fstream>
#include <string>

#include "polarquant/kv_cache.hpp"
#include "test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

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
  polarquant_test::encode_all(config);
  return config;
}

// Against fp16, with the defaults, exact tokens in float32: short caches too.
TEST(KVCacheMemoryTest, ACacheIsSmallerThanFp16From256TokensOn) {
  KVCacheConfig config;
  config.num_kv_heads = config.num_query_heads = 8;
  config.key_format = config.value_format = PolarFormat::full_depth(128, 4.25);
  config.rotation = RotationKind::kHadamard;
  const KVCache<float> empty(config);
  const RowMatrix<float> rows = gaussian_matrix<float>(4096, 1024, 1);
  struct Most {
    Eigen::Index num_tokens;
    double share;
  };
  for (const Most& most : {Most{256, 1.0}, Most{1024, 0.42}, Most{4096, 0.31}}) {
    KVCache<float> cache(config, empty.codec());
    cache.append(rows.topRows(most.num_tokens), rows.topRows(most.num_tokens));
    const double float16_bytes = static_cast<double>(most.num_tokens) * 8 * 128 * 2 * 2;
    EXPECT_LE(static_cast<double>(cache.memory_bytes()), most.share * float16_bytes)
        << most.num_tokens;
    // Not less than the codes and the 36 exact tokens at least.
    EXPECT_GE(cache.memory_bytes(),
              (static_cast<std::size_t>(most.num_tokens) - 67) * cache.bytes_per_token());
  }
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
