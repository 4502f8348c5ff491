// Rows to codes: scaling, batches of a tile, and what cannot be encoded.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/kernels/kernel_table.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/method/rotation.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/storage/page_pool.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/base/version.hpp"

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

// Rows of codes that are gathered into tiles at a time, and queries that share them.
inline constexpr std::size_t kBatchTokens = 8 * kTileTokens;
inline constexpr std::size_t kSharedRows = 4;
static_assert(kBatchTokens <= kPageTokens, "kernels take a page of tiles at most");

// The scratch of every call of a codec, divided up.
template <typename Accumulator>
struct CodecScratch {
  CodecScratch(const CodecTables& tables, std::byte* base) {
    ScratchArena arena(base);
    const std::size_t d = tables.head_dim();
    scales = arena.take<double>(kTileTokens);
    codes = arena.take<std::byte>(kBatchTokens * tables.layout.num_bytes());
    code = arena.take<std::byte>(tables.layout.num_bytes());
    encode = {arena.take<float>(kTileTokens * d), arena.take<float>(kTileTokens * d),
              arena.take<float>(kTileTokens * d), arena.take<std::uint8_t>(kTileTokens * d)};
    tile = {arena.take<Accumulator>(kTileTokens * d), arena.take<Accumulator>(kTileTokens * d),
            arena.take<std::uint8_t>(kTileTokens * d),
            arena.take<std::byte>(tables.kernel_scratch_bytes())};
    weights = arena.take<Accumulator>(kSharedRows * kBatchTokens);
    sums = arena.take<Accumulator>(kTileTokens * d);
    num_bytes = arena.used();
  }

  double* scales;
  std::byte* codes;  // tiles of kBatchTokens vectors
  std::byte* code;
  loops::EncodeScratch encode;
  loops::TileScratch<Accumulator> tile;
  Accumulator* weights;  // [kSharedRows, kBatchTokens], or scores
  Accumulator* sums;     // [head_dim, kTileTokens]
  std::size_t num_bytes;
};

// The largest magnitude of a row, infinity if a number is infinite or NaN. Magnitudes are compared
// as integers, which order like them and, unlike floats with their NaN, vectorise.
template <typename A, typename T>
double largest_magnitude(const T* row, std::size_t head_dim) noexcept {
  using Bits = std::conditional_t<std::is_same_v<A, double>, std::int64_t, std::int32_t>;
  Bits largest = 0;
  for (std::size_t i = 0; i < head_dim; ++i) {
    const A number = static_cast<A>(row[i]);
    Bits bits;
    std::memcpy(&bits, &number, sizeof bits);
    bits &= std::numeric_limits<Bits>::max();
    largest = bits > largest ? bits : largest;
  }
  A number;
  std::memcpy(&number, &largest, sizeof number);
  return number <= std::numeric_limits<A>::max() ? static_cast<double>(number)
                                                 : std::numeric_limits<double>::infinity();
}

// What encodes the rows of a codec.
template <typename T>
struct RowEncoder {
  using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

  const CodecTables& tables;
  const Rotation& rotation;
  const Kernels<Accumulator>& kernels;

  // row = scale * out with max |out| in [1, 2) (or a zero row), the scale a power of two, so that
  // no square that matters over- or underflows. out: entries `stride` apart. False if an entry is
  // not finite.
  bool load_row(const T* row, std::size_t stride, float* out, double* scale) const noexcept {
    const double largest = largest_magnitude<Accumulator>(row, tables.head_dim());
    if (!std::isfinite(largest)) return false;
    const bool is_zero = !(largest >= 0x1p-160);
    const int exponent = is_zero ? 0 : std::ilogb(largest);
    *scale = std::ldexp(1.0, exponent);
    const double inverse = is_zero ? 0.0 : std::ldexp(1.0, -exponent);
    const Accumulator factor = static_cast<Accumulator>(inverse);
    if (static_cast<double>(factor) == inverse && std::isfinite(factor)) {
      // The exact product, rounded once, as below.
      for (std::size_t i = 0; i < tables.head_dim(); ++i) {
        out[i * stride] = static_cast<float>(static_cast<Accumulator>(row[i]) * factor);
      }
      return true;
    }
    for (std::size_t i = 0; i < tables.head_dim(); ++i) {
      out[i * stride] = static_cast<float>(static_cast<double>(row[i]) * inverse);
    }
    return true;
  }

