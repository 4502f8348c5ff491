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

// What a uniform quantizer of 16 levels up to the largest coordinate leaves of a rotated vector of
// `width` coordinates: step^2 / 12 for a step of 2 max / 15, max being 1.5 to 3.5 deviations.
void expect_coarse(const Eigen::RowVectorXd& center, const Eigen::RowVectorXd& mean) {
  const double share = (center - mean).squaredNorm() / mean.squaredNorm();
  const auto of_largest = [](double deviations) {
    const double step = 2.0 * deviations / 15.0;
    return step * step / 12.0;
  };
  EXPECT_GT(share, of_largest(1.5) * 0.5);
  EXPECT_LT(share, of_largest(3.5) * 2.0);
}

template <typename Numbers>
Eigen::RowVectorXd vector_of(const Numbers& numbers) {
  Eigen::RowVectorXd result(static_cast<Index>(numbers.size()));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    result[static_cast<Index>(i)] = static_cast<double>(numbers[i]);
  }
  return result;
}

TYPED_TEST(KVCacheCenteringTest, ACentreIsTheMeanOf64TokensOnEachSideOfItsSpansStart) {
  KVCacheConfig config = TestFixture::make_config();
  config.num_sink_tokens = 4;
  config.exact_type = polarquant::FloatType::kFloat64;
  for (const std::size_t window : {32u, 100u}) {
    config.num_recent_tokens = window;
    const auto cache = this->filled(config, Centering::kLocal);
    const RowMatrix<double> keys = this->keys_.template cast<double>();
    const RowMatrix<double> values = this->values_.template cast<double>();
    ASSERT_GT(cache.num_encoded_tokens(), 128u);
    // Of the first span no tokens lie before; of the second 64.
    for (const Index span : {0, 1, 2}) {
      const Index first = 4 + std::max<Index>(0, 64 * span - 64);
      const Index end = 4 + 64 * span + 64;
      const std::size_t token = 4 + 64 * static_cast<std::size_t>(span);
      expect_coarse(vector_of(cache.key_center(1, token)),
                    keys.middleRows(first, end - first).rightCols(32).colwise().mean());
      expect_coarse(vector_of(cache.value_center(0, token)),
                    values.middleRows(first, end - first).leftCols(48).colwise().mean());
      EXPECT_EQ(cache.key_center(1, token), cache.key_center(1, token + 63));
    }
    EXPECT_NE(cache.key_center(1, 4), cache.key_center(1, 4 + 64));
  }
}

// Of a window that holds fewer, as many as it and a tile hold; without one, a tile.
TYPED_TEST(KVCacheCenteringTest, ASmallWindowGivesACentreOfFewerTokens) {
  KVCacheConfig config = TestFixture::make_config();
  config.exact_type = polarquant::FloatType::kFloat64;
  const RowMatrix<double> keys = this->keys_.template cast<double>();
  for (const std::size_t window : {0u, 10u}) {
    config.num_recent_tokens = window;
    const auto cache = this->filled(config, Centering::kLocal);
    const Index count = static_cast<Index>(window) + 32;
    expect_coarse(vector_of(cache.key_center(0, 0)),
                  keys.topLeftCorner(count, 32).colwise().mean());
    expect_coarse(vector_of(cache.key_center(0, 130)),
                  keys.middleRows(64, 64 + count).leftCols(32).colwise().mean());
  }
}

TYPED_TEST(KVCacheCenteringTest, WithTheDefaultsSinksAnd63RecentTokensAreExactAtMost) {
  KVCacheConfig config = TestFixture::make_config();
  config.num_sink_tokens = 4;
  config.num_recent_tokens = 32;
  config.centering = Centering::kLocal;
  auto cache = make_cache<typename TypeParam::T>(config);
  for (Index token = 0; token < 300; ++token) {
    cache.append(this->keys_.middleRows(token, 1), this->values_.middleRows(token, 1));
    ASSERT_LE(cache.num_tokens() - cache.num_encoded_tokens(), 4u + 63u);
  }
}

// An error is a share of the energy of what is encoded: about a fifth of it is not the mean's.
TYPED_TEST(KVCacheCenteringTest, DecodingGivesTheUncentredVectorsWithLessError) {
  const RowMatrix<double> given = this->keys_.leftCols(32).template cast<double>();
  const auto error = [&](const auto& cache) {
    return (cache.decode_keys(0).template cast<double>() - given).squaredNorm();
  };
  const auto plain = this->filled(TestFixture::make_config(), Centering::kNone);
  const auto cache = this->filled(TestFixture::make_config(), Centering::kLocal);
  const std::size_t num_encoded = cache.num_encoded_tokens();
  ASSERT_EQ(num_encoded, 300u);
  double left = 0.0;
  for (std::size_t token = 0; token < num_encoded; ++token) {
    left += (given.row(static_cast<Index>(token)) - vector_of(cache.key_center(0, token)))
                .squaredNorm();
  }
  const double share = left / given.squaredNorm();
  EXPECT_GT(share, 0.1);
  EXPECT_LT(share, 0.3);
  EXPECT_NEAR(error(cache) / error(plain), share, 0.15 * share);
}

