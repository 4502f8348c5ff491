#include "polarquant/base/aligned_storage.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "polarquant/codec.hpp"
#include "polarquant/codes/codec_tables.hpp"

namespace {

using polarquant::detail::AlignedVector;

struct alignas(64) Register {
  std::int32_t values[16];
};

static_assert(alignof(AlignedVector<Register>) <= alignof(std::max_align_t),
              "not over-aligned itself");
static_assert(alignof(polarquant::detail::CodecTables) <= alignof(std::max_align_t),
              "may be a member of what make_shared makes");
static_assert(alignof(polarquant::PolarCodec<float>) <= alignof(std::max_align_t),
              "may be a member of what make_shared makes");

bool is_aligned(const AlignedVector<Register>& vector) {
  return reinterpret_cast<std::uintptr_t>(vector.data()) % 64 == 0;
}

AlignedVector<Register> counted(int size) {
  AlignedVector<Register> vector;
  for (int i = 0; i < size; ++i) {
    Register element = {};
    element.values[3] = i;
    vector.push_back(element);
  }
  return vector;
}

void expect_counted(const AlignedVector<Register>& vector, int size) {
  EXPECT_TRUE(is_aligned(vector));
  ASSERT_EQ(vector.size(), static_cast<std::size_t>(size));
  for (int i = 0; i < size; ++i) EXPECT_EQ(vector[static_cast<std::size_t>(i)].values[3], i);
}

TEST(AlignedVectorTest, KeepsItsElementsWhileItGrows) {
  for (const int size : {1, 4, 5, 100}) expect_counted(counted(size), size);
}

TEST(AlignedVectorTest, CopiesAreAlignedAndOfTheirOwn) {
  std::vector<std::unique_ptr<char[]>> between;  // Shifts what the heap gives.
  AlignedVector<Register> original = counted(7);
  for (std::size_t i = 1; i < 40; ++i) {
    between.push_back(std::make_unique<char[]>(8 * i + 1));
    AlignedVector<Register> copy = original;
    expect_counted(copy, 7);
    copy[3].values[3] = -1;
    expect_counted(original, 7);
  }
}

TEST(AlignedVectorTest, MovesAndAssigns) {
  AlignedVector<Register> from = counted(7);
  AlignedVector<Register> to = std::move(from);
  expect_counted(to, 7);
  AlignedVector<Register> other = counted(2);
  other = to;
  expect_counted(other, 7);
  expect_counted(to, 7);
  other = AlignedVector<Register>();
  EXPECT_TRUE(other.empty());
}

TEST(AlignedVectorTest, NewElementsAreZero) {
  AlignedVector<Register> vector = counted(2);
  vector.resize(9);
  for (std::size_t i = 2; i < 9; ++i) EXPECT_EQ(vector[i].values[3], 0);
}

TEST(AlignedVectorTest, AnElementOfItsOwnCanBeAppended) {
  AlignedVector<Register> vector = counted(4);
  vector.push_back(vector[2]);
  EXPECT_EQ(vector[4].values[3], 2);
}

}  // namespace
