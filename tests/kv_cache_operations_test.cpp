// Random operations on a cache and on a plain list of tokens: they agree after every step.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kv_cache_test_util.hpp"
#include "plain_attention.hpp"
#include "plain_cache.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using namespace polarquant_test;

CodecFormat random_side(Random& random, polarquant_test::PolarFamily) {
  static const CodecFormat formats[] = {
      PolarFormat::paper(32), PolarFormat::full_depth(24, 4.0), PolarFormat::full_depth(40, 3.5),
      PolarFormat::full_depth(16, 4.5), PolarFormat::uncompressed(16, FloatType::kFloat32)};
  return formats[random_int(random, 0, 4)];
}
CodecFormat random_side(Random& random, polarquant_test::Plain8BitFamily) {
  static constexpr int kWidths[] = {16, 24, 32, 40};
  return polarquant_test::plain_8bit(kWidths[random_int(random, 0, 3)]);
}

template <typename Family>
KVCacheConfig random_config(Random& random) {
  KVCacheConfig config;
  config.num_kv_heads = random_int(random, 1, 3);
  config.num_query_heads = config.num_kv_heads * random_int(random, 1, 4);
  config.key_format = random_side(random, Family());
  config.value_format = random_side(random, Family());
  config.rotation = polarquant::RotationKind::kHadamard;
  config.seed = static_cast<std::uint64_t>(random_int(random, 0, 1000));
  config.arithmetic = polarquant::Arithmetic::kExact;
  config.num_sink_tokens =
      static_cast<std::size_t>(random_int(random, 0, 1) * random_int(random, 1, 40));
  config.num_recent_tokens =
      static_cast<std::size_t>(random_int(random, 0, 1) * random_int(random, 1, 120));
  if (random_int(random, 0, 4) > 0) {
    config.exact_type = static_cast<FloatType>(random_int(random, 0, 3));
  }
  constexpr Centering kCenterings[] = {Centering::kNone, Centering::kGiven, Centering::kLocal};
  config.centering = kCenterings[random_int(random, 0, 2)];
  if (config.centering == Centering::kGiven) {
    for (std::size_t i = 0; i < config.key_columns(); ++i) {
      config.key_mean.push_back(static_cast<float>(random.gaussian()));
    }
    if (random_int(random, 0, 1) == 0) config.value_mean.assign(config.value_columns(), 0.5f);
  }
  switch (random_int(random, 0, 5)) {
    case 0:
    case 1:
      for (std::size_t i = 0; i < config.key_columns(); ++i) {
        config.calibration.key_scales.push_back(
            static_cast<float>(std::exp(random.gaussian() / 2)));
      }
      break;
    case 2:
      config.calibration.key_matrices =
          random_key_matrices(config.num_kv_heads, config.key_format.head_dim(), random);
  }
  return config;
}

// A cache and its plain twin. Each operation is done to both, then they are compared.
template <typename Case>
class Twins {
 public:
  using T = typename Case::T;
  using A = typename Case::A;

  explicit Twins(std::uint64_t seed)
      : random_(seed),
        config_(random_config<typename Case::Family>(random_)),
        cache_(config_),
        plain_(config_, cache_.codec()) {}

  void step() {
    switch (random_int(random_, 0, 21)) {
      case 0:
      case 1:
      case 2:
        return append(1);
      case 3:
      case 4:
        return append(random_int(random_, 0, 12));
      case 5:
        return append(random_int(random_, 0, 150));
      case 6:
        return append_on_rows(random_int(random_, 0, 70));
      case 7:
        return append_what_cannot_be();
      case 8:
      case 9:
        return truncate();
      case 10:
        return encode_recent();
      case 11:
        return rarely();
      case 12:
        return attend_in_parts();
      case 13:
        return copy();
      case 14:
        return drop_front();
      case 15:
        return save_and_load();
      case 16:
        return remove();
      case 17:
        return append_without_room();
      case 18:
        return score();
      default:
        return attend();
    }
  }

