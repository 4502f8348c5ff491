// The codec of one kind of vector: rotate, transform, quantize, pack, and back; inner products and
// weighted sums straight from the codes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "polarquant/codebook.hpp"
#include "polarquant/codec_tables.hpp"
#include "polarquant/error.hpp"
#include "polarquant/format.hpp"
#include "polarquant/kernels/dispatch.hpp"
#include "polarquant/packed_codes.hpp"
#include "polarquant/rotation.hpp"
#include "polarquant/rows.hpp"
#include "polarquant/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// Why a vector could not be encoded.
enum class EncodeFailure : std::uint8_t {
  kNone = 0,
  kNotFinite = 1,       // a coordinate is NaN or infinite
  kRadiusOverflow = 2,  // a radius (or uncompressed coordinate) is beyond the range of its type
};

// How many rows were encoded, and why not the next one.
struct EncodeResult {
  std::size_t num_encoded = 0;
  EncodeFailure failure = EncodeFailure::kNone;
};

namespace detail {

// Hands out pieces of the caller's scratch memory, each aligned to 64 bytes. With a null base it
// only counts, so that the same sequence of calls tells the size.
class ScratchArena {
 public:
  static constexpr std::size_t kAlignment = 64;

  explicit ScratchArena(std::byte* base) : base_(base) {}

  template <typename T>
  T* take(std::size_t count) {
    std::byte* const piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<T*>(piece);
  }

  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

// Memory for one call, aligned for ScratchArena.
class ScratchBuffer {
 public:
  explicit ScratchBuffer(std::size_t num_bytes) : storage_(num_bytes + ScratchArena::kAlignment) {}

  std::byte* data() {
    const std::size_t misalignment =
        reinterpret_cast<std::uintptr_t>(storage_.data()) % ScratchArena::kAlignment;
    return storage_.data() + (misalignment == 0 ? 0 : ScratchArena::kAlignment - misalignment);
  }

 private:
  std::vector<std::byte> storage_;
};

}  // namespace detail

// Encodes and decodes vectors of one format with one rotation and one set of codebooks.
//
// T is the type of vectors: float, double, or a 16-bit type that converts to float, such as
// Eigen::half and Eigen::bfloat16. Results are Accumulator: double for double, else float.
// Immutable after construction; const calls are safe from many threads at once. Calls that take
// `scratch` (scratch_bytes() bytes, aligned to 64) allocate nothing and are noexcept.
template <typename T>
class PolarCodec {
 public:
  using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

  // Offline codebooks. An uncompressed format is not rotated, whatever the rotation given. Throws
  // std::invalid_argument if the format is invalid or is not as wide as the rotation;
  // std::runtime_error for a wrong POLARQUANT_ISA (see choose_isa).
  PolarCodec(const PolarFormat& format, std::shared_ptr<const Rotation> rotation,
             Arithmetic arithmetic = Arithmetic::kExact)
      : PolarCodec(format, std::move(rotation), offline_codebooks(format), arithmetic) {}

  // Given codebooks, such as those of online_codebooks(); the factor of kUnbiased still assumes the
  // law. Throws std::invalid_argument also if their number, bits or circularity are not the
  // format's.
  PolarCodec(const PolarFormat& format, std::shared_ptr<const Rotation> rotation,
             const CodebookSet& codebooks, Arithmetic arithmetic = Arithmetic::kExact)
      : tables_(format, codebooks),
        rotation_(std::move(rotation)),
        arithmetic_(arithmetic),
        kernels_(detail::choose_kernels<Accumulator>(tables_, arithmetic)) {
    if (rotation_ == nullptr) detail::throw_invalid_argument("a codec without a rotation");
    if (rotation_->head_dim() != format.head_dim) {
      detail::throw_invalid_argument("the rotation is " + std::to_string(rotation_->head_dim()) +
                                     " wide, the format " + std::to_string(format.head_dim));
    }
    if (format.is_uncompressed() && rotation_->kind() != RotationKind::kNone) {
      rotation_ = std::make_shared<Rotation>(RotationKind::kNone, format.head_dim, 0);
    }
  }

