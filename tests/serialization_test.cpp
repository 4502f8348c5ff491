#include "polarquant/saving/save.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <streambuf>
#include <string>
#include <utility>
#include <vector>

#include "counting_memory.hpp"
#include "kv_cache_test_util.hpp"
#include "test_util.hpp"

namespace {

using Eigen::Index;
using polarquant::Arithmetic;
using polarquant::FloatType;
using polarquant::Isa;
using polarquant::KVCache;
using polarquant::KVCacheConfig;
using polarquant::load;
using polarquant::PolarFormat;
using polarquant::RadiusMeaning;
using polarquant::RotationKind;
using polarquant::save;
using polarquant::saved_bytes;
using polarquant::detail::Checksum;
using polarquant::detail::kPageTokens;
using polarquant_test::all_codes;
using polarquant_test::CountingMemory;
using polarquant_test::filled_cache;
using polarquant_test::gaussian_matrix;
using polarquant_test::kSanitized;
using polarquant_test::make_config;
using polarquant_test::message_of;
using polarquant_test::ScopedIsa;

using Bytes = std::vector<std::byte>;

template <typename T>
Bytes saved(const KVCache<T>& cache) {
  Bytes bytes(saved_bytes(cache));
  EXPECT_EQ(save(cache, bytes.data(), bytes.size()), bytes.size());
  return bytes;
}

// Caches of make_config() share a codec: making one takes longer than all the rest.
KVCache<float> empty_cache() {
  static const KVCache<float> cache(make_config());
  return KVCache<float>(cache.config(), cache.codec());
}

template <typename T>
KVCache<T> loaded(const Bytes& bytes, const KVCacheConfig& config) {
  KVCache<T> cache(config);
  EXPECT_EQ(load(bytes.data(), bytes.size(), cache), bytes.size());
  return cache;
}

// The error of loading bytes into a cache, which must not change for it.
std::string error_of(const Bytes& bytes, KVCache<float> cache = empty_cache()) {
  const KVCacheConfig& config = cache.config();
  cache.append(gaussian_matrix<float>(3, config.num_kv_heads * config.key_format.head_dim(), 8),
               gaussian_matrix<float>(3, config.num_kv_heads * config.value_format.head_dim(), 9));
  const polarquant::RowMatrix<float> before = cache.decode_keys(0);
  std::string message =
      message_of<std::runtime_error>([&] { load(bytes.data(), bytes.size(), cache); });
  EXPECT_EQ(cache.decode_keys(0), before);
  return message;
}

TEST(SerializationTest, LoadGivesTheSavedCodes) {
  for (const std::size_t num_tokens : {std::size_t{0}, std::size_t{1}, std::size_t{31},
                                       std::size_t{33}, kPageTokens, 2 * kPageTokens + 77}) {
    const KVCache<float> cache = filled_cache<float>(static_cast<Index>(num_tokens));
    const KVCache<float> other = loaded<float>(saved(cache), make_config());
    EXPECT_EQ(other.num_tokens(), num_tokens);
    EXPECT_EQ(all_codes(other), all_codes(cache));
    if (num_tokens == 0) continue;
    const auto queries = gaussian_matrix<float>(2, 192, 3);
    EXPECT_EQ(other.attend(queries), cache.attend(queries));
  }
}

TEST(SerializationTest, ALoadedCacheGoesOn) {
  KVCache<float> cache = filled_cache<float>(77);
  KVCache<float> other = loaded<float>(saved(cache), make_config());
  for (KVCache<float>* each : {&cache, &other}) {
    each->append(gaussian_matrix<float>(700, 64, 5), gaussian_matrix<float>(700, 96, 6));
  }
  EXPECT_EQ(all_codes(other), all_codes(cache));
}

TEST(SerializationTest, EveryFormat) {
  polarquant::Random random(3);
  for (int trial = 0; trial < 20; ++trial) {
    KVCacheConfig config;
    config.num_kv_heads = config.num_query_heads = polarquant_test::random_int(random, 1, 3);
    config.key_format = polarquant_test::random_format(random, 128);
    config.value_format = trial % 4 == 0 ? PolarFormat::uncompressed(40, FloatType::kFloat32)
                                         : polarquant_test::random_format(random, 128);
    config.rotation = polarquant_test::random_rotation(random, 128);
    config.seed = static_cast<std::uint64_t>(trial);
    polarquant_test::encode_all(config);
    KVCache<float> cache(config);
    const Index num_tokens = polarquant_test::random_int(random, 1, 100);
    cache.append(
        gaussian_matrix<float>(num_tokens, config.num_kv_heads * config.key_format.head_dim(), 1),
        gaussian_matrix<float>(num_tokens, config.num_kv_heads * config.value_format.head_dim(), 2));
    EXPECT_EQ(all_codes(loaded<float>(saved(cache), config)), all_codes(cache));
  }
}

TEST(SerializationTest, TheBytesDependOnTheCodesAlone) {
  const KVCache<float> cache = filled_cache<float>(700);
  KVCache<float> other = filled_cache<float>(900);
  other.reserve(3000);
  other.truncate(700);
  EXPECT_EQ(saved(other), saved(cache));
  KVCacheConfig config = make_config();
  config.num_query_heads = 2;
  config.arithmetic = Arithmetic::kFixedPoint;
  EXPECT_EQ(saved(loaded<float>(saved(cache), config)), saved(cache));
  EXPECT_EQ(all_codes(loaded<double>(saved(cache), make_config())), all_codes(cache));
}

TEST(SerializationTest, SavesOfEveryInstructionSetLoadOnEveryOther) {
  std::vector<Bytes> saves;
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kNeon}) {
    if (!polarquant::isa_is_available(isa)) continue;
    const ScopedIsa scoped(polarquant::isa_name(isa));
    saves.push_back(saved(filled_cache<float>(77)));
    EXPECT_EQ(saves.back(), saves.front());
    EXPECT_EQ(saved(loaded<float>(saves.front(), make_config())), saves.front());
  }
  EXPECT_GE(saves.size(), 1u);
}

