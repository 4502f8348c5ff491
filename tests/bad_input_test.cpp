// Every constructor and call with what it must refuse: one exception whose message names the value
// and the rule, and a cache that is as it was before.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "polarquant/polarquant.hpp"
#include "test_util.hpp"

namespace {

using Eigen::Index;
using polarquant::FloatType;
using polarquant::KVCache;
using polarquant::KVCacheConfig;
using polarquant::PolarCodec;
using polarquant::PolarFormat;
using polarquant::RadiusMeaning;
using polarquant::Rotation;
using polarquant::RotationKind;
using polarquant::RowMatrix;
using polarquant_test::format_of;
using polarquant_test::gaussian_matrix;
using polarquant_test::make_rotation;
using polarquant_test::message_of;

// Fails unless `call` throws std::invalid_argument with every one of `parts` in its message.
template <typename Call>
void expect_invalid(Call&& call, std::initializer_list<const char*> parts) {
  const std::string message = message_of<std::invalid_argument>(call);
  EXPECT_EQ(message.rfind("polarquant: ", 0), 0u) << "message: " << message;
  for (const char* const part : parts) {
    EXPECT_NE(message.find(part), std::string::npos)
        << "message: " << message << "\nlacks: " << part;
  }
}

KVCacheConfig make_config() {
  KVCacheConfig config;
  config.num_kv_heads = 2;
  config.num_query_heads = 6;
  config.key_format = PolarFormat::paper(32);
  config.value_format = PolarFormat::paper(48);
  config.seed = 3;
  return config;
}

// ---- Formats ----

TEST(BadFormatTest, PaperNeedsAMultipleOfSixteen) {
  for (const int head_dim : {-16, 0, 8, 100, 1040}) {
    expect_invalid([&] { PolarFormat::paper(head_dim); },
                   {("head_dim is " + std::to_string(head_dim)).c_str(), "multiple of 16", "1024"});
  }
}

TEST(BadFormatTest, FullDepthNeedsAnEvenWidth) {
  for (const int head_dim : {-2, 0, 1, 81, 1026}) {
    expect_invalid([&] { PolarFormat::full_depth(head_dim, 3.25); },
                   {("head_dim is " + std::to_string(head_dim)).c_str(), "multiple of 2"});
  }
}

TEST(BadFormatTest, FullDepthNeedsRoomForTheRadiusAndOneBitPerPair) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double bits : {0.6, 0.0, -1.0, nan, -std::numeric_limits<double>::infinity()}) {
    // 16 + 64 bits in 10 bytes: 0.625 bits per coordinate.
    expect_invalid([&] { PolarFormat::full_depth(128, bits); },
                   {"full_depth at ", "head_dim 128 needs at least 0.625"});
  }
}

TEST(BadFormatTest, UncompressedNeedsAnEvenWidth) {
  expect_invalid([] { PolarFormat::uncompressed(7); }, {"head_dim is 7", "multiple of 2"});
}

TEST(BadFormatTest, LevelsMustFitTheWidth) {
  for (const int levels : {-1, 8, 11}) {
    PolarFormat format = PolarFormat::paper(128);
    format.levels = levels;
    expect_invalid([&] { format.validate(); },
                   {("levels is " + std::to_string(levels)).c_str(), "head_dim 128"});
  }
}

TEST(BadFormatTest, AWidthThatIsNotWholeBlocksNeedsFullDepth) {
  PolarFormat format = PolarFormat::paper(96);
  format.head_dim = 104;
  expect_invalid([&] { format.validate(); }, {"head_dim is 104", "multiple of 2^levels = 16"});
}

TEST(BadFormatTest, BitsOfALevelHaveALimit) {
  expect_invalid([] { format_of(64, {9, 2}).validate(); }, {"level 1 has 9 bits", "1 .. 8"});
  expect_invalid([] { format_of(64, {0, 2}).validate(); }, {"level 1 has 0 bits", "1 .. 8"});
  expect_invalid([] { format_of(64, {4, 7}).validate(); }, {"level 2 has 7 bits", "0 .. 6"});
  expect_invalid(
      [] {
        format_of(80, {4, 2, 2, 2, 2, 2}, {7}).validate();
      },
      {"join 0 has 7 bits", "0 .. 6"});
}

