// What a cache makes of one layer's keys, or of its values: decode(encode(x)).
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "baselines/block_codecs.hpp"
#include "baselines/hadamard_codec.hpp"
#include "baselines/scalar_codec.hpp"
#include "baselines/vector_codec.hpp"
#include "polarquant/kv_cache.hpp"
#include "polarquant/method/online_codebooks.hpp"

// From which tokens the centring vector comes. Never from tokens behind those that it is used to
// predict.
enum class MeanOf { kNothing, kFirstTokens, kOtherText };

// One side (keys or values) of a row of the comparison.
struct SideFormat {
  // "fp16" (left alone), "paper", "full_depth BITS", "scalar BITS" (Lloyd-Max and a norm),
  // "unbiased_scalar BITS" (the same, stretched so that inner products are right on average, as
  // those of polar codes are), "q8_0", "q4_0" (both behind llama.cpp's Hadamard transform).
  std::string codec = "fp16";
  polarquant::RotationKind rotation = polarquant::RotationKind::kHaar;
  MeanOf mean = MeanOf::kNothing;
  bool online = false;        // codebooks fitted to the first half of the window
  std::size_t num_sinks = 0;  // the first tokens, left alone
  std::uint64_t seed = 0;

  bool is_exact() const { return codec == "fp16"; }
};

struct SideShape {
  int num_heads = 1;
  int head_dim = 64;
};

// [num_tokens, num_heads * head_dim] of the first tokens behind the sinks (all that are there up
// to that number): their mean.
inline std::vector<float> mean_of_tokens(const polarquant::RowMatrix<float>& rows,
                                         std::size_t first, std::size_t count) {
  const Eigen::Index begin = std::min<Eigen::Index>(static_cast<Eigen::Index>(first), rows.rows());
  const Eigen::Index size =
      std::min<Eigen::Index>(static_cast<Eigen::Index>(count), rows.rows() - begin);
  std::vector<float> mean(static_cast<std::size_t>(rows.cols()), 0.0f);
  if (size == 0) return mean;
  const Eigen::RowVectorXd sum =
      rows.middleRows(begin, size).cast<double>().colwise().sum() / static_cast<double>(size);
  for (Eigen::Index i = 0; i < rows.cols(); ++i) {
    mean[static_cast<std::size_t>(i)] = static_cast<float>(sum[i]);
  }
  return mean;
}

// Encodes and decodes the rows of one side, layer by layer and chunk by chunk. Polar formats go
// through KVCache itself; the others are centred the same way.
class SideCodec {
 public:
  // As the library's default has it.
  static std::size_t num_mean_tokens() { return polarquant::KVCacheConfig().num_centering_tokens; }

