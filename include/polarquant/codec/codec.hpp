// The codec of one kind of vector: rotate, transform, quantize, pack, and back; inner products and
// weighted sums straight from the codes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "polarquant/base/checksum.hpp"
#include "polarquant/method/codebook.hpp"
#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/method/polar_format.hpp"
#include "polarquant/kernels/dispatch.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/method/rotation.hpp"
#include "polarquant/codec/row_encoder.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/storage/page_pool.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// Encodes and decodes vectors of one format with one rotation and one set of codebooks.
//
// T is the type of vectors: float, double, or a 16-bit type that converts to float, such as
// Eigen::half and Eigen::bfloat16. Results are Accumulator: double for double, else float.
// Immutable after construction; const calls are safe from many threads at once. Calls that take
// `scratch` (scratch_bytes() bytes, aligned to 64) allocate nothing and are noexcept.
//
// Codes live where the caller wants them, in one of two ways (docs/format.md):
//
//   rows   bytes_per_vector() bytes each, at any stride and alignment: encode, decode, dot,
//          accumulate, finish. dot_rows and accumulate_rows gather rows into tiles: twice as fast
//          as row by row, with kernels on tiles (kernel_name()) ten times.
//   tiles  tile_tokens() vectors interleaved in tile_bytes() bytes, tiles one after another, the
//          first aligned to 64: encode_tile, decode_tile, score_tiles, accumulate_tiles,
//          finish_tiles. What KVCache itself does, at its speed.
//
// A query with a NaN or an infinity gives NaN or, in kFixedPoint, any number: check before.
template <typename T>
class PolarCodec {
 public:
  using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

  // Offline codebooks. An uncompressed format is not rotated, whatever the rotation given. Throws
  // std::invalid_argument if the format is invalid or is not as wide as the rotation;
  // std::runtime_error for a wrong POLARQUANT_ISA (see choose_isa).
  PolarCodec(const PolarFormat& format, std::shared_ptr<const Rotation> rotation,
             Arithmetic arithmetic = Arithmetic::kFixedPoint)
      : PolarCodec(format, std::move(rotation), offline_codebooks(format), arithmetic) {}

  // Given codebooks, such as those of online_codebooks(); the factor of kUnbiased still assumes the
  // law. Throws std::invalid_argument also if their number, bits or circularity are not the
  // format's.
  PolarCodec(const PolarFormat& format, std::shared_ptr<const Rotation> rotation,
             const CodebookSet& codebooks, Arithmetic arithmetic = Arithmetic::kFixedPoint)
      : tables_(format, codebooks),
        rotation_(std::move(rotation)),
        arithmetic_(arithmetic),
        kernels_(detail::choose_kernels<Accumulator>(tables_, arithmetic)),
        codebook_checksum_(checksum_of(codebooks)) {
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

  // Over every centroid: equal for equal codebooks, on every platform.
  std::uint64_t codebook_checksum() const { return codebook_checksum_; }

  // The kernels that run: "scalar", "avx2", "avx512" or "neon", the loops compiled for that
  // instruction set; or "avx512 tiles" or "<avx512, avx2 or neon> tiles, 16-bit", whose scores and
  // weighted sums have kernels of their own, 3 to 9 times as fast. Those need T other than double
  // and a format as TileTables wants it: head_dim a multiple of 16, bfloat16 radii, at least 4
  // levels (full depth or blocks of 16), at most 5 bits per angle.
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
    return encoder().encode_batches(rows, work,
                                    [&codes, this](std::size_t row, const std::byte* code) {
                                      std::memcpy(codes.row(row), code, bytes_per_vector());
                                    });
  }

