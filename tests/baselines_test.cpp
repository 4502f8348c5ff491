// The baselines of bench/baselines/ are what their names say: sizes, errors against known figures,
// attention against attention in double.

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "baselines/block_codecs.hpp"
#include "baselines/block_kernels.hpp"
#include "baselines/cached_codec.hpp"
#include "baselines/exact_attention.hpp"
#include "baselines/float16.hpp"
#include "baselines/float16_cache.hpp"
#include "baselines/float16_kernels.hpp"
#include "baselines/hadamard_codec.hpp"
#include "baselines/scalar_codec.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/random.hpp"
#include "polarquant/method/rotation.hpp"

namespace polarquant_baselines {
namespace {

using namespace polarquant;

std::vector<float> gaussian_vector(Random& random, std::size_t size) {
  std::vector<float> vector(size);
  for (float& x : vector) x = static_cast<float>(random.gaussian());
  return vector;
}

RowMatrix<float> gaussian_matrix(Random& random, Eigen::Index rows, Eigen::Index columns) {
  RowMatrix<float> matrix(rows, columns);
  for (Eigen::Index i = 0; i < rows; ++i) {
    for (Eigen::Index j = 0; j < columns; ++j) {
      matrix(i, j) = static_cast<float>(random.gaussian());
    }
  }
  return matrix;
}

double relative_mse(const VectorCodec& codec, const std::vector<float>& x) {
  std::vector<std::byte> code(codec.bytes_per_vector());
  std::vector<float> decoded(x.size());
  codec.encode(x.data(), code.data());
  codec.decode(code.data(), decoded.data());
  double error = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double difference = static_cast<double>(decoded[i]) - static_cast<double>(x[i]);
    error += difference * difference;
    norm += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  return error / norm;
}

// Mean over i.i.d. Gaussian vectors.
double gaussian_mse(const VectorCodec& codec, int num_vectors) {
  Random random(11);
  double total = 0.0;
  for (int i = 0; i < num_vectors; ++i) {
    total += relative_mse(codec, gaussian_vector(random, codec.head_dim()));
  }
  return total / num_vectors;
}

std::shared_ptr<const Rotation> haar(int head_dim) {
  return std::make_shared<const Rotation>(RotationKind::kHaar, head_dim, 1);
}

TEST(Float16Test, EveryHalfSurvivesTheWayThroughFloat) {
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const std::uint16_t half = static_cast<std::uint16_t>(bits);
    if ((half & 0x7fffu) > 0x7c00u) {
      EXPECT_TRUE(std::isnan(float16_to_float(half)));
    } else {
      EXPECT_EQ(float_to_float16(float16_to_float(half)), half);
    }
  }
}

// The kernels convert by other means than the scalar functions, and only what is finite.
TEST(Float16Test, PortableKernelsConvertEveryFiniteHalf) {
  for (std::uint32_t bits = 0; bits < 0x10000u; bits += 16) {
    if ((bits & 0x7c00u) == 0x7c00u) continue;
    std::uint16_t halves[16];
    float values[16];
    for (std::uint32_t i = 0; i < 16; ++i) halves[i] = static_cast<std::uint16_t>(bits + i);
    portable::load_halves(halves, values);
    for (std::uint32_t i = 0; i < 16; ++i) EXPECT_EQ(values[i], float16_to_float(halves[i]));
  }
}

TEST(Float16Test, RoundsToNearestEven) {
  EXPECT_EQ(float_to_float16(1.0f + 0x1p-11f), 0x3c00);
  EXPECT_EQ(float_to_float16(1.0f + 0x1.8p-10f), 0x3c02);
  EXPECT_EQ(float_to_float16(0x1p-25f), 0x0000);
  EXPECT_EQ(float_to_float16(0x1.8p-24f), 0x0002);
  EXPECT_EQ(float_to_float16(-0x1.ff8p-15f), 0x83ff);
  EXPECT_EQ(float_to_float16(-0x1.ffcp-15f), 0x8400);
  EXPECT_EQ(float_to_float16(65519.0f), 0x7bff);
  EXPECT_EQ(float_to_float16(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_float16(-INFINITY), 0xfc00);
}

TEST(VectorCodecTest, SizesAreThoseOfTheFormats) {
  EXPECT_EQ(Q8Codec(128).bytes_per_vector(), 136u);
  EXPECT_EQ(Q8Codec(128).bits_per_coordinate(), 8.5);
  EXPECT_EQ(Q4Codec(128).bytes_per_vector(), 72u);
  EXPECT_EQ(Q4Codec(64).bits_per_coordinate(), 4.5);
  EXPECT_EQ(ScalarCodec(haar(128), 3).bytes_per_vector(), 50u);
  EXPECT_EQ(ScalarCodec(haar(128), 4).bits_per_coordinate(), 4.125);
  EXPECT_EQ(ScalarCodec(haar(64), 4).bits_per_coordinate(), 4.25);
  EXPECT_EQ(HadamardCodec(std::make_unique<Q4Codec>(96)).bytes_per_vector(), 54u);
}

TEST(VectorCodecTest, RefuseWhatTheyCannotHold) {
  EXPECT_THROW(Q8Codec(80), std::invalid_argument);
  EXPECT_THROW(Q4Codec(0), std::invalid_argument);
  EXPECT_THROW(ScalarCodec(haar(64), 0), std::invalid_argument);
  EXPECT_THROW(ScalarCodec(haar(64), 9), std::invalid_argument);
}

// 2.9e-5 and 7.4e-3 were measured with llama.cpp's own q8_0 and q4_0 on such vectors.
TEST(VectorCodecTest, Q8HasTheErrorOfItsModel) {
  const double mse = gaussian_mse(Q8Codec(128), 4000);
  EXPECT_GT(mse, 2.8e-5);
  EXPECT_LT(mse, 3.0e-5);
}

TEST(VectorCodecTest, Q4HasTheErrorOfItsModel) {
  const double mse = gaussian_mse(Q4Codec(128), 4000);
  EXPECT_GT(mse, 7.3e-3);
  EXPECT_LT(mse, 7.5e-3);
}

TEST(VectorCodecTest, Q4KeepsTheLargestEntryAndZero) {
  std::vector<float> x(32, 0.0f);
  x[5] = -3.0f;
  EXPECT_EQ(relative_mse(Q4Codec(32), x), 0.0);
  x[5] = 3.0f;
  EXPECT_EQ(relative_mse(Q4Codec(32), x), 0.0);
}

TEST(VectorCodecTest, ZeroVectorsDecodeToZeros) {
  const std::vector<float> zeros(64, 0.0f);
  for (const VectorCodec* codec : {static_cast<const VectorCodec*>(new Q8Codec(64)),
                                   static_cast<const VectorCodec*>(new Q4Codec(64)),
                                   static_cast<const VectorCodec*>(new ScalarCodec(haar(64), 3))}) {
    const std::unique_ptr<const VectorCodec> owner(codec);
    std::vector<std::byte> code(codec->bytes_per_vector());
    std::vector<float> decoded(64, 1.0f);
    codec->encode(zeros.data(), code.data());
    codec->decode(code.data(), decoded.data());
    EXPECT_EQ(decoded, zeros);
  }
}

// A Gaussian vector stays Gaussian; a channel that dominates is spread over all.
TEST(VectorCodecTest, HadamardHelpsWhereChannelsStandOut) {
  const HadamardCodec with(std::make_unique<Q4Codec>(128));
  const Q4Codec without(128);
  EXPECT_NEAR(gaussian_mse(with, 4000) / gaussian_mse(without, 4000), 1.0, 0.01);
  Random random(3);
  double mse_with = 0.0;
  double mse_without = 0.0;
  for (int i = 0; i < 1000; ++i) {
    std::vector<float> x = gaussian_vector(random, 128);
    for (const std::size_t channel : {3u, 40u, 77u}) x[channel] *= 8.0f;
    mse_with += relative_mse(with, x);
    mse_without += relative_mse(without, x);
  }
  EXPECT_LT(mse_with, 0.5 * mse_without);
}

// The known distortions of the optimal quantizer of a normal variable (Max, 1960), which the law of
// a coordinate tends to; the limit is approached like 1 / head_dim.
TEST(VectorCodecTest, ScalarCodebooksTendToTheGaussianOnes) {
  EXPECT_NEAR(ScalarCodebook(10000000, 1).distortion, 0.363380, 2e-6);
  EXPECT_NEAR(ScalarCodebook(10000000, 2).distortion, 0.117482, 2e-6);
  EXPECT_NEAR(ScalarCodebook(10000000, 3).distortion, 0.034548, 2e-6);
  EXPECT_NEAR(ScalarCodebook(10000000, 4).distortion, 0.009501, 2e-6);
  for (const int bits : {2, 3, 4}) {
    const double ratio =
        ScalarCodebook(128, bits).distortion / ScalarCodebook(10000000, bits).distortion;
    EXPECT_LT(ratio, 0.995);
    EXPECT_GT(ratio, 0.96);
  }
}

TEST(VectorCodecTest, ScalarCodecHasTheErrorOfItsCodebook) {
  for (const int head_dim : {64, 128}) {
    for (const int bits : {2, 3, 4}) {
      const ScalarCodec codec(haar(head_dim), bits);
      EXPECT_NEAR(gaussian_mse(codec, 6000) / codec.expected_relative_mse(), 1.0, 0.01)
          << head_dim << " " << bits;
    }
  }
}

class Float16CacheTest : public testing::TestWithParam<Isa> {};

TEST_P(Float16CacheTest, AttentionEqualsAttentionInDouble) {
  const Isa isa = GetParam();
  if (!polarquant::isa_is_available(isa)) GTEST_SKIP() << "this machine lacks it";
  Random random(5);
  for (const int group_size : {1, 2, 3, 4, 6, 7, 8}) {
    for (const int head_dim : {64, 80, 128}) {
      for (const Eigen::Index num_tokens : {1, 7, 16, 127, 300}) {
        const HeadShape shape = {2, 2 * group_size, head_dim, head_dim == 80 ? 64 : head_dim};
        // Exact in fp16, so that only the arithmetic differs.
        const auto rounded = [&random](Eigen::Index rows, int columns) {
          RowMatrix<float> matrix = gaussian_matrix(random, rows, columns);
          for (Eigen::Index i = 0; i < matrix.size(); ++i) {
            matrix.data()[i] = float16_to_float(float_to_float16(matrix.data()[i]));
          }
          return matrix;
        };
        const RowMatrix<float> keys = rounded(num_tokens, 2 * shape.key_dim);
        const RowMatrix<float> values = rounded(num_tokens, 2 * shape.value_dim);
        const RowMatrix<float> queries = 2.0f * rounded(3, shape.num_query_heads * shape.key_dim);
        Float16Cache cache(shape, float16_kernels(isa));
        cache.append(keys, values);
        const RowMatrix<double> scores = exact_scores(shape, queries, keys);
        EXPECT_LT((cache.attention_scores(queries).cast<double>() - scores).norm(),
                  1e-6 * scores.norm());
        const RowMatrix<double> output = exact_attention(shape, scores, values);
        EXPECT_LT((cache.attend(queries).cast<double>() - output).norm(), 2e-6 * output.norm())
            << group_size << " " << head_dim << " " << num_tokens;
        EXPECT_EQ(cache.decode_keys(1), keys.rightCols(shape.key_dim));
        EXPECT_EQ(cache.decode_values(0), values.leftCols(shape.value_dim));
      }
    }
  }
}

TEST_P(Float16CacheTest, LargeScoresDoNotOverflow) {
  const Isa isa = GetParam();
  if (!polarquant::isa_is_available(isa)) GTEST_SKIP() << "this machine lacks it";
  const HeadShape shape = {1, 1, 16, 16};
  Float16Cache cache(shape, float16_kernels(isa));
  RowMatrix<float> keys = RowMatrix<float>::Zero(40, 16);
  RowMatrix<float> values = RowMatrix<float>::Zero(40, 16);
  keys(17, 0) = 1000.0f;
  keys(20, 0) = -1000.0f;
  values(17, 3) = 2.0f;
  values(20, 3) = 5.0f;
  cache.append(keys, values);
  RowMatrix<float> query = RowMatrix<float>::Zero(1, 16);
  query(0, 0) = 1000.0f;
  EXPECT_EQ(cache.attend(query)(0, 3), 2.0f);
}

INSTANTIATE_TEST_SUITE_P(Isas, Float16CacheTest,
                         testing::Values(Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kNeon));

TEST(Float16CacheSizeTest, HoldsTwoBytesForEachCoordinate) {
  const HeadShape shape = {3, 9, 64, 64};
  Float16Cache cache(shape);
  cache.append(RowMatrix<float>::Zero(1600, 192), RowMatrix<float>::Zero(1600, 192));
  EXPECT_EQ(cache.memory_bytes(), 1600u * 3 * 2 * 64 * 2);
}

#if defined(__GNUC__) && defined(__x86_64__)
// The query is rounded to 8 bits, the codes are not.
template <typename Codec, typename Block>
void expect_block_kernels_compute_on_codes() {
  if (!polarquant::isa_is_available(Isa::kAvx2)) GTEST_SKIP() << "this machine lacks it";
  const BlockKernels kernels = blocks::kernels<Block>();
  Random random(11);
  for (const int head_dim : {64, 96, 256}) {
    const Codec codec(static_cast<std::size_t>(head_dim));
    const std::size_t num_tokens = 77;
    const RowMatrix<float> rows = gaussian_matrix(random, 77, head_dim);
    std::vector<std::byte> codes(num_tokens * codec.bytes_per_vector());
    RowMatrix<float> decoded(77, head_dim);
    for (std::size_t t = 0; t < num_tokens; ++t) {
      codec.encode(rows.data() + t * codec.head_dim(), &codes[t * codec.bytes_per_vector()]);
      codec.decode(&codes[t * codec.bytes_per_vector()], decoded.data() + t * codec.head_dim());
    }
    for (const int group : {1, 4, 8}) {
      const RowMatrix<float> queries = gaussian_matrix(random, group, head_dim);
      RowMatrix<float> scores(group, 80);
      kernels.score(codes.data(), num_tokens, codec.head_dim(), queries.data(),
                    static_cast<std::size_t>(group), scores.data(), 80);
      const RowMatrix<float> exact = queries * decoded.transpose();
      EXPECT_LT((scores.leftCols(77) - exact).norm(), 0.01f * exact.norm());
      RowMatrix<float> sums = RowMatrix<float>::Zero(group, head_dim);
      kernels.accumulate(codes.data(), num_tokens, codec.head_dim(), scores.data(), 80,
                         static_cast<std::size_t>(group), sums.data());
      const RowMatrix<float> exact_sums = scores.leftCols(77) * decoded;
      EXPECT_LT((sums - exact_sums).norm(), 1e-5f * exact_sums.norm());
    }
  }
}

TEST(BlockKernelsTest, ComputeOnCodesOfEightBits) {
  expect_block_kernels_compute_on_codes<Q8Codec, blocks::Q8Block>();
}

TEST(BlockKernelsTest, ComputeOnCodesOfFourBits) {
  expect_block_kernels_compute_on_codes<Q4Codec, blocks::Q4Block>();
}
#endif

TEST_P(Float16CacheTest, DotOfOneRowIsItsScore) {
  const Isa isa = GetParam();
  if (!polarquant::isa_is_available(isa)) GTEST_SKIP() << "this machine lacks it";
  const Float16Kernels kernels = float16_kernels(isa);
  Random random(12);
  for (const std::size_t stride : {16u, 64u, 80u, 128u}) {
    const RowMatrix<float> query = gaussian_matrix(random, 1, static_cast<int>(stride));
    std::vector<std::uint16_t> rows(16 * stride);
    for (std::uint16_t& half : rows) half = float_to_float16(static_cast<float>(random.gaussian()));
    float scores[16];
    kernels.score(rows.data(), 16, stride, query.data(), 1, scores, 16);
    for (std::size_t t = 0; t < 16; ++t) {
      EXPECT_NEAR(kernels.dot(&rows[t * stride], stride, query.data()), scores[t], 1e-4f);
    }
  }
}

// In a KVCache a baseline is attended to as it decodes, with sinks, recent tokens and centres.
TEST(CachedCodecTest, AttendsToWhatItDecodes) {
  const HeadShape shape = {2, 4, 64, 32};
  polarquant::KVCacheConfig config;
  config.num_kv_heads = 2;
  config.num_query_heads = 4;
  config.key_format = polarquant_baselines::format_of(std::make_shared<Q8Codec>(64));
  config.value_format = polarquant_baselines::format_of(std::make_shared<Q4Codec>(32));
  EXPECT_EQ(config.key_format.bits_per_coordinate(), 8.5);
  polarquant::KVCache<float> cache(config);
  Random random(9);
  const RowMatrix<float> keys = gaussian_matrix(random, 150, 128).array() + 1.0f;
  const RowMatrix<float> values = gaussian_matrix(random, 150, 64);
  cache.append(keys.topRows(20), values.topRows(20));
  cache.append(keys.bottomRows(130), values.bottomRows(130));
  EXPECT_EQ(cache.num_encoded_tokens(), 96u);
  RowMatrix<float> decoded_keys(150, 128);
  RowMatrix<float> decoded_values(150, 64);
  decoded_keys << cache.decode_keys(0), cache.decode_keys(1);
  decoded_values << cache.decode_values(0), cache.decode_values(1);
  EXPECT_LT((decoded_keys - keys).norm(), 0.007f * keys.norm());
  EXPECT_LT((decoded_values - values).norm(), 0.1f * values.norm());
  const RowMatrix<float> queries = gaussian_matrix(random, 2, 256);
  const RowMatrix<double> scores = exact_scores(shape, queries, decoded_keys);
  EXPECT_LT((cache.attention_scores(queries).cast<double>() - scores).norm(), 1e-6 * scores.norm());
  EXPECT_LT((cache.attend(queries).cast<double>() - exact_attention(shape, scores, decoded_values))
                .norm(),
            1e-5);
}

// Query i of n sees all tokens but the last n - 1 - i; none at all gives zeros.
TEST(ExactAttentionTest, IsCausal) {
  const HeadShape shape = {1, 1, 2, 1};
  const RowMatrix<float> queries = RowMatrix<float>::Zero(3, 2);
  const RowMatrix<float> keys = RowMatrix<float>::Ones(2, 2);
  RowMatrix<float> values(2, 1);
  values << 1.0f, 3.0f;
  const auto output = exact_attention(shape, exact_scores(shape, queries, keys), values);
  EXPECT_EQ(output(0, 0), 0.0);
  EXPECT_EQ(output(1, 0), 1.0);
  EXPECT_EQ(output(2, 0), 2.0);
}

}  // namespace
}  // namespace polarquant_baselines
