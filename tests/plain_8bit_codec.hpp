// A second family of codes, as simple as one can be: eight bits per coordinate and a float scale
// per vector, rotated. What the cache does with it shows that it knows no family.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <polarquant/polarquant.hpp>
#include <string>
#include <utility>
#include <vector>

namespace polarquant_test {

// bytes: the scale, a float, then head_dim signed numbers q; the vector is S^T (scale q).
class Plain8BitModel final : public polarquant::FormatModel {
 public:
  explicit Plain8BitModel(int head_dim) : head_dim_(head_dim) {}

  const char* family() const override { return "plain"; }
  int head_dim() const override { return head_dim_; }
  std::size_t bytes_per_vector() const override { return 4 + static_cast<std::size_t>(head_dim_); }
  bool is_uncompressed() const override { return false; }
  polarquant::FloatType number_type() const override { return polarquant::FloatType::kFloat32; }

  // A step is 1 / 127 of the largest entry, about three standard deviations.
  double expected_relative_mse() const override { return 3.0 * 3.0 / (127.0 * 127.0 * 12.0); }
  std::string description() const override { return "plain 8 bits at head_dim " + text(); }
  std::string problem() const override {
    if (head_dim_ >= 2 && head_dim_ <= 1024 && head_dim_ % 2 == 0) return {};
    return "plain 8 bits: head_dim is " + text();
  }
  std::vector<std::uint64_t> settings() const override {
    return {static_cast<std::uint64_t>(head_dim_)};
  }

  std::shared_ptr<const polarquant::Codec<float>> make_float(
      const polarquant::CodecSetup& setup) const override {
    return make<float>(setup);
  }
  std::shared_ptr<const polarquant::Codec<double>> make_double(
      const polarquant::CodecSetup& setup) const override {
    return make<double>(setup);
  }

 private:
  std::string text() const { return std::to_string(head_dim_); }
  template <typename A>
  std::shared_ptr<const polarquant::Codec<A>> make(const polarquant::CodecSetup& setup) const;

  int head_dim_;
};

inline polarquant::CodecFormat plain_8bit(int head_dim) {
  return polarquant::CodecFormat(std::make_shared<const Plain8BitModel>(head_dim));
}

template <typename A>
class Plain8BitCodec final : public polarquant::Codec<A> {
 public:
  Plain8BitCodec(const polarquant::CodecFormat& format, polarquant::CodecSetup setup)
      : polarquant::Codec<A>(format, std::move(setup)),
        floats_(polarquant::detail::choose_vector_kernels<float>(this->isa())) {
    this->set_sizes({Scratch(*this, nullptr).num_bytes, padded(), padded()});
  }

  const char* kernel_name() const noexcept override { return "scalar loops"; }
  std::size_t memory_bytes() const noexcept override {
    return sizeof(*this) + this->rotation().memory_bytes();
  }

 private:
  using Bytes = std::byte;
  template <typename T>
  using Rows = polarquant::Rows<T>;
  static constexpr std::size_t kTile = polarquant::kTileTokens;

  struct Scratch {
    Scratch(const Plain8BitCodec& codec, std::byte* base) {
      polarquant::detail::ScratchArena arena(base);
      code = arena.take<std::byte>(codec.bytes_per_vector());
      given = arena.take<float>(codec.head_dim());
      rotated = arena.take<float>(codec.head_dim());
      vector = arena.take<A>(codec.head_dim());
      num_bytes = arena.used();
    }
    Bytes* code;
    float *given, *rotated;
    A* vector;
    std::size_t num_bytes;
  };

  std::size_t padded() const { return (this->head_dim() + 15) / 16 * 16; }

  // In float whatever A is, so that equal values give equal codes.
  polarquant::EncodeFailure encode(const A* row, const Scratch& work) const noexcept {
    using polarquant::EncodeFailure;
    const std::size_t d = this->head_dim();
    double square = 0.0;  // in units of the largest float, whose squares do not overflow
    for (std::size_t i = 0; i < d; ++i) {
      if (!std::isfinite(row[i])) return EncodeFailure::kNotFinite;
      const double share = static_cast<double>(row[i]) / std::numeric_limits<float>::max();
      square += share * share;
    }
    if (square > 0.25) return EncodeFailure::kOutOfRange;
    std::transform(row, row + d, work.given, [](A x) { return static_cast<float>(x); });
    floats_.rotate(this->rotation(), work.given, work.rotated);
    float scale = 0.0f;
    for (std::size_t i = 0; i < d; ++i) scale = std::max(scale, std::fabs(work.rotated[i]) / 127);
    if (scale < std::numeric_limits<float>::min()) scale = 0.0f;
    std::memcpy(work.code, &scale, sizeof scale);
    for (std::size_t i = 0; i < d; ++i) {
      const float q = scale == 0.0f ? 0.0f : std::nearbyint(work.rotated[i] / scale);
      work.code[sizeof scale + i] = static_cast<std::byte>(static_cast<std::int8_t>(q));
    }
    return EncodeFailure::kNone;
  }

