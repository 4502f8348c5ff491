// The codec of one kind of vector: rows to codes and back, inner products and weighted sums
// straight from the codes. The seam between a cache and a family of codes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec_format.hpp"
#include "polarquant/codec/encode_result.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/codes/conditioning.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/kernels/dispatch.hpp"
#include "polarquant/method/rotation.hpp"

POLARQUANT_BEGIN_NAMESPACE

// Encodes and decodes vectors of one format with one rotation.
//
// A, float or double, is the type of results and sums. Rows may be of any type that converts to A
// (of Eigen::half and Eigen::bfloat16 for float). Immutable; const calls are safe from many threads
// at once. Calls that take `scratch` (scratch_bytes() bytes, aligned to kAlignment) allocate
// nothing and are noexcept.
//
// Codes live where the caller wants them, in one of two ways (docs/format.md):
//
//   rows   bytes_per_vector() bytes each, at any stride and alignment: encode, decode, dot,
//          accumulate, finish. dot_rows and accumulate_rows gather rows into tiles: twice as fast
//          as row by row, with kernels on tiles (kernel_name()) ten times.
//   tiles  kTileTokens vectors interleaved in tile_bytes() bytes, tiles one after another, the
//          first aligned to kAlignment: encode_tile, decode_tile, score_tiles, accumulate_tiles,
//          finish_tiles. attend_tiles (attention/tiles.hpp) makes attention of them, as KVCache
//          does.
//
// A query with a NaN or an infinity gives NaN or, in kFixedPoint, any number: check before.
template <typename A>
class Codec {
 public:
  static_assert(std::is_same_v<A, float> || std::is_same_v<A, double>,
                "a codec computes in float or double; rows of 16-bit types go into Codec<float>");

  virtual ~Codec() = default;
  Codec(const Codec&) = delete;
  Codec& operator=(const Codec&) = delete;

  const CodecFormat& format() const { return format_; }
  const Rotation& rotation() const { return *setup_.rotation; }
  std::size_t head_dim() const { return head_dim_; }
  std::size_t bytes_per_vector() const { return bytes_per_vector_; }
  Arithmetic arithmetic() const { return setup_.arithmetic; }
  Isa isa() const { return isa_; }

  // The kernels that run: "<instruction set> loops", slow, or "<instruction set> tiles" or
  // "<instruction set> tiles, 16-bit", 3 to 10 times as fast.
  virtual const char* kernel_name() const noexcept = 0;

  // Rotation and tables.
  virtual std::size_t memory_bytes() const noexcept = 0;

  // Bytes of scratch that any one call below needs.
  std::size_t scratch_bytes() const { return Scratch(*this, nullptr).num_bytes; }

  // ---- Rows of codes ----

  // Encodes rows [rows.count, head_dim] to codes, row i to codes.row(i) (stride in bytes). Stops at
  // the first row that cannot be encoded and says so; the codes of the rows before it are valid. A
  // zero vector becomes a code that decodes to exact zeros. Equal values give equal bytes whatever
  // their type, the machine and the batch are.
  EncodeResult encode(Rows<const A> rows, Rows<std::byte> codes, std::byte* scratch,
                      const Conditioning<A>& conditioning = {}) const noexcept {
    return encode<A>(rows, codes, scratch, conditioning);
  }
  template <typename T>
  EncodeResult encode(Rows<const T> rows, Rows<std::byte> codes, std::byte* scratch,
                      const Conditioning<A>& conditioning = {}) const noexcept {
    const Scratch work(*this, scratch);
    return in_pieces(rows, conditioning, work, [&](std::size_t first, Rows<const A> piece) {
      return encode_pieces(piece, codes.block(first, piece.count), work);
    });
  }