  void expect_equal() {
    operation_ += ", state";
    ASSERT_EQ(cache_.num_tokens(), plain_.num_tokens());
    ASSERT_EQ(cache_.num_encoded_tokens(), plain_.num_encoded());
    ASSERT_GE(cache_.capacity(), cache_.num_tokens());
    ASSERT_EQ(removed_of(cache_), plain_.removed());
    const int head = random_int(random_, 0, config_.num_kv_heads - 1);
    for (const bool of_values : {false, true}) {
      const RowMatrix<double> rows =
          (of_values ? cache_.decode_values(head) : cache_.decode_keys(head))
              .template cast<double>();
      const RowMatrix<double> expected = plain_.rows(of_values, head);
      ASSERT_EQ(rows.rows(), expected.rows());
      for (Index token = 0; token < rows.rows(); ++token) {
        const bool is_exact = plain_.is_exact(static_cast<std::size_t>(token));
        const double tolerance = is_exact ? exact_tolerance() : kCodeTolerance;
        ASSERT_LE((rows.row(token) - expected.row(token)).cwiseAbs().maxCoeff(), tolerance)
            << "token " << token << " of " << rows.rows();
      }
    }
  }

  const std::string& operation() const { return operation_; }

 private:
  // A tile and a row are decoded in different orders.
  static constexpr double kCodeTolerance = 2e-5;

  // float64 rows come back as the accumulator.
  static double exact_tolerance() { return std::is_same_v<A, double> ? 0.0 : 3e-7; }

  std::uint64_t seed() { return static_cast<std::uint64_t>(random_int(random_, 0, 1 << 30)); }
  TokenRows<T> random_tokens(Index count) { return TokenRows<T>(config_, count, seed()); }

  static std::vector<bool> removed_of(const KVCache<T>& cache) {
    std::vector<bool> removed(cache.num_tokens());
    for (const polarquant::TokenRange& range : cache.removed_tokens()) {
      for (std::size_t i = 0; i < range.count; ++i) removed[range.first + i] = true;
    }
    return removed;
  }

  void append(Index count) {
    operation_ = "append " + std::to_string(count);
    const TokenRows<T> tokens = random_tokens(count);
    tokens.append_to(cache_, 0, count);
    plain_.append(tokens.keys, tokens.values);
  }

  void append_on_rows(Index count) {
    operation_ = "append on rows " + std::to_string(count);
    const TokenRows<T> tokens = random_tokens(count);
    const auto num_rows = static_cast<std::size_t>(count);
    cache_.reserve(cache_.num_tokens() + num_rows);
    ASSERT_GE(cache_.capacity(), cache_.num_tokens() + num_rows);
    EXPECT_EQ(tokens.append_on_rows(cache_, 0, num_rows).failure, EncodeFailure::kNone);
    plain_.append(tokens.keys, tokens.values);
  }

  // Without reserve, after whatever came before: all of it or nothing.
  void append_without_room() {
    const auto count =
        static_cast<std::size_t>(random_int(random_, 1, random_int(random_, 0, 2) == 0 ? 600 : 40));
    operation_ = "append without room " + std::to_string(count);
    const TokenRows<T> tokens = random_tokens(static_cast<Index>(count));
    const bool fits = cache_.num_tokens() + count <= cache_.capacity();
    // As after copy(), of which both share the pages.
    const KVCache<T> other = cache_.copy();
    const polarquant_test::CacheState<T> before(other);
    const bool fits_shared = cache_.num_tokens() + count <= cache_.capacity();
    const EncodeFailure failure = tokens.append_on_rows(cache_, 0, count).failure;
    ASSERT_TRUE(failure == EncodeFailure::kNone || failure == EncodeFailure::kNoCapacity);
    ASSERT_TRUE(!fits_shared || (fits && failure == EncodeFailure::kNone));
    ASSERT_TRUE(polarquant_test::state_of(other) == before);
    if (failure == EncodeFailure::kNone) {
      plain_.append(tokens.keys, tokens.values);
    } else {
      ASSERT_TRUE(polarquant_test::state_of(cache_) == before);
    }
  }

