// What a trellis code of a vector holds, and where its bits lie.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "polarquant/base/error.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/trellis/trellis_code.hpp"
#include "polarquant/trellis/trellis_tables.hpp"

POLARQUANT_BEGIN_NAMESPACE

// The format of one compressed key or value: a bfloat16 norm and `bits` per coordinate, which are
// codes on a trellis, 2 to 6 with halves between them, or 8, which are numbers as they are.
//
// The rotated vector x becomes r t, t the values of its codes: t is what is nearest to
// sqrt(head_dim) x / ||x||, and r = ||x||^2 / <x, t>, so that the part of r t along x is x (at
// most twice ||x|| / sqrt(head_dim), for vectors that no rotation has made like others). With
// 8 bits a code is a number of -127 .. 127, and the largest coordinate is one of these two.
struct TrellisFormat {
  int head_dim = 128;
  double bits = 3.0;

  TrellisFormat() = default;
  TrellisFormat(int width, double bits_per_code) : head_dim(width), bits(bits_per_code) {}

  // The first rule that is broken, with the value that breaks it; empty if all hold.
  std::string problem() const {
    if (head_dim < 16 || head_dim > 1024 || head_dim % 2 != 0) {
      return detail::message(
          {"a trellis format is of even width, 16 to 1024; head_dim is ", head_dim});
    }
    const bool is_half = bits * 2.0 == std::floor(bits * 2.0);
    if (!(bits == 8.0 || (bits >= 2.0 && bits <= 6.0 && is_half))) {
      return detail::message(
          {"a trellis format has 2, 2.5, 3, .. 6 or 8 bits per coordinate, not ", bits});
    }
    return {};
  }

  // Throws std::invalid_argument with problem(), if there is one.
  void validate() const {
    const std::string found = problem();
    if (!found.empty()) detail::throw_invalid_argument(found);
  }

  // Bits of the code of a coordinate. Of 2.5, 3.5, .. the first half of the coordinates has the
  // half less, rounded up to whole sixteens (whole eights below 32), and the others the half more.
  int code_bits(int coordinate) const {
    const int fewer = static_cast<int>(bits);
    const int unit = head_dim < 32 ? 8 : 16;
    const int num_fewer = (head_dim / 2 + unit - 1) / unit * unit;
    return fewer + (bits > fewer && coordinate >= num_fewer ? 1 : 0);
  }

  // Stored size of one vector (docs/format.md).
  std::size_t bytes_per_vector() const {
    std::size_t bytes = 2;
    for (int first = 0; first < head_dim; first += 8) bytes += group_bytes(first);
    return bytes;
  }

  // bytes_per_vector() * 8 / head_dim.
  double bits_per_coordinate() const {
    return static_cast<double>(bytes_per_vector()) * 8.0 / head_dim;
  }

  // E||x - x'||^2 / ||x||^2 for x in a random direction, the rounding of the stored norm
  // included. Of the tables, measured; of 8 bits, a step's square over twelve for
  // every coordinate but the largest, whose square, 127^2 steps', is that of the largest of
  // head_dim normal numbers on average.
  double expected_relative_mse() const;

  // Like "trellis 3 bits".
  std::string description() const {
    std::string number = std::to_string(static_cast<int>(bits));
    if (bits > std::floor(bits)) number += ".5";
    return "trellis " + number + " bits";
  }

  friend bool operator==(const TrellisFormat& x, const TrellisFormat& y) {
    return x.head_dim == y.head_dim && x.bits == y.bits;
  }
  friend bool operator!=(const TrellisFormat& x, const TrellisFormat& y) { return !(x == y); }

  // ---- Where the bits are ----

  // Coordinates of the group of eight that begins with `first`; the last may have fewer.
  int group_size(int first) const { return head_dim - first < 8 ? head_dim - first : 8; }

  // A byte of bits u, and the bits above them one code after the other; of 8 bits the codes.
  std::size_t group_bytes(int first) const {
    const int size = group_size(first);
    if (bits == 8.0) return static_cast<std::size_t>(size);
    return static_cast<std::size_t>(1 + (size * (code_bits(first) - 1) + 7) / 8);
  }

  // The place of byte `byte` of a group in the code of a vector: two groups, an even and an odd
  // one, take turns byte by byte as far as both have bytes.
  std::size_t byte_place(int first, std::size_t byte) const {
    const int block = first / 16 * 16;
    std::size_t place = 2;
    for (int before = 0; before < block; before += 8) place += group_bytes(before);
    const int other = first == block ? block + 8 : block;
    const std::size_t others = other < head_dim ? group_bytes(other) : 0;
    if (byte < others) return place + 2 * byte + (first == block ? 0 : 1);
    return place + others + byte;
  }
};

