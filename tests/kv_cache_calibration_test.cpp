// Channel scales and matrices of keys in a cache: scores stay what they are, and errors go where
// the transform sends them.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kv_cache_test_util.hpp"
#include "plain_attention.hpp"
#include "sample.hpp"
#include "saving_test_util.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using namespace polarquant_test;

// Scales of 1 / 6 to 6, another set for each head.
std::vector<float> some_scales(const KVCacheConfig& config) {
  polarquant::Random random(11);
  std::vector<float> scales;
  for (std::size_t i = 0; i < config.key_columns(); ++i) {
    scales.push_back(static_cast<float>(std::exp(0.6 * random.gaussian())));
  }
  return scales;
}

template <typename Case>
class KVCacheCalibrationTest : public testing::Test {
 protected:
  using T = typename Case::T;

  static KVCacheConfig config_of(Centering centering, std::size_t num_sinks = 3,
                                 std::size_t num_recent = 40) {
    KVCacheConfig config = segments_config<typename Case::Family>(num_sinks, num_recent, centering);
    config.calibration.key_scales = some_scales(config);
    return config;
  }
  static KVCacheConfig with_matrices(KVCacheConfig config) {
    polarquant::Random random(12);
    config.calibration = {};
    config.calibration.key_matrices = random_key_matrices(2, 32, random);
    return config;
  }
  // With scales, and with matrices.
  static std::vector<KVCacheConfig> configs_of(Centering centering, std::size_t num_sinks = 3,
                                               std::size_t num_recent = 40) {
    const KVCacheConfig config = config_of(centering, num_sinks, num_recent);
    return {config, with_matrices(config)};
  }
  KVCache<T> filled(const KVCacheConfig& config, Index count = 400) const {
    KVCache<T> cache = make_cache<T>(config);
    tokens_.append_to(cache, 0, count);
    return cache;
  }
  // Bit for bit what a cache without a calibration is.
  void expect_as_without(const KVCacheConfig& config) const {
    KVCacheConfig plain = config;
    plain.calibration = {};
    const auto cache = filled(config), other = filled(plain);
    EXPECT_TRUE(state_of(cache) == state_of(other));
    EXPECT_EQ(cache.attend(queries_), other.attend(queries_));
    EXPECT_EQ(cache.attention_scores(queries_), other.attention_scores(queries_));
  }

  const TokenRows<T> tokens_{make_config<typename Case::Family>(), 400, 1};
  const RowMatrix<T> queries_ = random_queries<T>(make_config<typename Case::Family>(), 4);
};
TYPED_TEST_SUITE(KVCacheCalibrationTest, CacheCases, );

constexpr Centering kCenterings[] = {Centering::kNone, Centering::kGiven, Centering::kLocal};

TYPED_TEST(KVCacheCalibrationTest, ScoresAreThoseOfTheDecodedKeys) {
  for (const Centering centering : kCenterings) {
    for (const KVCacheConfig& config : TestFixture::configs_of(centering)) {
      const auto cache = this->filled(config);
      ASSERT_GT(cache.num_encoded_tokens(), 300u);
      const auto scores = cache.attention_scores(this->queries_);
      for (Index head = 0; head < 6; ++head) {
        const RowMatrix<double> keys =
            cache.decode_keys(static_cast<int>(head / 3)).template cast<double>();
        const RowMatrix<double> expected =
            this->queries_.middleCols(head * 32, 32).template cast<double>() * keys.transpose();
        for (Index query = 0; query < 4; ++query) {
          // Sums of terms up to six times as large.
          EXPECT_LE((scores.row(query * 6 + head).template cast<double>() - expected.row(query))
                        .cwiseAbs()
                        .maxCoeff(),
                    300 * attention_tolerance<typename TypeParam::T>(1));
        }
      }
    }
  }
}

TYPED_TEST(KVCacheCalibrationTest, AttentionIsThatOverTheDecodedRowsWithAnyOptions) {
  polarquant::Random random(5);
  for (std::size_t trial = 0; trial < 40; ++trial) {
    const auto cache = this->filled(TestFixture::configs_of(
        kCenterings[trial % 3], static_cast<std::size_t>(random_int(random, 0, 5)),
        static_cast<std::size_t>(random_int(random, 0, 90)))[trial / 3 % 2]);
    const PlainOptions plain = random_options(random, 4, 6, 400);
    const OptionsOf<typename TypeParam::A> options(plain);
    const RowMatrix<double> expected = plain_attention(cache, this->queries_, plain);
    ASSERT_LE((cache.attend(this->queries_, options.get()).template cast<double>() - expected)
                  .cwiseAbs()
                  .maxCoeff(),
              20 * attention_tolerance<typename TypeParam::T>(48))
        << "trial " << trial;
  }
}

