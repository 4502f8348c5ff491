// What the tests of the method's headers measure through the codec.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "method_test_util.hpp"
#include "polarquant/codec/polar_codec.hpp"

namespace method_test {

// A format of these bits, first level first.
inline polarquant::PolarFormat format_of(
    int head_dim, const std::vector<int>& level_bits,
    polarquant::RadiusMeaning meaning = polarquant::RadiusMeaning::kNorm) {
  polarquant::PolarFormat format;
  format.head_dim = head_dim;
  format.levels = static_cast<int>(level_bits.size());
  for (std::size_t i = 0; i < level_bits.size(); ++i) {
    format.level_bits[i] = static_cast<std::uint8_t>(level_bits[i]);
  }
  format.radius_meaning = meaning;
  return format;
}

inline std::shared_ptr<const polarquant::Rotation> make_rotation(polarquant::RotationKind kind,
                                                                 int head_dim, std::uint64_t seed) {
  return std::make_shared<polarquant::Rotation>(kind, head_dim, seed);
}

// rows, encoded and decoded: [count, head_dim].
template <typename T>
std::vector<T> round_trip(const polarquant::PolarCodec<T>& codec, const std::vector<T>& rows) {
  const std::size_t d = codec.head_dim();
  const std::size_t count = rows.size() / d;
  polarquant::AlignedBuffer scratch(codec.scratch_bytes());
  std::vector<std::byte> codes(count * codec.bytes_per_vector());
  std::vector<T> decoded(rows.size());
  const polarquant::EncodeResult result = codec.encode(
      {rows.data(), count, d}, {codes.data(), count, codec.bytes_per_vector()}, scratch.data());
  EXPECT_EQ(result.num_encoded, count);
  codec.decode({codes.data(), count, codec.bytes_per_vector()}, {decoded.data(), count, d},
               scratch.data());
  return decoded;
}

// Over vectors: ||x - x'||^2 / ||x||^2 and <x, x'> / ||x||^2.
struct Quality {
  Mean relative_mse;
  Mean alignment;

  template <typename T>
  void add(const polarquant::PolarCodec<T>& codec, const std::vector<T>& rows) {
    const std::vector<T> decoded = round_trip(codec, rows);
    for (std::size_t first = 0; first < rows.size(); first += codec.head_dim()) {
      double norm2 = 0.0;
      double error2 = 0.0;
      double product = 0.0;
      for (std::size_t i = first; i < first + codec.head_dim(); ++i) {
        const double x = static_cast<double>(rows[i]);
        const double y = static_cast<double>(decoded[i]);
        norm2 += x * x;
        error2 += (x - y) * (x - y);
        product += x * y;
      }
      relative_mse.add(error2 / norm2);
      alignment.add(product / norm2);
    }
  }
};

// Quality on `count` Gaussian vectors, in batches that fit the cache.
inline Quality gaussian_quality(const polarquant::PolarFormat& format,
                                const std::shared_ptr<const polarquant::Rotation>& rotation,
                                std::size_t count, std::uint64_t seed) {
  const polarquant::PolarCodec<float> codec(format, rotation);
  constexpr std::size_t kBatch = 1000;
  Quality quality;
  for (std::size_t first = 0; first < count; first += kBatch) {
    quality.add(codec, gaussian_rows<float>(kBatch, codec.head_dim(), seed + first));
  }
  return quality;
}

}  // namespace method_test
