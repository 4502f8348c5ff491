#include "polarquant/kernels/tiles/fixed_common.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "polarquant/codes/codec_tables.hpp"
#include "test_util.hpp"
#include "tile_kernels_test_util.hpp"

namespace {

using polarquant::PolarFormat;
using polarquant::detail::CodecTables;
using polarquant::detail::FixedScratch;
using polarquant::detail::kDither;
using polarquant::detail::kRun;
using polarquant::detail::Lanes;
using polarquant_test::gaussian_vector;
using polarquant_test::name_of;
using polarquant_test::tile_formats;

TEST(FixedCommonTest, TheScratchOfEveryFormatHoldsItsPieces) {
  for (const PolarFormat& format : tile_formats()) {
    const CodecTables tables(format, offline_codebooks(format));
    polarquant::AlignedBuffer buffer(tables.kernel_scratch_bytes());
    const FixedScratch scratch(tables.tile_tables, buffer.data());
    const Lanes* const end = reinterpret_cast<const Lanes*>(buffer.data()) +
                             tables.kernel_scratch_bytes() / sizeof(Lanes);
    EXPECT_LE(scratch.sums + 2 * polarquant::detail::TileTables::kMaxRows * kRun, end)
        << name_of(format);
    EXPECT_LE(scratch.weights + tables.tile_tables.num_blocks * kRun, scratch.vectors);
    EXPECT_LE(scratch.vectors + 2 * 16 * kRun, scratch.sums);
  }
}

// A query of norm 32000 in pairs of coordinates half a vector apart, and its scale beside it.
TEST(FixedCommonTest, AQueryStandsInPairsOfBlocks) {
  for (const int d : {64, 80}) {  // An even and an odd number of blocks.
    const PolarFormat format = PolarFormat::paper(d);
    const CodecTables tables(format, offline_codebooks(format));
    const std::size_t half = 16 * tables.tile_tables.num_pairs;
    const std::vector<float> query = gaussian_vector<float>(static_cast<std::size_t>(d), 1);
    std::vector<float> prepared(tables.prepared_size());
    const float scale = pair_query(tables, query.data(), prepared.data());
    EXPECT_FLOAT_EQ(prepared[0], 1.0f / scale);
    double norm2 = 0.0;
    const std::int16_t* const pairs = reinterpret_cast<const std::int16_t*>(prepared.data() + 16);
    for (std::size_t i = 0; i < half; ++i) {
      EXPECT_NEAR(pairs[2 * i], query[i] * scale, 0.51);
      const float odd = half + i < query.size() ? query[half + i] : 0.0f;
      EXPECT_NEAR(pairs[2 * i + 1], odd * scale, 0.51);
      norm2 += std::pow(query[i] * scale, 2) + std::pow(odd * scale, 2);
    }
    EXPECT_NEAR(std::sqrt(norm2), 32000.0, 1.0);
  }
}

TEST(FixedCommonTest, AZeroQueryHasNoScale) {
  const PolarFormat format = PolarFormat::paper(64);
  const CodecTables tables(format, offline_codebooks(format));
  const std::vector<float> query(64, 0.0f);
  std::vector<float> prepared(tables.prepared_size(), 1.0f);
  EXPECT_EQ(pair_query(tables, query.data(), prepared.data()), 0.0f);
  EXPECT_EQ(prepared[0], 0.0f);
}

// Whatever the weights' fraction of a step, as many of them round up as should: within 2 of 512,
// and within 2 of any 32 that follow each other.
TEST(FixedCommonTest, DitheredWeightsAreRightOnAverage) {
  const std::size_t count = std::size(kDither.values);
  ASSERT_EQ(count, kRun * 32);
  for (const float fraction : {0.01f, 0.1f, 0.3f, 0.5f, 0.77f, 0.99f}) {
    double all = 0.0;
    for (std::size_t first = 0; first < count; first += 32) {
      double part = 0.0;
      for (std::size_t i = first; i < first + 32; ++i) {
        part += std::nearbyint(fraction + kDither.values[i]);
      }
      EXPECT_NEAR(part, 32.0 * fraction, 2.0) << fraction;
      all += part;
    }
    EXPECT_NEAR(all, static_cast<double>(count) * fraction, 2.0) << fraction;
  }
}

}  // namespace