  void remove() {
    const auto most = static_cast<int>(cache_.num_tokens());
    const int first = random_int(random_, 0, most);
    const int count =
        random_int(random_, 0, std::min(most - first, random_int(random_, 0, 3) == 0 ? 300 : 20));
    operation_ = "remove " + std::to_string(count) + " from " + std::to_string(first);
    cache_.remove({static_cast<std::size_t>(first), static_cast<std::size_t>(count)});
    plain_.remove(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
  }

  void append_what_cannot_be() {
    const Index count = random_int(random_, 1, 200);
    const Index bad = random_int(random_, 0, static_cast<int>(count) - 1);
    operation_ = "append " + std::to_string(count) + " with a NaN at " + std::to_string(bad);
    TokenRows<T> tokens = random_tokens(count);
    tokens.values(bad, random_int(random_, 0, static_cast<int>(tokens.values.cols()) - 1)) =
        std::numeric_limits<T>::quiet_NaN();
    const std::string message = polarquant_test::message_of<std::invalid_argument>(
        [&] { tokens.append_to(cache_, 0, count); });
    const std::string token =
        "of token " + std::to_string(cache_.num_tokens() + static_cast<std::size_t>(bad)) + ",";
    EXPECT_NE(message.find(token), std::string::npos) << message;
  }

  void truncate() {
    const int most = static_cast<int>(cache_.num_tokens());
    // Mostly a few tokens, as in speculative decoding; at times many.
    const int dropped =
        std::min(most, random_int(random_, 0, random_int(random_, 0, 4) == 0 ? most : 10));
    operation_ = "truncate by " + std::to_string(dropped);
    cache_.truncate(static_cast<std::size_t>(most - dropped));
    plain_.truncate(static_cast<std::size_t>(most - dropped));
  }

  void encode_recent() {
    const auto num_kept = static_cast<std::size_t>(random_int(random_, 0, 150));
    operation_ = "encode all but " + std::to_string(num_kept);
    cache_.encode_recent(num_kept);
    plain_.encode_recent(num_kept);
  }

  void rarely() {
    switch (random_int(random_, 0, 9)) {
      case 0:
        operation_ = "clear";
        cache_.clear();
        return plain_.clear();
      case 1:
      case 2:
      case 3:
        operation_ = "shrink";
        return cache_.shrink();
      case 4:
      case 5:
        operation_ = "reserve";
        return cache_.reserve(static_cast<std::size_t>(random_int(random_, 0, 1500)));
      default: {
        operation_ = "move";
        KVCache<T> other(std::move(cache_));
        cache_ = std::move(other);
      }
    }
  }

  // Goes on with the copy or with the original, and writes into the other, which must not matter.
  void copy() {
    operation_ = "copy";
    KVCache<T> other = cache_.copy();
    if (random_int(random_, 0, 1) == 0) std::swap(other, cache_);
    other.truncate(
        other.num_tokens() -
        std::min(other.num_tokens(), static_cast<std::size_t>(random_int(random_, 0, 40))));
    random_tokens(70).append_to(other, 0, 70);
  }

  void drop_front() {
    const auto count = static_cast<std::size_t>(random_int(random_, 0, 200));
    operation_ = "drop front " + std::to_string(count);
    EXPECT_EQ(cache_.drop_front(count), plain_.drop_front(count));
  }

  void save_and_load() {
    operation_ = "save and load";
    std::vector<std::byte> bytes(polarquant::saved_bytes(cache_));
    polarquant::save(cache_, bytes.data(), bytes.size());
    KVCache<T> other(config_, cache_.codec());
    polarquant::load(bytes.data(), bytes.size(), other);
    cache_ = std::move(other);
  }

  void attend() {
    const Index count = random_int(random_, 1, 6);
    operation_ = "attend with " + std::to_string(count);
    const RowMatrix<T> queries = random_queries<T>(config_, count, seed());
    const PlainOptions options = options_for(count);
    const RowMatrix<double> output =
        cache_.attend(queries, OptionsOf<A>(options).get()).template cast<double>();
    expect_attention(output, queries, options);
  }

  void attend_in_parts() {
    const Index count = random_int(random_, 1, 3);
    operation_ = "attend in parts with " + std::to_string(count);
    const RowMatrix<T> queries = random_queries<T>(config_, count, seed());
    const PlainOptions plain = options_for(count);
    const OptionsOf<A> options(plain);
    PartialAttention<A> merged(count, config_);
    for (std::size_t first = 0; first < cache_.num_tokens();) {
      const auto length = static_cast<std::size_t>(random_int(random_, 1, 300));
      merged.merge(
          cache_.attend_partial(queries, options.get(), polarquant::Part::tokens(first, length)));
      first += length;
    }
    expect_attention(merged.output(options.get().sink_logits).template cast<double>(), queries,
                     plain);
  }

  void score() {
    operation_ = "scores";
    const RowMatrix<T> queries = random_queries<T>(config_, 2, seed());
    const RowMatrix<double> scores = cache_.attention_scores(queries).template cast<double>();
    const std::vector<bool> removed = plain_.removed();
    const Index key_dim = config_.key_format.head_dim();
    const int group_size = config_.num_query_heads / config_.num_kv_heads;
    for (Index row = 0; row < scores.rows(); ++row) {
      const int head = static_cast<int>(row) % config_.num_query_heads;
      const RowMatrix<double> expected = queries.row(row / config_.num_query_heads)
                                             .segment(head * key_dim, key_dim)
                                             .template cast<double>() *
                                         plain_.rows(false, head / group_size).transpose();
      for (Index token = 0; token < scores.cols(); ++token) {
        if (removed[static_cast<std::size_t>(token)]) {
          ASSERT_EQ(scores(row, token), -std::numeric_limits<double>::infinity());
        } else {
          ASSERT_NEAR(scores(row, token), expected(0, token), 1e-3);
        }
      }
    }
  }

  PlainOptions options_for(Index num_queries) {
    return random_int(random_, 0, 2) == 0
               ? PlainOptions{}
               : random_options(random_, num_queries, config_.num_query_heads,
                                static_cast<Index>(cache_.num_tokens()));
  }

  void expect_attention(const RowMatrix<double>& output, const RowMatrix<T>& queries,
                        const PlainOptions& options) {
    std::vector<RowMatrix<double>> keys, values;
    for (int head = 0; head < config_.num_kv_heads; ++head) {
      keys.push_back(plain_.rows(false, head));
      values.push_back(plain_.rows(true, head));
    }
    const RowMatrix<double> expected =
        plain_attention(keys, values, queries.template cast<double>(), options, plain_.removed());
    ASSERT_LE((output - expected).cwiseAbs().maxCoeff(), 2e-4);
  }

  Random random_;
  KVCacheConfig config_;
  KVCache<T> cache_;
  PlainCache<T> plain_;
  std::string operation_;
};

template <typename Case>
class KVCacheOperationsTest : public testing::Test {};
using Cases = testing::Types<CacheCase<float>, CacheCase<double>, CacheCase<Eigen::half>,
                             CacheCase<float, polarquant_test::Plain8BitFamily>,
                             CacheCase<double, polarquant_test::Plain8BitFamily>>;
TYPED_TEST_SUITE(KVCacheOperationsTest, Cases, );  // clang++ wants the empty argument.

TYPED_TEST(KVCacheOperationsTest, AgreeWithAPlainListAfterEveryStep) {
  const std::uint64_t num_caches = kSanitized ? 8 : 40;
  for (std::uint64_t seed = 0; seed < num_caches; ++seed) {
    Twins<TypeParam> twins(seed);
    for (int step = 0; step < 100; ++step) {
      twins.step();
      if (!this->HasFatalFailure() && !this->HasFailure()) twins.expect_equal();
      if (this->HasFailure()) {
        FAIL() << "seed " << seed << ", step " << step << ": " << twins.operation();
      }
    }
  }
}

}  // namespace