  void expand_slot(const std::byte* tiles, std::size_t slot, const Scratch& work) const noexcept {
    polarquant::read_tile_slot(tiles + slot / kTile * this->tile_bytes(), this->bytes_per_vector(),
                               slot % kTile, work.code);
    expand_code(work.code, work.vector, nullptr);
  }

  polarquant::EncodeResult encode_slots(Rows<const A> rows, std::size_t first_slot, Bytes* tile,
                                        Bytes* scratch) const noexcept override {
    const Scratch work(*this, scratch);
    for (std::size_t row = 0; row < rows.count; ++row) {
      const polarquant::EncodeFailure failure = encode(rows.row(row), work);
      if (failure != polarquant::EncodeFailure::kNone) return {row, failure};
      polarquant::write_tile_slot(tile, this->bytes_per_vector(), first_slot + row, work.code);
    }
    return {rows.count, polarquant::EncodeFailure::kNone};
  }
  void decode_slots(const Bytes* tile, Rows<A> rows, Bytes* scratch) const noexcept override {
    const Scratch work(*this, scratch);
    for (std::size_t row = 0; row < rows.count; ++row) {
      expand_slot(tile, row, work);
      this->vectors().rotate_back(this->rotation(), work.vector, rows.row(row));
    }
  }
  void expand_code(const Bytes* code, A* rotated, Bytes*) const noexcept override {
    float scale;
    std::memcpy(&scale, code, sizeof scale);
    for (std::size_t i = 0; i < this->head_dim(); ++i) {
      rotated[i] =
          static_cast<A>(scale) * static_cast<A>(static_cast<std::int8_t>(code[sizeof scale + i]));
    }
  }
  void prepare_rotated(const A* rotated, A* prepared, Bytes*) const noexcept override {
    std::fill(std::copy_n(rotated, this->head_dim(), prepared), prepared + padded(), A(0));
  }
  A dot_code(const A* prepared, const Bytes* code, Bytes* scratch) const noexcept override {
    A* const vector = Scratch(*this, scratch).vector;
    expand_code(code, vector, nullptr);
    return std::inner_product(vector, vector + this->head_dim(), prepared, A(0));
  }
  void score_run(Rows<const A> prepared, const Bytes* tiles, std::size_t num_tiles, Rows<A> scores,
                 const Bytes*, Bytes* scratch) const noexcept override {
    const Scratch work(*this, scratch);
    for (std::size_t slot = 0; slot < num_tiles * kTile; ++slot) {
      expand_slot(tiles, slot, work);
      for (std::size_t i = 0; i < prepared.count; ++i) {
        scores.row(i)[slot] =
            std::inner_product(work.vector, work.vector + this->head_dim(), prepared.row(i), A(0));
      }
    }
  }
  void accumulate_run(Rows<const A> weights, const Bytes* tiles, std::size_t num_tiles,
                      Rows<A> sums, const Bytes*, Bytes* scratch) const noexcept override {
    const Scratch work(*this, scratch);
    for (std::size_t slot = 0; slot < num_tiles * kTile; ++slot) {
      expand_slot(tiles, slot, work);
      for (std::size_t row = 0; row < weights.count; ++row) {
        const A weight = weights.row(row)[slot];
        for (std::size_t i = 0; i < this->head_dim(); ++i) {
          sums.row(row)[i] += weight * work.vector[i];
        }
      }
    }
  }
  void reduce_sum(const A* sum, A factor, A* rotated) const noexcept override {
    std::transform(sum, sum + this->head_dim(), rotated, [factor](A x) { return factor * x; });
  }

  polarquant::detail::VectorKernels<float> floats_;
};

template <typename A>
std::shared_ptr<const polarquant::Codec<A>> Plain8BitModel::make(
    const polarquant::CodecSetup& setup) const {
  return std::make_shared<const Plain8BitCodec<A>>(plain_8bit(head_dim_), setup);
}

}  // namespace polarquant_test
