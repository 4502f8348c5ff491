#include "polarquant/base/aligned_memory.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "kv_cache_test_util.hpp"

namespace {

using polarquant::AlignedBuffer;
using polarquant::kAlignment;
using polarquant::detail::is_aligned;
using polarquant::detail::ScratchArena;

TEST(AlignedBufferTest, IsAlignedAndZeroed) {
  for (const std::size_t num_bytes : {0u, 1u, 63u, 64u, 1000u}) {
    const AlignedBuffer buffer(num_bytes);
    EXPECT_EQ(buffer.size(), num_bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0u);
    EXPECT_TRUE(std::all_of(buffer.data(), buffer.data() + num_bytes,
                            [](std::byte byte) { return byte == std::byte{0}; }));
  }
}

TEST(AlignedBufferTest, WithoutASizeHoldsNothing) {
  const AlignedBuffer buffer;
  EXPECT_EQ(buffer.data(), nullptr);
  EXPECT_EQ(buffer.size(), 0u);
}

TEST(AlignedBufferTest, MovesItsMemoryAndIsLeftWithNone) {
  AlignedBuffer first(100);
  std::byte* const memory = first.data();
  AlignedBuffer second(std::move(first));
  EXPECT_EQ(second.data(), memory);
  EXPECT_EQ(second.size(), 100u);
  EXPECT_EQ(first.size(), 0u);
  AlignedBuffer third(7);
  third = std::move(second);
  EXPECT_EQ(third.data(), memory);
  EXPECT_EQ(third.size(), 100u);
  EXPECT_EQ(second.size(), 0u);
  static_assert(!std::is_copy_constructible_v<AlignedBuffer>);
  static_assert(!std::is_copy_assignable_v<AlignedBuffer>);
}

TEST(AlignedBufferTest, NumbersAreItsBytes) {
  AlignedBuffer buffer(4 * sizeof(float));
  EXPECT_EQ(static_cast<void*>(buffer.as<float>()), buffer.data());
  buffer.as<std::uint8_t>()[5] = 9;
  EXPECT_EQ(buffer.data()[5], std::byte{9});
}

TEST(ScratchArenaTest, PiecesAreAlignedAndDoNotOverlap) {
  AlignedBuffer buffer(1000);
  ScratchArena arena(buffer.data());
  const auto* const bytes = arena.take<std::uint8_t>(3);
  const auto* const doubles = arena.take<double>(9);
  const auto* const floats = arena.take<float>(1);
  EXPECT_TRUE(is_aligned(bytes));
  EXPECT_FALSE(is_aligned(bytes + kAlignment / 2));
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

// Memory aligned to less works with some kernels and crashes with others: builds without NDEBUG
// name the rule.
TEST(ScratchDeathTest, MisalignedScratchIsNamed) {
#if defined(NDEBUG) || !GTEST_HAS_DEATH_TEST
  GTEST_SKIP() << "checked where NDEBUG is not defined";
#else
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const polarquant::KVCache<float> cache = polarquant_test::filled_cache<float>(3);
  const auto queries = polarquant_test::random_queries<float>(cache.config(), 1);
  polarquant::RowMatrix<float> output(1, polarquant_test::kOutputColumns);
  AlignedBuffer scratch(cache.scratch_bytes() + 64);
  const auto attend = [&](std::size_t offset) {
    cache.attend({queries.data(), 1, queries.cols()}, {output.data(), 1, output.cols()},
                 scratch.data() + offset);
  };
  attend(0);
  EXPECT_EQ(output, cache.attend(queries));
  for (const std::size_t offset : {8u, 16u, 32u}) {
    EXPECT_DEATH(attend(offset), "scratch memory must be aligned to 64 bytes");
  }
  const auto& codec = cache.codec()->keys();
  AlignedBuffer prepared(codec.prepared_size() * sizeof(float) + 64);
  EXPECT_DEATH(codec.prepare_query(queries.data(), prepared.as<float>() + 4, scratch.data()),
               "prepared queries must be aligned to 64");
#endif
}

}  // namespace
