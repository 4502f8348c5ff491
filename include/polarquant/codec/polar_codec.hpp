// The paper's codec: rotate, transform, quantize, pack, and back.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/base/checksum.hpp"
#include "polarquant/base/compiled.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codec/codec_format.hpp"
#include "polarquant/codec/codec_rows.hpp"
#include "polarquant/codec/row_encoder.hpp"
#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/kernels/dispatch.hpp"
#include "polarquant/method/codebook.hpp"
#include "polarquant/method/polar_format.hpp"
#include "polarquant/method/rotation.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// Over every centroid: equal for equal codebooks, on every platform.
inline std::uint64_t checksum_of(const CodebookSet& codebooks) {
  Checksum checksum;
  for (const std::vector<AngleCodebook>* set : {&codebooks.levels, &codebooks.joins}) {
    for (const AngleCodebook& codebook : *set) {
      checksum.add(codebook.centroids().data(), codebook.centroids().size() * sizeof(double));
    }
  }
  return checksum.value();
}

class PolarModel final : public FormatModel {
 public:
  explicit PolarModel(const PolarFormat& given) : format(given) {}

  const char* family() const override { return "polar"; }
  const PolarFormat* polar() const override { return &format; }
  int head_dim() const override { return format.head_dim; }
  std::size_t bytes_per_vector() const override { return format.bytes_per_vector(); }
  bool is_uncompressed() const override { return format.is_uncompressed(); }
  FloatType number_type() const override { return format.radius_type; }
  double expected_relative_mse() const override { return format.expected_relative_mse(); }
  std::string problem() const override { return format.problem(); }

  std::string description() const override {
    // Of a radius only what is not usual.
    constexpr const char* kMeanings[] = {" of norms", "", " of projections", " of least squares"};
    const std::size_t meaning = static_cast<std::size_t>(format.radius_meaning);
    return (format.is_uncompressed() ? "uncompressed " : "polar ") + format.description() +
           (format.is_uncompressed() || meaning > 3 ? "" : kMeanings[meaning]) + " at head_dim " +
           std::to_string(format.head_dim) +
           (format.codebooks == nullptr ? "" : ", given codebooks");
  }

  // Width, depth, type and meaning of the radii, the bits of every level and of every join, and a
  // checksum of the codebooks.
  std::vector<std::uint64_t> settings() const override {
    std::vector<std::uint64_t> result;
    const auto number = [&result](auto value) {
      result.push_back(static_cast<std::uint64_t>(value));
    };
    const int num_joins = format.is_uncompressed() ? 0 : format.shape().num_joins();
    number(format.head_dim);
    number(format.levels);
    number(format.radius_type);
    number(format.is_uncompressed() ? RadiusMeaning::kNorm : format.radius_meaning);
    for (int i = 0; i < PolarFormat::kMaxLevels; ++i) {
      number(i < format.levels ? format.level_bits[static_cast<std::size_t>(i)] : 0);
    }
    for (int i = 0; i < PolarFormat::kMaxJoins; ++i) {
      number(i < num_joins ? format.join_bits[static_cast<std::size_t>(i)] : 0);
    }
    number(codebook_checksum());
    return result;
  }

  bool equals(const FormatModel& other) const override {
    return other.polar() != nullptr && *other.polar() == format;
  }

  const PolarFormat format;

 private:
  // Made once, by whoever asks first: offline codebooks take milliseconds, and saving and loading
  // ask for each side of each cache. Who asks at the same time makes the same number.
  std::uint64_t codebook_checksum() const {
    std::uint64_t checksum = codebook_checksum_.load(std::memory_order_relaxed);
    if (checksum == 0) {
      checksum = checksum_of(format.codebooks_or_offline());
      codebook_checksum_.store(checksum, std::memory_order_relaxed);
    }
    return checksum;
  }

  mutable std::atomic<std::uint64_t> codebook_checksum_{0};
};

}  // namespace detail

// Codes of the recursive polar transform (arXiv 2502.02617); see Codec for what it does.
//
// Kernels on tiles need A = float and a format as TileTables wants it: head_dim a multiple of 16,
// bfloat16 radii, at least 4 levels (full depth or blocks of 16), at most 5 bits per angle. A
// vector whose largest entry is below 2^-160 is taken for zero (unless uncompressed).
template <typename A>
class PolarCodec final : public Codec<A> {
 public:
  // Throws std::invalid_argument if the format is invalid or is not as wide as the rotation; what
  // choose_isa throws. For codebooks that are given the factor of kUnbiased still assumes the law.
  PolarCodec(const PolarFormat& format, std::shared_ptr<const Rotation> rotation,
             Arithmetic arithmetic = Arithmetic::kFixedPoint, std::optional<Isa> isa = {})
      : PolarCodec(format, CodecSetup{std::move(rotation), arithmetic, isa}) {}
  PolarCodec(const PolarFormat& format, CodecSetup setup)
      : Codec<A>(format, std::move(setup)),
        tables_(format, format.codebooks_or_offline()),
        kernels_(detail::choose_polar_kernels<A>(this->isa(), tables_, this->arithmetic())) {
    this->set_sizes({Scratch(tables_, nullptr).num_bytes, tables_.prepared_size(),
                     tables_.head_dim() * kTileTokens});
  }

  const char* kernel_name() const noexcept override { return kernels_.name; }

  std::size_t memory_bytes() const noexcept override {
    return sizeof(*this) + this->rotation().memory_bytes() + tables_.memory_bytes();
  }

  // For tests: what the kernels read.
  const detail::CodecTables& tables() const { return tables_; }
  const detail::PolarKernels<A>& kernels() const { return kernels_; }