  // Decodes codes [codes.count] (stride in bytes) to rows [codes.count, head_dim].
  void decode(Rows<const std::byte> codes, Rows<A> rows, std::byte* scratch,
              const Conditioning<A>& conditioning = {}) const noexcept {
    const Scratch work(*this, scratch);
    for (std::size_t row = 0; row < codes.count; ++row) {
      expand_code(codes.row(row), work.rotated, work.family);
      vectors_.rotate_back(rotation(), work.rotated, rows.row(row));
      vectors_.uncondition(conditioning, head_dim(), rows.row(row));
    }
  }

  // Entries of a prepared query.
  std::size_t prepared_size() const { return prepared_size_; }

  // Rotates scale * query S^-1, [head_dim], and makes of it what its products with codes need, once
  // for all of them. prepared: [prepared_size()], aligned to kAlignment. transform: S, that of the
  // codes' Conditioning. rotated: takes the rotated query, for products with centres, or null; it
  // may be the query.
  template <typename T>
  void prepare_query(const T* query, A* prepared, std::byte* scratch, A scale = A(1),
                     const KeyTransform<A>& transform = {}, A* rotated = nullptr) const noexcept {
    POLARQUANT_DCHECK(detail::is_aligned(prepared) && "prepared queries must be aligned to 64");
    const Scratch work(*this, scratch);
    if (rotated == nullptr) rotated = work.rotated;
    for (std::size_t i = 0; i < head_dim(); ++i) {
      work.given[i] = scale * static_cast<A>(query[i]);
    }
    vectors_.uncondition({transform, nullptr}, head_dim(), work.given);
    vectors_.rotate(rotation(), work.given, rotated);
    prepare_rotated(rotated, prepared, work.family);
  }

  // <query, decode(code)>, without decoding.
  A dot(const A* prepared, const std::byte* code, std::byte* scratch) const noexcept {
    return dot_code(prepared, code, scratch);
  }

  // The same for every query, [prepared.count] rows of prepared_size(), and every code:
  // scores.row(i)[j] = <query i, decode(code j)>. Rows of prepared are aligned to kAlignment;
  // scores: [prepared.count, codes.count]. Equals dot but for rounding (and the error of
  // kFixedPoint).
  void dot_rows(Rows<const A> prepared, Rows<const std::byte> codes, Rows<A> scores,
                std::byte* scratch) const noexcept;

  // sum += weight * decode(code), in the rotated basis: to be turned back once, by finish.
  // sum: [head_dim].
  void accumulate(A weight, const std::byte* code, A* sum, std::byte* scratch) const noexcept {
    const Scratch work(*this, scratch);
    expand_code(code, work.rotated, work.family);
    for (std::size_t i = 0; i < head_dim(); ++i) {
      sum[i] = detail::fused(weight, work.rotated[i], sum[i]);
    }
  }

  // The same for many codes and rows of weights: sums.row(i) += sum over j of weights.row(i)[j] *
  // decode(code j). weights: [sums.count, codes.count]; sums: [sums.count, head_dim].
  void accumulate_rows(Rows<const A> weights, Rows<const std::byte> codes, Rows<A> sums,
                       std::byte* scratch) const noexcept;

  // output = sum S^T, [head_dim] each, not overlapping.
  void finish(const A* sum, A* output) const noexcept {
    vectors_.rotate_back(rotation(), sum, output);
  }

  // ---- Tiles in the caller's memory ----

  std::size_t tile_bytes() const { return kTileTokens * bytes_per_vector(); }

  // Encodes rows into slots first_slot, first_slot + 1, .. of a tile; first_slot + rows.count <=
  // kTileTokens. Other slots stay as they are. Zero a tile before its first use: a slot of zero
  // bytes is a zero vector.
  EncodeResult encode_tile(Rows<const A> rows, std::size_t first_slot, std::byte* tile,
                           std::byte* scratch,
                           const Conditioning<A>& conditioning = {}) const noexcept {
    return encode_tile<A>(rows, first_slot, tile, scratch, conditioning);
  }
  template <typename T>
  EncodeResult encode_tile(Rows<const T> rows, std::size_t first_slot, std::byte* tile,
                           std::byte* scratch,
                           const Conditioning<A>& conditioning = {}) const noexcept {
    POLARQUANT_DCHECK(first_slot + rows.count <= kTileTokens);
    const Scratch work(*this, scratch);
    return in_pieces(rows, conditioning, work, [&](std::size_t first, Rows<const A> piece) {
      return encode_slots(piece, first_slot + first, tile, work.family);
    });
  }

