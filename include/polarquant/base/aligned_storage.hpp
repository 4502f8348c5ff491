// Arrays aligned to 64 bytes on the heap, for tables that kernels read as registers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>

#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// A growing array of a plain struct, aligned to 64 bytes. It aligns its memory itself, and so is
// not over-aligned: standard containers and make_shared of clang 14 with libstdc++ 12 in C++23 give
// over-aligned types less than they ask for (llvm issue 55638).
template <typename T>
class AlignedVector {
 public:
  static constexpr std::size_t kAlignment = 64;
  static_assert(std::is_trivially_copyable_v<T>, "elements are moved by memcpy");
  static_assert(alignof(T) <= kAlignment, "elements are aligned to 64 bytes at most");

  AlignedVector() = default;
  explicit AlignedVector(std::size_t size) { resize(size); }
  AlignedVector(const AlignedVector& other) { assign(other); }
  AlignedVector(AlignedVector&& other) noexcept
      : memory_(std::move(other.memory_)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        capacity_(std::exchange(other.capacity_, 0)) {}
  AlignedVector& operator=(AlignedVector other) noexcept {
    memory_.swap(other.memory_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
    return *this;
  }
  ~AlignedVector() = default;

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }

  void push_back(const T& element) {
    const T copy = element;  // It may lie in here.
    if (size_ == capacity_) reserve(capacity_ == 0 ? 4 : 2 * capacity_);
    std::memcpy(static_cast<void*>(data_ + size_), &copy, sizeof copy);
    ++size_;
  }

  // New elements are zero bytes.
  void resize(std::size_t size) {
    if (size > capacity_) reserve(size);
    if (size > size_) std::memset(static_cast<void*>(data_ + size_), 0, (size - size_) * sizeof(T));
    size_ = size;
  }

 private:
  void assign(const AlignedVector& other) {
    if (other.size_ == 0) return;
    reserve(other.size_);
    std::memcpy(static_cast<void*>(data_), other.data_, other.size_ * sizeof(T));
    size_ = other.size_;
  }

  void reserve(std::size_t capacity) {
    std::unique_ptr<std::byte[]> memory(new std::byte[capacity * sizeof(T) + kAlignment - 1]);
    const std::size_t misalignment = reinterpret_cast<std::uintptr_t>(memory.get()) % kAlignment;
    T* const data = reinterpret_cast<T*>(memory.get() + (kAlignment - misalignment) % kAlignment);
    if (size_ > 0) std::memcpy(static_cast<void*>(data), data_, size_ * sizeof(T));
    memory_ = std::move(memory);
    data_ = data;
    capacity_ = capacity;
  }

  std::unique_ptr<std::byte[]> memory_;
  T* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