 private:
  // Sizes::scratch_bytes, divided up. Encoding and decoding take turns in it.
  struct Scratch {
    Scratch(const detail::CodecTables& tables, std::byte* base) {
      const std::size_t d = tables.head_dim();
      detail::ScratchArena arena(base);
      code = arena.take<std::byte>(tables.layout.num_bytes());
      scales = arena.take<double>(kTileTokens);
      encode = {arena.take<float>(kTileTokens * d), arena.take<float>(kTileTokens * d),
                arena.take<float>(kTileTokens * d), arena.take<std::uint8_t>(kTileTokens * d)};
      tile = {arena.take<A>(kTileTokens * d), arena.take<A>(kTileTokens * d),
              arena.take<std::uint8_t>(kTileTokens * d),
              arena.take<std::byte>(tables.kernel_scratch_bytes()), nullptr};
      num_bytes = arena.used();
    }

    std::byte* code;
    double* scales;
    detail::loops::EncodeScratch encode;
    detail::loops::TileScratch<A> tile;
    std::size_t num_bytes;
  };

  EncodeResult encode_slots(Rows<const A> rows, std::size_t first_slot, std::byte* tile,
                            std::byte* scratch) const noexcept override {
    if (tables_.format.is_uncompressed()) return store_slots(rows, first_slot, tile, scratch);
    const Scratch work(tables_, scratch);
    const detail::ScaledLanes lanes = {tables_.head_dim(), work.scales, work.encode.given};
    if (rows.count == kTileTokens && lanes.load_rows(rows, kTileTokens) == kTileTokens &&
        kernels_.encode_tile(tables_, this->rotation(), work.scales, work.encode, tile)) {
      return {rows.count, EncodeFailure::kNone};
    }
    // Few rows, or one of the tile that cannot be encoded and is to be found.
    for (std::size_t row = 0; row < rows.count; ++row) {
      if (!lanes.load_row(rows.row(row), 1, 0)) return {row, EncodeFailure::kNotFinite};
      if (!kernels_.encode_row(tables_, this->rotation(), work.scales, work.encode, work.code)) {
        return {row, EncodeFailure::kOutOfRange};
      }
      write_tile_slot(tile, tables_.layout.num_bytes(), first_slot + row, work.code);
    }
    return {rows.count, EncodeFailure::kNone};
  }

  // Uncompressed: every number as it is.
  EncodeResult store_slots(Rows<const A> rows, std::size_t first_slot, std::byte* tile,
                           std::byte* scratch) const noexcept {
    const Scratch work(tables_, scratch);
    const FloatType type = tables_.format.radius_type;
    const std::size_t bytes = static_cast<std::size_t>(float_type_bytes(type));
    for (std::size_t row = 0; row < rows.count; ++row) {
      const double largest = detail::largest_magnitude<A>(rows.row(row), tables_.head_dim());
      if (largest > (std::numeric_limits<double>::max)()) return {row, EncodeFailure::kNotFinite};
      for (std::size_t i = 0; i < tables_.head_dim(); ++i) {
        if (!detail::loops::store_radius(type, static_cast<double>(rows.row(row)[i]),
                                         work.code + i * bytes)) {
          return {row, EncodeFailure::kOutOfRange};
        }
      }
      write_tile_slot(tile, tables_.layout.num_bytes(), first_slot + row, work.code);
    }
    return {rows.count, EncodeFailure::kNone};
  }

  void decode_slots(const std::byte* tile, Rows<A> rows,
                    std::byte* scratch) const noexcept override {
    kernels_.decode_tile(tables_, this->rotation(), tile, Scratch(tables_, scratch).tile, rows);
  }

  void expand_code(const std::byte* code, A* rotated, std::byte* scratch) const noexcept override {
    const Scratch work(tables_, scratch);
    kernels_.expand_row(tables_, code, work.tile);
    std::copy_n(work.tile.values, tables_.head_dim(), rotated);
  }

  void prepare_rotated(const A* rotated, A* prepared, std::byte*) const noexcept override {
    kernels_.prepare_query(tables_, rotated, prepared);
  }

  A dot_code(const A* prepared, const std::byte* code, std::byte* scratch) const noexcept override {
    return kernels_.dot_row(tables_, code, prepared, Scratch(tables_, scratch).tile);
  }

  void score_run(Rows<const A> prepared, const std::byte* tiles, std::size_t num_tiles,
                 Rows<A> scores, const std::byte* next,
                 std::byte* scratch) const noexcept override {
    Scratch work(tables_, scratch);
    work.tile.next = next;
    kernels_.score_tiles(tables_, tiles, num_tiles, prepared, work.tile, scores);
  }

  void accumulate_run(Rows<const A> weights, const std::byte* tiles, std::size_t num_tiles,
                      Rows<A> sums, const std::byte* next,
                      std::byte* scratch) const noexcept override {
    Scratch work(tables_, scratch);
    work.tile.next = next;
    kernels_.accumulate_tiles(tables_, tiles, num_tiles, weights, work.tile, sums);
  }

  void reduce_sum(const A* sum, A factor, A* rotated) const noexcept override {
    this->vectors().reduce_lanes(sum, tables_.head_dim(), factor, rotated);
  }

  detail::CodecTables tables_;
  detail::PolarKernels<A> kernels_;
};

#if !POLARQUANT_USES_COMPILED
POLARQUANT_INLINE CodecFormat::CodecFormat(const PolarFormat& format)
    : model_(std::make_shared<const detail::PolarModel>(format)) {}
#endif

POLARQUANT_END_NAMESPACE
