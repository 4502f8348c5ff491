// Memory of the caller's for pages, which counts what is held and can run out.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>

#include "polarquant/storage/page_pool.hpp"

namespace polarquant_test {

struct CountingMemory {
  std::size_t num_held = 0;
  std::size_t num_bytes_held = 0;
  std::size_t limit = 1000;

  polarquant::PageAllocator allocator() {
    const auto allocate = [](void* context, std::size_t num_bytes) -> void* {
      CountingMemory& self = *static_cast<CountingMemory*>(context);
      if (self.num_held == self.limit) return nullptr;
      ++self.num_held;
      self.num_bytes_held += num_bytes;
      void* const memory = ::operator new (num_bytes, std::align_val_t{64});
      std::memset(memory, 0x5a, num_bytes);
      return memory;
    };
    const auto deallocate = [](void* context, void* memory, std::size_t num_bytes) {
      CountingMemory& self = *static_cast<CountingMemory*>(context);
      --self.num_held;
      self.num_bytes_held -= num_bytes;
      ::operator delete (memory, std::align_val_t{64});
    };
    return {allocate, deallocate, this};
  }
};

}  // namespace polarquant_test
