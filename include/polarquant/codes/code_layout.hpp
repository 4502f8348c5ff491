// The bytes of one compressed vector, and the tile that interleaves 32 of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "polarquant/base/error.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/method/polar_format.hpp"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "polarquant codes are little-endian, and so must be the machine"
#endif

POLARQUANT_BEGIN_NAMESPACE

// The code of one vector, bytes_per_vector() bytes without any alignment:
//
//   radii    num_radii() numbers of radius_type, little-endian, block 0 first
//   angles   one stream of bits: bit k of the stream is bit k % 8 of byte k / 8 after the radii,
//            and a field's lowest bit comes first. The indices stand in the order of the
//            coordinates they separate: left half, the angle that joins the halves, right half,
//            and so on down, block after block. Joins of unequal parts likewise: largest part,
//            join 0, next part, join 1, next part.
//   padding  zero bits up to a whole byte
//
// Two level-1 indices are thereby neighbours of the level-2 index that joins them, so that a kernel
// finds (level 1, level 2) in one field and looks both up at once.
class CodeLayout {
 public:
  // Where one angle's index lies in the code.
  struct Field {
    std::uint32_t bit_offset;  // from the start of the code, radii included
    std::uint32_t num_bits;
  };

  // Throws std::invalid_argument if the format is invalid.
  POLARQUANT_COLD explicit CodeLayout(const PolarFormat& format) {
    format.validate();
    num_bytes_ = format.bytes_per_vector();
    num_radius_bytes_ = static_cast<std::size_t>(format.num_radii()) *
                        static_cast<std::size_t>(float_type_bytes(format.radius_type));
    if (format.is_uncompressed()) return;
    const PolarShape shape = format.shape();
    fields_.resize(static_cast<std::size_t>(shape.num_angles()));
    std::uint32_t offset = static_cast<std::uint32_t>(num_radius_bytes_ * 8);
    for (int block = 0; block < shape.num_radii(); ++block) {
      place_subtree(format, format.levels, block, offset);
    }
    for (int join = 0; join < shape.num_joins(); ++join) {
      place(static_cast<std::size_t>(shape.first_angle(format.levels + 1) + join),
            format.join_bits[static_cast<std::size_t>(join)], offset);
      int level = 0;
      while ((1 << level) < shape.join_right(join)) ++level;
      place_subtree(format, level, shape.join_left(join) >> level, offset);
    }
  }

  std::size_t num_bytes() const { return num_bytes_; }
  std::size_t num_radius_bytes() const { return num_radius_bytes_; }

  std::size_t memory_bytes() const {
    return fields_.size() * sizeof(Field) + stream_order_.size() * sizeof(std::uint16_t);
  }

  // One field per angle, in the order of PolarShape::first_angle.
  const std::vector<Field>& fields() const { return fields_; }

  // The angles in the order of their fields in the code.
  const std::vector<std::uint16_t>& stream_order() const { return stream_order_; }

 private:
  void place(std::size_t angle, int num_bits, std::uint32_t& offset) {
    fields_[angle] = Field{offset, static_cast<std::uint32_t>(num_bits)};
    stream_order_.push_back(static_cast<std::uint16_t>(angle));
    offset += static_cast<std::uint32_t>(num_bits);
  }

  // The subtree under node `node` of level `level`.
  void place_subtree(const PolarFormat& format, int level, int node, std::uint32_t& offset) {
    if (level == 0) return;
    place_subtree(format, level - 1, 2 * node, offset);
    place(static_cast<std::size_t>(format.shape().first_angle(level) + node),
          format.level_bits[static_cast<std::size_t>(level - 1)], offset);
    place_subtree(format, level - 1, 2 * node + 1, offset);
  }

  std::size_t num_bytes_ = 0;
  std::size_t num_radius_bytes_ = 0;
  std::vector<Field> fields_;
  std::vector<std::uint16_t> stream_order_;
};

// A tile holds the codes of kTileTokens vectors, 16-bit word k of all of them side by side:
//
//   byte 2 k of vector t      at  (32 k + t) * 2        k < num_bytes / 2
//   byte 2 k + 1              at  (32 k + t) * 2 + 1
//   the last byte, if odd     at  32 * (num_bytes - 1) + t
//
// so it has exactly 32 num_bytes bytes, and one load brings the same field of all its vectors.
inline constexpr std::size_t kTileTokens = 32;

inline std::size_t tile_bytes(std::size_t bytes_per_vector) {
  return kTileTokens * bytes_per_vector;
}

// Copies a code of `num_bytes` bytes into slot `slot` of a tile.
inline void write_tile_slot(std::byte* tile, std::size_t num_bytes, std::size_t slot,
                            const std::byte* code) noexcept {
  for (std::size_t word = 0; word < num_bytes / 2; ++word) {
    std::memcpy(tile + (kTileTokens * word + slot) * 2, code + 2 * word, 2);
  }
  if (num_bytes % 2 != 0) tile[kTileTokens * (num_bytes - 1) + slot] = code[num_bytes - 1];
}

// Copies slot `slot` of a tile out into a code of `num_bytes` bytes.
inline void read_tile_slot(const std::byte* tile, std::size_t num_bytes, std::size_t slot,
                           std::byte* code) noexcept {
  for (std::size_t word = 0; word < num_bytes / 2; ++word) {
    std::memcpy(code + 2 * word, tile + (kTileTokens * word + slot) * 2, 2);
  }
  if (num_bytes % 2 != 0) code[num_bytes - 1] = tile[kTileTokens * (num_bytes - 1) + slot];
}

POLARQUANT_END_NAMESPACE
