// Every constructor with what it must refuse: one exception whose message names the value and the
// rule.
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <string>

#include "bad_input_test_util.hpp"

namespace {

using polarquant::FloatType;
using polarquant::KVCache;
using polarquant::KVCacheConfig;
using polarquant::PolarCodec;
using polarquant::PolarFormat;
using polarquant::RadiusMeaning;
using polarquant::Rotation;
using polarquant::RotationKind;
using polarquant_test::expect_invalid;
using polarquant_test::format_of;
using polarquant_test::make_rotation;
using polarquant_test::small_config;

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

TEST(BadFormatTest, FullDepthNeedsEnoughBitsToBeatZeros) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double bits : {0.6, 0.0, -1.0, nan, -std::numeric_limits<double>::infinity()}) {
    // 16 + 64 bits fit 10 bytes, but decode to more than twice the error of zeros; 18 bytes do not.
    expect_invalid([&] { PolarFormat::full_depth(128, bits); },
                   {"full_depth at ", "head_dim 128 needs at least 1.125"});
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
        PolarCodec<float>(
            with_codebooks(PolarFormat::paper(64), offline_codebooks(format_of(64, {4, 2, 2}))),
            make_rotation(RotationKind::kNone, 64));
      },
      {"codebooks for 3 levels, the format has 4"});
  expect_invalid(
      [] {
        PolarCodec<float>(
            with_codebooks(PolarFormat::paper(64), offline_codebooks(format_of(64, {4, 2, 3, 2}))),
            make_rotation(RotationKind::kNone, 64));
      },
      {"has 3 bits, must have 2"});
}

TEST(BadCodecTest, InvalidFormatWithGivenCodebooks) {
  PolarFormat format = PolarFormat::paper(64);
  format.levels = 40;
  expect_invalid(
      [&] {
        PolarCodec<float>(with_codebooks(format, {}), make_rotation(RotationKind::kNone, 64));
      },
      {"levels is 40"});
}

// ---- Configuration ----

TEST(BadConfigTest, NumKVHeads) {
  for (const int heads : {0, -1}) {
    KVCacheConfig config = small_config();
    config.num_kv_heads = heads;
    expect_invalid([&] { KVCache<float> cache(config); },
                   {("num_kv_heads is " + std::to_string(heads)).c_str(), "at least 1"});
  }
}

TEST(BadConfigTest, NumQueryHeadsIsNotAMultiple) {
  for (const int heads : {-2, 0, 1, 7}) {
    KVCacheConfig config = small_config();
    config.num_query_heads = heads;
    expect_invalid(
        [&] { KVCache<float> cache(config); },
        {("num_query_heads is " + std::to_string(heads)).c_str(), "multiple of num_kv_heads = 2"});
  }
}

TEST(BadConfigTest, AnInvalidFormatOnEitherSide) {
  KVCacheConfig config = small_config();
  config.key_format.level_bits[0] = 9;
  expect_invalid([&] { KVCache<float> cache(config); }, {"level 1 has 9 bits"});
  config = small_config();
  config.value_format.level_bits[2] = 7;
  expect_invalid([&] { KVCache<float> cache(config); }, {"level 3 has 7 bits"});
}

TEST(BadConfigTest, AnUnknownRotation) {
  KVCacheConfig config = small_config();
  config.rotation = static_cast<RotationKind>(7);
  expect_invalid([&] { KVCache<float> cache(config); }, {"rotation kind is 7"});
}

TEST(BadConfigTest, CodebooksOfAnotherFormat) {
  KVCacheConfig config = small_config();
  config.value_codebooks = std::make_shared<const polarquant::CodebookSet>(
      polarquant::offline_codebooks(format_of(48, {4, 2})));
  expect_invalid([&] { KVCache<float> cache(config); },
                 {"codebooks for 2 levels, the format has 4"});
}

TEST(BadConfigTest, ASharedCodecThatIsNull) {
  expect_invalid([] { KVCache<float> cache(small_config(), nullptr); }, {"without a codec"});
}

TEST(BadConfigTest, ASharedCodecOfAnotherFormat) {
  KVCacheConfig config = small_config();
  const auto codec = std::make_shared<const polarquant::KVCodec<float>>(config);
  config.key_format.radius_meaning = RadiusMeaning::kNorm;
  expect_invalid([&] { KVCache<float> cache(config, codec); },
                 {"the shared codec was made for other formats"});
  config = small_config();
  config.value_format = PolarFormat::paper(64);
  expect_invalid([&] { KVCache<float> cache(config, codec); },
                 {"the shared codec was made for other formats"});
}

TEST(BadConfigTest, ASharedCodecOfAnotherRotationOrSeed) {
  const auto codec = std::make_shared<const polarquant::KVCodec<float>>(small_config());
  KVCacheConfig config = small_config();
  config.seed = 4;
  expect_invalid([&] { KVCache<float> cache(config, codec); }, {"another rotation or seed"});
  config = small_config();
  config.rotation = RotationKind::kHadamard;
  expect_invalid([&] { KVCache<float> cache(config, codec); }, {"another rotation or seed"});
}

TEST(BadConfigTest, ASharedCodecOfAnotherArithmetic) {
  const auto codec = std::make_shared<const polarquant::KVCodec<float>>(small_config());
  KVCacheConfig config = small_config();
  config.arithmetic = polarquant::Arithmetic::kExact;
  expect_invalid([&] { KVCache<float> cache(config, codec); },
                 {"the shared codec was made for another arithmetic"});
}

TEST(BadConfigTest, ASharedCodecDoesNotExcuseTheRest) {
  const auto codec = std::make_shared<const polarquant::KVCodec<float>>(small_config());
  KVCacheConfig config = small_config();
  config.num_query_heads = 7;
  expect_invalid([&] { KVCache<float> cache(config, codec); }, {"num_query_heads is 7"});
}

}  // namespace