TEST(BadFormatTest, RadiiOfACompressedFormatAreNotFloat64) {
  PolarFormat format = PolarFormat::paper(64);
  format.radius_type = FloatType::kFloat64;
  expect_invalid([&] { format.validate(); }, {"radius_type is float64", "bfloat16"});
}

TEST(BadFormatTest, EnumeratorsAreChecked) {
  PolarFormat format = PolarFormat::paper(64);
  format.radius_type = static_cast<FloatType>(9);
  expect_invalid([&] { format.validate(); }, {"radius_type is 9"});
  format = PolarFormat::paper(64);
  format.radius_meaning = static_cast<RadiusMeaning>(4);
  expect_invalid([&] { format.validate(); }, {"radius_meaning is 4"});
}

// ---- Rotation and codec ----

TEST(BadCodecTest, RotationOfAnImpossibleWidth) {
  for (const int head_dim : {-2, 0, 3, 1026}) {
    expect_invalid([&] { Rotation(RotationKind::kHaar, head_dim, 0); },
                   {("head_dim is " + std::to_string(head_dim)).c_str(), "even, 2 .. 1024"});
  }
}

TEST(BadCodecTest, RotationOfAnUnknownKind) {
  expect_invalid([] { Rotation(static_cast<RotationKind>(3), 64, 0); },
                 {"rotation kind is 3", "kHaar"});
}

TEST(BadCodecTest, NoRotation) {
  expect_invalid([] { PolarCodec<float>(PolarFormat::paper(64), nullptr); },
                 {"a codec without a rotation"});
}

TEST(BadCodecTest, RotationOfAnotherWidth) {
  expect_invalid(
      [] { PolarCodec<float>(PolarFormat::paper(64), make_rotation(RotationKind::kNone, 128)); },
      {"the rotation is 128 wide, the format 64"});
}

TEST(BadCodecTest, InvalidFormat) {
  expect_invalid(
      [] { PolarCodec<float>(format_of(64, {9}), make_rotation(RotationKind::kNone, 64)); },
      {"level 1 has 9 bits"});
}

TEST(BadCodecTest, CodebooksOfAnotherFormat) {
  expect_invalid(
      [] {
        PolarCodec<float>(PolarFormat::paper(64), make_rotation(RotationKind::kNone, 64),
                          polarquant::offline_codebooks(format_of(64, {4, 2, 2})));
      },
      {"codebooks for 3 levels, the format has 4"});
  expect_invalid(
      [] {
        PolarCodec<float>(PolarFormat::paper(64), make_rotation(RotationKind::kNone, 64),
                          polarquant::offline_codebooks(format_of(64, {4, 2, 3, 2})));
      },
      {"has 3 bits, must have 2"});
}

TEST(BadCodecTest, InvalidFormatWithGivenCodebooks) {
  PolarFormat format = PolarFormat::paper(64);
  format.levels = 40;
  expect_invalid(
      [&] {
        PolarCodec<float>(format, make_rotation(RotationKind::kNone, 64),
                          polarquant::CodebookSet());
      },
      {"levels is 40"});
}

// ---- Configuration ----

TEST(BadConfigTest, NumKVHeads) {
  for (const int heads : {0, -1}) {
    KVCacheConfig config = make_config();
    config.num_kv_heads = heads;
    expect_invalid([&] { KVCache<float> cache(config); },
                   {("num_kv_heads is " + std::to_string(heads)).c_str(), "at least 1"});
  }
}

TEST(BadConfigTest, NumQueryHeadsIsNotAMultiple) {
  for (const int heads : {-2, 0, 1, 7}) {
    KVCacheConfig config = make_config();
    config.num_query_heads = heads;
    expect_invalid(
        [&] { KVCache<float> cache(config); },
        {("num_query_heads is " + std::to_string(heads)).c_str(), "multiple of num_kv_heads = 2"});
  }
}

TEST(BadConfigTest, AnInvalidFormatOnEitherSide) {
  KVCacheConfig config = make_config();
  config.key_format.level_bits[0] = 9;
  expect_invalid([&] { KVCache<float> cache(config); }, {"level 1 has 9 bits"});
  config = make_config();
  config.value_format.level_bits[2] = 7;
  expect_invalid([&] { KVCache<float> cache(config); }, {"level 3 has 7 bits"});
}

