#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>

#include "polarquant/attention/scratch.hpp"
#include "polarquant/storage/config.hpp"

namespace {

using polarquant::KVCacheConfig;
using polarquant::KVCodec;
using polarquant::PolarFormat;
using polarquant::detail::AttentionScratch;

KVCacheConfig config_of(int key_dim, int value_dim) {
  KVCacheConfig config;
  config.key_format = PolarFormat::full_depth(key_dim, 3.25);
  config.value_format = PolarFormat::paper(value_dim);
  return config;
}

TEST(AttentionScratchTest, WithoutMemoryItOnlyCounts) {
  const KVCodec<float> codec(config_of(64, 64));
  const AttentionScratch<float> scratch(codec, nullptr);
  EXPECT_EQ(scratch.prepared, nullptr);
  EXPECT_GT(scratch.num_bytes, 0u);
}

TEST(AttentionScratchTest, PiecesFollowEachOtherInsideItsBytesAlignedToACacheLine) {
  const KVCodec<float> codec(config_of(80, 128));
  const std::size_t num_bytes = AttentionScratch<float>(codec, nullptr).num_bytes;
  polarquant::AlignedBuffer buffer(num_bytes);
  const AttentionScratch<float> scratch(codec, buffer.data());
  EXPECT_EQ(scratch.num_bytes, num_bytes);
  const auto place = [&buffer](const auto* piece) {
    return reinterpret_cast<const std::byte*>(piece) - buffer.data();
  };
  const std::ptrdiff_t places[] = {place(scratch.prepared),     place(scratch.weights),
                                   place(scratch.sums),         place(scratch.exact_queries),
                                   place(scratch.exact_sums),   place(scratch.exact_rows),
                                   place(scratch.codec_scratch)};
  for (std::size_t i = 0; i < std::size(places); ++i) {
    EXPECT_EQ(places[i] % 64, 0) << i;
    if (i > 0) {
      EXPECT_GT(places[i], places[i - 1]) << i;
    }
  }
  EXPECT_LT(places[std::size(places) - 1], static_cast<std::ptrdiff_t>(num_bytes));
}

}  // namespace
