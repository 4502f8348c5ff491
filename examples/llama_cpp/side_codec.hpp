// What a cache makes of one layer's keys, or of its values: decode(encode(x)).
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "baselines/block_codecs.hpp"
#include "baselines/cached_codec.hpp"
#include "baselines/hadamard_codec.hpp"
#include "baselines/scalar_codec.hpp"
#include "baselines/vector_codec.hpp"
#include "polarquant/calibration.hpp"
#include "polarquant/kv_cache.hpp"
#include "polarquant/method/online_codebooks.hpp"

// What is subtracted: nothing; the mean of the window's first tokens; that of another text; the
// centre of each span of tokens, as the library does it.
enum class MeanOf { kNothing, kFirstTokens, kOtherText, kSpan };

// Of one layer and KV head, where a codec is fitted to a model.
using CodecOfHead =
    std::function<std::shared_ptr<const polarquant_baselines::VectorCodec>(int layer, int head)>;

// One side (keys or values) of a row of the comparison.
struct SideFormat {
  // "fp16" (left alone), "paper", "full_depth BITS", "trellis BITS", "scalar BITS" (Lloyd-Max and a
  // norm), "unbiased_scalar BITS" (the same, stretched so that inner products are right on average,
  // as those of polar codes are), "q8_0", "q4_0" (both behind llama.cpp's Hadamard transform),
  // "fitted" (what codec_of_head gives).
  std::string codec = "fp16";
  polarquant::RotationKind rotation = polarquant::RotationKind::kHaar;
  MeanOf mean = MeanOf::kNothing;
  bool online = false;        // codebooks fitted to the first half of the window
  std::size_t num_sinks = 0;  // the first tokens, left alone
  std::uint64_t seed = 0;
  std::shared_ptr<const polarquant::Calibration> calibration;  // of keys; null: none
  CodecOfHead codec_of_head;

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

// x' = stretch x'' for what another codec decodes.
class StretchedCodec final : public polarquant_baselines::VectorCodec {
 public:
  StretchedCodec(std::unique_ptr<const VectorCodec> codec, float stretch)
      : codec_(std::move(codec)), stretch_(stretch) {}

  std::size_t head_dim() const override { return codec_->head_dim(); }
  std::size_t bytes_per_vector() const override { return codec_->bytes_per_vector(); }
  double expected_relative_mse() const override { return std::numeric_limits<double>::quiet_NaN(); }
  void encode(const float* vector, std::byte* code) const override { codec_->encode(vector, code); }
  void decode(const std::byte* code, float* vector) const override {
    codec_->decode(code, vector);
    for (std::size_t i = 0; i < head_dim(); ++i) vector[i] *= stretch_;
  }

 private:
  std::unique_ptr<const VectorCodec> codec_;
  float stretch_;
};

// Encodes and decodes the rows of one side, layer by layer and chunk by chunk, each KV head in a
// KVCache of its own, whatever the codec: with the library's sinks, centres and calibration. A
// cache encodes a token when 32 to 63 newer ones have come; here a chunk's last tokens are codes
// too, so every token's code is seen by all that follow it.
class SideCodec {
 public:
  // Tokens of MeanOf::kFirstTokens.
  static constexpr std::size_t kNumMeanTokens = 128;

  // Throws std::invalid_argument for a format that is not known or does not fit the width.
  // other_means: by layer, for MeanOf::kOtherText.
  SideCodec(SideFormat format, SideShape shape, bool is_value,
            std::map<int, std::vector<float>> other_means = {})
      : format_(std::move(format)),
        shape_(shape),
        is_value_(is_value),
        other_means_(std::move(other_means)) {
    if (format_.is_exact()) return;
    if (format_.codec == "fitted") {
      first_ = polarquant_baselines::format_of(format_.codec_of_head(0, 0));
    } else {
      first_ = parsed_format();
    }
    if (format_.online && first_.polar() == nullptr) {
      throw std::invalid_argument("online codebooks are of polar formats");
    }
  }

  const SideFormat& format() const { return format_; }

  // Of the code and of what grows with the tokens beside it: a centre for each span.
  double bits_per_coordinate() const {
    if (format_.is_exact()) return 16.0;
    double bits = first_.bits_per_coordinate();
    if (format_.mean == MeanOf::kSpan) {
      bits += 8.0 * static_cast<double>(polarquant::detail::center_bytes(width())) /
              static_cast<double>(polarquant::kSpanTokens * width());
    }
    return bits;
  }