  // Throws std::invalid_argument for a format that is not known or does not fit the width.
  // other_means: by layer, for MeanOf::kOtherText.
  SideCodec(SideFormat format, SideShape shape, bool is_value,
            std::map<int, std::vector<float>> other_means = {})
      : format_(std::move(format)),
        shape_(shape),
        is_value_(is_value),
        other_means_(std::move(other_means)) {
    const auto [name, bits] = parsed();
    const std::size_t width = static_cast<std::size_t>(shape_.head_dim);
    if (name == "paper" || name == "full_depth") {
      const polarquant::PolarFormat polar =
          name == "paper" ? polarquant::PolarFormat::paper(shape_.head_dim)
                          : polarquant::PolarFormat::full_depth(shape_.head_dim, bits);
      config_.num_kv_heads = config_.num_query_heads = shape_.num_heads;
      config_.key_format = config_.value_format =
          polarquant::PolarFormat::uncompressed(shape_.head_dim);
      (is_value_ ? config_.value_format : config_.key_format) = polar;
      config_.rotation = format_.rotation;
      config_.seed = format_.seed;
      config_.num_recent_tokens = 0;
      config_.centering = polarquant::Centering::kNone;
      polar_ = std::make_shared<const polarquant::KVCodec<float>>(config_);
      bits_ = polar.bits_per_coordinate();
    } else if (name == "scalar" || name == "unbiased_scalar") {
      // Centroids are means, so E <x, x'> / ||x||^2 = 1 - distortion.
      const polarquant_baselines::ScalarCodebook codebook(shape_.head_dim, static_cast<int>(bits));
      if (name == "unbiased_scalar") {
        stretch_ = static_cast<float>(1.0 / (1.0 - codebook.distortion));
      }
      vectors_ = std::make_unique<polarquant_baselines::ScalarCodec>(
          std::make_shared<const polarquant::Rotation>(format_.rotation, shape_.head_dim,
                                                       format_.seed),
          static_cast<int>(bits));
      bits_ = vectors_->bits_per_coordinate();
    } else if (name == "q8_0" || name == "q4_0") {
      using polarquant_baselines::HadamardCodec;
      using polarquant_baselines::VectorCodec;
      std::unique_ptr<const VectorCodec> blocks;
      if (name == "q8_0") {
        blocks = std::make_unique<polarquant_baselines::Q8Codec>(width);
      } else {
        blocks = std::make_unique<polarquant_baselines::Q4Codec>(width);
      }
      vectors_ = std::make_unique<HadamardCodec>(std::move(blocks));
      bits_ = vectors_->bits_per_coordinate();
    } else if (name == "fp16") {
      bits_ = 16.0;
    } else {
      throw std::invalid_argument("the format '" + format_.codec + "' is not known");
    }
    if (format_.online && polar_ == nullptr) {
      throw std::invalid_argument("online codebooks are of polar formats");
    }
  }

  const SideFormat& format() const { return format_; }

  // Of the code, without what does not grow with the tokens.
  double bits_per_coordinate() const { return bits_; }

  // Bytes per layer that do not grow with the tokens: exact sinks (beyond their code), the centring
  // vector and fitted codebooks.
  std::size_t fixed_bytes() const {
    const std::size_t width =
        static_cast<std::size_t>(shape_.num_heads) * static_cast<std::size_t>(shape_.head_dim);
    std::size_t bytes = static_cast<std::size_t>(static_cast<double>(format_.num_sinks * width) *
                                                 (16.0 - bits_) / 8.0);
    if (format_.mean != MeanOf::kNothing) bytes += width * sizeof(float);
    if (format_.online) bytes += num_centroids() * 2 * sizeof(float);
    return bytes;
  }

  // A new sequence begins.
  void start() { layers_.clear(); }

  // rows: [num_tokens, num_heads * head_dim], the next tokens of the layer. Becomes what attention
  // would read.
  void round_trip(int layer, polarquant::RowMatrix<float>& rows) {
    Layer& state = layers_[layer];
    if (state.num_tokens == 0) begin_layer(layer, rows, state);
    const std::size_t num_sinks = format_.num_sinks - std::min(format_.num_sinks, state.num_tokens);
    state.num_tokens += static_cast<std::size_t>(rows.rows());
    if (polar_ != nullptr) {
      polar_round_trip(state, num_sinks, rows);
    } else if (vectors_ != nullptr) {
      vector_round_trip(state, num_sinks, rows);
    }
  }

 private:
  struct Layer {
    std::size_t num_tokens = 0;
    std::vector<float> mean;
    polarquant::KVCacheConfig config;  // with codebooks of the layer's own, if they are online
    std::shared_ptr<const polarquant::KVCodec<float>> codec;
  };

  std::pair<std::string, double> parsed() const {
    const std::size_t space = format_.codec.find(' ');
    if (space == std::string::npos) return {format_.codec, 0.0};
    return {format_.codec.substr(0, space), std::stod(format_.codec.substr(space + 1))};
  }

  const polarquant::PolarFormat& polar_format() const {
    return *(is_value_ ? config_.value_format : config_.key_format).polar();
  }

  std::size_t num_centroids() const {
    const polarquant::PolarFormat& format = polar_format();
    std::size_t count = 0;
    for (int level = 0; level < format.levels; ++level) {
      count += std::size_t{1} << format.level_bits[static_cast<std::size_t>(level)];
    }
    for (int join = 0; join < format.shape().num_joins(); ++join) {
      count += std::size_t{1} << format.join_bits[static_cast<std::size_t>(join)];
    }
    return count;
  }