TEST(BadConfigTest, AnUnknownRotation) {
  KVCacheConfig config = make_config();
  config.rotation = static_cast<RotationKind>(7);
  expect_invalid([&] { KVCache<float> cache(config); }, {"rotation kind is 7"});
}

TEST(BadConfigTest, CodebooksOfAnotherFormat) {
  KVCacheConfig config = make_config();
  config.value_codebooks = std::make_shared<const polarquant::CodebookSet>(
      polarquant::offline_codebooks(format_of(48, {4, 2})));
  expect_invalid([&] { KVCache<float> cache(config); },
                 {"codebooks for 2 levels, the format has 4"});
}

TEST(BadConfigTest, ASharedCodecThatIsNull) {
  expect_invalid([] { KVCache<float> cache(make_config(), nullptr); }, {"without a codec"});
}

TEST(BadConfigTest, ASharedCodecOfAnotherFormat) {
  KVCacheConfig config = make_config();
  const auto codec = std::make_shared<const polarquant::KVCodec<float>>(config);
  config.key_format.radius_meaning = RadiusMeaning::kNorm;
  expect_invalid([&] { KVCache<float> cache(config, codec); },
                 {"the shared codec was made for other formats"});
  config = make_config();
  config.value_format = PolarFormat::paper(64);
  expect_invalid([&] { KVCache<float> cache(config, codec); },
                 {"the shared codec was made for other formats"});
}

TEST(BadConfigTest, ASharedCodecOfAnotherRotationOrSeed) {
  const auto codec = std::make_shared<const polarquant::KVCodec<float>>(make_config());
  KVCacheConfig config = make_config();
  config.seed = 4;
  expect_invalid([&] { KVCache<float> cache(config, codec); }, {"another rotation or seed"});
  config = make_config();
  config.rotation = RotationKind::kHadamard;
  expect_invalid([&] { KVCache<float> cache(config, codec); }, {"another rotation or seed"});
}

TEST(BadConfigTest, ASharedCodecDoesNotExcuseTheRest) {
  const auto codec = std::make_shared<const polarquant::KVCodec<float>>(make_config());
  KVCacheConfig config = make_config();
  config.num_query_heads = 7;
  expect_invalid([&] { KVCache<float> cache(config, codec); }, {"num_query_heads is 7"});
}

// ---- Calls of a cache ----

// A cache of 20 tokens and a record of everything that can be seen of it.
class BadCallTest : public testing::Test {
 protected:
  BadCallTest() : cache_(make_config()) {
    cache_.append(gaussian_matrix<float>(20, 64, 1), gaussian_matrix<float>(20, 96, 2));
    memory_bytes_ = cache_.memory_bytes();
    capacity_ = cache_.capacity();
    output_ = cache_.attend(queries_);
    scores_ = cache_.attention_scores(queries_);
    codes_ = all_codes();
  }

  std::vector<std::vector<std::byte>> all_codes() const {
    std::vector<std::vector<std::byte>> codes;
    for (std::size_t token = 0; token < 20; ++token) {
      for (const int head : {0, 1}) {
        codes.push_back(cache_.key_code(head, token));
        codes.push_back(cache_.value_code(head, token));
      }
    }
    return codes;
  }

  void expect_unchanged() const {
    ASSERT_EQ(cache_.num_tokens(), 20u);
    EXPECT_LE(cache_.memory_bytes(), memory_bytes_);
    EXPECT_EQ(cache_.capacity(), capacity_);
    EXPECT_EQ(cache_.attend(queries_), output_);
    EXPECT_EQ(cache_.attention_scores(queries_), scores_);
    EXPECT_EQ(all_codes(), codes_);
  }

