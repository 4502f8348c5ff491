// Centring: what is subtracted before encoding comes back everywhere, and what it gains on the keys
// and values of a real model.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "kv_cache_test_util.hpp"
#include "plain_attention.hpp"
#include "sample.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using namespace polarquant_test;

// Rows with a mean of their own for each column, twice as long as what varies.
template <typename T>
RowMatrix<T> rows_with_mean(Index rows, Index columns, std::uint64_t seed) {
  const RowMatrix<double> mean = gaussian_matrix<double>(1, columns, seed + 100, 2.0);
  const RowMatrix<double> rest = gaussian_matrix<double>(rows, columns, seed);
  return (rest.rowwise() + mean.row(0)).template cast<float>().template cast<T>();
}

template <typename Case>
class KVCacheCenteringTest : public testing::Test {
 protected:
  using T = typename Case::T;
  using A = typename Case::A;

  static KVCacheConfig make_config() {
    return polarquant_test::segments_config<typename Case::Family>(0, 0);
  }
  KVCache<T> filled(KVCacheConfig config, Centering centering, Index num_tokens = 300) const {
    config.centering = centering;
    KVCache<T> cache = make_cache<T>(config);
    cache.append(keys_.topRows(num_tokens), values_.topRows(num_tokens));
    return cache;
  }

  const RowMatrix<T> keys_ = rows_with_mean<T>(300, 64, 1);
  const RowMatrix<T> values_ = rows_with_mean<T>(300, 96, 2);
  const RowMatrix<T> queries_ = gaussian_matrix<T>(4, 192, 3);
};
TYPED_TEST_SUITE(KVCacheCenteringTest, polarquant_test::CacheCases, );

TYPED_TEST(KVCacheCenteringTest, TheEstimateIsTheMeanOfTheFirstTokensBehindTheSinks) {
  KVCacheConfig config = TestFixture::make_config();
  config.num_sink_tokens = 4;
  config.exact_type = polarquant::FloatType::kFloat64;
  KVCache<typename TypeParam::T> cache = this->filled(config, Centering::kEstimated, 53);
  EXPECT_TRUE(cache.key_mean(1).empty());
  EXPECT_EQ(cache.num_encoded_tokens(), 0u);
  cache.append(this->keys_.middleRows(53, 247), this->values_.middleRows(53, 247));
  EXPECT_EQ(cache.num_encoded_tokens(), 296u);
  const RowMatrix<double> keys = this->keys_.template cast<double>();
  const RowMatrix<double> values = this->values_.template cast<double>();
  for (Index i = 0; i < 32; ++i) {
    EXPECT_NEAR(static_cast<double>(cache.key_mean(1)[static_cast<std::size_t>(i)]),
                keys.col(32 + i).segment(4, 50).mean(), 1e-5);
  }
  for (Index i = 0; i < 48; ++i) {
    EXPECT_NEAR(static_cast<double>(cache.value_mean(0)[static_cast<std::size_t>(i)]),
                values.col(i).segment(4, 50).mean(), 1e-5);
  }
}

TYPED_TEST(KVCacheCenteringTest, DecodingGivesTheUncentredVectorsWithLessError) {
  const auto error = [&](Centering centering) {
    const KVCache<typename TypeParam::T> cache =
        this->filled(TestFixture::make_config(), centering);
    const RowMatrix<double> given = this->keys_.leftCols(32).template cast<double>();
    return (cache.decode_keys(0).template cast<double>() - given).squaredNorm() /
           given.squaredNorm();
  };
  // An error is a share of the energy of what is encoded: about 1 / 5 of it is not the mean's.
  const RowMatrix<double> given = this->keys_.leftCols(32).template cast<double>();
  const Eigen::RowVectorXd mean = given.topRows(50).colwise().mean();
  const double share = (given.rowwise() - mean).squaredNorm() / given.squaredNorm();
  EXPECT_NEAR(share, 0.2, 0.1);
  EXPECT_NEAR(error(Centering::kEstimated) / error(Centering::kNone), share, 0.15 * share);
}

TYPED_TEST(KVCacheCenteringTest, AttentionAndScoresAreThoseOfTheUncentredVectors) {
  KVCacheConfig config = TestFixture::make_config();
  for (const std::size_t num_recent : {0u, 60u}) {
    config.num_recent_tokens = num_recent;
    config.num_sink_tokens = num_recent / 20;
    const KVCache<typename TypeParam::T> cache = this->filled(config, Centering::kEstimated);
    const RowMatrix<double> expected = plain_attention(cache, this->queries_);
    EXPECT_LE(
        (cache.attend(this->queries_).template cast<double>() - expected).cwiseAbs().maxCoeff(),
        3 * attention_tolerance<typename TypeParam::T>(48));
    const auto scores = cache.attention_scores(this->queries_);
    for (Index head = 0; head < 6; ++head) {
      const RowMatrix<double> keys =
          cache.decode_keys(static_cast<int>(head / 3)).template cast<double>();
      const RowMatrix<double> products =
          this->queries_.middleCols(head * 32, 32).template cast<double>() * keys.transpose();
      for (Index query = 0; query < 4; ++query) {
        EXPECT_LE((scores.row(query * 6 + head).template cast<double>() - products.row(query))
                      .cwiseAbs()
                      .maxCoeff(),
                  100 * attention_tolerance<typename TypeParam::T>(1));
      }
    }
  }
}