namespace detail {

inline const TrellisTable& trellis_table(int bits) {
  static constexpr const TrellisTable* kTables[] = {
      &kTrellisTable2, &kTrellisTable3, &kTrellisTable4, &kTrellisTable5, &kTrellisTable6};
  return *kTables[bits - 2];
}

// E max x_i^2 of n normal numbers, or n coordinates of a vector of norm sqrt(n) in a random
// direction: the integral of 2 x P(max |x_i| > x).
inline double expected_largest_square(int n) {
  constexpr double kWidth = 1.0 / 256;
  double sum = 0.0;
  for (double x = kWidth / 2; x < 10.0; x += kWidth) {
    sum += 2.0 * x * (1.0 - std::pow(std::erf(x / std::sqrt(2.0)), n));
  }
  return sum * kWidth;
}

// The mean square of the relative rounding of a bfloat16, over a binade.
inline constexpr double kBFloat16RelativeMse = 2.7e-6;

// The tables of a format's coordinates, which must not have 8 bits.
inline TrellisTables trellis_tables(const TrellisFormat& format) {
  TrellisTables tables;
  for (int i = 0; i < format.head_dim; ++i) {
    tables.push_back(&trellis_table(format.code_bits(i)));
  }
  return tables;
}

}  // namespace detail

inline double TrellisFormat::expected_relative_mse() const {
  validate();
  if (bits == 8.0) {
    const double step2 = detail::expected_largest_square(head_dim) / (127.0 * 127.0);
    return (head_dim - 1.0) / head_dim * step2 / 12.0 + detail::kBFloat16RelativeMse;
  }
  // What the start at state 0 costs, and what is gained where numbers are less spread, is in
  // proportion to 1 / head_dim.
  const double width = (1.0 / head_dim - 1.0 / 128) / (1.0 / 32 - 1.0 / 128);
  const auto measured = [width](int halves) {
    const double* const ends = detail::kTrellisDistortions[halves - 4];
    return ends[1] + width * (ends[0] - ends[1]);
  };
  const int fewer = static_cast<int>(bits);
  double distortion = measured(2 * fewer);
  if (bits > fewer) {
    // A parabola through none, half and all of the coordinates with one bit more: what the parts'
    // own norms vary costs the most in the middle.
    int count = 0;
    for (int i = 0; i < head_dim; ++i) count += code_bits(i) - fewer;
    const double share = static_cast<double>(count) / head_dim;
    const double more = measured(2 * fewer + 2);
    const double bend = measured(2 * fewer + 1) - (distortion + more) / 2.0;
    distortion += share * (more - distortion) + 4.0 * share * (1.0 - share) * bend;
  }
  return distortion / (1.0 - distortion) + detail::kBFloat16RelativeMse;  // of a projection
}

namespace detail {

// Packs and unpacks codes: c_i of every coordinate, a byte each, from and to the code of a vector.
class TrellisLayout {
 public:
  explicit TrellisLayout(const TrellisFormat& format) : num_bytes_(format.bytes_per_vector()) {
    format.validate();
    for (int first = 0; first < format.head_dim; first += 8) {
      Group group;
      group.size = static_cast<std::size_t>(format.group_size(first));
      group.code_bits = format.bits == 8.0 ? 8 : static_cast<unsigned>(format.code_bits(first));
      for (std::size_t byte = 0; byte < format.group_bytes(first); ++byte) {
        group.places[byte] = static_cast<std::uint16_t>(format.byte_place(first, byte));
        ++group.num_bytes;
      }
      groups_.push_back(group);
    }
  }

  std::size_t num_bytes() const { return num_bytes_; }
  std::size_t memory_bytes() const { return groups_.size() * sizeof(Group); }

  // All but the norm.
  void pack(const std::uint8_t* codes, std::size_t stride, std::byte* out) const noexcept {
    for (const Group& group : groups_) {
      std::uint64_t stream = 0;  // the bits u, then those above
      for (std::size_t i = 0; i < group.size; ++i) {
        const std::uint64_t code = codes[i * stride];
        if (group.code_bits == 8) {
          stream |= code << (8 * i);
        } else {
          stream |= (code & 1u) << i | (code >> 1) << (8 + (group.code_bits - 1) * i);
        }
      }
      for (std::size_t byte = 0; byte < group.num_bytes; ++byte) {
        out[group.places[byte]] = static_cast<std::byte>(stream >> (8 * byte));
      }
      codes += group.size * stride;
    }
  }

  void unpack(const std::byte* code, std::uint8_t* codes) const noexcept {
    for (const Group& group : groups_) {
      std::uint64_t stream = 0;
      for (std::size_t byte = 0; byte < group.num_bytes; ++byte) {
        stream |= std::to_integer<std::uint64_t>(code[group.places[byte]]) << (8 * byte);
      }
      const std::uint64_t mask = (std::uint64_t{1} << (group.code_bits - 1)) - 1;
      for (std::size_t i = 0; i < group.size; ++i) {
        codes[i] = static_cast<std::uint8_t>(
            group.code_bits == 8
                ? stream >> (8 * i)
                : (stream >> (8 + (group.code_bits - 1) * i) & mask) << 1 | (stream >> i & 1u));
      }
      codes += group.size;
    }
  }

 private:
  struct Group {
    std::size_t size = 0;
    std::size_t num_bytes = 0;
    unsigned code_bits = 0;
    std::uint16_t places[8] = {};
  };

  std::size_t num_bytes_;
  std::vector<Group> groups_;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
