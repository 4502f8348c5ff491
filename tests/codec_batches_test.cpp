// Codes in the caller's memory: many rows at a stride, and tiles, against plain arithmetic on the
// decoded vectors.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "plain_8bit_codec.hpp"
#include "polarquant/codec/polar_codec.hpp"
#include "test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

// Some codes of a codec, in rows at a stride and in tiles, with queries and weights to go with
// them.
template <typename T>
struct Batch {
  using Accumulator = AccumulatorOf<T>;
  static constexpr std::size_t kTile = polarquant::kTileTokens;

  Batch(const Codec<Accumulator>& given_codec, std::size_t codes, std::size_t queries)
      : codec(given_codec),
        num_codes(codes),
        num_queries(queries),
        d(codec.head_dim()),
        num_tiles((num_codes + kTile - 1) / kTile),
        stride(codec.bytes_per_vector() + 3),
        rows(num_codes * stride),
        tiles(num_tiles * codec.tile_bytes()),
        prepared(num_queries * prepared_stride() * sizeof(Accumulator)),
        scratch(codec.scratch_bytes()),
        vectors(gaussian_vector<T>(num_codes * d, 1)),
        query(gaussian_vector<T>(num_queries * d, 2)),
        weights(gaussian_vector<Accumulator>(num_queries * num_tiles * kTile, 3)) {
    const std::vector<std::byte> codes_in_a_row = encode_rows(codec, vectors);
    decoded = decode_rows(codec, codes_in_a_row);
    EXPECT_EQ(codec
                  .encode(Rows<const T>{vectors.data(), num_codes, d},
                          {rows.data(), num_codes, stride}, scratch.data())
                  .num_encoded,
              num_codes);
    std::memset(tiles.data(), 0, num_tiles * codec.tile_bytes());
    for (std::size_t first = 0; first < num_codes;) {
      // In pieces that begin within a tile.
      const std::size_t count =
          std::min({num_codes - first, kTile - first % kTile, std::size_t{7}});
      EXPECT_EQ(codec
                    .encode_tile(Rows<const T>{vectors.data() + first * d, count, d}, first % kTile,
                                 tiles.data() + first / kTile * codec.tile_bytes(), scratch.data())
                    .num_encoded,
                count);
      first += count;
    }
    for (std::size_t i = 0; i < num_queries; ++i) {
      codec.prepare_query(query.data() + i * d, table() + i * prepared_stride(), scratch.data());
      for (std::size_t j = num_codes; j < num_tiles * kTile; ++j) {
        weights[i * num_tiles * kTile + j] = Accumulator(0);
      }
    }
  }

  // A row of tables begins on a cache line.
  std::size_t prepared_stride() const { return (codec.prepared_size() + 15) / 16 * 16; }
  Accumulator* table() { return reinterpret_cast<Accumulator*>(prepared.data()); }

  double expected_score(std::size_t i, std::size_t j) const {
    return inner_product(query.data() + i * d, decoded.data() + j * d, d);
  }
  // The error of a score is measured against ||q|| ||k||.
  double largest_error(std::size_t i, const Accumulator* scores) const {
    double largest = 0.0;
    for (std::size_t j = 0; j < num_codes; ++j) {
      const double unit = norm_of(query.data() + i * d, d) * norm_of(decoded.data() + j * d, d);
      largest = std::fmax(largest,
                          std::abs(static_cast<double>(scores[j]) - expected_score(i, j)) / unit);
    }
    return largest;
  }
  // The error of a weighted sum, against the square root of the sum of squares of its terms.
  double sum_error(std::size_t i, const Accumulator* output) const {
    std::vector<double> sum(d);
    double unit = 0.0;
    for (std::size_t j = 0; j < num_codes; ++j) {
      const double weight = static_cast<double>(weights[i * num_tiles * kTile + j]);
      for (std::size_t k = 0; k < d; ++k) {
        const double term = weight * static_cast<double>(decoded[j * d + k]);
        sum[k] += term;
        unit += term * term;
      }
    }
    double error = 0.0;
    for (std::size_t k = 0; k < d; ++k) {
      error += std::pow(static_cast<double>(output[k]) - sum[k], 2);
    }
    return std::sqrt(error / unit);
  }

