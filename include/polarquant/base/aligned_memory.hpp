// Working memory of calls that allocate nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// Hands out pieces of the caller's scratch memory, each aligned to 64 bytes. With a null base it
// only counts, so that the same sequence of calls tells the size.
class ScratchArena {
 public:
  static constexpr std::size_t kAlignment = 64;

  explicit ScratchArena(std::byte* base) : base_(base) {}

  template <typename T>
  T* take(std::size_t count) {
    std::byte* const piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<T*>(piece);
  }

  std::size_t used() const { return used_; }

  static bool is_aligned(const void* memory) {
    return reinterpret_cast<std::uintptr_t>(memory) % kAlignment == 0;
  }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

// Memory for one call, aligned for ScratchArena.
class ScratchBuffer {
 public:
  explicit ScratchBuffer(std::size_t num_bytes) : storage_(num_bytes + ScratchArena::kAlignment) {}

  std::byte* data() {
    const std::size_t misalignment =
        reinterpret_cast<std::uintptr_t>(storage_.data()) % ScratchArena::kAlignment;
    return storage_.data() + (misalignment == 0 ? 0 : ScratchArena::kAlignment - misalignment);
  }

 private:
  std::vector<std::byte> storage_;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