  // Bytes per layer that do not grow with the tokens: exact sinks (beyond their code), a mean, the
  // sum and the decoded centre of a span, scales or matrices, fitted codebooks.
  std::size_t fixed_bytes() const {
    const std::size_t columns = static_cast<std::size_t>(shape_.num_heads) * width();
    std::size_t bytes = static_cast<std::size_t>(static_cast<double>(format_.num_sinks * columns) *
                                                 (16.0 - bits_per_coordinate()) / 8.0);
    if (format_.mean != MeanOf::kNothing) bytes += columns * sizeof(float);
    if (format_.mean == MeanOf::kSpan) bytes += columns * sizeof(float);
    if (is_transformed()) {
      const bool has_matrices = format_.calibration->layer(0).key_matrices != nullptr;
      bytes += columns * sizeof(float) * (has_matrices ? 2 * width() : 1);
    }
    if (format_.online) bytes += num_centroids() * 2 * sizeof(float);
    return bytes;
  }

  // A new sequence begins.
  void start() { layers_.clear(); }

  // rows: [num_tokens, num_heads * head_dim], the next tokens of the layer. Becomes what attention
  // would read.
  void round_trip(int layer, polarquant::RowMatrix<float>& rows) {
    if (format_.is_exact()) return;
    std::vector<polarquant::KVCache<float>>& caches = layers_[layer];
    if (caches.empty()) begin_layer(layer, rows, caches);
    const polarquant::RowMatrix<float> nothing =
        polarquant::RowMatrix<float>::Zero(rows.rows(), kOtherWidth);
    const Eigen::Index columns = shape_.head_dim;
    for (int head = 0; head < shape_.num_heads; ++head) {
      polarquant::KVCache<float>& cache = caches[static_cast<std::size_t>(head)];
      const polarquant::RowMatrix<float> own = rows.middleCols(head * columns, columns);
      cache.append(is_value_ ? nothing : own, is_value_ ? own : nothing);
      cache.encode_recent();
      rows.middleCols(head * columns, columns) =
          (is_value_ ? cache.decode_values(0) : cache.decode_keys(0)).bottomRows(rows.rows());
    }
  }

 private:
  static constexpr int kOtherWidth = 2;  // of the side that is not looked at

  std::size_t width() const { return static_cast<std::size_t>(shape_.head_dim); }
  bool is_transformed() const { return !is_value_ && format_.calibration != nullptr; }

  std::shared_ptr<const polarquant::Rotation> rotation() const {
    return std::make_shared<const polarquant::Rotation>(format_.rotation, shape_.head_dim,
                                                        format_.seed);
  }

  polarquant::CodecFormat parsed_format() const {
    using namespace polarquant_baselines;
    const std::size_t space = format_.codec.find(' ');
    const std::string name = format_.codec.substr(0, space);
    const double bits =
        space == std::string::npos ? 0.0 : std::stod(format_.codec.substr(space + 1));
    if (name == "paper") return polarquant::PolarFormat::paper(shape_.head_dim);
    if (name == "full_depth") return polarquant::PolarFormat::full_depth(shape_.head_dim, bits);
    if (name == "trellis") return polarquant::TrellisFormat(shape_.head_dim, bits);
    std::unique_ptr<const VectorCodec> codec;
    if (name == "scalar" || name == "unbiased_scalar") {
      codec = std::make_unique<ScalarCodec>(rotation(), static_cast<int>(bits));
      if (name == "unbiased_scalar") {
        // Centroids are means, so E <x, x'> / ||x||^2 = 1 - distortion.
        const ScalarCodebook codebook(shape_.head_dim, static_cast<int>(bits));
        codec = std::make_unique<StretchedCodec>(
            std::move(codec), static_cast<float>(1.0 / (1.0 - codebook.distortion)));
      }
    } else if (name == "q8_0") {
      codec = std::make_unique<HadamardCodec>(std::make_unique<Q8Codec>(width()));
    } else if (name == "q4_0") {
      codec = std::make_unique<HadamardCodec>(std::make_unique<Q4Codec>(width()));
    } else {
      throw std::invalid_argument("the format '" + format_.codec + "' is not known");
    }
    return polarquant_baselines::format_of(std::shared_ptr<const VectorCodec>(std::move(codec)));
  }

  std::size_t num_centroids() const {
    const polarquant::PolarFormat& format = *first_.polar();
    std::size_t count = 0;
    for (int level = 0; level < format.levels; ++level) {
      count += std::size_t{1} << format.level_bits[static_cast<std::size_t>(level)];
    }
    for (int join = 0; join < format.shape().num_joins(); ++join) {
      count += std::size_t{1} << format.join_bits[static_cast<std::size_t>(join)];
    }
    return count;
  }

