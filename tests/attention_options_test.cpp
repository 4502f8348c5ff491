// Each option of attention, alone and with others, against its definition in double over the
// decoded keys and values.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "kv_cache_test_util.hpp"
#include "plain_attention.hpp"
#include "polarquant/attention/options.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using namespace polarquant_test;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// 550 tokens: more than a page.
template <typename Case>
class AttentionOptionsTest : public testing::Test {
 protected:
  using T = typename Case::T;
  using A = typename Case::A;

  // Compares with the definition, and returns the output.
  RowMatrix<double> expect_definition(const PlainOptions& options) const {
    const RowMatrix<double> output =
        cache_.attend(queries_, OptionsOf<A>(options).get()).template cast<double>();
    const RowMatrix<double> expected = plain_attention(cache_, queries_, options);
    EXPECT_LE((output - expected).cwiseAbs().maxCoeff(), attention_tolerance<T>(48));
    return output;
  }

  // The same, and that the options made a difference.
  void expect_definition_and_effect(const PlainOptions& options) const {
    const RowMatrix<double> plain = cache_.attend(queries_).template cast<double>();
    EXPECT_GT((expect_definition(options) - plain).cwiseAbs().maxCoeff(), 1e-3);
  }

  static constexpr Index kNumTokens = 550;
  KVCache<T> cache_ = polarquant_test::filled_cache<T>(
      kNumTokens, polarquant_test::exact_config<typename Case::Family>());
  RowMatrix<T> queries_ = random_queries<T>(cache_.config(), 5);
};
TYPED_TEST_SUITE(AttentionOptionsTest, polarquant_test::CacheCases, );

TYPED_TEST(AttentionOptionsTest, DefaultsAreTheSameBitsAsNoOptions) {
  EXPECT_EQ(this->cache_.attend(this->queries_, {}), this->cache_.attend(this->queries_));
  this->expect_definition({});
}

TYPED_TEST(AttentionOptionsTest, ScaleMultipliesTheScores) {
  for (const double scale : {1.0, 0.01, -0.3}) {
    PlainOptions options;
    options.scale = scale;
    this->expect_definition_and_effect(options);
  }
}

TYPED_TEST(AttentionOptionsTest, WithoutCausalEveryQuerySeesEveryToken) {
  PlainOptions options;
  options.causal = false;
  this->expect_definition_and_effect(options);
}

TYPED_TEST(AttentionOptionsTest, FirstPositionPlacesTheQueries) {
  for (const std::ptrdiff_t position : {-5, -2, 0, 31, 32, 511, 512, 540, 548, 1000}) {
    PlainOptions options;
    options.first_position = position;
    const RowMatrix<double> output = this->expect_definition(options);
    if (position == -5) {
      EXPECT_EQ(output.cwiseAbs().maxCoeff(), 0.0);
    }
  }
}

TYPED_TEST(AttentionOptionsTest, AWindowShowsTheMostRecentTokens) {
  for (const std::size_t window : {1u, 2u, 31u, 40u, 500u}) {
    PlainOptions options;
    options.window = window;
    this->expect_definition_and_effect(options);
    options.first_position = 20;
    this->expect_definition(options);
  }
}

TYPED_TEST(AttentionOptionsTest, AWindowOfAllTokensHidesNone) {
  PlainOptions options;
  options.window = 550;
  EXPECT_EQ(this->expect_definition(options),
            this->cache_.attend(this->queries_).template cast<double>());
}

// Positions of the later queries are beyond the last of the type, and stay there.
TYPED_TEST(AttentionOptionsTest, APositionAtTheEndOfTheTypeSeesEveryToken) {
  PlainOptions everything;
  everything.causal = false;
  const RowMatrix<double> expected = this->expect_definition(everything);
  for (const std::ptrdiff_t step : {0, 1, 3, 4, 100}) {
    polarquant::AttentionOptions<typename TypeParam::A> options;
    options.first_position = std::numeric_limits<std::ptrdiff_t>::max() - step;
    EXPECT_EQ(this->cache_.attend(this->queries_, options).template cast<double>(), expected);
    options.window = 20;
    EXPECT_EQ(this->cache_.attend(this->queries_, options).cwiseAbs().maxCoeff(), 0);
    options.first_position = std::numeric_limits<std::ptrdiff_t>::min() + step;
    EXPECT_EQ(this->cache_.attend(this->queries_, options).cwiseAbs().maxCoeff(), 0);
  }
}

