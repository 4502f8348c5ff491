// Memory aligned to a cache line, and working memory of calls that allocate nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "polarquant/base/error.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// What tiles, prepared queries and scratch are aligned to.
inline constexpr std::size_t kAlignment = 64;

// Zeroed memory of a fixed size, aligned to kAlignment: for scratch, tiles, prepared queries.
// Moves, does not copy. Throws what operator new throws.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t num_bytes)
      : data_(static_cast<std::byte*>(::operator new (num_bytes, std::align_val_t{kAlignment}))),
        size_(num_bytes) {
    std::memset(data_.get(), 0, num_bytes);
  }
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    data_ = std::move(other.data_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  std::size_t size() const { return size_; }  // bytes

  // The memory as numbers.
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(std::byte* data) const {
      ::operator delete (data, std::align_val_t{kAlignment});
    }
  };

  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_ = 0;
};

namespace detail {

inline bool is_aligned(const void* memory) {
  return reinterpret_cast<std::uintptr_t>(memory) % kAlignment == 0;
}

// Hands out pieces of the caller's scratch memory, each aligned to kAlignment. Without a base it
// only counts, so that the same sequence of calls tells the size.
class ScratchArena {
 public:
  explicit ScratchArena(std::byte* base) : base_(base) {
    POLARQUANT_DCHECK(is_aligned(base) && "scratch memory must be aligned to 64 bytes");
  }

  template <typename T>
  T* take(std::size_t count) {
    std::byte* const piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<T*>(piece);
  }

  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
