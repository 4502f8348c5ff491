// A checksum for large data, at the speed of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// 64 bits over a sequence of bytes, the same however it is cut into calls of add. Eight lanes take
// in a little-endian 64-bit word each: x = (lane ^ word) * kFactor, lane = x ^ (x >> 32); the last
// block is filled with zeros. The lanes are folded into the number of bytes in the same way.
//
// Every step is a bijection of the lane for a given word and of the word for a given lane. So a
// change within one aligned word, such as one flipped byte, always changes the sum; other changes
// do so but for a chance of about 2^-64. No defence against intent.
class Checksum {
 public:
  void add(const void* data, std::size_t num_bytes) noexcept {
    const std::byte* bytes = static_cast<const std::byte*>(data);
    num_bytes_ += num_bytes;
    if (num_pending_ > 0) {
      const std::size_t space = kBlockBytes - num_pending_;
      const std::size_t count = num_bytes < space ? num_bytes : space;
      std::memcpy(pending_ + num_pending_, bytes, count);
      num_pending_ += count;
      bytes += count;
      num_bytes -= count;
      if (num_pending_ < kBlockBytes) return;
      add_blocks(pending_, 1, lanes_);
    }
    add_blocks(bytes, num_bytes / kBlockBytes, lanes_);
    num_pending_ = num_bytes % kBlockBytes;
    if (num_pending_ > 0) std::memcpy(pending_, bytes + num_bytes - num_pending_, num_pending_);
  }

  std::uint64_t value() const noexcept {
    std::uint64_t lanes[kNumLanes];
    std::memcpy(lanes, lanes_, sizeof lanes);
    std::byte last[kBlockBytes] = {};
    if (num_pending_ > 0) {
      std::memcpy(last, pending_, num_pending_);
      add_blocks(last, 1, lanes);
    }
    std::uint64_t sum = num_bytes_;
    for (const std::uint64_t lane : lanes) sum = mix(sum, lane);
    return sum;
  }

 private:
  static constexpr std::size_t kNumLanes = 8;
  static constexpr std::size_t kBlockBytes = 8 * kNumLanes;
  static constexpr std::uint64_t kFactor = 0x9e3779b97f4a7c15ULL;  // 2^64 / golden ratio, odd

  static std::uint64_t mix(std::uint64_t lane, std::uint64_t word) noexcept {
    // The product takes a bit up, the shift takes it down again. Without the shift a change of the
    // highest bit would stay one, and that of the next word would cancel it.
    const std::uint64_t x = (lane ^ word) * kFactor;
    return x ^ (x >> 32);
  }

  static void add_blocks(const std::byte* blocks, std::size_t count,
                         std::uint64_t* lanes) noexcept {
    std::uint64_t own[kNumLanes];  // in registers, whatever `blocks` may alias
    std::memcpy(own, lanes, sizeof own);
    for (std::size_t block = 0; block < count; ++block) {
      for (std::size_t i = 0; i < kNumLanes; ++i) {
        std::uint64_t word;
        std::memcpy(&word, blocks + block * kBlockBytes + 8 * i, sizeof word);
        own[i] = mix(own[i], word);
      }
    }
    std::memcpy(lanes, own, sizeof own);
  }

  std::uint64_t lanes_[kNumLanes] = {1, 2, 3, 4, 5, 6, 7, 8};
  std::byte pending_[kBlockBytes];
  std::size_t num_pending_ = 0;
  std::uint64_t num_bytes_ = 0;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
