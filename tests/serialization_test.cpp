// What is saved comes back: to memory, streams and files, at every age of a cache, of every format.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "counting_memory.hpp"
#include "polarquant/saving/save.hpp"
#include "saving_test_util.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using polarquant::detail::kPageTokens;
using namespace polarquant_test;

template <typename Family>
class SerializationTest : public testing::Test {
 protected:
  static KVCacheConfig make_config() { return polarquant_test::make_config<Family>(); }
  static KVCacheConfig config_of(Centering centering = Centering::kLocal) {
    KVCacheConfig config = segments_config<Family>(4, 50, centering);
    return config;
  }
  static KVCache<float> filled_cache(Index num_tokens) {
    return polarquant_test::filled_cache<float>(num_tokens, make_config());
  }
};
TYPED_TEST_SUITE(SerializationTest, polarquant_test::Families, );  // clang++ wants the empty one.

TYPED_TEST(SerializationTest, LoadGivesTheSavedCodes) {
  for (const std::size_t num_tokens : {std::size_t{0}, std::size_t{1}, std::size_t{31},
                                       std::size_t{33}, kPageTokens, 2 * kPageTokens + 77}) {
    const auto cache = TestFixture::filled_cache(static_cast<Index>(num_tokens));
    const auto other = loaded<float>(saved(cache), cache.config());
    EXPECT_EQ(other.num_tokens(), num_tokens);
    EXPECT_EQ(all_codes(other), all_codes(cache));
    const auto queries = polarquant_test::random_queries<float>(cache.config(), 2);
    EXPECT_EQ(other.attend(queries), cache.attend(queries));
  }
}

TYPED_TEST(SerializationTest, ALoadedCacheGoesOn) {
  auto cache = TestFixture::filled_cache(77);
  auto other = loaded<float>(saved(cache), cache.config());
  for (KVCache<float>* each : {&cache, &other}) append_random(*each, 700, 5);
  EXPECT_EQ(all_codes(other), all_codes(cache));
}

TYPED_TEST(SerializationTest, TheBytesDependOnTheCodesAlone) {
  const auto cache = TestFixture::filled_cache(700);
  auto other = TestFixture::filled_cache(700);
  append_random(other, 200, 9);
  other.reserve(3000);
  other.truncate(700);
  EXPECT_EQ(saved(other), saved(cache));
  KVCacheConfig config = cache.config();
  config.num_query_heads = 2;
  config.arithmetic = Arithmetic::kExact;
  EXPECT_EQ(saved(loaded<float>(saved(cache), config)), saved(cache));
  // exact_type is that of T unless it is set.
  config.exact_type = FloatType::kFloat32;
  EXPECT_EQ(all_codes(loaded<double>(saved(cache), config)), all_codes(cache));
}

TYPED_TEST(SerializationTest, SavesOfEveryInstructionSetLoadOnEveryOther) {
  std::vector<Bytes> saves;
  for (const polarquant::Isa isa : polarquant_test::available_isas()) {
    KVCacheConfig config = TestFixture::config_of();
    config.isa = isa;
    KVCache<float> cache(config);
    append_random(cache, 130, 1);
    saves.push_back(saved(cache));
    EXPECT_EQ(saves.back(), saves.front());
    EXPECT_EQ(saved(loaded<float>(saves.front(), config)), saves.front());
  }
  EXPECT_GE(saves.size(), 1u);
}

TYPED_TEST(SerializationTest, ACopyADroppedFrontAndHolesAreSavedAsWhatTheyHold) {
  auto cache = TestFixture::filled_cache(static_cast<Index>(kPageTokens + 9));
  const auto copy = cache.copy();
  EXPECT_EQ(saved(copy), saved(cache));
  cache.drop_front(3 * polarquant::kTileTokens);
  EXPECT_EQ(all_codes(loaded<float>(saved(cache), cache.config())), all_codes(cache));
  cache.remove({0, 3});
  cache.remove({100, 70});
  cache.remove({kPageTokens - 100, 1});
  auto other = loaded<float>(saved(cache), cache.config());
  EXPECT_TRUE(state_of(other) == state_of(cache));
  EXPECT_EQ(other.removed_tokens().size(), 3u);
  EXPECT_EQ(saved(other), saved(cache));
}

// Exact tokens and centring vectors, at every age of the cache.
TYPED_TEST(SerializationTest, ExactTokensAndCentringVectorsAtEveryAge) {
  for (const auto centering : {Centering::kNone, Centering::kGiven, Centering::kLocal}) {
    const KVCacheConfig config = TestFixture::config_of(centering);
    for (const Index num_tokens : {0, 3, 4, 20, 34, 60, 90, 700}) {
      auto cache = make_cache<float>(config);
      append_random(cache, num_tokens, 1);
      auto other = loaded<float>(saved(cache), config);
      for (int more = 0; more < 3; ++more) {
        EXPECT_TRUE(state_of(other) == state_of(cache)) << num_tokens << " tokens and " << more;
        for (KVCache<float>* each : {&cache, &other}) append_random(*each, 40, 5);
      }
    }
  }
}