TYPED_TEST(KVCacheCenteringTest, AttentionAndScoresAreThoseOfTheUncentredVectors) {
  KVCacheConfig config = TestFixture::make_config();
  for (const std::size_t num_recent : {0u, 60u}) {
    config.num_recent_tokens = num_recent;
    config.num_sink_tokens = num_recent / 20;
    const KVCache<typename TypeParam::T> cache = this->filled(config, Centering::kLocal);
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
    const KVCache<typename TypeParam::T> cache = this->filled(config, Centering::kLocal);
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

// A centre, given to another cache as the mean of all, makes the same codes of its span.
TYPED_TEST(KVCacheCenteringTest, AGivenMeanIsUsedFromTheFirstTokenOn) {
  KVCacheConfig config = TestFixture::make_config();
  config.exact_type = polarquant::FloatType::kFloat64;
  const KVCache<typename TypeParam::T> local = this->filled(config, Centering::kLocal);
  for (const int head : {0, 1}) {
    for (const auto x : local.key_center(head, 0)) config.key_mean.push_back(static_cast<float>(x));
  }
  const KVCache<typename TypeParam::T> given = this->filled(config, Centering::kGiven, 30);
  EXPECT_EQ(given.num_encoded_tokens(), 30u);
  EXPECT_TRUE(given.value_center(0, 0).empty());
  std::size_t num_equal = 0;
  const auto decoded = local.decode_keys(1), expected = given.decode_keys(1);
  for (std::size_t token = 0; token < 30; ++token) {
    const Index row = static_cast<Index>(token);
    num_equal += std::is_same_v<typename TypeParam::A, float>
                     ? given.key_code(1, token) == local.key_code(1, token)
                     : (decoded.row(row) - expected.row(row)).cwiseAbs().maxCoeff() < 1e-5;
  }
  // A double's centre is rounded to float on the way, which may move an angle over a boundary.
  EXPECT_GE(num_equal, 29u);
}

// The fault of a mean that was estimated once: another text had the old one's.
TYPED_TEST(KVCacheCenteringTest, ATextAfterATruncationHasItsOwnCentres) {
  using Type = typename TypeParam::T;
  KVCache<Type> cache = this->filled(TestFixture::make_config(), Centering::kLocal);
  const RowMatrix<Type> keys = rows_with_mean<Type>(300, 64, 50);
  const RowMatrix<Type> values = rows_with_mean<Type>(300, 96, 51);
  KVCache<Type> fresh = make_cache<Type>(cache.config());
  cache.truncate(0);
  for (KVCache<Type>* const each : {&cache, &fresh}) each->append(keys, values);
  EXPECT_TRUE(polarquant_test::state_of(cache) == polarquant_test::state_of(fresh));
  // Behind tokens that stay too, from the next span on.
  KVCache<Type> longer = this->filled(TestFixture::make_config(), Centering::kLocal);
  longer.truncate(100);
  const auto center = longer.key_center(0, 0);
  longer.append(keys, values);
  EXPECT_EQ(longer.key_center(0, 63), center);
  const RowMatrix<double> own = keys.template cast<double>();
  expect_coarse(vector_of(longer.key_center(0, 256)),
                own.middleRows(192 - 100, 96).leftCols(32).colwise().mean());
}

// Drafts that are rejected while they are exact leave no trace in any centre.
TYPED_TEST(KVCacheCenteringTest, RejectedDraftsLeaveNothingBehind) {
  using Type = typename TypeParam::T;
  KVCacheConfig config = TestFixture::make_config();
  config.num_recent_tokens = 64;
  config.centering = Centering::kLocal;
  auto drafted = make_cache<Type>(config);
  auto plain = make_cache<Type>(config);
  const RowMatrix<Type> drafts = rows_with_mean<Type>(8, 64, 70);
  const RowMatrix<Type> draft_values = rows_with_mean<Type>(8, 96, 71);
  for (Index token = 0; token < 300; ++token) {
    for (KVCache<Type>* const each : {&drafted, &plain}) {
      each->append(this->keys_.middleRows(token, 1), this->values_.middleRows(token, 1));
    }
    const std::size_t num_exact = drafted.num_tokens() - drafted.num_encoded_tokens();
    if (num_exact + 8 >= 64 + 32) continue;  // They would push others out of the window.
    drafted.append(drafts, draft_values);
    drafted.truncate(static_cast<std::size_t>(token) + 1);
  }
  ASSERT_GT(plain.num_encoded_tokens(), 200u);
  EXPECT_TRUE(polarquant_test::state_of(drafted) == polarquant_test::state_of(plain));
}

// RoPE turns the mean of keys with the position. The error of a code is the format's share of what
// is encoded, so it follows from the centres alone; a mean of the first tokens is soon wrong.
TYPED_TEST(KVCacheCenteringTest, AMeanThatTurnsIsFollowed) {
  using Type = typename TypeParam::T;
  constexpr Index kTokens = 1500;
  RowMatrix<double> keys = gaussian_matrix<double>(kTokens, 64, 5, 0.5);
  for (Index token = 0; token < kTokens; ++token) {
    for (Index pair = 0; pair < 32; ++pair) {  // Half a turn in 600 to 6,000 tokens.
      const double angle =
          static_cast<double>(token) * 3.14 / (600.0 + 170.0 * static_cast<double>(pair));
      keys(token, 2 * pair) += 2.0 * std::cos(angle);
      keys(token, 2 * pair + 1) += 2.0 * std::sin(angle);
    }
  }
  const RowMatrix<Type> rows = keys.template cast<float>().template cast<Type>();
  const RowMatrix<double> given = rows.template cast<double>();
  KVCacheConfig config = TestFixture::make_config();
  config.num_recent_tokens = 32;
  const auto error_with = [&](Centering centering, double* energy_left) {
    config.centering = centering;
    if (centering == Centering::kGiven) {
      config.key_mean.clear();
      const Eigen::RowVectorXd mean = given.topRows(128).colwise().mean();
      for (const double x : mean) config.key_mean.push_back(static_cast<float>(x));
    }
    auto cache = make_cache<Type>(config);
    cache.append(rows, gaussian_matrix<Type>(kTokens, 96, 6));
    cache.encode_recent();
    *energy_left = 0.0;
    for (std::size_t token = 0; token < kTokens; ++token) {
      *energy_left += (given.row(static_cast<Index>(token)).leftCols(32) -
                       vector_of(cache.key_center(0, token)))
                          .squaredNorm();
    }
    return (cache.decode_keys(0).template cast<double>() - given.leftCols(32)).squaredNorm();
  };
  double left = 0.0, left_by_first = 0.0;
  const double error = error_with(Centering::kLocal, &left);
  const double error_by_first = error_with(Centering::kGiven, &left_by_first);
  const double share = config.key_format.expected_relative_mse();
  for (const double found : {error / left, error_by_first / left_by_first}) {
    EXPECT_GT(found, 0.5 * share);
    EXPECT_LT(found, 1.1 * share);
  }
  // What is left: the variance of 0.25 a coordinate, of a centre 1 / 128 of it and its code's error
  // (a hundredth of 2 a coordinate), and what the mean turns within 64 tokens.
  const double per_coordinate = left / (32.0 * kTokens);
  EXPECT_GT(per_coordinate, 0.25);
  EXPECT_LT(per_coordinate, 0.25 * (1.0 + 1.0 / 64) + 2.0 * 0.02 + 2.0 * 0.03);
  EXPECT_GT(left_by_first / left, 4.0);
}

TEST(CenteringTest, AnUncompressedSideIsNotCentred) {
  KVCacheConfig config = polarquant_test::segments_config(0, 0);
  config.centering = Centering::kLocal;
  config.value_format = PolarFormat::uncompressed(48);
  KVCache<float> cache(config);
  cache.append(gaussian_matrix<float>(60, 64, 1), gaussian_matrix<float>(60, 96, 2));
  EXPECT_EQ(cache.key_center(0, 0).size(), 32u);
  EXPECT_TRUE(cache.value_center(0, 0).empty());
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
    config.seed = seed;
    return config;
  }

  static KVCache<float> filled(const KVCacheConfig& config, const polarquant_demo::Layer& layer) {
    KVCache<float> cache(config);
    cache.append(layer.keys, layer.values);
    cache.encode_recent();
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

TEST_F(SampleGainTest, KeysLoseMoreThanHalfOfTheirError) {
  double key_gain = 0.0;
  double value_gain = 0.0;
  for (const polarquant_demo::Layer& layer : sample_.layers) {
    const KVCache<float> plain = filled(config_of(Centering::kNone, 0, 0), layer);
    const KVCache<float> centered = filled(config_of(Centering::kLocal, 0, 0), layer);
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
  EXPECT_GT(key_gain, 0.58);
  EXPECT_LT(key_gain, 0.66);
  EXPECT_GT(value_gain, 0.19);
  EXPECT_LT(value_gain, 0.27);
}

// The first token draws most of the attention, and its key and value are nothing like the mean:
// less the mean they are longer than before. Exact, they do no harm.
TEST_F(SampleGainTest, TheOutputGainsIfTheSinkTokensAreExact) {
  const double plain = output_error(Centering::kNone, 0);
  const double centered = output_error(Centering::kLocal, 0);
  const double sinks = output_error(Centering::kNone, 4);
  const double both = output_error(Centering::kLocal, 4);
  std::printf("output error: %.4f, centred %.4f, with 4 sinks %.4f, with both %.4f\n", plain,
              centered, sinks, both);
  EXPECT_NEAR(centered / plain, 0.91, 0.06);
  EXPECT_NEAR(sinks / plain, 0.96, 0.03);
  EXPECT_NEAR(both / plain, 0.60, 0.04);
}

}  // namespace