TEST(SerializationTest, ACopyAndADroppedFrontAreSavedAsWhatTheyHold) {
  KVCache<float> cache = filled_cache<float>(static_cast<Index>(kPageTokens + 9));
  const KVCache<float> copy = cache.copy();
  EXPECT_EQ(saved(copy), saved(cache));
  cache.drop_front(3 * polarquant::kTileTokens);
  EXPECT_EQ(all_codes(loaded<float>(saved(cache), make_config())), all_codes(cache));
}

// Exact tokens and centring vectors, at every age of the cache.
KVCacheConfig segments_config(polarquant::Centering centering = polarquant::Centering::kEstimated) {
  KVCacheConfig config = make_config();
  config.num_sink_tokens = 4;
  config.num_recent_tokens = 50;
  config.exact_type = FloatType::kFloat32;
  config.centering = centering;
  config.num_centering_tokens = 30;
  if (centering == polarquant::Centering::kGiven) config.key_mean.assign(2 * 32, 0.25f);
  return config;
}

KVCache<float> segments_cache(Index num_tokens, const KVCacheConfig& config = segments_config()) {
  KVCache<float> cache(config);
  cache.append(gaussian_matrix<float>(num_tokens, 64, 1),
               gaussian_matrix<float>(num_tokens, 96, 2));
  return cache;
}

TEST(SerializationTest, ExactTokensAndCentringVectorsAtEveryAge) {
  for (const auto centering : {polarquant::Centering::kNone, polarquant::Centering::kGiven,
                               polarquant::Centering::kEstimated}) {
    const KVCacheConfig config = segments_config(centering);
    for (const Index num_tokens : {0, 3, 4, 20, 34, 60, 90, 700}) {
      KVCache<float> cache = segments_cache(num_tokens, config);
      KVCache<float> other = loaded<float>(saved(cache), config);
      for (int more = 0; more < 3; ++more) {
        EXPECT_EQ(other.num_tokens(), cache.num_tokens());
        EXPECT_EQ(other.num_encoded_tokens(), cache.num_encoded_tokens());
        for (int head = 0; head < 2; ++head) {
          EXPECT_EQ(other.decode_keys(head), cache.decode_keys(head));
          EXPECT_EQ(other.decode_values(head), cache.decode_values(head));
          EXPECT_EQ(other.key_mean(head), cache.key_mean(head));
          EXPECT_EQ(other.value_mean(head), cache.value_mean(head));
        }
        for (KVCache<float>* each : {&cache, &other}) {
          each->append(gaussian_matrix<float>(40, 64, 5), gaussian_matrix<float>(40, 96, 6));
        }
      }
    }
  }
}

