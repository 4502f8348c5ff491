#include "polarquant/storage/kv_codec.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kv_cache_test_util.hpp"
#include "polarquant/kv_cache.hpp"
#include "polarquant/method/online_codebooks.hpp"
#include "test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

TEST(KVCodecTest, KeysAndValuesOfEqualWidthShareTheRotation) {
  KVCacheConfig config = config_with(PolarFormat::paper(64), PolarFormat::full_depth(64, 3.25));
  const KVCodec<float> codec(config);
  EXPECT_EQ(&codec.keys().rotation(), &codec.values().rotation());
}

TEST(KVCodecTest, KeysAndValuesOfDifferentWidthsHaveRotationsOfTheSameKindAndSeed) {
  KVCacheConfig config = config_with(PolarFormat::paper(64), PolarFormat::paper(96));
  config.rotation = RotationKind::kHadamard;
  config.seed = 77;
  const KVCodec<float> codec(config);
  EXPECT_EQ(codec.keys().rotation().head_dim(), 64);
  EXPECT_EQ(codec.values().rotation().head_dim(), 96);
  for (const auto side : {polarquant::Side::kKeys, polarquant::Side::kValues}) {
    EXPECT_EQ(codec.side(side).rotation().kind(), RotationKind::kHadamard);
    EXPECT_EQ(codec.side(side).rotation().seed(), 77u);
  }
}

TEST(KVCodecTest, MemoryCountsASharedRotationOnce) {
  KVCacheConfig config = config_with(PolarFormat::paper(64), PolarFormat::full_depth(64, 3.25));
  const KVCodec<float> shared(config);
  EXPECT_EQ(shared.memory_bytes() + shared.keys().rotation().memory_bytes(),
            shared.keys().memory_bytes() + shared.values().memory_bytes());
  config.value_format = PolarFormat::paper(96);
  const KVCodec<float> separate(config);
  EXPECT_EQ(separate.memory_bytes(),
            separate.keys().memory_bytes() + separate.values().memory_bytes());
}

TEST(KVCodecTest, TheArithmeticOfTheConfigIsThatOfBothSides) {
  KVCacheConfig config = paper_64();
  EXPECT_EQ(config.arithmetic, polarquant::Arithmetic::kFixedPoint);
  config.arithmetic = polarquant::Arithmetic::kExact;
  const KVCodec<float> codec(config);
  EXPECT_EQ(codec.keys().arithmetic(), polarquant::Arithmetic::kExact);
  EXPECT_EQ(codec.values().arithmetic(), polarquant::Arithmetic::kExact);
}

TEST(KVCodecTest, TheSeedDecidesTheCodes) {
  KVCacheConfig config = paper_64();
  const std::vector<float> rows = gaussian_vector<float>(64, 1);
  const std::vector<std::byte> codes = encode_rows(KVCodec<float>(config).keys(), rows);
  EXPECT_EQ(encode_rows(KVCodec<float>(config).keys(), rows), codes);
  config.seed = 1;
  EXPECT_NE(encode_rows(KVCodec<float>(config).keys(), rows), codes);
}

// The paper's format of rows 64 wide, its codebooks fitted to them.
CodecFormat with_online_codebooks(const polarquant::Rotation& rotation,
                                  const std::vector<float>& rows) {
  PolarFormat format = PolarFormat::paper(64);
  format.codebooks = std::make_shared<const polarquant::CodebookSet>(
      polarquant::online_codebooks<float>(format, rotation, {rows.data(), rows.size() / 64, 64}));
  return format;
}

TEST(KVCodecTest, GivenCodebooksAreUsedOnTheirSideAlone) {
  KVCacheConfig config = paper_64();
  const std::vector<float> rows = gaussian_vector<float>(64 * 100, 1);
  const KVCodec<float> offline(config);
  config.key_format = with_online_codebooks(offline.keys().rotation(), rows);
  const KVCodec<float> online(config);
  EXPECT_NE(encode_rows(online.keys(), rows), encode_rows(offline.keys(), rows));
  EXPECT_EQ(encode_rows(online.values(), rows), encode_rows(offline.values(), rows));
}

