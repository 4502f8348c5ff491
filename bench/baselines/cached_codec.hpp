// Any VectorCodec as a family of codes, so that a baseline lives in KVCache itself: with its exact
// sinks and recent tokens, its centres and its channel scales. For its quality: nothing here is
// fast.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "baselines/vector_codec.hpp"
#include "polarquant/codec.hpp"
#include "polarquant/kv_cache.hpp"

namespace polarquant_baselines {

class VectorCodecModel final : public polarquant::FormatModel {
 public:
  explicit VectorCodecModel(std::shared_ptr<const VectorCodec> codec) : codec_(std::move(codec)) {}

  const char* family() const override { return "baseline"; }
  int head_dim() const override { return static_cast<int>(codec_->head_dim()); }
  std::size_t bytes_per_vector() const override { return codec_->bytes_per_vector(); }
  bool is_uncompressed() const override { return false; }
  // What they store in 16 bits are scales and norms, as large as a vector at most.
  polarquant::FloatType number_type() const override { return polarquant::FloatType::kFloat16; }
  double expected_relative_mse() const override { return codec_->expected_relative_mse(); }
  std::string description() const override {
    return "a baseline of " + std::to_string(bytes_per_vector()) + " bytes per vector";
  }
  std::string problem() const override { return {}; }

  // It is never saved: an address tells one from another.
  std::vector<std::uint64_t> settings() const override {
    return {reinterpret_cast<std::uintptr_t>(codec_.get())};
  }

  std::shared_ptr<const polarquant::Codec<float>> make_float(
      const polarquant::CodecSetup& setup) const override;

 private:
  std::shared_ptr<const VectorCodec> codec_;
};

inline polarquant::CodecFormat format_of(std::shared_ptr<const VectorCodec> codec) {
  return polarquant::CodecFormat(std::make_shared<const VectorCodecModel>(std::move(codec)));
}

class CachedCodec final : public polarquant::Codec<float> {
 public:
  CachedCodec(std::shared_ptr<const VectorCodec> codec, polarquant::CodecSetup setup)
      : polarquant::Codec<float>(polarquant_baselines::format_of(codec), std::move(setup)),
        codec_(std::move(codec)) {
    set_sizes({Scratch(*this, nullptr).num_bytes, padded(), padded()});
  }

  const char* kernel_name() const noexcept override { return "scalar loops"; }
  std::size_t memory_bytes() const noexcept override {
    return sizeof(*this) + rotation().memory_bytes();
  }

 private:
  using Bytes = std::byte;
  template <typename T>
  using Rows = polarquant::Rows<T>;
  static constexpr std::size_t kTile = polarquant::kTileTokens;

  struct Scratch {
    Scratch(const CachedCodec& codec, Bytes* base) {
      polarquant::detail::ScratchArena arena(base);
      code = arena.take<Bytes>(codec.bytes_per_vector());
      decoded = arena.take<float>(codec.head_dim());
      rotated = arena.take<float>(codec.head_dim());
      num_bytes = arena.used();
    }
    Bytes* code;
    float *decoded, *rotated;
    std::size_t num_bytes;
  };

  std::size_t padded() const { return (head_dim() + 15) / 16 * 16; }

  polarquant::EncodeResult encode_slots(Rows<const float> rows, std::size_t first_slot, Bytes* tile,
                                        Bytes* scratch) const noexcept override {
    const Scratch work(*this, scratch);
    for (std::size_t row = 0; row < rows.count; ++row) {
      for (std::size_t i = 0; i < head_dim(); ++i) {
        if (!std::isfinite(rows.row(row)[i])) return {row, polarquant::EncodeFailure::kNotFinite};
      }
      codec_->encode(rows.row(row), work.code);
      polarquant::write_tile_slot(tile, bytes_per_vector(), first_slot + row, work.code);
    }
    return {rows.count, polarquant::EncodeFailure::kNone};
  }

  void read_slot(const Bytes* tiles, std::size_t slot, const Scratch& work) const noexcept {
    polarquant::read_tile_slot(tiles + slot / kTile * tile_bytes(), bytes_per_vector(),
                               slot % kTile, work.code);
  }
  void decode_slots(const Bytes* tile, Rows<float> rows, Bytes* scratch) const noexcept override {
    const Scratch work(*this, scratch);
    for (std::size_t row = 0; row < rows.count; ++row) {
      read_slot(tile, row, work);
      codec_->decode(work.code, rows.row(row));
    }
  }
  void expand_code(const Bytes* code, float* rotated, Bytes* scratch) const noexcept override {
    const Scratch work(*this, scratch);
    codec_->decode(code, work.decoded);
    vectors().rotate(rotation(), work.decoded, rotated);
  }
  void prepare_rotated(const float* rotated, float* prepared, Bytes*) const noexcept override {
    std::fill(std::copy_n(rotated, head_dim(), prepared), prepared + padded(), 0.0f);
  }
  float dot_code(const float* prepared, const Bytes* code, Bytes* scratch) const noexcept override {
    float* const rotated = Scratch(*this, scratch).rotated;
    expand_code(code, rotated, scratch);
    float sum = 0.0f;
    for (std::size_t i = 0; i < head_dim(); ++i) sum += prepared[i] * rotated[i];
    return sum;
  }
  void score_run(Rows<const float> prepared, const Bytes* tiles, std::size_t num_tiles,
                 Rows<float> scores, const Bytes*, Bytes* scratch) const noexcept override {
    const Scratch work(*this, scratch);
    for (std::size_t slot = 0; slot < num_tiles * kTile; ++slot) {
      read_slot(tiles, slot, work);
      expand_code(work.code, work.rotated, scratch);
      for (std::size_t row = 0; row < prepared.count; ++row) {
        float sum = 0.0f;
        for (std::size_t i = 0; i < head_dim(); ++i) sum += prepared.row(row)[i] * work.rotated[i];
        scores.row(row)[slot] = sum;
      }
    }
  }
  void accumulate_run(Rows<const float> weights, const Bytes* tiles, std::size_t num_tiles,
                      Rows<float> sums, const Bytes*, Bytes* scratch) const noexcept override {
    const Scratch work(*this, scratch);
    for (std::size_t slot = 0; slot < num_tiles * kTile; ++slot) {
      read_slot(tiles, slot, work);
      expand_code(work.code, work.rotated, scratch);
      for (std::size_t row = 0; row < weights.count; ++row) {
        for (std::size_t i = 0; i < head_dim(); ++i) {
          sums.row(row)[i] += weights.row(row)[slot] * work.rotated[i];
        }
      }
    }
  }
  void reduce_sum(const float* sum, float factor, float* rotated) const noexcept override {
    for (std::size_t i = 0; i < head_dim(); ++i) rotated[i] = factor * sum[i];
  }

  std::shared_ptr<const VectorCodec> codec_;
};

inline std::shared_ptr<const polarquant::Codec<float>> VectorCodecModel::make_float(
    const polarquant::CodecSetup& setup) const {
  return std::make_shared<const CachedCodec>(codec_, setup);
}

}  // namespace polarquant_baselines