TYPED_TEST(KVCacheCalibrationTest, ScalesOf1AreNoScales) {
  KVCacheConfig config = TestFixture::config_of(Centering::kLocal);
  config.calibration.key_scales.assign(64, 1.0f);
  this->expect_as_without(config);
}

TYPED_TEST(KVCacheCalibrationTest, AnUncompressedSideIsNotTransformed) {
  for (KVCacheConfig config : TestFixture::configs_of(Centering::kLocal)) {
    config.key_format = PolarFormat::uncompressed(32, FloatType::kFloat32);
    this->expect_as_without(config);
  }
}

TYPED_TEST(KVCacheCalibrationTest, ADiagonalMatrixIsScales) {
  const KVCacheConfig config = TestFixture::config_of(Centering::kLocal);
  std::vector<float> triangles;
  for (std::size_t head = 0; head < 2; ++head) {
    for (std::size_t i = 0; i < 32; ++i) {
      triangles.insert(triangles.end(), i, 0.0f);
      triangles.push_back(config.calibration.key_scales[32 * head + i]);
    }
  }
  KVCacheConfig other = config;
  other.calibration = {};
  other.calibration.key_matrices = std::make_shared<const KeyMatrices>(2, 32, triangles);
  const auto cache = this->filled(config), same = this->filled(other);
  // But for roundings, which here and there decide an angle.
  const RowMatrix<double> difference =
      (cache.attention_scores(this->queries_).template cast<double>() -
       same.attention_scores(this->queries_).template cast<double>())
          .cwiseAbs();
  EXPECT_LT((difference.array() > 1e-4).template cast<double>().mean(), 0.01);
}

// E e^T e of what is decoded is S^-2 times a common number: a rotation spreads the error of what is
// transformed evenly.
TYPED_TEST(KVCacheCalibrationTest, TheErrorGoesWhereAMatrixSendsIt) {
  const KVCacheConfig config =
      TestFixture::with_matrices(TestFixture::config_of(Centering::kNone, 0, 0));
  const auto tokens = TokenRows<typename TypeParam::T>(config, 1500, 9);
  auto cache = make_cache<typename TypeParam::T>(config);
  tokens.append_to(cache, 0, 1500);
  const RowMatrix<double> error = cache.decode_keys(1).template cast<double>() -
                                  tokens.keys.rightCols(32).template cast<double>();
  const float* const entries = config.calibration.key_matrices->transform<float>(1).matrix;
  const RowMatrix<double> matrix =
      Eigen::Map<const RowMatrix<float>>(entries, 32, 32).cast<double>();
  const RowMatrix<double> white = error * matrix;
  const RowMatrix<double> moments = white.transpose() * white / white.squaredNorm() * 32.0;
  for (Index i = 0; i < 32; ++i) {
    for (Index j = 0; j < 32; ++j) {
      // 1500 errors, of one size.
      EXPECT_NEAR(moments(i, j), i == j ? 1.0 : 0.0, i == j ? 0.5 : 0.25);
    }
  }
}

// A rotation spreads the error of what is scaled evenly over the channels, so that of channel i is
// 1 / s_i^2 of a common number.
TYPED_TEST(KVCacheCalibrationTest, TheErrorOfAChannelIsThatOfAllOverItsScaleSquared) {
  KVCacheConfig config = TestFixture::config_of(Centering::kNone, 0, 0);
  const auto tokens = TokenRows<typename TypeParam::T>(config, 1500, 9);
  auto cache = make_cache<typename TypeParam::T>(config);
  tokens.append_to(cache, 0, 1500);
  const RowMatrix<double> error = cache.decode_keys(1).template cast<double>() -
                                  tokens.keys.rightCols(32).template cast<double>();
  std::vector<double> scaled;
  double mean = 0.0;
  for (Index i = 0; i < 32; ++i) {
    const double scale =
        static_cast<double>(config.calibration.key_scales[static_cast<std::size_t>(32 + i)]);
    scaled.push_back(error.col(i).squaredNorm() * scale * scale);
    mean += scaled.back() / 32.0;
  }
  for (const double energy : scaled) {
    EXPECT_GT(energy, 0.5 * mean);
    EXPECT_LT(energy, 1.6 * mean);
  }
}

