// Integers with a scale and a zero point per token and group of channels: the quantizer of OSCAR
// (arXiv 2605.17757) and of QServe's KV cache (2405.04532), and a linear map in front of a codec.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "baselines/float16.hpp"
#include "baselines/vector_codec.hpp"
#include "polarquant/attention/matrix.hpp"

namespace polarquant_baselines {

// The `bits` bits of `index` at bit `position` of a code that was zero, and back.
inline void put_bits(std::byte* code, std::size_t position, int bits, unsigned index) {
  for (int bit = 0; bit < bits; ++bit, ++position) {
    code[position / 8] |= static_cast<std::byte>(((index >> bit) & 1u) << (position % 8));
  }
}
inline unsigned get_bits(const std::byte* code, std::size_t position, int bits) {
  unsigned index = 0;
  for (int bit = 0; bit < bits; ++bit, ++position) {
    index |= ((static_cast<unsigned>(code[position / 8]) >> (position % 8)) & 1u) << bit;
  }
  return index;
}

inline void put_half(float value, std::byte* code) {
  const std::uint16_t half = float_to_float16(value);
  std::memcpy(code, &half, sizeof half);
}
inline float get_half(const std::byte* code) {
  std::uint16_t half;
  std::memcpy(&half, code, sizeof half);
  return float16_to_float(half);
}

// A number >= 0 in a byte: 0, or 2^(c / 8 - 20), c = 1 .. 255, within 4.4 %. An eight-bit float
// would do as well; equal steps of the logarithm are the finest for the worst number.
inline void put_log_byte(float value, std::byte* code) {
  unsigned c = 0;
  if (value > 0.0f) {
    c = static_cast<unsigned>(
        std::clamp(std::round(8.0f * (std::log2(value) + 20.0f)), 1.f, 255.f));
  }
  *code = static_cast<std::byte>(c);
}
inline float get_log_byte(const std::byte* code) {
  const int c = static_cast<int>(*code);
  return c == 0 ? 0.0f : std::exp2(static_cast<float>(c) / 8.0f - 20.0f);
}

// How a group's scale and zero point are stored: a half each, or a byte each (the scale as above,
// the zero point in quarters of a step).
enum class SideNumbers { kHalves, kBytes };

struct GroupFormat {
  int bits = 2;
  std::size_t group_size = 128;
  SideNumbers side = SideNumbers::kHalves;

  // A quarter of a bit for scale and zero point: groups of 128 with halves, which is what both
  // papers have at head_dim 128, and groups of 64 with bytes where 128 does not divide head_dim.
  static GroupFormat quarter(std::size_t head_dim, int bits) {
    if (head_dim % 128 == 0) return {bits, 128, SideNumbers::kHalves};
    return {bits, 64, SideNumbers::kBytes};
  }

  std::size_t side_bytes() const { return side == SideNumbers::kHalves ? 4 : 2; }
};

// x = scale (c - zero), c = 0 .. 2^bits - 1, the grid reaching from the least to the largest entry
// of the group, after entries have been clipped to +- the entry of rank clip_ratio * head_dim among
// the magnitudes of the vector (clip_ratio = 1: not clipped).
class GroupCodec final : public VectorCodec {
 public:
  // Throws std::invalid_argument unless 1 <= bits <= 8 (4 with bytes, whose zero points do not
  // reach farther), 0 < clip_ratio <= 1 and the group size divides head_dim.
  GroupCodec(std::size_t head_dim, GroupFormat format, double clip_ratio = 1.0)
      : head_dim_(head_dim), format_(format), clip_ratio_(clip_ratio) {
    if (format.bits < 1 || format.bits > (format.side == SideNumbers::kHalves ? 8 : 4) ||
        !(clip_ratio > 0.0 && clip_ratio <= 1.0) || head_dim == 0 || format.group_size == 0 ||
        head_dim % format.group_size != 0) {
      throw std::invalid_argument("groups of " + std::to_string(format.group_size) + " with " +
                                  std::to_string(format.bits) + " bits do not fit head_dim " +
                                  std::to_string(head_dim));
    }
  }

  std::size_t head_dim() const override { return head_dim_; }
  std::size_t bytes_per_vector() const override {
    return index_begin() + (head_dim_ * static_cast<std::size_t>(format_.bits) + 7) / 8;
  }
  double expected_relative_mse() const override { return std::numeric_limits<double>::quiet_NaN(); }

