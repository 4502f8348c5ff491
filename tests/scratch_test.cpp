#include "polarquant/base/aligned_memory.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>

namespace {

using polarquant::detail::ScratchArena;
using polarquant::AlignedBuffer;

TEST(ScratchArenaTest, PiecesAreAlignedAndDoNotOverlap) {
  ScratchBuffer buffer(1000);
  ScratchArena arena(buffer.data());
  const auto* const bytes = arena.take<std::uint8_t>(3);
  const auto* const doubles = arena.take<double>(9);
  const auto* const floats = arena.take<float>(1);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(bytes) % 64, 0u);
  EXPECT_EQ(static_cast<const void*>(doubles), bytes + 64);
  EXPECT_EQ(static_cast<const void*>(floats), bytes + 64 + 128);
  EXPECT_EQ(arena.used(), 64u + 128u + 64u);
}

TEST(ScratchArenaTest, WithoutMemoryItCounts) {
  ScratchArena arena(nullptr);
  EXPECT_EQ(arena.take<float>(17), nullptr);
  EXPECT_EQ(arena.take<float>(1), nullptr);
  EXPECT_EQ(arena.used(), 128u + 64u);
}

TEST(ScratchBufferTest, IsAligned) {
  for (const std::size_t num_bytes : {0u, 1u, 63u, 64u, 1000u}) {
    ScratchBuffer buffer(num_bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0u);
  }
}

}  // namespace
