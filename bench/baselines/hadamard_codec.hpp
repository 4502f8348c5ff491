// Any codec behind a Hadamard transform.
#pragma once

#include <cmath>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "baselines/vector_codec.hpp"

namespace polarquant_baselines {

// Multiplies by the orthonormal Hadamard matrix H (H = H^T = H^-1) before encoding and after
// decoding, as llama.cpp does for quantized caches since April 2026 (its pull request 21038): the
// plain matrix without random signs, its order the largest power of two that divides head_dim,
// block by block.
class HadamardCodec final : public VectorCodec {
 public:
  explicit HadamardCodec(std::unique_ptr<const VectorCodec> codec) : codec_(std::move(codec)) {
    while (head_dim() % (2 * order_) == 0) order_ *= 2;
  }

  std::size_t head_dim() const override { return codec_->head_dim(); }
  std::size_t bytes_per_vector() const override { return codec_->bytes_per_vector(); }
  double expected_relative_mse() const override { return codec_->expected_relative_mse(); }

  void encode(const float* vector, std::byte* code) const override {
    std::vector<float> transformed(vector, vector + head_dim());
    transform(transformed.data());
    codec_->encode(transformed.data(), code);
  }
  void decode(const std::byte* code, float* vector) const override {
    codec_->decode(code, vector);
    transform(vector);
  }

 private:
  void transform(float* x) const {
    const float scale = 1.0f / std::sqrt(static_cast<float>(order_));
    for (std::size_t half = 1; half < order_; half *= 2) {
      for (std::size_t i = 0; i < head_dim(); ++i) {
        if ((i & half) != 0) continue;
        const float low = x[i];
        const float high = x[i + half];
        x[i] = low + high;
        x[i + half] = low - high;
      }
    }
    for (std::size_t i = 0; i < head_dim(); ++i) x[i] *= scale;
  }

  std::unique_ptr<const VectorCodec> codec_;
  std::size_t order_ = 1;
};

}  // namespace polarquant_baselines