TYPED_TEST(KVCacheCalibrationTest, CopiesPiecesAndTruncationsKeepTheTransform) {
  for (const KVCacheConfig& config : TestFixture::configs_of(Centering::kLocal)) {
    auto cache = this->filled(config, 250);
    auto pieces = make_cache<typename TypeParam::T>(config);
    for (Index token = 0; token < 250; ++token) this->tokens_.append_to(pieces, token, 1);
    EXPECT_TRUE(state_of(pieces) == state_of(cache));
    auto copy = cache.copy();
    for (auto* const each : {&cache, &copy}) {
      each->truncate(150);
      this->tokens_.append_to(*each, 150, 250);
    }
    EXPECT_TRUE(state_of(copy) == state_of(cache));
    EXPECT_EQ(copy.attend(this->queries_), cache.attend(this->queries_));
  }
}

// ---- Saved caches ----

class SavedCalibrationTest : public testing::Test {
 protected:
  static Calibration calibration_of(float scale) {
    Calibration calibration({2, 2, 32});
    for (const int layer : {0, 1}) {
      calibration.set_key_scales(layer, std::vector<float>(64, scale + static_cast<float>(layer)));
    }
    return calibration;
  }
  static Calibration matrices_of(std::uint64_t seed) {
    Calibration calibration({2, 2, 32});
    polarquant::Random random(seed);
    for (const int layer : {0, 1}) {
      calibration.set_key_matrices(layer, random_key_matrices(2, 32, random));
    }
    return calibration;
  }
  static KVCache<float> filled(const LayerCalibration& calibration,
                               Centering centering = Centering::kLocal) {
    KVCacheConfig config = segments_config(4, 40, centering);
    config.calibration = calibration;
    return filled_cache<float>(300, config);
  }
};

TEST_F(SavedCalibrationTest, ASavedCacheLoadsUnderTheCalibrationThatItWasMadeWith) {
  for (const auto& [calibration, centering] : {std::pair{calibration_of(1.5f), Centering::kNone},
                                               std::pair{calibration_of(1.5f), Centering::kGiven},
                                               std::pair{calibration_of(1.5f), Centering::kLocal},
                                               std::pair{matrices_of(1), Centering::kGiven},
                                               std::pair{matrices_of(1), Centering::kLocal}}) {
    const KVCache<float> cache = filled(calibration.layer(1), centering);
    const Bytes bytes = saved(cache);
    auto other = make_cache<float>(cache.config());
    EXPECT_EQ(load(bytes.data(), bytes.size(), other), bytes.size());
    EXPECT_TRUE(state_of(other) == state_of(cache));
    for (KVCache<float>* const each : {&other}) append_random(*each, 100, 7);
    auto goes_on = cache.copy();
    append_random(goes_on, 100, 7);
    EXPECT_TRUE(state_of(other) == state_of(goes_on));
    const SavedCacheInfo info = read_saved_info(bytes.data(), bytes.size());
    EXPECT_EQ(info.calibration, calibration.checksum());
  }
}

TEST_F(SavedCalibrationTest, UnderAnotherOrNoneIsAnErrorThatSaysWhich) {
  const Calibration calibration = calibration_of(1.5f), other = calibration_of(2.0f);
  const KVCache<float> cache = filled(calibration.layer(0)), plain = filled({});
  const std::string name = "the calibration of checksum " + std::to_string(calibration.checksum());
  EXPECT_EQ(loading_error(saved(cache), make_cache<float>(plain.config())),
            "polarquant: loading: the saved cache has keys under " + name +
                ", this cache has no calibration");
  EXPECT_EQ(
      loading_error(saved(plain), make_cache<float>(cache.config())),
      "polarquant: loading: the saved cache has keys under no calibration, this cache has " + name);
  EXPECT_EQ(loading_error(saved(cache), make_cache<float>(filled(other.layer(0)).config())),
            "polarquant: loading: the saved cache has keys under " + name +
                ", this cache has the calibration of checksum " + std::to_string(other.checksum()));
  // Scales and matrices that are no calibration's are told apart too.
  LayerCalibration own = calibration.layer(0);
  own.checksum = 0;
  const KVCache<float> by_hand = filled(own);
  own.key_scales[3] = 7.0f;
  EXPECT_NE(loading_error(saved(by_hand), make_cache<float>(filled(own).config())), "");
  LayerCalibration some = matrices_of(1).layer(0), others = matrices_of(2).layer(0);
  some.checksum = others.checksum = 0;
  EXPECT_NE(loading_error(saved(filled(some)), make_cache<float>(filled(others).config())), "");
}