  // Largest errors of scores and of sums, by rows and by tiles.
  void expect_right(double tolerance) {
    const std::size_t num_slots = num_tiles * kTile;
    std::vector<Accumulator> row_scores(num_queries * (num_codes + 1));
    GuardedBytes tile_scores(num_queries * num_slots * sizeof(Accumulator));
    Accumulator* const scores = reinterpret_cast<Accumulator*>(tile_scores.data());
    codec.dot_rows({table(), num_queries, prepared_stride()}, {rows.data(), num_codes, stride},
                   {row_scores.data(), num_queries, num_codes + 1}, scratch.data());
    codec.score_tiles({table(), num_queries, prepared_stride()}, tiles.data(), num_tiles,
                      {scores, num_queries, num_slots}, scratch.data());

    std::vector<Accumulator> row_sums(num_queries * d), output(d);
    const std::size_t sum_size = codec.tile_sum_size();
    GuardedBytes tile_sums(num_queries * sum_size * sizeof(Accumulator));
    Accumulator* const sums = reinterpret_cast<Accumulator*>(tile_sums.data());
    std::fill_n(sums, num_queries * sum_size, Accumulator(0));
    codec.accumulate_rows({weights.data(), num_queries, num_slots},
                          {rows.data(), num_codes, stride}, {row_sums.data(), num_queries, d},
                          scratch.data());
    polarquant::AlignedBuffer tile_weights = polarquant_test::aligned(weights);
    codec.accumulate_tiles({tile_weights.as<Accumulator>(), num_queries, num_slots}, tiles.data(),
                           num_tiles, {sums, num_queries, sum_size}, scratch.data());

    for (std::size_t i = 0; i < num_queries; ++i) {
      EXPECT_LT(largest_error(i, row_scores.data() + i * (num_codes + 1)), tolerance) << name();
      EXPECT_LT(largest_error(i, scores + i * num_slots), tolerance) << name();
      codec.finish(row_sums.data() + i * d, output.data());
      EXPECT_LT(sum_error(i, output.data()), tolerance) << name();
      codec.finish_tiles(sums + i * sum_size, Accumulator(1), output.data(), scratch.data());
      EXPECT_LT(sum_error(i, output.data()), tolerance) << name();
    }
  }

  std::string name() const {
    return codec.format().description() + ", d = " + std::to_string(d) + ", " +
           std::to_string(num_codes) + " codes, " + codec.kernel_name();
  }

  const Codec<Accumulator>& codec;
  std::size_t num_codes;
  std::size_t num_queries;
  std::size_t d;
  std::size_t num_tiles;
  std::size_t stride;
  GuardedBytes rows;
  GuardedBytes tiles;
  GuardedBytes prepared;
  GuardedBytes scratch;
  std::vector<T> vectors;
  std::vector<T> query;
  std::vector<Accumulator> weights;  // [num_queries, num_tiles * kTile]
  std::vector<Accumulator> decoded;
};

template <typename T>
class CodecBatchesTest : public testing::Test {};
using BatchTypes = testing::Types<float, double, Eigen::half>;
TYPED_TEST_SUITE(CodecBatchesTest, BatchTypes, );  // clang++ wants the empty argument in C++17.

TYPED_TEST(CodecBatchesTest, RandomFormatsCountsAndQueries) {
  Random random(5);
  for (int trial = 0; trial < 40; ++trial) {
    const PolarFormat format = random_format(random, 256);
    const PolarCodec<AccumulatorOf<TypeParam>> codec(
        format, make_rotation(RotationKind::kHadamard, format.head_dim), Arithmetic::kExact);
    Batch<TypeParam>(codec, static_cast<std::size_t>(random_int(random, 1, 300)),
                     static_cast<std::size_t>(random_int(random, 1, 5)))
        .expect_right(1e-5);
  }
}

TYPED_TEST(CodecBatchesTest, Uncompressed) {
  const PolarCodec<AccumulatorOf<TypeParam>> codec(
      PolarFormat::uncompressed(48), make_rotation(RotationKind::kHaar, 48), Arithmetic::kExact);
  Batch<TypeParam>(codec, 45, 3).expect_right(1e-5);
}

TYPED_TEST(CodecBatchesTest, AnotherFamily) {
  const auto codec = polarquant::make_codec<AccumulatorOf<TypeParam>>(
      polarquant_test::plain_8bit(48),
      {make_rotation(RotationKind::kHaar, 48), Arithmetic::kExact, {}});
  Batch<TypeParam>(*codec, 70, 5).expect_right(1e-5);
}

