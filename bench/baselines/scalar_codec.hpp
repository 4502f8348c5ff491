// A scalar Lloyd-Max codebook for every coordinate of the rotated vector, and its norm: the kind of
// TurboQuant's first stage (arXiv 2504.19874).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "baselines/vector_codec.hpp"
#include "polarquant/method/rotation.hpp"

namespace polarquant_baselines {

// The 2^bits centroids of least squared error for one coordinate x of a random direction in
// head_dim dimensions, scaled to E x^2 = 1: density proportional to
// (1 - x^2 / head_dim)^((head_dim - 3) / 2), which tends to the normal law.
struct ScalarCodebook {
  std::vector<float> centroids;  // increasing
  double distortion = 0.0;       // E (x - nearest centroid)^2

  // Throws std::invalid_argument unless 1 <= bits <= 8 and head_dim >= 4.
  ScalarCodebook(int head_dim, int bits) {
    if (bits < 1 || bits > 8 || head_dim < 4) {
      throw std::invalid_argument("a scalar codebook of " + std::to_string(bits) +
                                  " bits for head_dim " + std::to_string(head_dim) +
                                  ": must be 1 .. 8 bits and at least 4 wide");
    }
    const Moments moments(head_dim);
    const std::size_t count = std::size_t{1} << bits;
    std::vector<double> theta(count);
    for (std::size_t i = 0; i < count; ++i) {
      theta[i] = 5.0 * (static_cast<double>(i) + 0.5) / static_cast<double>(count) - 2.5;
    }
    // Lloyd's iteration. The density is log-concave, so that there is one fixed point.
    for (int step = 0; step < 20000; ++step) {
      double change = 0.0;
      distortion = 1.0;
      std::vector<double> next(count);
      std::size_t low = 0;
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t high =
            i + 1 == count ? Moments::kCells : Moments::cell(0.5 * (theta[i] + theta[i + 1]));
        const double mass = moments.mass[high] - moments.mass[low];
        next[i] = (moments.first[high] - moments.first[low]) / mass;
        // With centroids that are means, E (x - theta)^2 = E x^2 - E theta^2.
        distortion -= mass * next[i] * next[i];
        change = std::max(change, std::fabs(next[i] - theta[i]));
        low = high;
      }
      theta = next;
      if (change < 1e-9) break;
    }
    for (const double centroid : theta) centroids.push_back(static_cast<float>(centroid));
  }

 private:
  // Mass and first moment of the density below each edge of a fine grid on [-kEnd, kEnd], outside
  // of which there is less than 1e-14; normalised to E 1 = E x^2 = 1.
  struct Moments {
    static constexpr std::size_t kCells = 200000;
    static constexpr double kEnd = 8.0;

    explicit Moments(int head_dim) : mass(kCells + 1), first(kCells + 1) {
      const double d = head_dim;
      double second = 0.0;
      for (std::size_t i = 0; i < kCells; ++i) {
        const double x = kEnd * ((2.0 * static_cast<double>(i) + 1.0) / kCells - 1.0);
        const double inside = std::max(0.0, 1.0 - x * x / d);
        const double density = std::pow(inside, 0.5 * (d - 3.0));
        mass[i + 1] = mass[i] + density;
        first[i + 1] = first[i] + density * x;
        second += density * x * x;
      }
      const double total = mass[kCells];
      const double scale = std::sqrt(total / second);
      for (double& value : mass) value /= total;
      for (double& value : first) value *= scale / total;
    }

    static std::size_t cell(double x) {
      return static_cast<std::size_t>(std::lround((x / kEnd + 1.0) * (kCells / 2)));
    }

    std::vector<double> mass;   // [kCells + 1]
    std::vector<double> first;  // [kCells + 1]
  };
};

// Haar rotation; coordinates divided by norm / sqrt(head_dim), each replaced by the nearest
// centroid; the norm in bfloat16: bits + 16 / head_dim bits per coordinate.
class ScalarCodec final : public VectorCodec {
 public:
  // Throws std::invalid_argument unless 1 <= bits <= 8 and head_dim >= 4.
  ScalarCodec(std::shared_ptr<const polarquant::Rotation> rotation, int bits)
      : rotation_(std::move(rotation)),
        bits_(static_cast<std::size_t>(bits)),
        codebook_(rotation_->head_dim(), bits) {}

  std::size_t head_dim() const override { return static_cast<std::size_t>(rotation_->head_dim()); }
  std::size_t bytes_per_vector() const override { return 2 + (head_dim() * bits_ + 7) / 8; }
  double expected_relative_mse() const override { return codebook_.distortion; }

  void encode(const float* vector, std::byte* code) const override {
    const std::size_t d = head_dim();
    std::vector<float> rotated(d);
    rotation_->apply(vector, rotated.data());
    double norm2 = 0.0;
    for (const float x : rotated) norm2 += static_cast<double>(x) * static_cast<double>(x);
    const float norm = static_cast<float>(std::sqrt(norm2));
    store_norm(norm, code);
    const float inverse = norm > 0.0f ? std::sqrt(static_cast<float>(d)) / norm : 0.0f;
    std::fill(code + 2, code + bytes_per_vector(), std::byte{0});
    for (std::size_t i = 0; i < d; ++i) {
      const std::size_t index = nearest(rotated[i] * inverse);
      for (std::size_t bit = 0; bit < bits_; ++bit) {
        const std::size_t position = i * bits_ + bit;
        code[2 + position / 8] |= static_cast<std::byte>(((index >> bit) & 1u) << (position % 8));
      }
    }
  }

  void decode(const std::byte* code, float* vector) const override {
    const std::size_t d = head_dim();
    const float scale = load_norm(code) / std::sqrt(static_cast<float>(d));
    std::vector<float> rotated(d);
    for (std::size_t i = 0; i < d; ++i) {
      std::size_t index = 0;
      for (std::size_t bit = 0; bit < bits_; ++bit) {
        const std::size_t position = i * bits_ + bit;
        index |= ((static_cast<std::size_t>(code[2 + position / 8]) >> (position % 8)) & 1u) << bit;
      }
      rotated[i] = scale * codebook_.centroids[index];
    }
    rotation_->apply_transpose(rotated.data(), vector);
  }

 private:
  std::size_t nearest(float x) const {
    const std::vector<float>& theta = codebook_.centroids;
    std::size_t index = 0;
    while (index + 1 < theta.size() && x >= 0.5f * (theta[index] + theta[index + 1])) ++index;
    return index;
  }

  static void store_norm(float norm, std::byte* code) {
    std::uint32_t bits;
    std::memcpy(&bits, &norm, sizeof bits);
    const std::uint16_t top =
        static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    std::memcpy(code, &top, sizeof top);
  }
  static float load_norm(const std::byte* code) {
    std::uint16_t top;
    std::memcpy(&top, code, sizeof top);
    const std::uint32_t bits = static_cast<std::uint32_t>(top) << 16;
    float norm;
    std::memcpy(&norm, &bits, sizeof norm);
    return norm;
  }

  std::shared_ptr<const polarquant::Rotation> rotation_;
  std::size_t bits_;
  ScalarCodebook codebook_;
};

}  // namespace polarquant_baselines