TYPED_TEST(AttentionOptionsTest, WindowSinksStayVisibleBehindAWindow) {
  for (const std::size_t window_sinks : {0u, 1u, 4u, 33u, 512u, 549u, 550u, 9999u}) {
    for (const std::size_t window : {1u, 31u, 40u, 545u}) {
      PlainOptions options;
      options.window = window;
      options.window_sinks = window_sinks;
      this->expect_definition(options);
      options.causal = false;
      options.first_position = 300;  // tokens on both sides of the window
      this->expect_definition(options);
      options.first_position = 2000;  // the window is behind all tokens
      this->expect_definition(options);
    }
  }
  PlainOptions options;
  options.window = 40;
  options.window_sinks = 4;
  this->expect_definition_and_effect(options);
  const RowMatrix<double> with_sinks = this->expect_definition(options);
  options.window_sinks = 0;
  EXPECT_GT((this->expect_definition(options) - with_sinks).cwiseAbs().maxCoeff(), 1e-3);
  // Without a window they mean nothing.
  options = {};
  options.window_sinks = 4;
  EXPECT_EQ(this->expect_definition(options),
            this->cache_.attend(this->queries_).template cast<double>());
}

TYPED_TEST(AttentionOptionsTest, RemovedTokensAreNotSeen) {
  const RowMatrix<double> before = this->expect_definition({});
  this->cache_.remove({10, 1});
  this->cache_.remove({100, 250});  // whole tiles among them
  this->cache_.remove({548, 2});    // the last, which the last query stands at
  EXPECT_GT((this->expect_definition({}) - before).cwiseAbs().maxCoeff(), 1e-3);
  PlainOptions options;
  options.window = 2;
  const RowMatrix<double> output = this->expect_definition(options);
  EXPECT_EQ(output.row(4).cwiseAbs().maxCoeff(), 0.0);
  Random random(5);
  for (int trial = 0; trial < 30; ++trial) {
    this->expect_definition(random_options(random, 5, 6, this->kNumTokens));
  }
  this->cache_.remove({0, 550});
  EXPECT_EQ(this->cache_.attend(this->queries_).cwiseAbs().maxCoeff(), 0);
}

TYPED_TEST(AttentionOptionsTest, SoftCapBoundsTheLogits) {
  for (const double cap : {0.1, 1.0, 30.0}) {
    PlainOptions options;
    options.scale = 1.0;
    options.soft_cap = cap;
    this->expect_definition_and_effect(options);
  }
}

// tanh of what is near zero keeps its digits: a large cap is nearly none.
TYPED_TEST(AttentionOptionsTest, ALargeSoftCapIsNone) {
  const RowMatrix<double> expected = this->expect_definition({});
  for (const double cap : {1e3, 1e4, 1e6, 1e8, 1e12, 1e30}) {
    PlainOptions options;
    options.soft_cap = cap;
    const RowMatrix<double> output = this->expect_definition(options);
    if (cap >= 1e8) {
      EXPECT_LE((output - expected).cwiseAbs().maxCoeff(),
                attention_tolerance<typename TypeParam::T>(48))
          << cap;
    }
  }
}

TYPED_TEST(AttentionOptionsTest, AlibiLowersLogitsByDistance) {
  PlainOptions options;
  options.alibi_slopes = {0.5, 0.25, 0.125, 0.0625, 0.03125, 0.0};
  this->expect_definition_and_effect(options);
  options.first_position = 100;
  options.causal = false;
  this->expect_definition_and_effect(options);
}

TYPED_TEST(AttentionOptionsTest, SinkLogitsTakeAShare) {
  PlainOptions options;
  options.sink_logits = {-kInfinity, -3.0, 0.0, 2.0, 8.0, 50.0};
  this->expect_definition_and_effect(options);
}

