// A cache in the plainest terms: a list of tokens, each with the vectors that attention is to see.
// It knows the rules of KVCacheConfig and nothing of tiles, rings and pages.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <memory>
#include <polarquant/polarquant.hpp>
#include <type_traits>
#include <utility>
#include <vector>

#include "test_util.hpp"

namespace polarquant_test {

// A number as `type` stores it.
inline double rounded_to(polarquant::FloatType type, double value) {
  switch (type) {
    case polarquant::FloatType::kBFloat16:
      return static_cast<double>(static_cast<float>(Eigen::bfloat16(static_cast<float>(value))));
    case polarquant::FloatType::kFloat16:
      return static_cast<double>(static_cast<float>(Eigen::half(static_cast<float>(value))));
    case polarquant::FloatType::kFloat32:
      return static_cast<double>(static_cast<float>(value));
    case polarquant::FloatType::kFloat64:
      break;
  }
  return value;
}

// The type of T itself.
template <typename T>
constexpr polarquant::FloatType own_type() {
  return std::is_same_v<T, double>        ? polarquant::FloatType::kFloat64
         : std::is_same_v<T, float>       ? polarquant::FloatType::kFloat32
         : std::is_same_v<T, Eigen::half> ? polarquant::FloatType::kFloat16
                                          : polarquant::FloatType::kBFloat16;
}

template <typename T>
class PlainCache {
 public:
  using A = AccumulatorOf<T>;

  PlainCache(const polarquant::KVCacheConfig& config,
             std::shared_ptr<const polarquant::KVCodec<A>> codec)
      : config_(config),
        exact_type_(config.exact_type.value_or(own_type<T>())),
        codec_(std::move(codec)) {
    clear();
  }

  std::size_t num_tokens() const { return tokens_.size(); }
  std::size_t num_encoded() const { return num_encoded_; }

  void append(const polarquant::RowMatrix<T>& keys, const polarquant::RowMatrix<T>& values) {
    for (Eigen::Index row = 0; row < keys.rows(); ++row) {
      Token token;
      token.sides[0] = keys.row(row).template cast<double>();
      token.sides[1] = values.row(row).template cast<double>();
      const bool goes_to_codes = tokens_.size() >= config_.num_sink_tokens &&
                                 config_.num_recent_tokens == 0 && !mean_is_pending_;
      if (!goes_to_codes) {
        for (Eigen::RowVectorXd& side : token.sides) {
          side = side.unaryExpr([&](double x) { return rounded_to(exact_type_, x); });
        }
      }
      tokens_.push_back(token);
      settle();
    }
  }

  void truncate(std::size_t num_tokens) {
    tokens_.resize(num_tokens);
    num_encoded_ = std::min(num_encoded_, num_tokens - num_sinks());
  }

  void remove(std::size_t first, std::size_t count) {
    for (std::size_t i = first; i < first + count; ++i) tokens_[i].is_removed = true;
  }

  // Whether each token was removed.
  std::vector<bool> removed() const {
    std::vector<bool> result;
    for (const Token& token : tokens_) result.push_back(token.is_removed);
    return result;
  }

  // Returns how many tokens are forgotten.
  std::size_t drop_front(std::size_t num_tokens) {
    const std::size_t tile = polarquant::kTileTokens;
    const std::size_t count = std::min(num_tokens, num_encoded_) / tile * tile;
    const auto first = tokens_.begin() + static_cast<std::ptrdiff_t>(num_sinks());
    tokens_.erase(first, first + static_cast<std::ptrdiff_t>(count));
    num_encoded_ -= count;
    return count;
  }

  void clear() {
    tokens_.clear();
    num_encoded_ = 0;
    mean_is_pending_ =
        config_.centering == polarquant::Centering::kEstimated &&
        !(config_.key_format.is_uncompressed() && config_.value_format.is_uncompressed());
    for (const int side : {0, 1}) {
      const polarquant::CodecFormat& format = side == 0 ? config_.key_format : config_.value_format;
      const std::vector<float>& given = side == 0 ? config_.key_mean : config_.value_mean;
      means_[side] = Eigen::RowVectorXd::Zero(config_.num_kv_heads * format.head_dim());
      if (given.empty() || format.is_uncompressed()) continue;
      for (std::size_t i = 0; i < given.size(); ++i) {
        means_[side](static_cast<Eigen::Index>(i)) = static_cast<double>(given[i]);
      }
    }
  }