  // Decodes the first rows.count slots of a tile to rows [rows.count, head_dim].
  void decode_tile(const std::byte* tile, Rows<A> rows, std::byte* scratch,
                   const Conditioning<A>& conditioning = {}) const noexcept {
    POLARQUANT_DCHECK(rows.count <= kTileTokens);
    decode_slots(tile, rows, scratch);
    for (std::size_t row = 0; row < rows.count; ++row) {
      vectors_.uncondition(conditioning, head_dim(), rows.row(row));
    }
  }

  // scores.row(i)[j] = <query i, vector j of the tiles>, i < prepared.count, j < num_tiles *
  // kTileTokens. tiles: num_tiles * tile_bytes() bytes; prepared: rows of prepared_size(); scores:
  // rows of num_tiles * kTileTokens. Tiles, and rows of prepared and scores, are aligned to
  // kAlignment. next: codes that will be read afterwards, as many bytes, or null. The query heads
  // of a group share the reading of the codes: give them in one call.
  void score_tiles(Rows<const A> prepared, const std::byte* tiles, std::size_t num_tiles,
                   Rows<A> scores, std::byte* scratch,
                   const std::byte* next = nullptr) const noexcept {
    POLARQUANT_DCHECK(prepared.count == scores.count);
    POLARQUANT_DCHECK(is_tile_place(tiles) && "tiles must be aligned to 64 bytes");
    POLARQUANT_DCHECK(detail::is_aligned(prepared.data) && detail::is_aligned(scores.data));
    for_each_run(num_tiles, [&](std::size_t tile, std::size_t count) {
      const std::byte* const run = tiles + tile * tile_bytes();
      score_run(prepared, run, count, scores.block(0, scores.count, tile * kTileTokens),
                tile + count < num_tiles ? run + count * tile_bytes() : next, scratch);
    });
  }

  // Entries of a sum over tiles, in an order of the codec's own until finish_tiles.
  std::size_t tile_sum_size() const { return tile_sum_size_; }

  // sums.row(i) += sum over j of weights.row(i)[j] * (vector j of the tiles). Shapes as for
  // score_tiles, with a weight in place of a score; a slot that is not to count has weight 0, and
  // must hold a code or zeros all the same. sums: [weights.count] rows of tile_sum_size(), aligned
  // to kAlignment; scaling one scales the sum.
  void accumulate_tiles(Rows<const A> weights, const std::byte* tiles, std::size_t num_tiles,
                        Rows<A> sums, std::byte* scratch,
                        const std::byte* next = nullptr) const noexcept {
    POLARQUANT_DCHECK(weights.count == sums.count);
    POLARQUANT_DCHECK(is_tile_place(tiles) && "tiles must be aligned to 64 bytes");
    POLARQUANT_DCHECK(detail::is_aligned(weights.data) && detail::is_aligned(sums.data));
    for_each_run(num_tiles, [&](std::size_t tile, std::size_t count) {
      const std::byte* const run = tiles + tile * tile_bytes();
      accumulate_run(weights.block(0, weights.count, tile * kTileTokens), run, count, sums,
                     tile + count < num_tiles ? run + count * tile_bytes() : next, scratch);
    });
  }

  // output = factor * (the sum + addend) S^T. sum: [tile_sum_size()]; output: [head_dim]; addend:
  // [head_dim], in the rotated basis, or null.
  void finish_tiles(const A* sum, A factor, A* output, std::byte* scratch,
                    const A* addend = nullptr) const noexcept {
    const Scratch work(*this, scratch);
    reduce_sum(sum, factor, work.rotated);
    for (std::size_t i = 0; addend != nullptr && i < head_dim(); ++i) {
      work.rotated[i] = detail::fused(factor, addend[i], work.rotated[i]);
    }
    vectors_.rotate_back(rotation(), work.rotated, output);
  }

