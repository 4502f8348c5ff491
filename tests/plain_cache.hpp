// A cache in the plainest terms: a list of tokens, each with the vectors that attention is to see.
// It knows the rules of KVCacheConfig and nothing of tiles, rings and pages.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <map>
#include <memory>
#include <polarquant/polarquant.hpp>
#include <type_traits>
#include <utility>
#include <vector>

#include "kv_cache_test_util.hpp"
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
                                 config_.num_recent_tokens == 0 && !has_spans();
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
    // A truncation that cuts into the remembered tokens makes all of them forgotten.
    if (remembered_end_ > next_slot()) remembered_end_ = kNowhere;
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
    num_dropped_ += count;
    return count;
  }

  void clear() {
    tokens_.clear();
    num_encoded_ = 0;
    num_dropped_ = 0;
    remembered_end_ = kNowhere;
    for (const int side : {0, 1}) {
      const std::vector<float>& given = side == 0 ? config_.key_mean : config_.value_mean;
      centers_[side] = Eigen::RowVectorXd::Zero(config_.num_kv_heads * head_dim(side == 1));
      if (is_uncompressed(side) || given.empty()) continue;
      const std::size_t width = static_cast<std::size_t>(head_dim(side == 1));
      for (std::size_t head = 0; head * width < given.size(); ++head) {
        std::vector<A> center;
        for (std::size_t i = 0; i < width; ++i) {
          center.push_back(static_cast<A>(given[head * width + i]));
        }
        condition(side, head, center);
        set_center(side, head, center);
      }
    }
  }

  void encode_recent(std::size_t num_kept) {
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

  bool is_uncompressed(int side) const {
    return (side == 0 ? config_.key_format : config_.value_format).is_uncompressed();
  }
  bool has_spans() const {
    return config_.centering == polarquant::Centering::kLocal &&
           !(is_uncompressed(0) && is_uncompressed(1));
  }
  // Of a head's vectors.
  polarquant::detail::HeadTransform<A> transform(int side, std::size_t head) const {
    const polarquant::LayerCalibration& calibration = config_.calibration;
    if (side == 1 || is_uncompressed(side) || !calibration.has_transform()) return {};
    if (calibration.key_matrices != nullptr) return {calibration.key_matrices, head};
    const auto first =
        calibration.key_scales.begin() + static_cast<std::ptrdiff_t>(head * codec(side).head_dim());
    return polarquant::detail::HeadTransform<A>(std::vector<A>(first, first + head_dim(side == 1)));
  }
  // What is encoded, and back. An empty center: none.
  void condition(int side, std::size_t head, std::vector<A>& row,
                 const std::vector<A>& center = {}) const {
    const auto own = transform(side, head);
    row = plainly_conditioned<A>({own.get(), center.empty() ? nullptr : center.data()}, row);
  }
  void uncondition(int side, std::size_t head, std::vector<A>& row,
                   const std::vector<A>& center) const {
    const auto own = transform(side, head);
    row = plainly_restored<A>({own.get(), center.data()}, row);
  }
  std::vector<A> center_of(int side, std::size_t head) const {
    const std::size_t width = codec(side).head_dim();
    std::vector<A> result;
    for (std::size_t i = 0; i < width; ++i) {
      result.push_back(static_cast<A>(centers_[side](static_cast<Eigen::Index>(head * width + i))));
    }
    return result;
  }
  void set_center(int side, std::size_t head, const std::vector<A>& center) {
    for (std::size_t i = 0; i < center.size(); ++i) {
      centers_[side](static_cast<Eigen::Index>(head * center.size() + i)) =
          static_cast<double>(center[i]);
    }
  }
  const polarquant::Codec<A>& codec(int side) const {
    return side == 0 ? codec_->keys() : codec_->values();
  }
  // Tokens behind the sinks are counted for ever, dropped ones too: the place of the next code.
  std::size_t next_slot() const { return num_dropped_ + num_encoded_; }
  const Token& in_slot(std::size_t slot) const {
    return tokens_[num_sinks() + slot - num_dropped_];
  }

  // The rule of ages, after each token.
  void settle() {
    const std::size_t tile = polarquant::kTileTokens;
    const std::size_t window = config_.num_recent_tokens;
    while (window == 0 && num_recent() > 0) {
      const bool begins_span = has_spans() && next_slot() % polarquant::kSpanTokens == 0;
      if (begins_span && num_recent() < tile) break;
      encode_oldest();
    }
    while (num_recent() > 0 && num_recent() >= window + tile - num_encoded_ % tile) {
      do {
        encode_oldest();
      } while (num_encoded_ % tile != 0);
    }
  }

  // ---- Centres of spans ----

  static constexpr std::size_t kReach = 64;
  static constexpr std::size_t kNowhere = static_cast<std::size_t>(-1);

  // What the slots first .. next_slot() - 1 were, if that is remembered, or else as they decode.
  void remember_from(std::size_t first) {
    if (remembered_first_ == first && remembered_end_ == next_slot()) return;
    remembered_.clear();
    for (std::size_t slot = std::max(first, num_dropped_); slot < next_slot(); ++slot) {
      remembered_.push_back(in_slot(slot));
    }
    remembered_first_ = first;
    remembered_end_ = next_slot();
  }

  // The mean of 64 tokens before a span and of those at its start that are there when the first is
  // encoded, 64 at most, in the cache's own precision and order: a last bit may decide a code.
  void fix_center(std::size_t begin) {
    remember_from(begin - std::min(begin, kReach));
    std::vector<Token> known = remembered_;
    const std::size_t window = std::min(config_.num_recent_tokens, kReach);
    const std::size_t count = std::min({num_recent(), window + polarquant::kTileTokens, kReach});
    for (std::size_t i = 0; i < count; ++i) known.push_back(in_slot(begin + i));
    for (const int side : {0, 1}) {
      if (is_uncompressed(side)) continue;
      const std::size_t width = codec(side).head_dim();
      polarquant::AlignedBuffer scratch(codec(side).scratch_bytes());
      std::vector<std::byte> code(codec(side).center_bytes());
      for (std::size_t head = 0; head < static_cast<std::size_t>(config_.num_kv_heads); ++head) {
        std::vector<A> mean(width, A(0));
        for (const Token& token : known) {
          for (std::size_t i = 0; i < width; ++i) {
            mean[i] +=
                static_cast<A>(token.sides[side](static_cast<Eigen::Index>(head * width + i))) /
                A(128);
          }
        }
        for (A& x : mean) x *= A(128) / static_cast<A>(known.size());
        condition(side, head, mean);
        codec(side).encode_center(mean.data(), code.data(), scratch.data());
        codec(side).decode_center(code.data(), mean.data(), scratch.data());
        set_center(side, head, mean);
      }
    }
    span_centers_[begin] = {centers_[0], centers_[1]};
    remembered_end_ = kNowhere;
  }

  // ----

  // The oldest recent token becomes what its codes, made one by one, decode to.
  void encode_oldest() {
    const std::size_t slot = next_slot();
    if (has_spans()) {
      const std::size_t begin = slot / polarquant::kSpanTokens * polarquant::kSpanTokens;
      if (slot == begin) fix_center(begin);
      for (const int side : {0, 1})
        centers_[side] = span_centers_.at(begin)[static_cast<std::size_t>(side)];
      const std::size_t first = begin + polarquant::kSpanTokens - kReach;
      if (slot >= first) {
        remember_from(first);
        remembered_.push_back(in_slot(slot));
        ++remembered_end_;
      }
    }
    Token& token = tokens_[num_sinks() + num_encoded_];
    for (const int side : {0, 1}) {
      const Eigen::Index width = head_dim(side == 1);
      for (std::size_t head = 0; head < static_cast<std::size_t>(config_.num_kv_heads); ++head) {
        auto own = token.sides[side].segment(static_cast<Eigen::Index>(head) * width, width);
        const std::vector<A> center = center_of(side, head);
        std::vector<A> row;
        for (Eigen::Index i = 0; i < width; ++i) row.push_back(static_cast<A>(own(i)));
        condition(side, head, row, center);
        row = decode_rows(codec(side), encode_rows(codec(side), row));
        uncondition(side, head, row, center);
        for (Eigen::Index i = 0; i < width; ++i) {
          own(i) = static_cast<double>(row[static_cast<std::size_t>(i)]);
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
  std::size_t num_dropped_ = 0;
  std::map<std::size_t, std::array<Eigen::RowVectorXd, 2>> span_centers_;  // by first slot
  Eigen::RowVectorXd centers_[2];  // what is subtracted from keys and from values now
  std::vector<Token> remembered_;  // of slots remembered_first_ .. remembered_end_ - 1, if held
  std::size_t remembered_first_ = 0;
  std::size_t remembered_end_ = kNowhere;
};

}  // namespace polarquant_test