TYPED_TEST(SerializationTest, TheCacheHasItsOwnGivenCentringVectors) {
  KVCacheConfig config = TestFixture::config_of(Centering::kGiven);
  const Bytes bytes = saved(polarquant_test::filled_cache<float>(10, config));
  config.key_mean[37] = 1.0f;
  EXPECT_EQ(loading_error(bytes, make_cache<float>(config)),
            "polarquant: loading: the key_mean of KV head 1 differs in entry 5 from this cache's");
}

// ---- Formats and memory ----

TEST(SerializedFormatsTest, EveryFormat) {
  polarquant::Random random(3);
  for (int trial = 0; trial < 20; ++trial) {
    KVCacheConfig config;
    config.num_kv_heads = config.num_query_heads = polarquant_test::random_int(random, 1, 3);
    config.key_format = polarquant_test::random_format(random, 128);
    config.value_format = polarquant_test::random_format(random, 128);
    if (trial % 4 == 0) config.value_format = PolarFormat::uncompressed(40, FloatType::kFloat32);
    config.rotation = polarquant_test::random_rotation(random, 128);
    config.seed = static_cast<std::uint64_t>(trial);
    polarquant_test::encode_all(config);
    KVCache<float> cache(config);
    append_random(cache, polarquant_test::random_int(random, 1, 100), 1);
    KVCache<float> other(config);
    const Bytes bytes = saved(cache);
    load(bytes.data(), bytes.size(), other);
    EXPECT_EQ(all_codes(other), all_codes(cache));
  }
}

TEST(SerializedMemoryTest, ThePagesOfALoadedCacheComeFromItsAllocator) {
  CountingMemory memory;
  KVCacheConfig config = polarquant_test::make_config();
  config.allocator = memory.allocator();
  const auto cache = loaded<float>(saved(polarquant_test::filled_cache<float>(40)), config);
  EXPECT_EQ(memory.num_held, 4u);
}

TEST(SerializedMemoryTest, TheFileIsAtMostOnePercentOverTheCodes) {
  KVCacheConfig config;
  config.num_kv_heads = config.num_query_heads = 8;
  config.key_format = config.value_format = PolarFormat::paper(128);
  config.rotation = RotationKind::kHadamard;
  polarquant_test::encode_all(config);
  KVCache<float> cache(config);
  append_random(cache, 100, 1);
  const std::size_t codes = 100 * cache.bytes_per_token();
  EXPECT_GT(saved_bytes(cache), codes);
  EXPECT_LT(saved_bytes(cache), codes + codes / 100);
}

TEST(SerializedMemoryTest, TooLittleMemoryIsAnError) {
  const auto cache = polarquant_test::filled_cache<float>(10);
  Bytes bytes(saved_bytes(cache) - 1);
  EXPECT_EQ(message_of<std::invalid_argument>([&] { save(cache, bytes.data(), bytes.size()); }),
            "polarquant: saving to " + std::to_string(bytes.size()) + " bytes: needs " +
                std::to_string(bytes.size() + 1));
}

// ---- Streams ----

TEST(SavedStreamTest, HoldsTheSameBytesAndSeveralCaches) {
  const auto first = polarquant_test::filled_cache<float>(700);
  const auto second = polarquant_test::filled_cache<float>(33);
  std::stringstream stream;
  save(first, stream);
  save(second, stream);
  const std::string text = stream.str();
  const Bytes bytes = saved(first);
  ASSERT_GT(text.size(), bytes.size());
  EXPECT_EQ(std::memcmp(text.data(), bytes.data(), bytes.size()), 0);
  auto cache = make_cache<float>(first.config());
  load(stream, cache);
  EXPECT_EQ(all_codes(cache), all_codes(first));
  load(stream, cache);
  EXPECT_EQ(all_codes(cache), all_codes(second));
  EXPECT_EQ(message_of<std::runtime_error>([&] { load(stream, cache); }),
            "polarquant: loading: there are no bytes, it is empty");
}

TEST(SavedStreamTest, ThatFailsIsAnError) {
  const auto cache = polarquant_test::filled_cache<float>(100);
  std::ofstream full("/dev/full", std::ios::binary);
  if (!full) GTEST_SKIP() << "no /dev/full";
  full.rdbuf()->pubsetbuf(nullptr, 0);
  EXPECT_EQ(message_of<std::runtime_error>([&] { save(cache, full); }),
            "polarquant: saving: the stream does not take the bytes");
}