// Presets on every instruction set, every tail of a tile, more tiles than a kernel takes at once.
TEST(CodecBatchesIsaTest, PresetsOnEveryInstructionSet) {
  for (const polarquant::Isa isa : polarquant_test::available_isas()) {
    for (const PolarFormat& format :
         {PolarFormat::paper(128), PolarFormat::full_depth(64, 3.25),
          PolarFormat::full_depth(96, 4.25), PolarFormat::full_depth(128, 4.625)}) {
      const PolarCodec<float> codec(format, make_rotation(RotationKind::kHadamard, format.head_dim),
                                    Arithmetic::kExact, isa);
      for (const std::size_t num_codes : {1u, 2u, 31u, 32u, 33u, 100u, 257u, 1100u}) {
        Batch<float>(codec, num_codes, 1 + num_codes % 4).expect_right(1e-5);
      }
    }
  }
}

// Scores within 1e-3 of ||q|| ||k||, as Arithmetic::kFixedPoint says; sums of random weights,
// as measured, within 1.3e-3.
TEST(CodecBatchesIsaTest, FixedPoint) {
  for (const PolarFormat& format : {PolarFormat::paper(128), PolarFormat::full_depth(128, 3.25)}) {
    const PolarCodec<float> codec(format, make_rotation(RotationKind::kHadamard, 128),
                                  Arithmetic::kFixedPoint);
    for (const std::size_t num_codes : {1u, 33u, 1100u}) {
      Batch<float>(codec, num_codes, 4).expect_right(2e-3);
    }
  }
}

TYPED_TEST(CodecBatchesTest, RowsInTilesAreTheRowsOfTheStride) {
  const PolarCodec<AccumulatorOf<TypeParam>> codec(PolarFormat::full_depth(80, 3.7),
                                                   make_rotation(RotationKind::kHaar, 80));
  Batch<TypeParam> batch(codec, 70, 1);
  std::vector<std::byte> code(codec.bytes_per_vector());
  for (std::size_t j = 0; j < 70; ++j) {
    polarquant::read_tile_slot(batch.tiles.data() + j / batch.kTile * codec.tile_bytes(),
                               code.size(), j % batch.kTile, code.data());
    EXPECT_EQ(std::memcmp(code.data(), batch.rows.data() + j * batch.stride, code.size()), 0) << j;
  }
}

TYPED_TEST(CodecBatchesTest, NoCodesGiveNothing) {
  using Accumulator = AccumulatorOf<TypeParam>;
  const PolarCodec<AccumulatorOf<TypeParam>> codec(PolarFormat::paper(32),
                                                   make_rotation(RotationKind::kHaar, 32));
  GuardedBytes scratch(codec.scratch_bytes());
  GuardedBytes prepared(codec.prepared_size() * sizeof(Accumulator));
  const std::vector<TypeParam> query = gaussian_vector<TypeParam>(32, 1);
  Accumulator* const table = reinterpret_cast<Accumulator*>(prepared.data());
  codec.prepare_query(query.data(), table, scratch.data());
  Accumulator score(7);
  std::vector<Accumulator> sum(32, Accumulator(7));
  codec.dot_rows({table, 1, codec.prepared_size()}, {nullptr, 0, 0}, {&score, 1, 1},
                 scratch.data());
  codec.accumulate_rows({&score, 1, 1}, {nullptr, 0, 0}, {sum.data(), 1, 32}, scratch.data());
  EXPECT_EQ(score, Accumulator(7));
  EXPECT_EQ(sum, std::vector<Accumulator>(32, Accumulator(7)));
}

// What stands in scratch, or in slots without a vector, must not reach a result.
TYPED_TEST(CodecBatchesTest, RubbishInTheScratchDoesNotMatter) {
  const PolarCodec<AccumulatorOf<TypeParam>> codec(
      PolarFormat::paper(64), make_rotation(RotationKind::kHadamard, 64), Arithmetic::kExact);
  Batch<TypeParam> batch(codec, 5, 2);
  std::memset(batch.scratch.data(), 0xff, codec.scratch_bytes());  // NaN throughout
  batch.expect_right(1e-5);
}

}  // namespace