  const PolarFormat& format() const { return tables_.format; }
  const Rotation& rotation() const { return *rotation_; }
  std::size_t head_dim() const { return tables_.head_dim(); }
  std::size_t bytes_per_vector() const { return tables_.layout.num_bytes(); }

  Arithmetic arithmetic() const { return arithmetic_; }

  // The kernels that run: "scalar", "avx2" or "avx512", the loops compiled for that instruction
  // set; or "avx512 tiles" or "avx512 tiles, 16-bit", whose scores and weighted sums have kernels
  // of their own, 3 to 9 times as fast. Those need T other than double and a format as TileTables
  // wants it: head_dim a multiple of 16, bfloat16 radii, at least 4 levels (full depth or blocks of
  // 16), at most 5 bits per angle.
  const char* kernel_name() const { return kernels_.name; }

  // Bytes of scratch that any one call below needs.
  std::size_t scratch_bytes() const { return Scratch(tables_, nullptr).num_bytes; }

  // Encodes rows [rows.count, head_dim] of T to codes, row i to codes.row(i) (stride in bytes).
  // Stops at the first row that cannot be encoded and says so; the codes of the rows before it are
  // valid. A zero vector becomes a code that decodes to exact zeros, and so does one whose largest
  // entry is below 2^-160 (unless uncompressed). Equal values give equal bytes whatever T, the
  // machine and the batch are.
  EncodeResult encode(Rows<const T> rows, Rows<std::byte> codes,
                      std::byte* scratch) const noexcept {
    const Scratch work(tables_, scratch);
    return encode_batches(rows, work, [&codes, this](std::size_t row, const std::byte* code) {
      std::memcpy(codes.row(row), code, bytes_per_vector());
    });
  }

  // The same into slots first_slot, first_slot + 1, .. of a tile; first_slot + rows.count <=
  // kTileTokens.
  EncodeResult encode_tile(Rows<const T> rows, std::size_t first_slot, std::byte* tile,
                           std::byte* scratch) const noexcept {
    POLARQUANT_DCHECK(first_slot + rows.count <= kTileTokens);
    const Scratch work(tables_, scratch);
    if (rows.count == kTileTokens && !format().is_uncompressed() &&
        load_rows(rows, kTileTokens, work) == kTileTokens &&
        kernels_.encode_tile(tables_, *rotation_, work.scales, work.encode, tile)) {
      return {rows.count, EncodeFailure::kNone};
    }
    const std::size_t num_bytes = bytes_per_vector();
    return encode_batches(rows, work,
                          [tile, first_slot, num_bytes](std::size_t row, const std::byte* code) {
                            write_tile_slot(tile, num_bytes, first_slot + row, code);
                          });
  }

  // Decodes codes [codes.count] (stride in bytes) to rows [codes.count, head_dim].
  void decode(Rows<const std::byte> codes, Rows<Accumulator> rows,
              std::byte* scratch) const noexcept {
    const Scratch work(tables_, scratch);
    for (std::size_t row = 0; row < codes.count; ++row) {
      kernels_.expand_row(tables_, codes.row(row), work.tile);
      kernels_.rotate_back(*rotation_, work.tile.values, rows.row(row));
    }
  }

  // Decodes the first rows.count slots of a tile.
  void decode_tile(const std::byte* tile, Rows<Accumulator> rows,
                   std::byte* scratch) const noexcept {
    POLARQUANT_DCHECK(rows.count <= kTileTokens);
    const Scratch work(tables_, scratch);
    kernels_.decode_tile(tables_, *rotation_, tile, work.tile, rows);
  }

  // Entries of a prepared query.
  std::size_t prepared_size() const { return tables_.prepared_size(); }