TYPED_TEST(KVCacheCenteringTest, WithAnyOptions) {
  polarquant::Random random(17);
  KVCacheConfig config = TestFixture::make_config();
  for (int trial = 0; trial < 60; ++trial) {
    config.num_recent_tokens = static_cast<std::size_t>(polarquant_test::random_int(random, 0, 90));
    config.num_sink_tokens = static_cast<std::size_t>(polarquant_test::random_int(random, 0, 5));
    const KVCache<typename TypeParam::T> cache = this->filled(config, Centering::kEstimated);
    const PlainOptions plain = random_options(random, 4, 6, 300);
    const OptionsOf<typename TypeParam::A> options(plain);
    const RowMatrix<double> expected = plain_attention(cache, this->queries_, plain);
    ASSERT_LE((cache.attend(this->queries_, options.get()).template cast<double>() - expected)
                  .cwiseAbs()
                  .maxCoeff(),
              5 * attention_tolerance<typename TypeParam::T>(48))
        << "trial " << trial;
  }
}

// The estimate, given to another cache, makes the same codes.
TYPED_TEST(KVCacheCenteringTest, AGivenMeanIsUsedFromTheFirstTokenOn) {
  KVCacheConfig config = TestFixture::make_config();
  config.exact_type = polarquant::FloatType::kFloat64;
  const KVCache<typename TypeParam::T> estimated = this->filled(config, Centering::kEstimated);
  for (const int head : {0, 1}) {
    for (const auto x : estimated.key_mean(head)) config.key_mean.push_back(static_cast<float>(x));
  }
  const KVCache<typename TypeParam::T> given = this->filled(config, Centering::kGiven, 30);
  EXPECT_EQ(given.num_encoded_tokens(), 30u);
  EXPECT_TRUE(given.value_mean(0).empty());
  std::size_t num_equal = 0;
  const auto decoded = estimated.decode_keys(1), expected = given.decode_keys(1);
  for (std::size_t token = 0; token < 30; ++token) {
    const Index row = static_cast<Index>(token);
    num_equal += std::is_same_v<typename TypeParam::A, float>
                     ? given.key_code(1, token) == estimated.key_code(1, token)
                     : (decoded.row(row) - expected.row(row)).cwiseAbs().maxCoeff() < 1e-5;
  }
  // A double's mean is rounded to float on the way, which may move an angle over a boundary.
  EXPECT_GE(num_equal, 29u);
}

TYPED_TEST(KVCacheCenteringTest, ClearForgetsTheEstimateAndTruncateDoesNot) {
  KVCache<typename TypeParam::T> cache =
      this->filled(TestFixture::make_config(), Centering::kEstimated);
  const auto mean = cache.key_mean(0);
  cache.truncate(0);
  EXPECT_EQ(cache.key_mean(0), mean);
  cache.append(this->keys_.topRows(5), this->values_.topRows(5));
  EXPECT_EQ(cache.num_encoded_tokens(), 5u);
  cache.clear();
  EXPECT_TRUE(cache.key_mean(0).empty());
  cache.append(this->keys_, this->values_);
  EXPECT_EQ(cache.key_mean(0), mean);
}

TEST(CenteringTest, AnUncompressedSideIsNotCentred) {
  KVCacheConfig config = polarquant_test::segments_config(0, 0);
  config.centering = Centering::kEstimated;
  config.value_format = PolarFormat::uncompressed(48);
  KVCache<float> cache(config);
  cache.append(gaussian_matrix<float>(60, 64, 1), gaussian_matrix<float>(60, 96, 2));
  EXPECT_EQ(cache.key_mean(0).size(), 32u);
  EXPECT_TRUE(cache.value_mean(0).empty());
  config.key_format = PolarFormat::uncompressed(32);
  KVCache<float> plain(config);
  plain.append(gaussian_matrix<float>(1, 64, 1), gaussian_matrix<float>(1, 96, 2));
  EXPECT_EQ(plain.num_encoded_tokens(), 1u);
}

// ---- What it gains on real keys and values: the tables of docs/design.md ----