TEST(SerializationTest, TheCacheHasItsOwnGivenCentringVectors) {
  KVCacheConfig config = segments_config(polarquant::Centering::kGiven);
  const Bytes bytes = saved(segments_cache(10, config));
  config.key_mean[37] = 1.0f;
  EXPECT_EQ(error_of(bytes, KVCache<float>(config)),
            "polarquant: loading: the key_mean of KV head 1 differs in entry 5 from this cache's");
}

TEST(SerializationTest, ThePagesOfALoadedCacheComeFromItsAllocator) {
  CountingMemory memory;
  KVCacheConfig config = make_config();
  config.allocator = memory.allocator();
  const KVCache<float> cache = loaded<float>(saved(filled_cache<float>(40)), config);
  EXPECT_EQ(memory.num_held, 4u);
}

// ---- Streams and files ----

TEST(SerializationTest, AStreamHoldsTheSameBytesAndSeveralCaches) {
  const KVCache<float> first = filled_cache<float>(700);
  const KVCache<float> second = filled_cache<float>(33);
  std::stringstream stream;
  save(first, stream);
  save(second, stream);
  const std::string text = stream.str();
  Bytes bytes = saved(first);
  ASSERT_GT(text.size(), bytes.size());
  EXPECT_EQ(std::memcmp(text.data(), bytes.data(), bytes.size()), 0);
  KVCache<float> cache(make_config());
  load(stream, cache);
  EXPECT_EQ(all_codes(cache), all_codes(first));
  load(stream, cache);
  EXPECT_EQ(all_codes(cache), all_codes(second));
  EXPECT_EQ(message_of<std::runtime_error>([&] { load(stream, cache); }),
            "polarquant: loading: the bytes end too early: truncated");
}

// A path of its own for each process.
std::string temporary_path() {
  return testing::TempDir() + "polarquant_serialization_" + std::to_string(getpid());
}

TEST(SerializationTest, AFile) {
  const std::string path = temporary_path();
  const KVCache<float> cache = filled_cache<float>(100);
  save(cache, path);
  KVCache<float> other(make_config());
  load(path, other);
  EXPECT_EQ(all_codes(other), all_codes(cache));
  std::ofstream(path, std::ios::binary | std::ios::app) << 'x';
  EXPECT_EQ(message_of<std::runtime_error>([&] { load(path, other); }),
            "polarquant: loading: " + path + " has bytes behind the saved cache");
  EXPECT_EQ(all_codes(other), all_codes(cache));
  std::remove(path.c_str());
  EXPECT_EQ(message_of<std::runtime_error>([&] { load(path, other); }),
            "polarquant: loading: cannot read " + path);
  EXPECT_EQ(message_of<std::runtime_error>([&] { save(cache, "/no/such/folder/file"); }),
            "polarquant: saving: cannot write /no/such/folder/file");
}

TEST(SerializationTest, AStreamThatFailsIsAnError) {
  const KVCache<float> cache = filled_cache<float>(100);
  std::ofstream full("/dev/full", std::ios::binary);
  if (!full) GTEST_SKIP() << "no /dev/full";
  full.rdbuf()->pubsetbuf(nullptr, 0);
  EXPECT_EQ(message_of<std::runtime_error>([&] { save(cache, full); }),
            "polarquant: saving: the stream does not take the bytes");
}

