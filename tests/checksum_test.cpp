#include "polarquant/base/checksum.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

namespace {

using polarquant::detail::Checksum;

std::vector<std::byte> some_bytes(std::size_t count) {
  std::vector<std::byte> bytes(count);
  std::uint32_t state = 1;
  for (std::byte& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::byte>(state >> 24);
  }
  return bytes;
}

std::uint64_t sum_of(const std::vector<std::byte>& bytes) {
  Checksum checksum;
  checksum.add(bytes.data(), bytes.size());
  return checksum.value();
}

TEST(ChecksumTest, DoesNotDependOnHowTheBytesAreCut) {
  const std::vector<std::byte> bytes = some_bytes(1000);
  const std::uint64_t expected = sum_of(bytes);
  for (const std::size_t piece : {1u, 7u, 63u, 64u, 65u, 999u}) {
    Checksum checksum;
    for (std::size_t first = 0; first < bytes.size(); first += piece) {
      checksum.add(bytes.data() + first, std::min(piece, bytes.size() - first));
      checksum.value();  // Asking changes nothing.
    }
    EXPECT_EQ(checksum.value(), expected) << "pieces of " << piece;
  }
}

TEST(ChecksumTest, EveryChangeOfAByteIsSeen) {
  std::vector<std::byte> bytes = some_bytes(200);
  const std::uint64_t expected = sum_of(bytes);
  for (std::byte& byte : bytes) {
    for (unsigned flip = 1; flip < 256; ++flip) {
      byte ^= static_cast<std::byte>(flip);
      EXPECT_NE(sum_of(bytes), expected);
      byte ^= static_cast<std::byte>(flip);
    }
  }
}

// Flips of top bits are where a checksum of products alone is blind.
TEST(ChecksumTest, EveryPairOfFlippedBitsIsSeen) {
  std::vector<std::byte> bytes = some_bytes(136);
  const std::uint64_t expected = sum_of(bytes);
  const auto flip = [&bytes](std::size_t bit) {
    bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
  };
  for (std::size_t first = 0; first < 8 * bytes.size(); ++first) {
    flip(first);
    for (std::size_t second = first + 1; second < 8 * bytes.size(); ++second) {
      flip(second);
      if (sum_of(bytes) == expected) ADD_FAILURE() << first << " and " << second;
      flip(second);
    }
    flip(first);
  }
}

TEST(ChecksumTest, ZerosOfEveryLengthDiffer) {
  std::set<std::uint64_t> sums;
  for (std::size_t size = 0; size < 300; ++size) sums.insert(sum_of(std::vector<std::byte>(size)));
  EXPECT_EQ(sums.size(), 300u);
}

TEST(ChecksumTest, SwappedWordsAreSeen) {
  std::vector<std::byte> bytes = some_bytes(256);
  const std::uint64_t expected = sum_of(bytes);
  for (std::size_t first = 0; first < 256; first += 8) {
    for (std::size_t second = first + 8; second < 256; second += 8) {
      std::vector<std::byte> swapped = bytes;
      std::swap_ranges(swapped.begin() + static_cast<std::ptrdiff_t>(first),
                       swapped.begin() + static_cast<std::ptrdiff_t>(first) + 8,
                       swapped.begin() + static_cast<std::ptrdiff_t>(second));
      EXPECT_NE(sum_of(swapped), expected);
    }
  }
}

// Part of the format of saved caches.
TEST(ChecksumTest, GoldenValues) {
  EXPECT_EQ(sum_of({}), 8391324214924212279u);
  EXPECT_EQ(sum_of(some_bytes(1)), 8742592646192072615u);
  EXPECT_EQ(sum_of(some_bytes(1000)), 4991855791577074724u);
}

}  // namespace