  void begin_layer(int layer, const polarquant::RowMatrix<float>& rows, Layer& state) const {
    if (format_.mean == MeanOf::kFirstTokens) {
      state.mean = mean_of_tokens(rows, format_.num_sinks, num_mean_tokens());
    } else if (format_.mean == MeanOf::kOtherText) {
      const auto found = other_means_.find(layer);
      if (found == other_means_.end()) {
        throw std::runtime_error("no mean of another text for layer " + std::to_string(layer));
      }
      state.mean = found->second;
    }
    state.codec = polar_;
    state.config = config_;
    if (!format_.online) return;
    polarquant::RowMatrix<float> prompt = rows.topRows(rows.rows() / 2);
    for (Eigen::Index i = 0; i < prompt.rows() && !state.mean.empty(); ++i) {
      prompt.row(i) -= Eigen::Map<const Eigen::RowVectorXf>(state.mean.data(), prompt.cols());
    }
    // Heads lie side by side: as rows of a head each.
    const std::size_t width = static_cast<std::size_t>(shape_.head_dim);
    polarquant::PolarFormat format = polar_format();
    format.codebooks =
        std::make_shared<const polarquant::CodebookSet>(polarquant::online_codebooks<float>(
            format, (is_value_ ? polar_->values() : polar_->keys()).rotation(),
            {prompt.data(), static_cast<std::size_t>(prompt.size()) / width, width}));
    (is_value_ ? state.config.value_format : state.config.key_format) = format;
    state.codec = std::make_shared<const polarquant::KVCodec<float>>(state.config);
  }

  void polar_round_trip(const Layer& state, std::size_t num_sinks,
                        polarquant::RowMatrix<float>& rows) const {
    polarquant::KVCacheConfig config = state.config;
    config.num_sink_tokens = num_sinks;
    if (!state.mean.empty()) {
      config.centering = polarquant::Centering::kGiven;
      (is_value_ ? config.value_mean : config.key_mean) = state.mean;
    }
    polarquant::KVCache<float> cache(config, state.codec);
    cache.append(rows, rows);
    const Eigen::Index width = shape_.head_dim;
    for (int head = 0; head < shape_.num_heads; ++head) {
      rows.middleCols(head * width, width) =
          is_value_ ? cache.decode_values(head) : cache.decode_keys(head);
    }
  }

  void vector_round_trip(const Layer& state, std::size_t num_sinks,
                         polarquant::RowMatrix<float>& rows) const {
    const std::size_t width = static_cast<std::size_t>(shape_.head_dim);
    std::vector<std::byte> code(vectors_->bytes_per_vector());
    std::vector<float> vector(width);
    for (Eigen::Index token = static_cast<Eigen::Index>(num_sinks); token < rows.rows(); ++token) {
      for (std::size_t head = 0; head < static_cast<std::size_t>(shape_.num_heads); ++head) {
        float* const row = rows.row(token).data() + head * width;
        const float* const mean = state.mean.empty() ? nullptr : state.mean.data() + head * width;
        for (std::size_t i = 0; i < width; ++i) {
          vector[i] = row[i] - (mean == nullptr ? 0.0f : mean[i]);
        }
        vectors_->encode(vector.data(), code.data());
        vectors_->decode(code.data(), vector.data());
        for (std::size_t i = 0; i < width; ++i) {
          row[i] = stretch_ * vector[i] + (mean == nullptr ? 0.0f : mean[i]);
        }
      }
    }
  }

  SideFormat format_;
  SideShape shape_;
  bool is_value_;
  std::map<int, std::vector<float>> other_means_;
  double bits_ = 0.0;
  polarquant::KVCacheConfig config_;                            // of polar formats
  std::shared_ptr<const polarquant::KVCodec<float>> polar_;     // null: not one
  float stretch_ = 1.0f;                                        // of what vectors_ decodes
  std::unique_ptr<polarquant_baselines::VectorCodec> vectors_;  // null: not one
  std::map<int, Layer> layers_;
};
