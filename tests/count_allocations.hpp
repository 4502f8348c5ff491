// Counts what a test program allocates with operator new. Replaces the global operators: to be
// included by the one source file of a test program, never by another header.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace polarquant_test {

inline std::atomic<std::size_t> num_allocations{0};

inline void* counted_allocation(std::size_t size, std::size_t alignment) {
  num_allocations.fetch_add(1);
  // aligned_alloc wants a multiple of the alignment.
  void* const memory = std::aligned_alloc(alignment, (size / alignment + 1) * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

// Allocations while `call` runs.
template <typename Call>
std::size_t count_allocations(Call&& call) {
  const std::size_t before = num_allocations.load();
  call();
  return num_allocations.load() - before;
}

}  // namespace polarquant_test

#define POLARQUANT_TEST_NOINLINE __attribute__((noinline))

POLARQUANT_TEST_NOINLINE void* operator new(std::size_t size) {
  return polarquant_test::counted_allocation(size, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
POLARQUANT_TEST_NOINLINE void* operator new[](std::size_t size) {
  return polarquant_test::counted_allocation(size, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
POLARQUANT_TEST_NOINLINE void* operator new(std::size_t size, std::align_val_t alignment) {
  return polarquant_test::counted_allocation(size, static_cast<std::size_t>(alignment));
}
POLARQUANT_TEST_NOINLINE void* operator new[](std::size_t size, std::align_val_t alignment) {
  return polarquant_test::counted_allocation(size, static_cast<std::size_t>(alignment));
}
POLARQUANT_TEST_NOINLINE void operator delete(void* memory) noexcept { std::free(memory); }
POLARQUANT_TEST_NOINLINE void operator delete[](void* memory) noexcept { std::free(memory); }
POLARQUANT_TEST_NOINLINE void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
POLARQUANT_TEST_NOINLINE void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}
POLARQUANT_TEST_NOINLINE void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
POLARQUANT_TEST_NOINLINE void operator delete[](void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
POLARQUANT_TEST_NOINLINE void operator delete(void* memory, std::size_t,
                                              std::align_val_t) noexcept {
  std::free(memory);
}
POLARQUANT_TEST_NOINLINE void operator delete[](void* memory, std::size_t,
                                                std::align_val_t) noexcept {
  std::free(memory);
}