TEST(SerializationTest, TooLittleMemoryIsAnError) {
  const KVCache<float> cache = filled_cache<float>(10);
  Bytes bytes(saved_bytes(cache) - 1);
  EXPECT_EQ(message_of<std::invalid_argument>([&] { save(cache, bytes.data(), bytes.size()); }),
            "polarquant: saving to " + std::to_string(bytes.size()) + " bytes: needs " +
                std::to_string(bytes.size() + 1));
}

// ---- Damage ----

TEST(SerializationTest, EveryFlippedByteIsDetected) {
  for (const bool has_segments : {false, true}) {
    const KVCache<float> like = has_segments ? segments_cache(0) : empty_cache();
    const Bytes bytes = saved(has_segments ? segments_cache(90) : filled_cache<float>(3));
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      Bytes damaged = bytes;
      damaged[i] ^= std::byte{0x10};
      KVCache<float> cache(like.config(), like.codec());
      EXPECT_NE(
          message_of<std::runtime_error>([&] { load(damaged.data(), damaged.size(), cache); }), "")
          << "byte " << i;
      EXPECT_EQ(cache.num_tokens(), 0u);
    }
  }
}

TEST(SerializationTest, EveryTruncationIsDetected) {
  const Bytes bytes = saved(filled_cache<float>(3));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const Bytes truncated(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_NE(error_of(truncated).find("truncated"), std::string::npos) << size << " bytes";
    std::istringstream stream(
        std::string(reinterpret_cast<const char*>(truncated.data()), truncated.size()));
    KVCache<float> cache = empty_cache();
    EXPECT_NE(message_of<std::runtime_error>([&] { load(stream, cache); }).find("truncated"),
              std::string::npos)
        << size;
    EXPECT_EQ(cache.num_tokens(), 0u);
  }
}

// Puts a number into the header or a section, and the checksum right again.
void forge(Bytes& bytes, std::size_t offset, std::uint64_t value, std::size_t num_bytes,
           std::size_t begin, std::size_t end) {
  std::memcpy(bytes.data() + offset, &value, num_bytes);
  Checksum checksum;
  checksum.add(bytes.data() + begin, end - begin);
  const std::uint64_t sum = checksum.value();
  std::memcpy(bytes.data() + end, &sum, sizeof sum);
}

std::size_t section_of(const Bytes& bytes, const char* name) {
  for (std::size_t i = 32;; ++i) {
    if (std::memcmp(bytes.data() + i, name, 4) == 0) return i;
  }
}

TEST(SerializationTest, AForeignFileIsToldFromADamagedOne) {
  Bytes bytes(1000);
  EXPECT_EQ(error_of(bytes),
            "polarquant: loading: this is no saved cache, it does not begin with \"PolarKV\"");
  bytes = saved(filled_cache<float>(3));
  bytes[12] ^= std::byte{1};
  EXPECT_EQ(error_of(bytes), "polarquant: loading: the checksum of the header is wrong: damaged");
  bytes = saved(filled_cache<float>(3));
  bytes[bytes.size() - 20] ^= std::byte{1};
  EXPECT_EQ(error_of(bytes), "polarquant: loading: no section \"LAST\" where it must be: damaged");
  bytes = saved(filled_cache<float>(3));
  bytes[section_of(bytes, "CODE") + 20] ^= std::byte{1};
  EXPECT_EQ(error_of(bytes),
            "polarquant: loading: the checksum of section \"CODE\" is wrong: damaged");
}

TEST(SerializationTest, ALaterVersionIsNamed) {
  Bytes bytes = saved(filled_cache<float>(3));
  forge(bytes, 8, 2, 8, 0, 24);
  EXPECT_EQ(error_of(bytes),
            "polarquant: loading: the saved cache has version 2, this library reads version 1");
}

// A stream that cannot tell its size.
class PipeBuffer : public std::streambuf {
 public:
  explicit PipeBuffer(Bytes bytes) : bytes_(std::move(bytes)) {
    char* const begin = reinterpret_cast<char*>(bytes_.data());
    setg(begin, begin, begin + bytes_.size());
  }

 private:
  Bytes bytes_;
};

