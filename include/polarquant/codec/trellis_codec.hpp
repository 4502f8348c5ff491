// The codec of trellis codes: rotate, search the trellis, pack, and back.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/base/compiled.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codec/codec_format.hpp"
#include "polarquant/codec/codec_rows.hpp"
#include "polarquant/codec/row_encoder.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/codes/trellis_runs.hpp"
#include "polarquant/kernels/dispatch.hpp"
#include "polarquant/trellis/trellis_format.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

class TrellisModel final : public FormatModel {
 public:
  explicit TrellisModel(const TrellisFormat& given) : format(given) {}

  const char* family() const override { return "trellis"; }
  const TrellisFormat* trellis() const override { return &format; }
  int head_dim() const override { return format.head_dim; }
  std::size_t bytes_per_vector() const override { return format.bytes_per_vector(); }
  bool is_uncompressed() const override { return false; }
  FloatType number_type() const override { return FloatType::kBFloat16; }
  double expected_relative_mse() const override { return format.expected_relative_mse(); }
  std::string problem() const override { return format.problem(); }
  std::string description() const override {
    return format.description() + " at head_dim " + std::to_string(format.head_dim);
  }

  // Width, and halves of bits.
  std::vector<std::uint64_t> settings() const override {
    return {static_cast<std::uint64_t>(format.head_dim),
            static_cast<std::uint64_t>(2.0 * format.bits)};
  }

  const TrellisFormat format;
};

}  // namespace detail

// Codes of a TrellisFormat; see Codec for what it does. A vector whose largest entry is below
// 2^-160 is taken for zero.
template <typename A>
class TrellisCodec final : public Codec<A> {
 public:
  // Throws std::invalid_argument if the format is invalid or is not as wide as the rotation; what
  // choose_isa throws.
  TrellisCodec(const TrellisFormat& format, CodecSetup setup)
      : Codec<A>(format, std::move(setup)),
        runs_(format),
        kernels_(detail::choose_trellis_kernels<A>(this->isa())) {
    this->set_sizes(
        {Work(runs_, nullptr).num_bytes, this->head_dim(), this->head_dim() * kTileTokens});
  }

  const char* kernel_name() const noexcept override { return kernels_.name; }

  std::size_t memory_bytes() const noexcept override {
    return sizeof(*this) + this->rotation().memory_bytes() + runs_.memory_bytes();
  }

 private:
  // Sizes::scratch_bytes, divided up.
  struct Work {
    Work(const detail::TrellisRuns& runs, std::byte* base) {
      const std::size_t numbers = runs.head_dim() * kTileTokens;
      detail::ScratchArena arena(base);
      scratch = {arena.take<double>(kTileTokens),
                 arena.take<float>(numbers),
                 arena.take<float>(numbers),
                 arena.take<std::uint8_t>(numbers),
                 arena.take<std::uint8_t>(numbers * detail::kMaxTrellisStates),
                 arena.take<A>(numbers),
                 arena.take<std::byte>(runs.layout.num_bytes())};
      num_bytes = arena.used();
    }

    detail::loops::TrellisScratch<A> scratch;
    std::size_t num_bytes;
  };

  EncodeResult encode_slots(Rows<const A> rows, std::size_t first_slot, std::byte* tile,
                            std::byte* scratch) const noexcept override {
    const detail::loops::TrellisScratch<A> work = Work(runs_, scratch).scratch;
    const detail::ScaledLanes lanes = {this->head_dim(), work.scales, work.given};
    if (rows.count == kTileTokens && lanes.load_rows(rows, kTileTokens) == kTileTokens &&
        kernels_.encode_tile(runs_, this->rotation(), work, first_slot, tile)) {
      return {rows.count, EncodeFailure::kNone};
    }
    // Few rows, or one of the tile that cannot be encoded and is to be found.
    for (std::size_t row = 0; row < rows.count; ++row) {
      if (!lanes.load_row(rows.row(row), 1, 0)) return {row, EncodeFailure::kNotFinite};
      if (!kernels_.encode_row(runs_, this->rotation(), work, first_slot + row, tile)) {
        return {row, EncodeFailure::kOutOfRange};
      }
    }
    return {rows.count, EncodeFailure::kNone};
  }

  void decode_slots(const std::byte* tile, Rows<A> rows,
                    std::byte* scratch) const noexcept override {
    const detail::loops::TrellisScratch<A> work = Work(runs_, scratch).scratch;
    for (std::size_t row = 0; row < rows.count; ++row) {
      read_tile_slot(tile, runs_.layout.num_bytes(), row, work.code);
      kernels_.expand_row(runs_, work.code, work, work.values, 1);
      this->vectors().rotate_back(this->rotation(), work.values, rows.row(row));
    }
  }

  void expand_code(const std::byte* code, A* rotated, std::byte* scratch) const noexcept override {
    kernels_.expand_row(runs_, code, Work(runs_, scratch).scratch, rotated, 1);
  }

  void prepare_rotated(const A* rotated, A* prepared, std::byte*) const noexcept override {
    std::copy_n(rotated, this->head_dim(), prepared);
  }

  A dot_code(const A* prepared, const std::byte* code, std::byte* scratch) const noexcept override {
    const detail::loops::TrellisScratch<A> work = Work(runs_, scratch).scratch;
    kernels_.expand_row(runs_, code, work, work.values, 1);
    A sum(0);
    for (std::size_t i = 0; i < this->head_dim(); ++i) {
      sum = detail::fused(prepared[i], work.values[i], sum);
    }
    return sum;
  }

  void score_run(Rows<const A> prepared, const std::byte* tiles, std::size_t num_tiles,
                 Rows<A> scores, const std::byte*, std::byte* scratch) const noexcept override {
    kernels_.score_tiles(runs_, tiles, num_tiles, prepared, Work(runs_, scratch).scratch, scores);
  }

  void accumulate_run(Rows<const A> weights, const std::byte* tiles, std::size_t num_tiles,
                      Rows<A> sums, const std::byte*, std::byte* scratch) const noexcept override {
    kernels_.accumulate_tiles(runs_, tiles, num_tiles, weights, Work(runs_, scratch).scratch, sums);
  }

  void reduce_sum(const A* sum, A factor, A* rotated) const noexcept override {
    this->vectors().reduce_lanes(sum, this->head_dim(), factor, rotated);
  }

  detail::TrellisRuns runs_;
  detail::TrellisKernels<A> kernels_;
};

#if !POLARQUANT_USES_COMPILED
POLARQUANT_INLINE CodecFormat::CodecFormat(const TrellisFormat& format)
    : model_(std::make_shared<const detail::TrellisModel>(format)) {}
#endif

POLARQUANT_END_NAMESPACE