  // After a failure the cache must go on as one that never saw the failed call.
  void expect_append_still_works() {
    KVCache<float> other(make_config());
    other.append(gaussian_matrix<float>(20, 64, 1), gaussian_matrix<float>(20, 96, 2));
    for (KVCache<float>* cache : {&cache_, &other}) {
      cache->append(gaussian_matrix<float>(30, 64, 5), gaussian_matrix<float>(30, 96, 6));
    }
    for (std::size_t token = 0; token < 50; ++token) {
      for (const int head : {0, 1}) {
        EXPECT_EQ(cache_.key_code(head, token), other.key_code(head, token));
        EXPECT_EQ(cache_.value_code(head, token), other.value_code(head, token));
      }
    }
    EXPECT_EQ(cache_.attend(queries_), other.attend(queries_));
  }

  const RowMatrix<float> queries_ = gaussian_matrix<float>(2, 6 * 32, 3);
  KVCache<float> cache_;
  std::size_t memory_bytes_ = 0;
  std::size_t capacity_ = 0;
  RowMatrix<float> output_;
  RowMatrix<float> scores_;
  std::vector<std::vector<std::byte>> codes_;
};

TEST_F(BadCallTest, AppendOfKeysOfTheWrongWidth) {
  expect_invalid(
      [&] { cache_.append(RowMatrix<float>::Zero(3, 65), RowMatrix<float>::Zero(3, 96)); },
      {"keys have 65 columns", "2 heads * head_dim 32 = 64"});
  expect_unchanged();
}

TEST_F(BadCallTest, AppendOfValuesOfTheWrongWidth) {
  expect_invalid(
      [&] { cache_.append(RowMatrix<float>::Zero(3, 64), RowMatrix<float>::Zero(3, 64)); },
      {"values have 64 columns", "2 heads * head_dim 48 = 96"});
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
  KVCache<float> fresh(make_config());
  const std::size_t memory_bytes = fresh.memory_bytes();
  RowMatrix<float> keys = gaussian_matrix<float>(3, 64, 5);
  keys(2, 0) = std::numeric_limits<float>::infinity();
  expect_invalid([&] { fresh.append(keys, gaussian_matrix<float>(3, 96, 6)); },
                 {"the key of token 2, KV head 0"});
  EXPECT_EQ(fresh.num_tokens(), 0u);
  EXPECT_EQ(fresh.memory_bytes(), memory_bytes);
}

TEST_F(BadCallTest, TruncateToMoreThanThereIs) {
  expect_invalid([&] { cache_.truncate(21); }, {"truncate to 21 tokens", "the cache holds 20"});
  expect_unchanged();
}

TEST_F(BadCallTest, QueriesOfTheWrongWidth) {
  const RowMatrix<float> queries(1, 191);
  expect_invalid([&] { cache_.attend(queries); },
                 {"queries have 191 columns", "6 heads * head_dim 32 = 192"});
  expect_invalid([&] { cache_.attention_scores(queries); },
                 {"queries have 191 columns", "6 heads * head_dim 32 = 192"});
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
  config.key_format.radius_type = FloatType::kFloat16;
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
  KVCache<Eigen::half> cache(make_config());
  RowMatrix<Eigen::half> keys = gaussian_matrix<Eigen::half>(3, 64, 5);
  keys(1, 40) = std::numeric_limits<Eigen::half>::infinity();
  expect_invalid([&] { cache.append(keys, gaussian_matrix<Eigen::half>(3, 96, 6)); },
                 {"the key of token 1, KV head 1 has a NaN or an infinity"});
}

// The result of the noexcept call says what the message of the other one says.
TEST(BadAppendTest, TheCallOnRowsReportsInsteadOfThrowing) {
  KVCache<float> cache(make_config());
  const RowMatrix<float> keys = gaussian_matrix<float>(40, 64, 5);
  RowMatrix<float> values = gaussian_matrix<float>(40, 96, 6);
  values(33, 50) = std::numeric_limits<float>::quiet_NaN();
  cache.reserve(40);
  polarquant_test::GuardedBytes scratch(cache.scratch_bytes());
  const polarquant::AppendResult result =
      cache.append({keys.data(), 40, 64}, {values.data(), 40, 96}, scratch.data());
  EXPECT_EQ(result.failure, polarquant::EncodeFailure::kNotFinite);
  EXPECT_EQ(result.token, 33u);
  EXPECT_EQ(result.kv_head, 1u);
  EXPECT_TRUE(result.is_value);
  EXPECT_EQ(cache.num_tokens(), 0u);
}

}  // namespace