  // ---- Centres of spans ----

  std::size_t center_bytes() const { return detail::center_bytes(head_dim()); }

  // The code of a centre, [head_dim], of vectors times S: center_bytes() bytes.
  void encode_center(const A* center, std::byte* code, std::byte* scratch) const noexcept {
    const Scratch work(*this, scratch);
    vectors_.rotate(rotation(), center, work.rotated);
    detail::encode_center(work.rotated, head_dim(), code);
  }

  // What is to be subtracted from the span's vectors, Conditioning::center: [head_dim].
  void decode_center(const std::byte* code, A* center, std::byte* scratch) const noexcept {
    const Scratch work(*this, scratch);
    vectors_.expand_center(code, head_dim(), work.rotated);
    vectors_.rotate_back(rotation(), work.rotated, center);
  }

  // For attention: rotations, centres, exact rows, softmax.
  const detail::VectorKernels<A>& vectors() const { return vectors_; }

 protected:
  // Sizes that only the family knows: bytes of scratch of the calls below, entries of a prepared
  // query and of a sum over tiles.
  struct Sizes {
    std::size_t scratch_bytes = 0;
    std::size_t prepared_size = 0;
    std::size_t tile_sum_size = 0;
  };

  // Throws std::invalid_argument if there is no rotation, or the format is invalid or not as wide;
  // what choose_isa throws. An uncompressed format is not rotated, whatever the rotation given.
  Codec(CodecFormat format, CodecSetup setup)
      : format_(checked(std::move(format), setup)),
        setup_(std::move(setup)),
        isa_(choose_isa(setup_.isa)),
        vectors_(detail::choose_vector_kernels<A>(isa_)),
        head_dim_(static_cast<std::size_t>(format_.head_dim())),
        bytes_per_vector_(format_.bytes_per_vector()) {
    if (format_.is_uncompressed() && setup_.rotation->kind() != RotationKind::kNone) {
      setup_.rotation = std::make_shared<Rotation>(RotationKind::kNone, format_.head_dim(), 0);
    }
  }

  // To be called once, by the constructor of the family's codec.
  void set_sizes(const Sizes& sizes) {
    family_scratch_bytes_ = sizes.scratch_bytes;
    prepared_size_ = sizes.prepared_size;
    tile_sum_size_ = sizes.tile_sum_size;
  }

  // ---- What a family implements ----
  // Arguments as in the public calls; `scratch` has Sizes::scratch_bytes bytes, aligned; a run has
  // at most kRunTiles tiles.

  virtual EncodeResult encode_slots(Rows<const A> rows, std::size_t first_slot, std::byte* tile,
                                    std::byte* scratch) const noexcept = 0;
  virtual void decode_slots(const std::byte* tile, Rows<A> rows,
                            std::byte* scratch) const noexcept = 0;
  // The vector of one code in the rotated basis, [head_dim].
  virtual void expand_code(const std::byte* code, A* rotated,
                           std::byte* scratch) const noexcept = 0;
  virtual void prepare_rotated(const A* rotated, A* prepared,
                               std::byte* scratch) const noexcept = 0;
  virtual A dot_code(const A* prepared, const std::byte* code,
                     std::byte* scratch) const noexcept = 0;
  virtual void score_run(Rows<const A> prepared, const std::byte* tiles, std::size_t num_tiles,
                         Rows<A> scores, const std::byte* next,
                         std::byte* scratch) const noexcept = 0;
  virtual void accumulate_run(Rows<const A> weights, const std::byte* tiles, std::size_t num_tiles,
                              Rows<A> sums, const std::byte* next,
                              std::byte* scratch) const noexcept = 0;
  // rotated = factor * sum, [head_dim].
  virtual void reduce_sum(const A* sum, A factor, A* rotated) const noexcept = 0;