// A pipe can neither tell nor seek; a filter such as Boost's gzip can tell where it is.
TEST(SavedStreamTest, NeedNotSeek) {
  const KVCacheConfig config = segments_config(4, 50, Centering::kLocal);
  const auto cache = polarquant_test::filled_cache<float>(90, config);
  for (const bool can_tell : {false, true}) {
    for (const bool throws : {false, true}) {
      Bytes bytes = saved(cache);
      const Bytes once = bytes;
      bytes.insert(bytes.end(), once.begin(), once.end());
      bytes.resize(bytes.size() + 5);
      PipeBuffer buffer(bytes, can_tell);
      std::istream stream(&buffer);
      if (throws) stream.exceptions(std::ios::failbit | std::ios::badbit);
      for (int i = 0; i < 2; ++i) {
        auto other = make_cache<float>(config);
        load(stream, other);
        EXPECT_TRUE(state_of(other) == state_of(cache));
        EXPECT_TRUE(stream.good());
      }
      EXPECT_EQ(stream.get(), 0);  // Not a byte more was read.
      EXPECT_EQ(stream.exceptions() != std::ios::goodbit, throws);
    }
  }
}

// ---- Files ----

class SavedFileTest : public testing::Test {
 protected:
  // A folder of its own for each process and case.
  SavedFileTest() { std::filesystem::create_directory(folder_); }
  ~SavedFileTest() override { std::filesystem::remove_all(folder_); }

  std::string error_of_loading() {
    return message_of<std::runtime_error>([&] { load(path_, cache_); });
  }
  std::string error_of_saving() {
    return message_of<std::runtime_error>([&] { save(cache_, path_); });
  }
  std::size_t num_files() const {
    std::size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      count += !entry.path().empty();
    }
    return count;
  }

  const std::string folder_ =
      testing::TempDir() + "polarquant_saved_file_" + std::to_string(getpid());
  const std::string path_ = folder_ + "/cache";
  KVCache<float> cache_ = polarquant_test::filled_cache<float>(100);
};

TEST_F(SavedFileTest, HoldsOneCacheAndNothingElse) {
  save(cache_, path_);
  EXPECT_EQ(file_bytes(path_), saved(cache_));
  EXPECT_EQ(num_files(), 1u);
  auto other = make_cache<float>(cache_.config());
  load(path_, other);
  EXPECT_EQ(all_codes(other), all_codes(cache_));
  append_random(other, 3, 5);
  save(other, path_);  // takes its place
  EXPECT_EQ(file_bytes(path_), saved(other));
  EXPECT_EQ(num_files(), 1u);
  std::ofstream(path_, std::ios::binary | std::ios::app) << 'x';
  EXPECT_EQ(message_of<std::runtime_error>([&] { load(path_, cache_); }),
            "polarquant: loading: " + path_ + " has bytes behind the saved cache");
  EXPECT_EQ(cache_.num_tokens(), 100u);
}

TEST_F(SavedFileTest, WhatIsNoFileIsNamed) {
  EXPECT_EQ(error_of_loading(), "polarquant: loading: cannot read " + path_);
  std::ofstream(path_, std::ios::binary).close();
  EXPECT_EQ(error_of_loading(), "polarquant: loading: " + path_ + " is empty");
  std::filesystem::remove(path_);
  std::filesystem::create_directory(path_);
  EXPECT_EQ(error_of_loading(), "polarquant: loading: " + path_ + " is a folder or cannot be read");
  for (const auto read : {+[](const std::string& path) { polarquant::read_saved_info(path); }}) {
    EXPECT_EQ(message_of<std::runtime_error>([&] { read(path_); }),
              "polarquant: loading: " + path_ + " is a folder or cannot be read");
  }
}

// What stood there stays, and nothing else is left behind.
TEST_F(SavedFileTest, AFailedSaveLeavesTheOldFile) {
  save(cache_, path_);
  const Bytes before = file_bytes(path_);
  append_random(cache_, 100, 7);
  // No place beside it.
  std::filesystem::create_directory(path_ + ".part");
  EXPECT_EQ(error_of_saving(), "polarquant: saving: cannot write " + path_ + ".part");
  EXPECT_EQ(file_bytes(path_), before);
  std::filesystem::remove(path_ + ".part");
  // The disk is full before the end.
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  for (const std::size_t size :
       {std::size_t{0}, saved_bytes(cache_) / 2, saved_bytes(cache_) - 1}) {
    const rlimit small = {static_cast<rlim_t>(size), limit.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    const std::string error = error_of_saving();
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    EXPECT_NE(error, "") << size;
    EXPECT_EQ(file_bytes(path_), before);
    EXPECT_EQ(num_files(), 1u);
  }
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(error_of_saving(), "");
  EXPECT_EQ(file_bytes(path_), saved(cache_));
}

TEST_F(SavedFileTest, AFolderInItsPlaceIsAnError) {
  std::filesystem::create_directories(path_ + "/full");
  EXPECT_EQ(error_of_saving(),
            "polarquant: saving: cannot put " + path_ + ".part in the place of " + path_);
  EXPECT_EQ(num_files(), 1u);
  EXPECT_EQ(message_of<std::runtime_error>([&] { save(cache_, "/no/such/folder/file"); }),
            "polarquant: saving: cannot write /no/such/folder/file.part");
}

}  // namespace