TYPED_TEST(AttentionOptionsTest, AMaskOfOneRowPerQueryServesAllHeads) {
  PlainOptions options;
  options.mask = gaussian_matrix<double>(5, this->kNumTokens, 9);
  this->expect_definition_and_effect(options);
}

TYPED_TEST(AttentionOptionsTest, AMaskMayHaveARowPerQueryAndHead) {
  PlainOptions options;
  options.mask = gaussian_matrix<double>(30, this->kNumTokens, 9);
  this->expect_definition_and_effect(options);
}

TYPED_TEST(AttentionOptionsTest, MaskedTokensAreNotSeen) {
  PlainOptions options;
  options.mask = RowMatrix<double>::Zero(5, this->kNumTokens);
  options.mask.leftCols(512).setConstant(-kInfinity);  // A whole page.
  options.mask.row(1).setConstant(-kInfinity);
  options.mask(1, 17) = 0.0;
  this->expect_definition_and_effect(options);
}

TYPED_TEST(AttentionOptionsTest, AQueryWhoseEveryTokenIsMaskedGivesZeros) {
  for (const bool with_sink : {false, true}) {
    PlainOptions options;
    options.mask = RowMatrix<double>::Zero(5, this->kNumTokens);
    options.mask.row(2).setConstant(-kInfinity);
    if (with_sink) options.sink_logits = std::vector<double>(6, 1.0);
    const RowMatrix<double> output = this->expect_definition(options);
    EXPECT_EQ(output.row(2).cwiseAbs().maxCoeff(), 0.0);
    EXPECT_GT(output.row(3).cwiseAbs().maxCoeff(), 0.0);
  }
}

TYPED_TEST(AttentionOptionsTest, AnyOptionsTogether) {
  Random random(11);
  for (int trial = 0; trial < 100; ++trial) {
    const PlainOptions options = random_options(random, 5, 6, this->kNumTokens);
    this->expect_definition(options);
    if (this->HasFailure()) FAIL() << "trial " << trial;
  }
}

// ---- What is refused ----

class BadOptionsTest : public testing::Test {
 protected:
  void expect_refused(const AttentionOptions<float>& options, const std::string& text) const {
    const RowMatrix<float> queries = random_queries<float>(cache_.config(), 3);
    for (const std::string& message :
         {message_of<std::invalid_argument>([&] { cache_.attend(queries, options); }),
          message_of<std::invalid_argument>([&] { cache_.attend_partial(queries, options); })}) {
      EXPECT_NE(message.find(text), std::string::npos) << message;
    }
  }
  KVCache<float> cache_ = polarquant_test::filled_cache<float>(10);
};

TEST_F(BadOptionsTest, NumbersThatAreNone) {
  AttentionOptions<float> options;
  options.scale = std::numeric_limits<float>::quiet_NaN();
  expect_refused(options, "scale is nan, must be finite");
  options = {};
  options.soft_cap = -2.0f;
  expect_refused(options, "soft_cap is -2, must be finite, at least 0");
  options = {};
  const float slopes[] = {0.0f, std::numeric_limits<float>::infinity(), 0.0f, 0.0f, 0.0f, 0.0f};
  options.alibi_slopes = slopes;
  expect_refused(options, "an ALiBi slope is inf, must be finite");
  options = {};
  options.sink_logits = slopes;
  expect_refused(options, "a sink logit is inf, must be finite or -infinity");
}

TEST_F(BadOptionsTest, MasksOfAWrongShapeOrWithNaN) {
  RowMatrix<float> mask = RowMatrix<float>::Zero(18, 10);
  AttentionOptions<float> options;
  options.mask = {mask.data(), 4, 10};
  expect_refused(options,
                 "the mask has 4 rows, must have one per query, 3, or one per query and "
                 "query head, 18");
  options.mask = {mask.data(), 18, 9};
  expect_refused(options, "the mask's rows are 9 apart, must be at least the number of tokens, 10");
  options.mask = {mask.data(), 18, 10};
  mask(4, 7) = std::numeric_limits<float>::quiet_NaN();
  expect_refused(options, "the mask in row 4 of token 7 is nan, must be finite or -infinity");
}

}  // namespace
