// Rows that are kept as they came.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/kernels/kernel_table.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// The largest finite number of a type.
inline double largest_of(FloatType type) {
  switch (type) {
    case FloatType::kBFloat16:
      return 0x1.fep127;
    case FloatType::kFloat16:
      return 65504.0;
    case FloatType::kFloat32:
      return (std::numeric_limits<float>::max)();
    case FloatType::kFloat64:
      break;
  }
  return (std::numeric_limits<double>::max)();
}

// A ring of rows of head_dim numbers of one type, row-major, each padded with zeros to width()
// numbers; index i is at place i modulo capacity(). Copies are deep.
class ExactRows {
 public:
  ExactRows(std::size_t head_dim, FloatType type)
      : head_dim_(head_dim), width_(loops::padded_width(head_dim)), type_(type) {}

  ExactRows(const ExactRows& other) : ExactRows(other.head_dim_, other.type_) {
    resize(other.capacity_, 0, 0);
    if (capacity_ > 0) std::memcpy(data_.data(), other.data_.data(), memory_bytes());
  }
  ExactRows& operator=(const ExactRows& other) { return *this = ExactRows(other); }
  ExactRows(ExactRows&&) noexcept = default;
  ExactRows& operator=(ExactRows&&) noexcept = default;

  std::size_t capacity() const { return capacity_; }
  std::size_t width() const { return width_; }
  FloatType type() const { return type_; }
  std::size_t row_bytes() const {
    return width_ * static_cast<std::size_t>(float_type_bytes(type_));
  }
  std::size_t memory_bytes() const { return capacity_ * row_bytes(); }

  const std::byte* row(std::size_t index) const {
    return data_.data() + index % capacity_ * row_bytes();
  }

  // Row `index` to be written as it is to be stored: head_dim numbers, the padding left alone.
  std::byte* mutable_row(std::size_t index) {
    return data_.data() + index % capacity_ * row_bytes();
  }

  // Of the rows from `index` on, how many lie one behind the other.
  std::size_t run_length(std::size_t index) const { return capacity_ - index % capacity_; }

  // Makes room for `capacity` rows in all; rows first .. first + count - 1 keep their contents.
  void resize(std::size_t capacity, std::size_t first, std::size_t count) {
    if (capacity == capacity_) return;
    AlignedBuffer larger = capacity == 0 ? AlignedBuffer() : AlignedBuffer(capacity * row_bytes());
    for (std::size_t index = first; index < first + count; ++index) {
      std::memcpy(larger.data() + index % capacity * row_bytes(), row(index), row_bytes());
    }
    data_ = std::move(larger);
    capacity_ = capacity;
  }

  // Keeps `source`, [head_dim], rounded to type(). Each entry is within the type's range.
  template <typename T>
  void store(std::size_t index, const T* source) noexcept {
    std::byte* const target = mutable_row(index);
    switch (type_) {
      case FloatType::kBFloat16:
        return store_as<std::uint16_t>(
            source, target, [](T x) { return float_to_bfloat16(static_cast<float>(x)); });
      case FloatType::kFloat16:
        return store_as<std::uint16_t>(source, target,
                                       [](T x) { return float_to_float16(static_cast<float>(x)); });
      case FloatType::kFloat32:
        return store_as<float>(source, target, [](T x) { return static_cast<float>(x); });
      case FloatType::kFloat64:
        return store_as<double>(source, target, [](T x) { return static_cast<double>(x); });
    }
  }

  // Row `index` to target, [width()].
  template <typename A>
  void load(std::size_t index, const VectorKernels<A>& vectors, A* target) const noexcept {
    vectors.expand(type_, row(index), width_, target);
  }

 private:
  template <typename Stored, typename T, typename Convert>
  void store_as(const T* source, std::byte* target, const Convert& convert) noexcept {
    for (std::size_t i = 0; i < head_dim_; ++i) {
      const Stored number = convert(source[i]);
      std::memcpy(target + i * sizeof number, &number, sizeof number);
    }
  }

  std::size_t head_dim_;
  std::size_t width_;
  FloatType type_;
  std::size_t capacity_ = 0;
  AlignedBuffer data_;  // its zeros are the padding, which is never written
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
