// The kernels on tiles in float against the scalar loops, which are the specification.
#include "polarquant/kernels/tiles/avx512_float.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "tile_kernels_test_util.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using namespace polarquant_test;

using Avx512FloatTest = polarquant_test::FloatTilesFixture;

// Scores to 1e-6 of ||q|| ||k||, outputs to 1e-6 of ||v||; both sides sum in float.
void expect_equal_attention(const KVCacheConfig& config, Index num_tokens, Index num_queries) {
  const Index key_dim = config.key_format.head_dim();
  const Index value_dim = config.value_format.head_dim();
  KVCache<float> scalar = cache_with<float>(Isa::kScalar, config);
  KVCache<float> tiles = cache_with<float>(Isa::kAvx512, config);
  ASSERT_STREQ(scalar.kernel_name(), "scalar loops");
  ASSERT_STREQ(tiles.kernel_name(), "avx512 tiles") << config.key_format.description();
  ASSERT_STREQ(tiles.codec()->values().kernel_name(), "avx512 tiles")
      << config.value_format.description();
  const RowMatrix<float> keys =
      gaussian_matrix<float>(num_tokens, config.num_kv_heads * key_dim, 1);
  const RowMatrix<float> values =
      gaussian_matrix<float>(num_tokens, config.num_kv_heads * value_dim, 2);
  const RowMatrix<float> queries =
      gaussian_matrix<float>(num_queries, config.num_query_heads * key_dim, 3);
  scalar.append(keys, values);
  tiles.append(keys, values);
  const RowMatrix<float> output = scalar.attend(queries);
  // |q| |k| is about key_dim for Gaussian vectors, and |v| the root of value_dim.
  EXPECT_LE(
      (tiles.attention_scores(queries) - scalar.attention_scores(queries)).cwiseAbs().maxCoeff(),
      1e-6 * static_cast<double>(key_dim))
      << config.key_format.description() << ", " << num_tokens << " tokens";
  EXPECT_LE((tiles.attend(queries) - output).cwiseAbs().maxCoeff(),
            1e-6 * std::sqrt(static_cast<double>(value_dim)))
      << config.value_format.description() << ", " << num_tokens << " tokens";
  EXPECT_GT(output.cwiseAbs().maxCoeff(), 0.01);
}

TEST_F(Avx512FloatTest, EveryFormatGivesWhatTheScalarLoopsGive) {
  for (const PolarFormat& format : tile_formats()) {
    expect_equal_attention(tile_config(format, format), 75, 3);
  }
}

TEST_F(Avx512FloatTest, KeysAndValuesOfDifferentFormatsGiveWhatTheScalarLoopsGive) {
  const std::vector<PolarFormat> formats = tile_formats();
  for (std::size_t i = 0; i < formats.size(); ++i) {
    expect_equal_attention(tile_config(formats[i], formats[(i + 7) % formats.size()]), 40, 2);
  }
}

// 31 bytes with a radius per block; 31 with joins; 37 with tables of 32 entries; 62, even.
std::vector<PolarFormat> formats_of_tails() {
  const std::vector<PolarFormat> formats = {
      PolarFormat::paper(64), PolarFormat::full_depth(96, 2.625),
      PolarFormat::full_depth(64, 4.625), PolarFormat::paper(128)};
  EXPECT_EQ(formats[0].bytes_per_vector(), 31u);
  EXPECT_EQ(formats[1].bytes_per_vector(), 31u);
  EXPECT_EQ(formats[2].bytes_per_vector(), 37u);
  EXPECT_EQ(formats[3].bytes_per_vector(), 62u);
  return formats;
}

TEST_F(Avx512FloatTest, EveryTailOfATileGivesWhatTheScalarLoopsGive) {
  for (const PolarFormat& format : formats_of_tails()) {
    for (Index num_tokens = 1; num_tokens <= 33; ++num_tokens) {
      expect_equal_attention(tile_config(format, format), num_tokens, 1 + num_tokens % 3);
    }
  }
}

TEST_F(Avx512FloatTest, EveryEndOfAPageGivesWhatTheScalarLoopsGive) {
  for (const PolarFormat& format : formats_of_tails()) {
    for (const Index num_tokens :
         {63, 64, 65, 479, 480, 481, 511, 512, 513, 544, 1023, 1024, 1025}) {
      expect_equal_attention(tile_config(format, format), num_tokens, 1 + num_tokens % 3);
    }
  }
}

TEST_F(Avx512FloatTest, EveryGroupSizeGivesWhatTheScalarLoopsGive) {
  for (const PolarFormat& format : formats_of_tails()) {
    for (const int group_size : {1, 2, 3, 4, 7, 8}) {
      for (const Index num_queries : {1, 3}) {
        KVCacheConfig config = tile_config(format, format);
        config.num_kv_heads = 2;
        config.num_query_heads = 2 * group_size;
        expect_equal_attention(config, 550, num_queries);
      }
    }
  }
}

// The last row of an odd code has bytes, not words. AddressSanitizer sees a load behind the tile.
TEST_F(Avx512FloatTest, NothingBehindATileIsTouched) {
  for (const Arithmetic arithmetic : {Arithmetic::kExact, Arithmetic::kFixedPoint}) {
    for (const PolarFormat& format : tile_formats()) {
      const std::size_t d = static_cast<std::size_t>(format.head_dim);
      const PolarCodec<float> codec(format, make_rotation(RotationKind::kHadamard, format.head_dim),
                                    arithmetic, Isa::kAvx512);
      GuardedBytes tile(polarquant::tile_bytes(codec.bytes_per_vector()));
      GuardedBytes scratch(codec.scratch_bytes());
      GuardedBytes prepared(codec.prepared_size() * sizeof(float));
      GuardedBytes scores(kTileTokens * sizeof(float));
      GuardedBytes sums(kTileTokens * d * sizeof(float));
      GuardedBytes values(kTileTokens * d * sizeof(float));
      GuardedBytes radii(kTileTokens * d * sizeof(float));
      GuardedBytes indices(kTileTokens * d);
      GuardedBytes kernel(codec.tables().kernel_scratch_bytes());
      const std::vector<float> rows = gaussian_vector<float>(kTileTokens * d, 1);
      EXPECT_EQ(codec.encode_tile({rows.data(), kTileTokens, d}, 0, tile.data(), scratch.data())
                    .num_encoded,
                kTileTokens);
      float* const query = reinterpret_cast<float*>(prepared.data());
      float* const weights = reinterpret_cast<float*>(scores.data());
      float* const sum = reinterpret_cast<float*>(sums.data());
      const polarquant::detail::loops::TileScratch<float> work = {
          reinterpret_cast<float*>(values.data()), reinterpret_cast<float*>(radii.data()),
          reinterpret_cast<std::uint8_t*>(indices.data()), kernel.data()};
      codec.prepare_query(rows.data(), query, scratch.data());
      codec.kernels().score_tiles(codec.tables(), tile.data(), 1, {query, 1, codec.prepared_size()},
                                  work, {weights, 1, kTileTokens});
      codec.kernels().accumulate_tiles(codec.tables(), tile.data(), 1, {weights, 1, kTileTokens},
                                       work, {sum, 1, kTileTokens * d});
      for (GuardedBytes* const bytes :
           {&tile, &scratch, &prepared, &scores, &sums, &values, &radii, &indices, &kernel}) {
        EXPECT_TRUE(bytes->guard_is_intact()) << name_of(format);
      }
    }
  }
}

}  // namespace