  // The same into slots first_slot, first_slot + 1, .. of a tile; first_slot + rows.count <=
  // tile_tokens(). Other slots stay as they are. Zero a tile before its first use: a slot of zero
  // bytes is a zero vector.
  EncodeResult encode_tile(Rows<const T> rows, std::size_t first_slot, std::byte* tile,
                           std::byte* scratch) const noexcept {
    POLARQUANT_DCHECK(first_slot + rows.count <= kTileTokens);
    const Scratch work(tables_, scratch);
    if (rows.count == kTileTokens && !format().is_uncompressed() &&
        encoder().load_rows(rows, kTileTokens, work) == kTileTokens &&
        kernels_.encode_tile(tables_, *rotation_, work.scales, work.encode, tile)) {
      return {rows.count, EncodeFailure::kNone};
    }
    const std::size_t num_bytes = bytes_per_vector();
    return encoder().encode_batches(
        rows, work, [tile, first_slot, num_bytes](std::size_t row, const std::byte* code) {
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

  // Decodes the first rows.count slots of a tile to rows [rows.count, head_dim].
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

  // The same for every query, [prepared.count] rows of prepared_size(), and every code:
  // scores.row(i)[j] = <query i, decode(code j)>. Rows of prepared are aligned to 64; scores:
  // [prepared.count, codes.count]. Equals dot but for rounding (and the error of kFixedPoint).
  void dot_rows(Rows<const Accumulator> prepared, Rows<const std::byte> codes,
                Rows<Accumulator> scores, std::byte* scratch) const noexcept {
    POLARQUANT_DCHECK(prepared.count == scores.count);
    POLARQUANT_DCHECK(rows_are_aligned(prepared));
    const Scratch work(tables_, scratch);
    for_each_batch(codes, work, [&](std::size_t first, std::size_t count, std::size_t num_tiles) {
      for (std::size_t row = 0; row < prepared.count; row += detail::kSharedRows) {
        const std::size_t num_rows = std::min(detail::kSharedRows, prepared.count - row);
        kernels_.score_tiles(tables_, work.codes, num_tiles,
                             {prepared.row(row), num_rows, prepared.stride}, work.tile,
                             {work.weights, num_rows, detail::kBatchTokens});
        for (std::size_t i = 0; i < num_rows; ++i) {
          std::copy_n(work.weights + i * detail::kBatchTokens, count, scores.row(row + i) + first);
        }
      }
    });
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

  // The same for many codes and rows of weights: sums.row(i) += sum over j of weights.row(i)[j] *
  // decode(code j). weights: [sums.count, codes.count]; sums: [sums.count, head_dim].
  void accumulate_rows(Rows<const Accumulator> weights, Rows<const std::byte> codes,
                       Rows<Accumulator> sums, std::byte* scratch) const noexcept {
    POLARQUANT_DCHECK(weights.count == sums.count);
    const Scratch work(tables_, scratch);
    for_each_batch(codes, work, [&](std::size_t first, std::size_t count, std::size_t num_tiles) {
      for (std::size_t row = 0; row < weights.count; ++row) {
        std::fill_n(work.sums, tile_sum_size(), Accumulator(0));
        std::fill(std::copy_n(weights.row(row) + first, count, work.weights),
                  work.weights + num_tiles * kTileTokens, Accumulator(0));
        kernels_.accumulate_tiles(tables_, work.codes, num_tiles,
                                  {work.weights, 1, detail::kBatchTokens}, work.tile,
                                  {work.sums, 1, tile_sum_size()});
        kernels_.reduce_lanes(work.sums, head_dim(), Accumulator(1), work.tile.values);
        for (std::size_t i = 0; i < head_dim(); ++i) sums.row(row)[i] += work.tile.values[i];
      }
    });
  }

  // output = sum S^T, [head_dim] each, not overlapping.
  void finish(const Accumulator* sum, Accumulator* output) const noexcept {
    kernels_.rotate_back(*rotation_, sum, output);
  }

  // ---- Tiles in the caller's memory ----

  static constexpr std::size_t tile_tokens() { return kTileTokens; }
  std::size_t tile_bytes() const { return kTileTokens * bytes_per_vector(); }

  // scores.row(i)[j] = <query i, vector j of the tiles>, i < prepared.count, j < num_tiles *
  // tile_tokens(). tiles: num_tiles * tile_bytes() bytes; prepared: rows of prepared_size();
  // scores: rows of num_tiles * tile_tokens(). Tiles, and rows of prepared and scores, aligned to
  // 64. The query heads of a group share the reading of the codes: give them in one call.
  void score_tiles(Rows<const Accumulator> prepared, const std::byte* tiles, std::size_t num_tiles,
                   Rows<Accumulator> scores, std::byte* scratch) const noexcept {
    POLARQUANT_DCHECK(prepared.count == scores.count);
    POLARQUANT_DCHECK(rows_are_aligned(prepared));
    Scratch work(tables_, scratch);
    for_each_page(tiles, num_tiles, work, [&](std::size_t tile, std::size_t count) {
      kernels_.score_tiles(tables_, tiles + tile * tile_bytes(), count, prepared, work.tile,
                           {scores.data + tile * kTileTokens, scores.count, scores.stride});
    });
  }

  // Entries of a sum over tiles: it is kept apart for each of the slots until finish_tiles.
  std::size_t tile_sum_size() const { return head_dim() * kTileTokens; }

  // sums.row(i) += sum over j of weights.row(i)[j] * (vector j of the tiles). Shapes as for
  // score_tiles, with a weight in place of a score; a slot that is not to count has weight 0, and
  // must hold a code or zeros all the same. sums: [weights.count] rows of tile_sum_size(), aligned
  // to 64; scaling one scales the sum.
  void accumulate_tiles(Rows<const Accumulator> weights, const std::byte* tiles,
                        std::size_t num_tiles, Rows<Accumulator> sums,
                        std::byte* scratch) const noexcept {
    POLARQUANT_DCHECK(weights.count == sums.count);
    Scratch work(tables_, scratch);
    for_each_page(tiles, num_tiles, work, [&](std::size_t tile, std::size_t count) {
      kernels_.accumulate_tiles(tables_, tiles + tile * tile_bytes(), count,
                                {weights.data + tile * kTileTokens, weights.count, weights.stride},
                                work.tile, sums);
    });
  }

  // output = factor * (the sum over all slots) S^T. sum: [tile_sum_size()]; output: [head_dim].
  void finish_tiles(const Accumulator* sum, Accumulator factor, Accumulator* output,
                    std::byte* scratch) const noexcept {
    const Scratch work(tables_, scratch);
    kernels_.reduce_lanes(sum, head_dim(), factor, work.tile.values);
    kernels_.rotate_back(*rotation_, work.tile.values, output);
  }

  // For a softmax between the two: the largest of `count` > 0 logits; and logits[i] =
  // exp(logits[i] - largest), none of them above `largest`, whose sum is returned.
  Accumulator largest_logit(const Accumulator* logits, std::size_t count) const noexcept {
    return kernels_.maximum(logits, count);
  }
  Accumulator exponentiate(Accumulator* logits, std::size_t count,
                           Accumulator largest) const noexcept {
    return kernels_.exponentiate(logits, count, largest);
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

  using Scratch = detail::CodecScratch<Accumulator>;

  static std::uint64_t checksum_of(const CodebookSet& codebooks) {
    detail::Checksum checksum;
    for (const std::vector<AngleCodebook>* set : {&codebooks.levels, &codebooks.joins}) {
      for (const AngleCodebook& codebook : *set) {
        checksum.add(codebook.centroids().data(), codebook.centroids().size() * sizeof(double));
      }
    }
    return checksum.value();
  }

  static bool rows_are_aligned(Rows<const Accumulator> rows) {
    return detail::ScratchArena::is_aligned(rows.data) &&
           (rows.count < 2 || detail::ScratchArena::is_aligned(rows.row(1)));
  }

  detail::RowEncoder<T> encoder() const { return {tables_, *rotation_, kernels_}; }

  // Gathers rows of codes into the tiles of work.codes, slots beyond the last row zero, and calls
  // visit(first row, number of rows, number of tiles) for each batch.
  template <typename Visit>
  void for_each_batch(Rows<const std::byte> codes, const Scratch& work,
                      const Visit& visit) const noexcept {
    for (std::size_t first = 0; first < codes.count; first += detail::kBatchTokens) {
      const std::size_t count = std::min(detail::kBatchTokens, codes.count - first);
      const std::size_t num_tiles = (count + kTileTokens - 1) / kTileTokens;
      if (count % kTileTokens != 0) {
        std::memset(work.codes + (num_tiles - 1) * tile_bytes(), 0, tile_bytes());
      }
      for (std::size_t row = 0; row < count; row += kTileTokens) {
        detail::write_tile_rows(
            work.codes + row * bytes_per_vector(), bytes_per_vector(),
            {codes.row(first + row), std::min(kTileTokens, count - row), codes.stride});
      }
      visit(first, count, num_tiles);
    }
  }

  // Calls visit(first tile, number of tiles) for as many tiles at a time as kernels take, having
  // told them where the next ones are.
  template <typename Visit>
  void for_each_page(const std::byte* tiles, std::size_t num_tiles, Scratch& work,
                     const Visit& visit) const noexcept {
    for (std::size_t tile = 0; tile < num_tiles; tile += detail::kPageTiles) {
      const std::size_t next = tile + detail::kPageTiles;
      work.tile.next = next < num_tiles ? tiles + next * tile_bytes() : nullptr;
      visit(tile, std::min(detail::kPageTiles, num_tiles - tile));
    }
  }

  detail::CodecTables tables_;
  std::shared_ptr<const Rotation> rotation_;
  Arithmetic arithmetic_;
  detail::Kernels<Accumulator> kernels_;
  std::uint64_t codebook_checksum_;
};

POLARQUANT_END_NAMESPACE
