#include "polarquant/method/bit_allocation.hpp"

#include <gtest/gtest.h>

namespace {

using polarquant::PolarShape;
using polarquant::detail::AngleBits;
using polarquant::detail::BitAllocator;

constexpr PolarShape kShape = {80, 6};  // 64 + 16: one join

int bits_of(const AngleBits& bits) {
  int total = bits.join_bits[0];
  for (int level = 1; level <= kShape.levels; ++level) {
    total += kShape.num_angles(level) * bits.level_bits[static_cast<std::size_t>(level - 1)];
  }
  return total;
}

TEST(BitAllocatorTest, SpendsExactlyWhatIsAsked) {
  const BitAllocator allocator(kShape, 250);
  for (const int spent : {40, 41, 97, 250}) {
    ASSERT_GT(allocator.rho_of(spent), 0.0);
    EXPECT_EQ(bits_of(allocator.allocation_of(spent)), spent);
  }
}

TEST(BitAllocatorTest, ALargerTableGivesTheSameAllocations) {
  const BitAllocator small(kShape, 100);
  const BitAllocator large(kShape, 300);
  for (int spent = 0; spent <= 100; ++spent) {
    EXPECT_EQ(small.rho_of(spent), large.rho_of(spent));
    if (small.rho_of(spent) < 0.0) continue;
    EXPECT_EQ(small.allocation_of(spent).level_bits, large.allocation_of(spent).level_bits);
    EXPECT_EQ(small.allocation_of(spent).join_bits, large.allocation_of(spent).join_bits);
  }
}

TEST(BitAllocatorTest, LessThanABitForEachFirstAngleCannotBeSpent) {
  const BitAllocator allocator(kShape, 60);
  EXPECT_EQ(allocator.best_spending(39), -1);
  EXPECT_LT(allocator.rho_of(39), 0.0);
  EXPECT_EQ(allocator.best_spending(40), 40);
}

TEST(BitAllocatorTest, AllAnglesAtTheirMostAreTheMostBits) {
  const int most = BitAllocator::most_bits(kShape);
  EXPECT_EQ(most, 40 * 8 + 6 * (20 + 10 + 5 + 2 + 1) + 6);
  const BitAllocator allocator(kShape, most + 20);
  EXPECT_EQ(allocator.best_spending(most + 20), most);
  EXPECT_EQ(bits_of(allocator.allocation_of(most)), most);
}

}  // namespace
