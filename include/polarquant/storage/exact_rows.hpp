// Rows that are kept as they came.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <utility>

#include "polarquant/codec/codec.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/kernels/loops/exact.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"

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
      return std::numeric_limits<float>::max();
    case FloatType::kFloat64:
      break;
  }
  return std::numeric_limits<double>::max();
}

// A ring of rows of head_dim numbers of one type, row-major, each padded with zeros to width()
// numbers; index i is at place i modulo capacity(). Copies are deep.
class ExactRows {
 public:
  ExactRows(std::size_t head_dim, FloatType type)
      : head_dim_(head_dim),
        width_((head_dim + loops::kExactLanes - 1) / loops::kExactLanes * loops::kExactLanes),
        type_(type) {}

  ExactRows(const ExactRows& other) : ExactRows(other.head_dim_, other.type_) {
    if (other.capacity_ == 0) return;
    data_ = allocate(other.memory_bytes());
    capacity_ = other.capacity_;
    std::memcpy(data_.get(), other.data_.get(), memory_bytes());
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
    return data_.get() + index % capacity_ * row_bytes();
  }

  // Row `index` to be written as it is to be stored: head_dim numbers, the padding left alone.
  std::byte* mutable_row(std::size_t index) {
    return data_.get() + index % capacity_ * row_bytes();
  }

  // Of the rows from `index` on, how many lie one behind the other.
  std::size_t run_length(std::size_t index) const { return capacity_ - index % capacity_; }

  // Makes room for `capacity` rows in all; rows first .. first + count - 1 keep their contents.
  void resize(std::size_t capacity, std::size_t first, std::size_t count) {
    if (capacity == capacity_) return;
    Buffer larger = capacity == 0 ? Buffer() : allocate(capacity * row_bytes());
    for (std::size_t index = first; index < first + count; ++index) {
      std::memcpy(larger.get() + index % capacity * row_bytes(), row(index), row_bytes());
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

  // Row `index` to target, [head_dim], less `offset`, [head_dim] or null. work: [width()].
  template <typename T, typename A>
  void load(std::size_t index, const A* offset, T* target, A* work) const noexcept {
    loops::expand(type_, row(index), width_, work);
    for (std::size_t i = 0; offset != nullptr && i < head_dim_; ++i) work[i] -= offset[i];
    for (std::size_t i = 0; i < head_dim_; ++i) target[i] = static_cast<T>(work[i]);
  }

 private:
  template <typename Stored, typename T, typename Convert>
  void store_as(const T* source, std::byte* target, const Convert& convert) noexcept {
    for (std::size_t i = 0; i < head_dim_; ++i) {
      const Stored number = convert(source[i]);
      std::memcpy(target + i * sizeof number, &number, sizeof number);
    }
  }

  static constexpr std::align_val_t kAlignment{64};

  struct Free {
    void operator()(std::byte* data) const { ::operator delete(data, kAlignment); }
  };
  using Buffer = std::unique_ptr<std::byte, Free>;

  // Zeros: the padding is never written.
  static Buffer allocate(std::size_t num_bytes) {
    Buffer buffer(static_cast<std::byte*>(::operator new(num_bytes, kAlignment)));
    std::memset(buffer.get(), 0, num_bytes);
    return buffer;
  }

  std::size_t head_dim_;
  std::size_t width_;
  FloatType type_;
  std::size_t capacity_ = 0;
  Buffer data_;
};

// Whether a row may be kept exact now and encoded later without a failure then: its numbers are
// finite and within `type`, and its norm is at most `largest_norm`.
template <typename A, typename T>
EncodeFailure check_exact_row(const T* row, std::size_t head_dim, FloatType type,
                              double largest_norm) noexcept {
  const double largest = largest_magnitude<A>(row, head_dim);
  if (!std::isfinite(largest)) return EncodeFailure::kNotFinite;
  if (largest > largest_of(type)) return EncodeFailure::kRadiusOverflow;
  if (largest * static_cast<double>(head_dim) <= largest_norm) return EncodeFailure::kNone;
  double square = 0.0;
  for (std::size_t i = 0; i < head_dim; ++i) {
    const double share = static_cast<double>(row[i]) / largest;
    square += share * share;
  }
  return largest * std::sqrt(square) <= largest_norm ? EncodeFailure::kNone
                                                     : EncodeFailure::kRadiusOverflow;
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