  void encode_recent(std::size_t num_kept) {
    if (waits_for_mean()) return;
    while (num_recent() > num_kept) encode_oldest();
  }

  // What the cache should decode, [num_tokens, head_dim] of one KV head.
  polarquant::RowMatrix<double> rows(bool of_values, int kv_head) const {
    const Eigen::Index width = head_dim(of_values);
    polarquant::RowMatrix<double> result(static_cast<Eigen::Index>(tokens_.size()), width);
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      result.row(static_cast<Eigen::Index>(i)) =
          tokens_[i].sides[of_values].segment(kv_head * width, width);
    }
    return result;
  }

  bool is_exact(std::size_t token) const {
    return token < num_sinks() || token >= num_sinks() + num_encoded_;
  }

 private:
  struct Token {
    Eigen::RowVectorXd sides[2];  // key and value, heads side by side
    bool is_removed = false;
  };

  Eigen::Index head_dim(bool of_values) const {
    return (of_values ? config_.value_format : config_.key_format).head_dim();
  }
  std::size_t num_sinks() const { return std::min(tokens_.size(), config_.num_sink_tokens); }
  std::size_t num_recent() const { return tokens_.size() - num_sinks() - num_encoded_; }

  bool waits_for_mean() const {
    return mean_is_pending_ && num_recent() < config_.num_centering_tokens;
  }

  // The rule of ages, after each token.
  void settle() {
    const std::size_t tile = polarquant::kTileTokens;
    if (waits_for_mean()) return;
    const std::size_t window = config_.num_recent_tokens;
    if (window == 0) {
      while (num_recent() > 0) encode_oldest();
    }
    while (num_recent() >= window + tile - num_encoded_ % tile) {
      do {
        encode_oldest();
      } while (num_encoded_ % tile != 0);
    }
  }

  void estimate() {
    for (const int side : {0, 1}) {
      if ((side == 0 ? config_.key_format : config_.value_format).is_uncompressed()) continue;
      // In the cache's own precision and order: a last bit may move an angle over a boundary.
      for (Eigen::Index i = 0; i < means_[side].size(); ++i) {
        A mean(0);
        for (std::size_t token = 0; token < config_.num_centering_tokens; ++token) {
          mean += static_cast<A>(tokens_[config_.num_sink_tokens + token].sides[side](i)) /
                  static_cast<A>(config_.num_centering_tokens);
        }
        means_[side](i) = static_cast<double>(mean);
      }
    }
    mean_is_pending_ = false;
  }

  // The oldest recent token becomes what its codes, made one by one, decode to.
  void encode_oldest() {
    if (mean_is_pending_) estimate();
    Token& token = tokens_[num_sinks() + num_encoded_];
    for (const int side : {0, 1}) {
      const polarquant::Codec<A>& codec = side == 0 ? codec_->keys() : codec_->values();
      const Eigen::Index width = head_dim(side == 1);
      for (int head = 0; head < config_.num_kv_heads; ++head) {
        const Eigen::RowVectorXd mean = means_[side].segment(head * width, width);
        const Eigen::RowVectorXd centered = token.sides[side].segment(head * width, width) - mean;
        std::vector<A> row;
        for (const double x : centered) row.push_back(static_cast<A>(x));
        const std::vector<A> decoded = decode_rows(codec, encode_rows(codec, row));
        for (Eigen::Index i = 0; i < width; ++i) {
          token.sides[side](head * width + i) =
              static_cast<double>(decoded[static_cast<std::size_t>(i)]) + mean(i);
        }
      }
    }
    ++num_encoded_;
  }

  polarquant::KVCacheConfig config_;
  polarquant::FloatType exact_type_;
  std::shared_ptr<const polarquant::KVCodec<A>> codec_;
  std::vector<Token> tokens_;
  std::size_t num_encoded_ = 0;
  bool mean_is_pending_ = false;
  Eigen::RowVectorXd means_[2];
};

}  // namespace polarquant_test