// ---- What it gains on the keys and queries of a real model, from texts that are not the sample's
// ----

TEST(SampleCalibrationTest, ScoresAreCloserInEveryLayer) {
  const polarquant_demo::Sample sample =
      polarquant_demo::load_sample(POLARQUANT_SOURCE_DIR "/data/smollm2-135m");
  ASSERT_TRUE(sample.calibration.has_value());
  double sum = 0.0;
  for (const polarquant_demo::Layer& layer : sample.layers) {
    KVCacheConfig config;
    config.num_kv_heads = sample.shape.num_kv_heads;
    config.num_query_heads = sample.shape.num_query_heads;
    config.key_format = PolarFormat::full_depth(64, 3.25);
    config.value_format = PolarFormat::uncompressed(64);
    config.arithmetic = Arithmetic::kExact;
    const auto error_of = [&](const LayerCalibration& calibration) {
      config.calibration = calibration;
      KVCache<float> cache(config);
      cache.append(layer.keys, layer.values);
      cache.encode_recent();
      const RowMatrix<float> scores = cache.attention_scores(layer.queries);
      double error = 0.0;
      for (Index row = 0; row < scores.rows(); ++row) {
        const Index head = row % sample.shape.num_query_heads;
        const Eigen::RowVectorXf exact =
            layer.queries.row(row / sample.shape.num_query_heads).segment(head * 64, 64) *
            layer.keys.middleCols(head / 3 * 64, 64).transpose();
        error += static_cast<double>((scores.row(row) - exact).squaredNorm());
      }
      return error;
    };
    const double gain = error_of(sample.calibration->layer(layer.index())) / error_of({});
    EXPECT_LT(gain, 1.0) << layer.name;
    sum += gain;
  }
  // 0.6 when it was made (`make demo`).
  EXPECT_GT(sum / 3.0, 0.4);
  EXPECT_LT(sum / 3.0, 0.75);
}

TEST(CalibratedConfigTest, ScalesThatBreakARuleAreNamed) {
  KVCacheConfig config = segments_config(4, 40, Centering::kLocal);
  config.calibration.key_scales.assign(63, 1.0f);
  EXPECT_EQ(config.problem(),
            "calibration.key_scales has 63 entries, must have num_kv_heads * head_dim = 64");
  config.calibration.key_scales.assign(64, 1.0f);
  EXPECT_EQ(config.problem(), "");
  for (const float wrong : {0.0f, -1.0f, INFINITY, NAN}) {
    config.calibration.key_scales[5] = wrong;
    EXPECT_NE(config.problem().find("in entry 5, must be finite and above 0"), std::string::npos);
  }
}

TEST(CalibratedConfigTest, MatricesThatBreakARuleAreNamed) {
  KVCacheConfig config = segments_config(4, 40, Centering::kLocal);
  polarquant::Random random(1);
  config.calibration.key_matrices = random_key_matrices(2, 32, random);
  EXPECT_EQ(config.problem(), "");
  config.calibration.key_scales.assign(64, 1.0f);
  EXPECT_EQ(config.problem(), "calibration has key_scales and key_matrices, must have one of them");
  config.calibration.key_scales.clear();
  for (const auto& [num_heads, width] : {std::pair{1, 32}, std::pair{2, 16}, std::pair{4, 16}}) {
    config.calibration.key_matrices = random_key_matrices(num_heads, width, random);
    EXPECT_EQ(config.problem(), "calibration.key_matrices are of " + std::to_string(num_heads) +
                                    " KV heads of width " + std::to_string(width) +
                                    ", must be of 2 of width 32");
  }
}

}  // namespace