  // Rotates scale * query, [head_dim], and tabulates its product with every level-1 centroid, once
  // for all codes it meets. prepared: [prepared_size()], aligned to 64 bytes.
  void prepare_query(const T* query, Accumulator* prepared, std::byte* scratch,
                     Accumulator scale = Accumulator(1)) const noexcept {
    const Scratch work(tables_, scratch);
    Accumulator* const given = work.tile.values;
    Accumulator* const rotated = work.tile.radii;
    for (std::size_t i = 0; i < head_dim(); ++i)
      given[i] = scale * static_cast<Accumulator>(query[i]);
    kernels_.rotate(*rotation_, given, rotated);
    kernels_.prepare_query(tables_, rotated, prepared);
  }

  // <query, decode(code)>, without decoding.
  Accumulator dot(const Accumulator* prepared, const std::byte* code,
                  std::byte* scratch) const noexcept {
    const Scratch work(tables_, scratch);
    return kernels_.dot_row(tables_, code, prepared, work.tile);
  }

  // sum += weight * decode(code), in the rotated basis: to be turned back once, by finish.
  // sum: [head_dim].
  void accumulate(Accumulator weight, const std::byte* code, Accumulator* sum,
                  std::byte* scratch) const noexcept {
    const Scratch work(tables_, scratch);
    kernels_.expand_row(tables_, code, work.tile);
    for (std::size_t i = 0; i < head_dim(); ++i) {
      sum[i] = detail::fused(weight, work.tile.values[i], sum[i]);
    }
  }

  // output = sum S^T, [head_dim] each, not overlapping.
  void finish(const Accumulator* sum, Accumulator* output) const noexcept {
    kernels_.rotate_back(*rotation_, sum, output);
  }

  // Rotation and tables.
  std::size_t memory_bytes() const {
    return sizeof(*this) + rotation_->memory_bytes() + tables_.memory_bytes();
  }

  // For the cache: the kernels and what they read.
  const detail::CodecTables& tables() const { return tables_; }
  const detail::Kernels<Accumulator>& kernels() const { return kernels_; }

 private:
  static_assert(!std::is_integral_v<T> &&
                    (std::is_same_v<T, double> || std::is_convertible_v<T, float>),
                "T must be float, double, or a 16-bit floating type that converts to float");

  struct Scratch {
    Scratch(const detail::CodecTables& tables, std::byte* base) {
      detail::ScratchArena arena(base);
      const std::size_t d = tables.head_dim();
      scales = arena.take<double>(kTileTokens);
      codes = arena.take<std::byte>(tile_bytes(tables.layout.num_bytes()));
      code = arena.take<std::byte>(tables.layout.num_bytes());
      encode = {arena.take<float>(kTileTokens * d), arena.take<float>(kTileTokens * d),
                arena.take<float>(kTileTokens * d), arena.take<std::uint8_t>(kTileTokens * d)};
      tile = {arena.take<Accumulator>(kTileTokens * d), arena.take<Accumulator>(kTileTokens * d),
              arena.take<std::uint8_t>(kTileTokens * d),
              arena.take<std::byte>(tables.kernel_scratch_bytes())};
      num_bytes = arena.used();
    }

    double* scales;
    std::byte* codes;  // a tile
    std::byte* code;
    detail::loops::EncodeScratch encode;
    detail::loops::TileScratch<Accumulator> tile;
    std::size_t num_bytes;
  };

  // row = scale * out with max |out| in [1, 2) (or a zero row), the scale a power of two, so that
  // no square that matters over- or underflows. out: entries `stride` apart. False if an entry is
  // not finite.
  bool load_row(const T* row, std::size_t stride, float* out, double* scale) const noexcept {
    using Wide = Accumulator;
    Wide largest = Wide(0);
    bool finite = true;
    for (std::size_t i = 0; i < head_dim(); ++i) {
      const Wide magnitude = std::abs(static_cast<Wide>(row[i]));
      finite &= magnitude <= std::numeric_limits<Wide>::max();
      largest = magnitude > largest ? magnitude : largest;
    }
    if (!finite) return false;
    const bool is_zero = !(static_cast<double>(largest) >= 0x1p-160);
    const int exponent = is_zero ? 0 : std::ilogb(largest);
    *scale = std::ldexp(1.0, exponent);
    const double inverse = is_zero ? 0.0 : std::ldexp(1.0, -exponent);
    for (std::size_t i = 0; i < head_dim(); ++i) {
      out[i * stride] = static_cast<float>(static_cast<double>(row[i]) * inverse);
    }
    return true;
  }

