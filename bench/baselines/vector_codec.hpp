// What all baselines for one vector have in common.
#pragma once

#include <cstddef>

namespace polarquant_baselines {

// Encodes one key or value of head_dim() floats to bytes_per_vector() bytes, and back. Immutable
// after construction; const calls are safe from many threads at once.
class VectorCodec {
 public:
  virtual ~VectorCodec() = default;

  virtual std::size_t head_dim() const = 0;
  virtual std::size_t bytes_per_vector() const = 0;

  // E||x - x'||^2 / ||x||^2 for x in a random direction, or NaN if there is no closed form.
  virtual double expected_relative_mse() const = 0;

  // vector: [head_dim()], finite. code: [bytes_per_vector()].
  virtual void encode(const float* vector, std::byte* code) const = 0;
  virtual void decode(const std::byte* code, float* vector) const = 0;

  // What is stored for each coordinate, on average.
  double bits_per_coordinate() const {
    return 8.0 * static_cast<double>(bytes_per_vector()) / static_cast<double>(head_dim());
  }
};

}  // namespace polarquant_baselines
