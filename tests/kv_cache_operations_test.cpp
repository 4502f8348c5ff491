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

#include "plain_attention.hpp"
#include "plain_cache.hpp"

namespace {

using Eigen::Index;
using polarquant::Centering;
using polarquant::FloatType;
using polarquant::KVCache;
using polarquant::KVCacheConfig;
using polarquant::PartialAttention;
using polarquant::PolarFormat;
using polarquant::Random;
using polarquant::RowMatrix;
using polarquant_test::AccumulatorOf;
using polarquant_test::gaussian_matrix;
using polarquant_test::kSanitized;
using polarquant_test::OptionsOf;
using polarquant_test::plain_attention;
using polarquant_test::PlainCache;
using polarquant_test::PlainOptions;
using polarquant_test::random_int;
using polarquant_test::random_options;

PolarFormat random_side(Random& random) {
  switch (random_int(random, 0, 4)) {
    case 0:
      return PolarFormat::paper(32);
    case 1:
      return PolarFormat::full_depth(24, 4.0);
    case 2:
      return PolarFormat::full_depth(40, 3.5);
    case 3:
      return PolarFormat::uncompressed(16, FloatType::kFloat32);
    default:
      return PolarFormat::full_depth(16, 4.5);
  }
}

KVCacheConfig random_config(Random& random) {
  KVCacheConfig config;
  config.num_kv_heads = random_int(random, 1, 3);
  config.num_query_heads = config.num_kv_heads * random_int(random, 1, 4);
  config.key_format = random_side(random);
  config.value_format = random_side(random);
  config.rotation = polarquant::RotationKind::kHadamard;
  config.seed = static_cast<std::uint64_t>(random_int(random, 0, 1000));
  config.arithmetic = polarquant::Arithmetic::kExact;
  config.num_sink_tokens =
      static_cast<std::size_t>(random_int(random, 0, 1) * random_int(random, 1, 40));
  config.num_recent_tokens =
      static_cast<std::size_t>(random_int(random, 0, 1) * random_int(random, 1, 120));
  config.exact_type = static_cast<FloatType>(random_int(random, 0, 3));
  config.centering = static_cast<Centering>(random_int(random, 0, 2));
  config.num_centering_tokens = static_cast<std::size_t>(random_int(random, 1, 100));
  if (config.centering == Centering::kGiven) {
    for (int i = 0; i < config.num_kv_heads * config.key_format.head_dim(); ++i) {
      config.key_mean.push_back(static_cast<float>(random.gaussian()));
    }
    if (random_int(random, 0, 1) == 0) {
      config.value_mean.assign(
          static_cast<std::size_t>(config.num_kv_heads * config.value_format.head_dim()), 0.5f);
    }
  }
  return config;
}

// A cache and its plain twin. Each operation is done to both, then they are compared.
template <typename T>
class Twins {
 public:
  using A = AccumulatorOf<T>;

  explicit Twins(std::uint64_t seed)
      : random_(seed),
        config_(random_config(random_)),
        cache_(config_),
        plain_(config_, cache_.codec()) {}

  void step() {
    switch (random_int(random_, 0, 18)) {
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
      default:
        return attend();
    }
  }

  void expect_equal() {
    operation_ += ", state";
    ASSERT_EQ(cache_.num_tokens(), plain_.num_tokens());
    ASSERT_EQ(cache_.num_encoded_tokens(), plain_.num_encoded());
    ASSERT_GE(cache_.capacity(), cache_.num_tokens());
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

  RowMatrix<T> random_rows(Index rows, int num_heads, const PolarFormat& format) {
    const auto seed = static_cast<std::uint64_t>(random_int(random_, 0, 1 << 30));
    return gaussian_matrix<T>(rows, static_cast<Index>(num_heads) * format.head_dim, seed);
  }
  RowMatrix<T> random_keys(Index rows) {
    return random_rows(rows, config_.num_kv_heads, config_.key_format);
  }
  RowMatrix<T> random_values(Index rows) {
    return random_rows(rows, config_.num_kv_heads, config_.value_format);
  }

  void append(Index count) {
    operation_ = "append " + std::to_string(count);
    const RowMatrix<T> keys = random_keys(count);
    const RowMatrix<T> values = random_values(count);
    cache_.append(keys, values);
    plain_.append(keys, values);
  }

  void append_on_rows(Index count) {
    operation_ = "append on rows " + std::to_string(count);
    const RowMatrix<T> keys = random_keys(count);
    const RowMatrix<T> values = random_values(count);
    const auto num_rows = static_cast<std::size_t>(count);
    cache_.reserve(cache_.num_tokens() + num_rows);
    polarquant_test::GuardedBytes scratch(cache_.scratch_bytes());
    const polarquant::AppendResult result = cache_.append(
        {keys.data(), num_rows, static_cast<std::size_t>(keys.cols())},
        {values.data(), num_rows, static_cast<std::size_t>(values.cols())}, scratch.data());
    EXPECT_EQ(result.failure, polarquant::EncodeFailure::kNone);
    EXPECT_TRUE(scratch.guard_is_intact());
    plain_.append(keys, values);
  }

  void append_what_cannot_be() {
    const Index count = random_int(random_, 1, 200);
    const Index bad = random_int(random_, 0, static_cast<int>(count) - 1);
    operation_ = "append " + std::to_string(count) + " with a NaN at " + std::to_string(bad);
    RowMatrix<T> values = random_values(count);
    values(bad, random_int(random_, 0, static_cast<int>(values.cols()) - 1)) =
        std::numeric_limits<T>::quiet_NaN();
    const std::string message = polarquant_test::message_of<std::invalid_argument>(
        [&] { cache_.append(random_keys(count), values); });
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
    other.append(random_keys(70), random_values(70));
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
    const RowMatrix<T> queries = random_rows(count, config_.num_query_heads, config_.key_format);
    const PlainOptions options = options_for(count);
    const RowMatrix<double> output =
        cache_.attend(queries, OptionsOf<A>(options).get()).template cast<double>();
    expect_attention(output, queries, options);
  }

  void attend_in_parts() {
    const Index count = random_int(random_, 1, 3);
    operation_ = "attend in parts with " + std::to_string(count);
    const RowMatrix<T> queries = random_rows(count, config_.num_query_heads, config_.key_format);
    const PlainOptions plain = options_for(count);
    const OptionsOf<A> options(plain);
    PartialAttention<A> merged(count, config_);
    for (std::size_t first = 0; first < cache_.num_tokens();) {
      const auto length = static_cast<std::size_t>(random_int(random_, 1, 300));
      merged.merge(cache_.attend_partial(queries, {first, length}, options.get()));
      first += length;
    }
    expect_attention(merged.output(options.get().sink_logits).template cast<double>(), queries,
                     plain);
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
        plain_attention(keys, values, queries.template cast<double>(), options);
    ASSERT_LE((output - expected).cwiseAbs().maxCoeff(), 2e-4);
  }

  Random random_;
  KVCacheConfig config_;
  KVCache<T> cache_;
  PlainCache<T> plain_;
  std::string operation_;
};

template <typename T>
class KVCacheOperationsTest : public testing::Test {};
using ElementTypes = testing::Types<float, double>;
TYPED_TEST_SUITE(KVCacheOperationsTest, ElementTypes, );  // clang++ wants the empty argument.

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