  // Loads up to num_lanes rows side by side; lanes beyond the rows are zero. Returns how many rows
  // came before one that is not finite.
  std::size_t load_rows(Rows<const T> rows, std::size_t num_lanes,
                        const CodecScratch<Accumulator>& work) const noexcept {
    std::size_t count = 0;
    while (count < std::min(num_lanes, rows.count) &&
           load_row(rows.row(count), num_lanes, work.encode.given + count, work.scales + count)) {
      ++count;
    }
    for (std::size_t lane = count; lane < num_lanes; ++lane) {
      work.scales[lane] = 1.0;
      for (std::size_t i = 0; i < tables.head_dim(); ++i)
        work.encode.given[i * num_lanes + lane] = 0.0f;
    }
    return count;
  }

  // Encodes the rows, a tile of them at a time, and gives each code to `store`.
  template <typename Store>
  EncodeResult encode_batches(Rows<const T> rows, const CodecScratch<Accumulator>& work,
                              const Store& store) const noexcept {
    if (tables.format.is_uncompressed()) return encode_uncompressed(rows, work, store);
    constexpr std::size_t kFewRows = 4;  // Up to here one by one is faster than a tile.
    std::size_t row = 0;
    while (row < rows.count) {
      const Rows<const T> rest = {rows.row(row), rows.count - row, rows.stride};
      const std::size_t count = rest.count <= kFewRows ? 0 : load_rows(rest, kTileTokens, work);
      if (count > 0 &&
          kernels.encode_tile(tables, rotation, work.scales, work.encode, work.codes)) {
        // The rows stand behind the tile.
        const std::size_t num_bytes = tables.layout.num_bytes();
        std::byte* const codes = work.codes + tile_bytes(num_bytes);
        read_tile_rows(work.codes, num_bytes, {codes, count, num_bytes});
        for (std::size_t lane = 0; lane < count; ++lane, ++row)
          store(row, codes + lane * num_bytes);
        continue;
      }
      // Few rows; or the next cannot be encoded; or one of the tile cannot, and it is to be found.
      for (std::size_t next = 0; next < std::min(rest.count, kTileTokens); ++next, ++row) {
        if (load_rows({rows.row(row), 1, rows.stride}, 1, work) == 0) {
          return {row, EncodeFailure::kNotFinite};
        }
        if (!kernels.encode_row(tables, rotation, work.scales, work.encode, work.code)) {
          return {row, EncodeFailure::kRadiusOverflow};
        }
        store(row, work.code);
      }
    }
    return {rows.count, EncodeFailure::kNone};
  }

  template <typename Store>
  EncodeResult encode_uncompressed(Rows<const T> rows, const CodecScratch<Accumulator>& work,
                                   const Store& store) const noexcept {
    const std::size_t bytes = static_cast<std::size_t>(float_type_bytes(tables.format.radius_type));
    for (std::size_t row = 0; row < rows.count; ++row) {
      for (std::size_t i = 0; i < tables.head_dim(); ++i) {
        const double value = static_cast<double>(rows.row(row)[i]);
        if (!(std::abs(value) <= std::numeric_limits<double>::max())) {
          return {row, EncodeFailure::kNotFinite};
        }
        if (!loops::store_radius(tables.format.radius_type, value, work.codes + i * bytes)) {
          return {row, EncodeFailure::kRadiusOverflow};
        }
      }
      store(row, work.codes);
    }
    return {rows.count, EncodeFailure::kNone};
  }
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