// With right checksums: sizes that no file can have are refused before anything is allocated.
TEST(SerializationTest, AForgedNumberOfTokensAllocatesNothing) {
  const Bytes bytes = saved(filled_cache<float>(3));
  const std::size_t sizes = section_of(bytes, "SIZE");
  CountingMemory memory;
  KVCacheConfig config = make_config();
  config.allocator = memory.allocator();
  for (const std::uint64_t value :
       {std::uint64_t{4}, std::uint64_t{1} << 30, std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
    Bytes forged = bytes;
    for (const std::size_t field : {0u, 1u}) {
      forge(forged, sizes + 16 + 8 * field, value, 8, sizes, sizes + 40);
    }
    KVCache<float> cache(config);
    const std::string expected = "polarquant: loading: " + std::to_string(value) + " tokens, " +
                                 std::to_string(value) + " of them encoded, in " +
                                 std::to_string(bytes.size()) + " bytes: damaged";
    EXPECT_EQ(message_of<std::runtime_error>([&] { load(forged.data(), forged.size(), cache); }),
              expected);
    // A total that fits the number: memory and files know their size, a pipe has to be read.
    const std::uint64_t total = bytes.size() + (value - 3) * cache.bytes_per_token();
    forge(forged, 16, total, 8, 0, 24);
    const std::string truncated =
        message_of<std::runtime_error>([&] { load(forged.data(), forged.size(), cache); });
    EXPECT_NE(truncated, "");
    std::istringstream stream(
        std::string(reinterpret_cast<const char*>(forged.data()), forged.size()));
    EXPECT_EQ(message_of<std::runtime_error>([&] { load(stream, cache); }), truncated);
    PipeBuffer buffer(forged);
    std::istream pipe(&buffer);
    EXPECT_NE(message_of<std::runtime_error>([&] { load(pipe, cache); }), "");
    EXPECT_EQ(memory.num_held, 0u);
  }
}

TEST(SerializationTest, APipeIsRead) {
  const KVCache<float> cache = segments_cache(90);
  PipeBuffer buffer(saved(cache));
  std::istream pipe(&buffer);
  KVCache<float> other(segments_config());
  load(pipe, other);
  EXPECT_EQ(other.decode_keys(0), cache.decode_keys(0));
}

// Numbers of tokens that this cache could not have come to hold.
TEST(SerializationTest, ImpossibleSegmentsAreRefused) {
  const Bytes bytes = saved(segments_cache(90));
  const std::size_t sizes = section_of(bytes, "SIZE");
  std::uint64_t num_encoded;
  std::memcpy(&num_encoded, bytes.data() + sizes + 24, 8);
  EXPECT_EQ(num_encoded, 32u);
  for (const std::uint64_t value : {std::uint64_t{0}, std::uint64_t{87}, std::uint64_t{1000}}) {
    Bytes forged = bytes;
    forge(forged, sizes + 24, value, 8, sizes, sizes + 40);
    EXPECT_NE(error_of(forged, segments_cache(0)).find("of them encoded"), std::string::npos);
  }
  for (const std::uint64_t is_pending : {1u, 2u}) {
    Bytes forged = bytes;
    forge(forged, sizes + 32, is_pending, 8, sizes, sizes + 40);
    EXPECT_NE(error_of(forged, segments_cache(0)).find("of them encoded"), std::string::npos);
  }
}

// ---- Another configuration ----

TEST(SerializationTest, ADifferentSettingIsNamed) {
  const Bytes bytes = saved(filled_cache<float>(3));
  const auto expect = [&bytes](const std::function<void(KVCacheConfig&)>& change,
                               const std::string& what) {
    KVCacheConfig config = make_config();
    change(config);
    const std::string message = error_of(bytes, KVCache<float>(config));
    EXPECT_NE(message.find("loading: " + what), std::string::npos) << message;
  };
  expect([](KVCacheConfig& config) { config.num_kv_heads = 3; },
         "num_kv_heads of the saved cache is 2, this cache has 3");
  expect([](KVCacheConfig& config) { config.num_sink_tokens = 1; },
         "num_sink_tokens of the saved cache is 0, this cache has 1");
  expect([](KVCacheConfig& config) { config.num_recent_tokens = 64; },
         "num_recent_tokens of the saved cache is 0, this cache has 64");
  expect([](KVCacheConfig& config) { config.exact_type = FloatType::kBFloat16; },
         "exact_type of the saved cache is " +
             std::to_string(static_cast<int>(make_config().exact_type)) + ", this cache has 0");
  expect([](KVCacheConfig& config) { config.centering = polarquant::Centering::kEstimated; },
         "centering of the saved cache is 0, this cache has 2");
  expect([](KVCacheConfig& config) { config.key_format = PolarFormat::full_depth(64, 3.5); },
         "key head_dim of the saved cache is 32, this cache has 64");
  expect([](KVCacheConfig& config) { config.value_format = PolarFormat::full_depth(48, 3.5); },
         "value levels of the saved cache is 4, this cache has 5");
  expect([](KVCacheConfig& config) { config.value_format.level_bits[1] = 3; },
         "value bits of level 2 of the saved cache is 2, this cache has 3");
  expect([](KVCacheConfig& config) { config.value_format.radius_type = FloatType::kFloat16; },
         "value radius_type of the saved cache is 0, this cache has 1");
  expect(
      [](KVCacheConfig& config) {
        config.key_format.radius_meaning = RadiusMeaning::kLeastSquares;
      },
      "key radius_meaning of the saved cache is " +
          std::to_string(static_cast<int>(make_config().key_format.radius_meaning)) +
          ", this cache has 3");
  expect([](KVCacheConfig& config) { config.rotation = RotationKind::kHadamard; },
         "key rotation kind of the saved cache is 2, this cache has 1");
  expect([](KVCacheConfig& config) { config.seed = 4; },
         "key rotation seed of the saved cache is 3, this cache has 4");
  expect(
      [](KVCacheConfig& config) {
        auto codebooks = std::make_shared<polarquant::CodebookSet>(
            polarquant::offline_codebooks(config.value_format));
        std::vector<double> centroids = codebooks->levels[2].centroids();
        centroids[1] += 1e-9;
        codebooks->levels[2] = polarquant::AngleCodebook::from_centroids(centroids, false);
        config.value_codebooks = codebooks;
      },
      "value codebook checksum of the saved cache is ");
}

// ---- The format ----

// A change of these bytes is a change of the format: raise kSavedVersion.
TEST(SerializationTest, GoldenBytes) {
  KVCacheConfig config;
  config.key_format = PolarFormat::paper(16);
  config.key_format.radius_meaning = RadiusMeaning::kUnbiased;
  config.exact_type = FloatType::kFloat16;
  config.value_format = PolarFormat::uncompressed(4);
  config.rotation = RotationKind::kHadamard;
  config.seed = 5;
  polarquant_test::encode_all(config);
  KVCache<float> cache(config);
  polarquant::RowMatrix<float> keys(2, 16), values(2, 4);
  for (Index i = 0; i < keys.size(); ++i) keys.data()[i] = static_cast<float>(i % 7 - 3);
  for (Index i = 0; i < values.size(); ++i) values.data()[i] = static_cast<float>(i);
  cache.append(keys, values);
  const Bytes bytes = saved(cache);
  Checksum checksum;
  checksum.add(bytes.data(), bytes.size());
  EXPECT_EQ(bytes.size(), 696u);
  EXPECT_EQ(checksum.value(), 2696623901624340114u);
}

TEST(SerializationTest, TheFileIsAtMostOnePercentOverTheCodes) {
  KVCacheConfig config;
  config.num_kv_heads = config.num_query_heads = 8;
  config.key_format = config.value_format = PolarFormat::paper(128);
  config.rotation = RotationKind::kHadamard;
  polarquant_test::encode_all(config);
  KVCache<float> cache(config);
  cache.append(gaussian_matrix<float>(100, 1024, 1), gaussian_matrix<float>(100, 1024, 2));
  const std::size_t codes = 100 * cache.bytes_per_token();
  EXPECT_GT(saved_bytes(cache), codes);
  EXPECT_LT(saved_bytes(cache), codes + codes / 100);
}

}  // namespace
