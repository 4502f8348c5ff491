// The block formats of llama.cpp: 32 coordinates share one fp16 scale.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "baselines/float16.hpp"
#include "baselines/vector_codec.hpp"

namespace polarquant_baselines {

inline constexpr std::size_t kBlockSize = 32;

// Blocks of kBlockSize coordinates, each with its scale in front.
class BlockCodec : public VectorCodec {
 public:
  std::size_t head_dim() const override { return head_dim_; }
  std::size_t bytes_per_vector() const override { return head_dim_ / kBlockSize * block_bytes_; }
  double expected_relative_mse() const override { return std::numeric_limits<double>::quiet_NaN(); }

  void encode(const float* vector, std::byte* code) const override {
    for (std::size_t i = 0; i < head_dim_; i += kBlockSize, code += block_bytes_) {
      encode_block(vector + i, code);
    }
  }
  void decode(const std::byte* code, float* vector) const override {
    for (std::size_t i = 0; i < head_dim_; i += kBlockSize, code += block_bytes_) {
      decode_block(code, vector + i);
    }
  }

 protected:
  // Throws std::invalid_argument unless head_dim is a positive multiple of kBlockSize.
  BlockCodec(std::size_t head_dim, std::size_t block_bytes)
      : head_dim_(head_dim), block_bytes_(block_bytes) {
    if (head_dim == 0 || head_dim % kBlockSize != 0) {
      throw std::invalid_argument("blocks of " + std::to_string(kBlockSize) + ": head_dim is " +
                                  std::to_string(head_dim) + ", must be a multiple");
    }
  }

  virtual void encode_block(const float* vector, std::byte* code) const = 0;
  virtual void decode_block(const std::byte* code, float* vector) const = 0;

  static void store_scale(float scale, std::byte* code) {
    const std::uint16_t half = float_to_float16(scale);
    std::memcpy(code, &half, sizeof half);
  }
  static float load_scale(const std::byte* code) {
    std::uint16_t half;
    std::memcpy(&half, code, sizeof half);
    return float16_to_float(half);
  }

 private:
  std::size_t head_dim_;
  std::size_t block_bytes_;
};

// q8_0: x = d c, c = -127 .. 127, d = max |x| / 127; 34 bytes a block, 8.5 bits per coordinate.
class Q8Codec final : public BlockCodec {
 public:
  explicit Q8Codec(std::size_t head_dim) : BlockCodec(head_dim, 2 + kBlockSize) {}

 protected:
  void encode_block(const float* vector, std::byte* code) const override {
    float largest = 0.0f;
    for (std::size_t i = 0; i < kBlockSize; ++i) largest = std::max(largest, std::fabs(vector[i]));
    const float scale = largest / 127.0f;
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    store_scale(scale, code);
    for (std::size_t i = 0; i < kBlockSize; ++i) {
      code[2 + i] =
          static_cast<std::byte>(static_cast<std::int8_t>(std::round(vector[i] * inverse)));
    }
  }

  void decode_block(const std::byte* code, float* vector) const override {
    const float scale = load_scale(code);
    for (std::size_t i = 0; i < kBlockSize; ++i) {
      vector[i] = scale * static_cast<float>(static_cast<std::int8_t>(code[2 + i]));
    }
  }
};

// q4_0: x = d (c - 8), c = 0 .. 15, d = (the entry of largest magnitude, with its sign) / -8, so
// that this entry gets the code 0 and is exact; 18 bytes a block, 4.5 bits per coordinate.
// Coordinate i and i + 16 share a byte.
class Q4Codec final : public BlockCodec {
 public:
  explicit Q4Codec(std::size_t head_dim) : BlockCodec(head_dim, 2 + kBlockSize / 2) {}

 protected:
  void encode_block(const float* vector, std::byte* code) const override {
    float largest = 0.0f;
    for (std::size_t i = 0; i < kBlockSize; ++i) {
      if (std::fabs(vector[i]) > std::fabs(largest)) largest = vector[i];
    }
    const float scale = largest / -8.0f;
    const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    store_scale(scale, code);
    const auto quantize = [inverse](float x) {
      return static_cast<unsigned>(std::min(15.0f, std::floor(x * inverse + 8.5f)));
    };
    for (std::size_t i = 0; i < kBlockSize / 2; ++i) {
      const unsigned low = quantize(vector[i]);
      const unsigned high = quantize(vector[i + kBlockSize / 2]);
      code[2 + i] = static_cast<std::byte>(low | (high << 4));
    }
  }

  void decode_block(const std::byte* code, float* vector) const override {
    const float scale = load_scale(code);
    for (std::size_t i = 0; i < kBlockSize / 2; ++i) {
      const int both = static_cast<int>(code[2 + i]);
      vector[i] = scale * static_cast<float>((both & 15) - 8);
      vector[i + kBlockSize / 2] = scale * static_cast<float>((both >> 4) - 8);
    }
  }
};

}  // namespace polarquant_baselines