 private:
  // Rows of codes that are gathered into tiles at a time, and queries that share them.
  static constexpr std::size_t kBatchTokens = 8 * kTileTokens;
  static constexpr std::size_t kSharedRows = 4;
  static_assert(kBatchTokens <= kRunTiles * kTileTokens);

  // The caller's scratch, divided up.
  struct Scratch {
    Scratch(const Codec& codec, std::byte* base) {
      detail::ScratchArena arena(base);
      family = arena.template take<std::byte>(codec.family_scratch_bytes_);
      given = arena.template take<A>(codec.head_dim_);
      rotated = arena.template take<A>(8 * detail::center_words(codec.head_dim_));
      codes = arena.template take<std::byte>(kBatchTokens * codec.bytes_per_vector_);
      rows = arena.template take<A>(kTileTokens * codec.head_dim_);
      weights = arena.template take<A>(kSharedRows * kBatchTokens);
      sums = arena.template take<A>(codec.tile_sum_size_);
      num_bytes = arena.used();
    }

    std::byte* family;  // Sizes::scratch_bytes; the first, so that it is the scratch itself
    A* given;           // [head_dim]
    A* rotated;         // [head_dim], and what else a centre's words hold
    std::byte* codes;   // tiles of kBatchTokens vectors
    A* rows;            // [kTileTokens, head_dim]
    A* weights;         // [kSharedRows, kBatchTokens], or scores
    A* sums;            // [tile_sum_size]
    std::size_t num_bytes;
  };

  // Whether a tile may lie here: of an odd number of bytes per vector every second one of tiles
  // that follow each other is aligned to half a line only, and one may begin with it.
  bool is_tile_place(const std::byte* tiles) const noexcept {
    return detail::is_aligned(tiles) ||
           (bytes_per_vector_ % 2 != 0 && detail::is_aligned(tiles + kAlignment / 2));
  }

  static CodecFormat checked(CodecFormat format, const CodecSetup& setup) {
    const std::string found = format.problem();
    if (!found.empty()) detail::throw_invalid_argument(found);
    if (setup.rotation == nullptr) detail::throw_invalid_argument("a codec without a rotation");
    if (setup.rotation->head_dim() != format.head_dim()) {
      detail::throw_invalid_argument("the rotation is " +
                                     std::to_string(setup.rotation->head_dim()) +
                                     " wide, the format " + std::to_string(format.head_dim()));
    }
    return format;
  }

  // Calls encode(first row, conditioned rows as A) for a tile of rows at a time, or once for all.
  template <typename T, typename Encode>
  EncodeResult in_pieces(Rows<const T> rows, const Conditioning<A>& conditioning,
                         const Scratch& work, const Encode& encode) const noexcept;

  // Through a tile of scratch, a row at a time where they are few.
  EncodeResult encode_pieces(Rows<const A> rows, Rows<std::byte> codes,
                             const Scratch& work) const noexcept;

  // Gathers rows of codes into the tiles of work.codes, slots beyond the last row zero, and calls
  // visit(first row, number of rows, number of tiles) for each batch.
  template <typename Visit>
  void for_each_batch(Rows<const std::byte> codes, const Scratch& work,
                      const Visit& visit) const noexcept;

  // Calls visit(first tile, number of tiles) for as many tiles at a time as kernels take.
  template <typename Visit>
  static void for_each_run(std::size_t num_tiles, const Visit& visit) noexcept {
    for (std::size_t tile = 0; tile < num_tiles; tile += kRunTiles) {
      visit(tile, (std::min)(kRunTiles, num_tiles - tile));
    }
  }

  static constexpr std::size_t kFewRows = 4;  // Up to here one by one is faster than a tile.

  CodecFormat format_;
  CodecSetup setup_;
  Isa isa_;
  detail::VectorKernels<A> vectors_;
  std::size_t head_dim_;
  std::size_t bytes_per_vector_;
  std::size_t family_scratch_bytes_ = 0;
  std::size_t prepared_size_ = 0;
  std::size_t tile_sum_size_ = 0;
};

POLARQUANT_END_NAMESPACE