  // Loads up to num_lanes rows side by side; lanes beyond the rows are zero. Returns how many rows
  // came before one that is not finite.
  std::size_t load_rows(Rows<const T> rows, std::size_t num_lanes,
                        const Scratch& work) const noexcept {
    std::size_t count = 0;
    while (count < std::min(num_lanes, rows.count) &&
           load_row(rows.row(count), num_lanes, work.encode.given + count, work.scales + count)) {
      ++count;
    }
    for (std::size_t lane = count; lane < num_lanes; ++lane) {
      work.scales[lane] = 1.0;
      for (std::size_t i = 0; i < head_dim(); ++i) work.encode.given[i * num_lanes + lane] = 0.0f;
    }
    return count;
  }

  // Encodes the rows, a tile of them at a time, and gives each code to `store`.
  template <typename Store>
  EncodeResult encode_batches(Rows<const T> rows, const Scratch& work,
                              const Store& store) const noexcept {
    if (format().is_uncompressed()) return encode_uncompressed(rows, work, store);
    constexpr std::size_t kFewRows = 4;  // Up to here one by one is faster than a tile.
    std::size_t row = 0;
    while (row < rows.count) {
      const Rows<const T> rest = {rows.row(row), rows.count - row, rows.stride};
      const std::size_t count = rest.count <= kFewRows ? 0 : load_rows(rest, kTileTokens, work);
      if (count > 0 &&
          kernels_.encode_tile(tables_, *rotation_, work.scales, work.encode, work.codes)) {
        for (std::size_t lane = 0; lane < count; ++lane, ++row) {
          read_tile_slot(work.codes, bytes_per_vector(), lane, work.code);
          store(row, work.code);
        }
        continue;
      }
      // Few rows; or the next cannot be encoded; or one of the tile cannot, and it is to be found.
      for (std::size_t next = 0; next < std::min(rest.count, kTileTokens); ++next, ++row) {
        if (load_rows({rows.row(row), 1, rows.stride}, 1, work) == 0) {
          return {row, EncodeFailure::kNotFinite};
        }
        if (!kernels_.encode_row(tables_, *rotation_, work.scales, work.encode, work.code)) {
          return {row, EncodeFailure::kRadiusOverflow};
        }
        store(row, work.code);
      }
    }
    return {rows.count, EncodeFailure::kNone};
  }

  template <typename Store>
  EncodeResult encode_uncompressed(Rows<const T> rows, const Scratch& work,
                                   const Store& store) const noexcept {
    const std::size_t bytes = static_cast<std::size_t>(float_type_bytes(format().radius_type));
    for (std::size_t row = 0; row < rows.count; ++row) {
      for (std::size_t i = 0; i < head_dim(); ++i) {
        const double value = static_cast<double>(rows.row(row)[i]);
        if (!(std::abs(value) <= std::numeric_limits<double>::max())) {
          return {row, EncodeFailure::kNotFinite};
        }
        if (!detail::loops::store_radius(format().radius_type, value, work.codes + i * bytes)) {
          return {row, EncodeFailure::kRadiusOverflow};
        }
      }
      store(row, work.codes);
    }
    return {rows.count, EncodeFailure::kNone};
  }

  detail::CodecTables tables_;
  std::shared_ptr<const Rotation> rotation_;
  Arithmetic arithmetic_;
  detail::Kernels<Accumulator> kernels_;
};

POLARQUANT_END_NAMESPACE