  std::vector<float> mean_of_layer(int layer, const polarquant::RowMatrix<float>& rows) const {
    if (format_.mean == MeanOf::kFirstTokens) {
      return mean_of_tokens(rows, format_.num_sinks, kNumMeanTokens);
    }
    if (format_.mean != MeanOf::kOtherText) return {};
    const auto found = other_means_.find(layer);
    if (found == other_means_.end()) {
      throw std::runtime_error("no mean of another text for layer " + std::to_string(layer));
    }
    return found->second;
  }

  void begin_layer(int layer, const polarquant::RowMatrix<float>& rows,
                   std::vector<polarquant::KVCache<float>>& caches) {
    const std::vector<float> mean = mean_of_layer(layer, rows);
    const polarquant::CodecFormat shared = format_.online ? online_format(rows, mean) : first_;
    for (int head = 0; head < shape_.num_heads; ++head) {
      const auto own = [&](const std::vector<float>& all) {
        const auto first = all.begin() + static_cast<std::ptrdiff_t>(head * shape_.head_dim);
        return std::vector<float>(first, first + shape_.head_dim);
      };
      polarquant::KVCacheConfig config;
      config.key_format = config.value_format = polarquant::PolarFormat::uncompressed(kOtherWidth);
      (is_value_ ? config.value_format : config.key_format) =
          format_.codec == "fitted"
              ? polarquant_baselines::format_of(format_.codec_of_head(layer, head))
              : shared;
      config.rotation = format_.rotation;
      config.seed = format_.seed;
      config.num_sink_tokens = format_.num_sinks;
      config.centering = format_.mean == MeanOf::kSpan ? polarquant::Centering::kLocal
                         : mean.empty()                ? polarquant::Centering::kNone
                                                       : polarquant::Centering::kGiven;
      if (!mean.empty()) (is_value_ ? config.value_mean : config.key_mean) = own(mean);
      if (is_transformed()) config.calibration = calibration_of(layer, head);
      caches.emplace_back(config, codec_for(config));
    }
  }

  // The transform of one KV head.
  polarquant::LayerCalibration calibration_of(int layer, int head) const {
    const polarquant::LayerCalibration& all = format_.calibration->layer(layer);
    const std::vector<float> numbers = all.transform_numbers();
    const auto size = static_cast<std::ptrdiff_t>(numbers.size()) / shape_.num_heads;
    const std::vector<float> own(numbers.begin() + head * size,
                                 numbers.begin() + (head + 1) * size);
    polarquant::LayerCalibration result;
    if (all.key_matrices != nullptr) {
      result.key_matrices = std::make_shared<const polarquant::KeyMatrices>(1, width(), own);
    } else {
      result.key_scales = own;
    }
    return result;
  }

  // Made once for all heads and layers of a format.
  std::shared_ptr<const polarquant::KVCodec<float>> codec_for(
      const polarquant::KVCacheConfig& config) {
    const bool is_new = codec_ == nullptr || !codec_->mismatch(config).empty();
    if (is_new) codec_ = std::make_shared<const polarquant::KVCodec<float>>(config);
    return codec_;
  }

  // With codebooks fitted to the first half of the rows, all heads together.
  polarquant::CodecFormat online_format(const polarquant::RowMatrix<float>& rows,
                                        const std::vector<float>& mean) const {
    polarquant::RowMatrix<float> prompt = rows.topRows(rows.rows() / 2);
    for (Eigen::Index i = 0; i < prompt.rows() && !mean.empty(); ++i) {
      prompt.row(i) -= Eigen::Map<const Eigen::RowVectorXf>(mean.data(), prompt.cols());
    }
    // Heads lie side by side: as rows of a head each.
    polarquant::PolarFormat format = *first_.polar();
    format.codebooks =
        std::make_shared<const polarquant::CodebookSet>(polarquant::online_codebooks<float>(
            format, *rotation(),
            {prompt.data(), static_cast<std::size_t>(prompt.size()) / width(), width()}));
    return format;
  }

  SideFormat format_;
  SideShape shape_;
  bool is_value_;
  std::map<int, std::vector<float>> other_means_;
  polarquant::CodecFormat first_;  // of all heads, or of the first if they are fitted
  std::shared_ptr<const polarquant::KVCodec<float>> codec_;        // the last that was made
  std::map<int, std::vector<polarquant::KVCache<float>>> layers_;  // a cache for each KV head
};