  void encode(const float* vector, std::byte* code) const override {
    std::vector<float> clipped(vector, vector + head_dim_);
    clip(clipped);
    std::fill(code, code + bytes_per_vector(), std::byte{0});
    const float levels = static_cast<float>((1 << format_.bits) - 1);
    for (std::size_t begin = 0; begin < head_dim_; begin += format_.group_size) {
      const auto first = clipped.begin() + static_cast<std::ptrdiff_t>(begin);
      const auto range =
          std::minmax_element(first, first + static_cast<std::ptrdiff_t>(format_.group_size));
      float low = *range.first;
      float high = *range.second;
      // A zero point that is many steps away has no place in its byte: such a group (all entries
      // nearly equal) gets a grid from 0.
      if (std::max(low, -high) * levels > kFarthestZero * (high - low)) {
        low = std::min(low, 0.0f);
        high = std::max(high, 0.0f);
      }
      std::byte* const side = code + begin / format_.group_size * format_.side_bytes();
      put_scale((high - low) / levels, side);
      const float scale = get_scale(side);
      const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
      put_zero(-low * inverse, side);
      const float zero = get_zero(side);
      for (std::size_t i = begin; i < begin + format_.group_size; ++i) {
        const float c = std::floor(clipped[i] * inverse + zero + 0.5f);
        put_bits(code + index_begin(), i * static_cast<std::size_t>(format_.bits), format_.bits,
                 static_cast<unsigned>(std::clamp(c, 0.0f, levels)));
      }
    }
  }

  void decode(const std::byte* code, float* vector) const override {
    for (std::size_t i = 0; i < head_dim_; ++i) {
      const std::byte* const side = code + i / format_.group_size * format_.side_bytes();
      const unsigned c =
          get_bits(code + index_begin(), i * static_cast<std::size_t>(format_.bits), format_.bits);
      vector[i] = get_scale(side) * (static_cast<float>(c) - get_zero(side));
    }
  }

 private:
  static constexpr float kFarthestZero = 20.0f;  // in steps, from the grid
  static constexpr float kZeroOfByte = 28.0f;    // bytes hold -28 .. 35.75

  std::size_t index_begin() const { return head_dim_ / format_.group_size * format_.side_bytes(); }

  void clip(std::vector<float>& x) const {
    const std::size_t rank = static_cast<std::size_t>(clip_ratio_ * static_cast<double>(x.size()));
    if (rank >= x.size()) return;
    std::vector<float> magnitudes(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) magnitudes[i] = std::fabs(x[i]);
    const auto at = magnitudes.begin() + static_cast<std::ptrdiff_t>(rank);
    std::nth_element(magnitudes.begin(), at, magnitudes.end());
    for (float& entry : x) entry = std::clamp(entry, -*at, *at);
  }

  bool halves() const { return format_.side == SideNumbers::kHalves; }
  void put_scale(float scale, std::byte* side) const {
    halves() ? put_half(scale, side) : put_log_byte(scale, side);
  }
  float get_scale(const std::byte* side) const {
    return halves() ? get_half(side) : get_log_byte(side);
  }
  void put_zero(float zero, std::byte* side) const {
    if (halves()) return put_half(zero, side + 2);
    const float c = std::clamp(std::round(4.0f * (zero + kZeroOfByte)), 0.0f, 255.0f);
    side[1] = static_cast<std::byte>(static_cast<unsigned>(c));
  }
  float get_zero(const std::byte* side) const {
    if (halves()) return get_half(side + 2);
    return static_cast<float>(static_cast<int>(side[1])) / 4.0f - kZeroOfByte;
  }

  std::size_t head_dim_;
  GroupFormat format_;
  double clip_ratio_;
};

// Encodes x A, decodes to x' A^-1.
class LinearCodec final : public VectorCodec {
 public:
  // to, from: A and its inverse, [head_dim, head_dim].
  LinearCodec(std::unique_ptr<const VectorCodec> codec, const Eigen::MatrixXd& to,
              const Eigen::MatrixXd& from)
      : codec_(std::move(codec)), to_(to.cast<float>()), from_(from.cast<float>()) {}

  std::size_t head_dim() const override { return codec_->head_dim(); }
  std::size_t bytes_per_vector() const override { return codec_->bytes_per_vector(); }
  double expected_relative_mse() const override { return std::numeric_limits<double>::quiet_NaN(); }

  void encode(const float* vector, std::byte* code) const override {
    const Eigen::RowVectorXf mapped = Eigen::Map<const Eigen::RowVectorXf>(vector, width()) * to_;
    codec_->encode(mapped.data(), code);
  }
  void decode(const std::byte* code, float* vector) const override {
    Eigen::RowVectorXf mapped(width());
    codec_->decode(code, mapped.data());
    Eigen::Map<Eigen::RowVectorXf>(vector, width()) = mapped * from_;
  }

 private:
  Eigen::Index width() const { return static_cast<Eigen::Index>(codec_->head_dim()); }

  std::unique_ptr<const VectorCodec> codec_;
  polarquant::RowMatrix<float> to_;
  polarquant::RowMatrix<float> from_;
};

}  // namespace polarquant_baselines