class SampleGainTest : public testing::Test {
 protected:
  // `full_depth` at 3.25 bits on both sides, or float32 and no codes for comparison.
  KVCacheConfig config_of(Centering centering, std::size_t num_sinks, std::uint64_t seed) const {
    KVCacheConfig config;
    config.num_kv_heads = sample_.shape.num_kv_heads;
    config.num_query_heads = sample_.shape.num_query_heads;
    config.key_format = PolarFormat::full_depth(sample_.shape.key_dim, 3.25);
    config.value_format = PolarFormat::full_depth(sample_.shape.value_dim, 3.25);
    config.arithmetic = polarquant::Arithmetic::kExact;
    config.centering = centering;
    config.num_sink_tokens = num_sinks;
    config.num_recent_tokens = 0;
    config.seed = seed;
    return config;
  }

  static KVCache<float> filled(const KVCacheConfig& config, const polarquant_demo::Layer& layer) {
    KVCache<float> cache(config);
    cache.append(layer.keys, layer.values);
    return cache;
  }

  // Error energy of one KV head over the energy of the uncentred vectors.
  static double relative_mse(const RowMatrix<float>& decoded, const RowMatrix<float>& given,
                             Index head) {
    const auto own = given.middleCols(head * decoded.cols(), decoded.cols());
    return static_cast<double>((decoded - own).squaredNorm() / own.squaredNorm());
  }

  // ||o' - o|| / ||o|| of attention, mean over layers and three seeds.
  double output_error(Centering centering, std::size_t num_sinks) const {
    double sum = 0.0;
    for (const polarquant_demo::Layer& layer : sample_.layers) {
      KVCacheConfig exact = config_of(Centering::kNone, 0, 0);
      exact.key_format = exact.value_format =
          PolarFormat::uncompressed(sample_.shape.key_dim, polarquant::FloatType::kFloat32);
      const RowMatrix<float> expected = filled(exact, layer).attend(layer.queries);
      for (const std::uint64_t seed : {0u, 1u, 2u}) {
        const RowMatrix<float> output =
            filled(config_of(centering, num_sinks, seed), layer).attend(layer.queries);
        sum += static_cast<double>((output - expected).norm() / expected.norm()) / 9.0;
      }
    }
    return sum;
  }

  const polarquant_demo::Sample sample_ =
      polarquant_demo::load_sample(POLARQUANT_SOURCE_DIR "/data/smollm2-135m");
};

TEST_F(SampleGainTest, KeysLoseFourTenthsOfTheirError) {
  double key_gain = 0.0;
  double value_gain = 0.0;
  for (const polarquant_demo::Layer& layer : sample_.layers) {
    const KVCache<float> plain = filled(config_of(Centering::kNone, 0, 0), layer);
    const KVCache<float> centered = filled(config_of(Centering::kEstimated, 0, 0), layer);
    ASSERT_EQ(centered.num_encoded_tokens(), 1000u);
    for (int head = 0; head < sample_.shape.num_kv_heads; ++head) {
      const double keys[] = {relative_mse(plain.decode_keys(head), layer.keys, head),
                             relative_mse(centered.decode_keys(head), layer.keys, head)};
      const double values[] = {relative_mse(plain.decode_values(head), layer.values, head),
                               relative_mse(centered.decode_values(head), layer.values, head)};
      std::printf("| %s | %d | %.4f | %.4f | %.0f %% | %.4f | %.4f | %.0f %% |\n",
                  layer.name.c_str(), head, keys[0], keys[1], 100 * (1 - keys[1] / keys[0]),
                  values[0], values[1], 100 * (1 - values[1] / values[0]));
      EXPECT_LT(keys[1], keys[0]);
      EXPECT_LT(values[1], values[0]);
      key_gain += (1 - keys[1] / keys[0]) / 9.0;
      value_gain += (1 - values[1] / values[0]) / 9.0;
    }
  }
  std::printf("mean: keys %.1f %%, values %.1f %%\n", 100 * key_gain, 100 * value_gain);
  EXPECT_GT(key_gain, 0.35);
  EXPECT_LT(key_gain, 0.42);
  EXPECT_GT(value_gain, 0.12);
  EXPECT_LT(value_gain, 0.18);
}

// The first token draws most of the attention, and its key and value are nothing like the mean:
// less the mean they are longer than before. Exact, they do no harm.
TEST_F(SampleGainTest, TheOutputGainsIfTheSinkTokensAreExact) {
  const double plain = output_error(Centering::kNone, 0);
  const double centered = output_error(Centering::kEstimated, 0);
  const double sinks = output_error(Centering::kNone, 4);
  const double both = output_error(Centering::kEstimated, 4);
  std::printf("output error: %.4f, centred %.4f, with 4 sinks %.4f, with both %.4f\n", plain,
              centered, sinks, both);
  EXPECT_NEAR(centered / plain, 1.0, 0.06);
  EXPECT_NEAR(sinks / plain, 0.96, 0.03);
  EXPECT_NEAR(both / plain, 0.77, 0.04);
}

}  // namespace