// paper, section 4.1: online codebooks fit the prompt at least as well as the law's.
TEST(KVCodecTest, OnlineCodebooksOfUnrotatedSparseKeysBeatTheOfflineOnes) {
  KVCacheConfig config = paper_64();
  config.rotation = RotationKind::kNone;
  std::vector<float> rows = gaussian_vector<float>(64 * 500, 1);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] += i % 2 == 0 ? 3.0f : 0.0f;
  const KVCodec<float> offline(config);
  config.key_format = with_online_codebooks(offline.keys().rotation(), rows);
  const KVCodec<float> online(config);
  EXPECT_LT(polarquant_test::distortion_of(online.keys(), rows).relative_mse.mean(),
            0.8 * polarquant_test::distortion_of(offline.keys(), rows).relative_mse.mean());
}

// ---- A codec that caches share ----

TEST(KVCodecTest, AMismatchIsNamed) {
  const auto codec = std::make_shared<const KVCodec<float>>(paper_64());
  EXPECT_EQ(codec->mismatch(paper_64()), "");
  const auto expect = [&codec](const KVCacheConfig& config, const std::string& what) {
    const std::string found = codec->mismatch(config);
    EXPECT_NE(found.find(what), std::string::npos) << found;
    EXPECT_EQ(polarquant_test::message_of<std::invalid_argument>(
                  [&] { polarquant::KVCache<float> cache(config, codec); }),
              "polarquant: " + found);
  };
  KVCacheConfig config = paper_64();
  config.value_format =
      polarquant_test::with_meaning(PolarFormat::paper(64), polarquant::RadiusMeaning::kNorm);
  expect(config,
         "values in polar 4/2/2/2 4 bfloat16 at head_dim 64, the configuration has polar "
         "4/2/2/2 4 bfloat16 of norms at head_dim 64");
  config = paper_64();
  config.key_format = polarquant_test::plain_8bit(64);
  expect(config, "the configuration has plain 8 bits at head_dim 64");
  config = paper_64();
  config.seed = 1;
  expect(config, "another rotation or seed");
  config = paper_64();
  config.rotation = RotationKind::kHadamard;
  expect(config, "another rotation or seed");
  config = paper_64();
  config.arithmetic = polarquant::Arithmetic::kExact;
  expect(config, "another arithmetic");
  if (codec->keys().isa() != polarquant::Isa::kScalar) {
    config = paper_64();
    config.isa = polarquant::Isa::kScalar;
    expect(config, "the configuration asks for scalar");
  }
  EXPECT_EQ(polarquant_test::message_of<std::invalid_argument>(
                [] { polarquant::KVCache<float> cache(paper_64(), nullptr); }),
            "polarquant: a cache without a codec");
}

// What does not make codes does not count: sinks, windows, heads.
TEST(KVCodecTest, OtherSettingsOfACacheMayDiffer) {
  const KVCodec<float> codec(paper_64());
  KVCacheConfig config = paper_64();
  config.num_kv_heads = config.num_query_heads = 5;
  config.num_recent_tokens = 7;
  config.exact_type = polarquant::FloatType::kBFloat16;
  EXPECT_EQ(codec.mismatch(config), "");
  config.isa = codec.keys().isa();
  EXPECT_EQ(codec.mismatch(config), "");
}

TEST(KVCodecTest, AFamilyWithoutACodecForATypeIsRefused) {
  struct NoCodec final : polarquant::FormatModel {
    const char* family() const override { return "none"; }
    int head_dim() const override { return 16; }
    std::size_t bytes_per_vector() const override { return 16; }
    bool is_uncompressed() const override { return false; }
    polarquant::FloatType number_type() const override { return polarquant::FloatType::kFloat32; }
    double expected_relative_mse() const override { return 1.0; }
    std::string description() const override { return "no codes"; }
    std::string problem() const override { return {}; }
    std::vector<std::uint64_t> settings() const override { return {}; }
  };
  const CodecFormat format(std::make_shared<const NoCodec>());
  const KVCacheConfig config = config_with(format, format);
  EXPECT_EQ(polarquant_test::message_of<std::invalid_argument>([&] { KVCodec<float> c(config); }),
            "polarquant: no codes has no codec for results of float");
  EXPECT_EQ(polarquant_test::message_of<std::invalid_argument>([&] { KVCodec<double> c(config); }),
            "polarquant: no codes has no codec for results of double");
}

}  // namespace
