// The kernels on tiles of every instruction set that this machine has, in both arithmetics, against
// the portable loops in float.
#include "polarquant/kernels/tile_kernels.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "tile_kernels_test_util.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using namespace polarquant_test;

struct Kind {
  Isa isa;
  Arithmetic arithmetic;

  bool is_fixed() const { return arithmetic == Arithmetic::kFixedPoint; }
  // Whose kernels are written on words of 32 vectors.
  bool is_words() const { return is_fixed() && (isa == Isa::kAvx2 || isa == Isa::kNeon); }
  std::string name() const { return std::string(isa_name(isa)) + (is_fixed() ? ", 16-bit" : ""); }
};
constexpr Kind kPortable = {Isa::kScalar, Arithmetic::kExact};

std::vector<Kind> kinds() {
  std::vector<Kind> result;
  for (const Isa isa : {Isa::kAvx512, Isa::kAvx2, Isa::kNeon}) {
    if (!isa_is_available(isa)) continue;
    result.push_back({isa, Arithmetic::kExact});
    result.push_back({isa, Arithmetic::kFixedPoint});
  }
  return result;
}

PolarCodec<float> codec_of(Kind kind, const PolarFormat& format) {
  return {format, make_rotation(RotationKind::kHadamard, format.head_dim), kind.arithmetic,
          kind.isa};
}

KVCache<float> cache_of(Kind kind, KVCacheConfig config) {
  config.arithmetic = kind.arithmetic;
  return polarquant_test::cache_with<float>(kind.isa, config);
}

// Vectors in whole tiles, exactly as long as they are, with queries and weights.
class Tiles {
 public:
  Tiles(const PolarFormat& format, std::size_t num_tiles, std::size_t num_rows)
      : num_tiles_(num_tiles),
        num_rows_(num_rows),
        d_(static_cast<std::size_t>(format.head_dim)),
        vectors_(gaussian_vector<float>(num_tiles * kTile * d_, 1)),
        queries_(gaussian_vector<float>(num_rows * d_, 2)),
        weights_(gaussian_vector<float>(num_rows * stride(), 3)) {}

  std::size_t num_vectors() const { return num_tiles_ * kTile; }
  // Of rows of scores and weights: as aligned as they must be, and more than they hold.
  std::size_t stride() const { return num_tiles_ * kTile + 16; }

  // ||query of row|| ||vector||.
  double unit(std::size_t row, std::size_t vector) const {
    return norm_of(queries_.data() + row * d_, d_) * norm_of(vectors_.data() + vector * d_, d_);
  }
  // What an error of a weighted sum is measured against: the sum of |weight| ||vector||.
  double unit(std::size_t row) const {
    double sum = 0.0;
    for (std::size_t i = 0; i < num_vectors(); ++i) {
      sum += std::abs(static_cast<double>(weights_[row * stride() + i])) *
             norm_of(vectors_.data() + i * d_, d_);
    }
    return sum;
  }

  std::vector<std::byte> encode(const PolarCodec<float>& codec) const {
    std::vector<std::byte> codes(num_tiles_ * codec.tile_bytes());
    GuardedBytes scratch(codec.scratch_bytes());
    for (std::size_t tile = 0; tile < num_tiles_; ++tile) {
      EXPECT_EQ(codec
                    .encode_tile({vectors_.data() + tile * kTile * d_, kTile, d_}, 0,
                                 codes.data() + tile * codec.tile_bytes(), scratch.data())
                    .num_encoded,
                kTile);
    }
    return codes;
  }

  // [num_rows, stride()]; what no vector has a place in is 0.
  std::vector<float> scores(const PolarCodec<float>& codec,
                            const std::vector<std::byte>& codes) const {
    GuardedBytes tiles(codes.size());
    std::copy(codes.begin(), codes.end(), tiles.data());
    GuardedBytes scratch(codec.scratch_bytes());
    const std::size_t prepared_stride = (codec.prepared_size() + 15) / 16 * 16 + 16;
    GuardedBytes prepared(num_rows_ * prepared_stride * sizeof(float));
    float* const table = reinterpret_cast<float*>(prepared.data());
    for (std::size_t row = 0; row < num_rows_; ++row) {
      codec.prepare_query(queries_.data() + row * d_, table + row * prepared_stride,
                          scratch.data());
    }
    GuardedBytes memory(num_rows_ * stride() * sizeof(float));
    float* const scores = reinterpret_cast<float*>(memory.data());
    std::fill_n(scores, num_rows_ * stride(), 0.0f);
    codec.score_tiles({table, num_rows_, prepared_stride}, tiles.data(), num_tiles_,
                      {scores, num_rows_, stride()}, scratch.data());
    EXPECT_TRUE(tiles.guard_is_intact() && prepared.guard_is_intact() && memory.guard_is_intact() &&
                scratch.guard_is_intact());
    return std::vector<float>(scores, scores + num_rows_ * stride());
  }

  // [num_rows, head_dim].
  std::vector<float> sums(const PolarCodec<float>& codec,
                          const std::vector<std::byte>& codes) const {
    GuardedBytes tiles(codes.size());
    std::copy(codes.begin(), codes.end(), tiles.data());
    GuardedBytes scratch(codec.scratch_bytes());
    GuardedBytes memory(num_rows_ * codec.tile_sum_size() * sizeof(float));
    float* const lanes = reinterpret_cast<float*>(memory.data());
    std::fill_n(lanes, num_rows_ * codec.tile_sum_size(), 0.0f);
    polarquant::AlignedBuffer weights = polarquant_test::aligned(weights_);
    codec.accumulate_tiles({weights.as<float>(), num_rows_, stride()}, tiles.data(), num_tiles_,
                           {lanes, num_rows_, codec.tile_sum_size()}, scratch.data());
    std::vector<float> sums(num_rows_ * d_);
    for (std::size_t row = 0; row < num_rows_; ++row) {
      codec.finish_tiles(lanes + row * codec.tile_sum_size(), 1.0f, sums.data() + row * d_,
                         scratch.data());
    }
    EXPECT_TRUE(tiles.guard_is_intact() && memory.guard_is_intact() && scratch.guard_is_intact());
    return sums;
  }

 private:
  static constexpr std::size_t kTile = polarquant::kTileTokens;

  std::size_t num_tiles_;
  std::size_t num_rows_;
  std::size_t d_;
  std::vector<float> vectors_;
  std::vector<float> queries_;
  std::vector<float> weights_;
};

struct Error {
  double largest = 0.0;
  double rms = 0.0;
};

Error score_error(const Tiles& tiles, std::size_t num_rows, const std::vector<float>& scores,
                  const std::vector<float>& expected) {
  Error error;
  for (std::size_t row = 0; row < num_rows; ++row) {
    for (std::size_t i = 0; i < tiles.num_vectors(); ++i) {
      const std::size_t at = row * tiles.stride() + i;
      const double own = (static_cast<double>(scores[at]) - static_cast<double>(expected[at])) /
                         tiles.unit(row, i);
      error.largest = std::max(error.largest, std::abs(own));
      error.rms += own * own;
    }
  }
  error.rms = std::sqrt(error.rms / static_cast<double>(num_rows * tiles.num_vectors()));
  return error;
}

// What roundings to whole numbers come to in the score of one query contracted up the tree, in
// units of ||q|| ||k||: the query has norm 32000; a table's entry is rounded once, and every level
// adds two rounded products. The variance of a rounding is 1/12, and cos^2 + sin^2 = 1 carries it
// up. Levels 2 and 3 in one step add four products instead of two for each of two nodes: as many.
double expected_rms_of_one_query(const PolarFormat& format) {
  const int num_levels = format.levels + (format.num_radii() > 1 ? 0 : format.shape().num_joins());
  return std::sqrt((1.0 + 2.0 * (num_levels - 1)) / 12.0) / 32000.0;
}

// How far an rms error may lie above what roundings of numbers come to: the rounding of cosines and
// sines, which is that of scores, counts where scores are large, in narrow vectors.
double most_over(const PolarFormat& format) { return format.head_dim < 64 ? 2.0 : 1.25; }

// ---- Codes ----

TEST(TileKernelsTest, EveryInstructionSetWritesTheSameTiles) {
  for (const PolarFormat& format : tile_formats()) {
    const Tiles tiles(format, 2, 1);
    const std::vector<std::byte> expected = tiles.encode(codec_of(kPortable, format));
    for (const Kind kind : kinds()) {
      EXPECT_EQ(tiles.encode(codec_of(kind, format)), expected)
          << name_of(format) << ", " << kind.name();
    }
  }
}

// ---- Scores ----

// 3e-6: of float. 1e-3 is the documented bound of 16 bits.
TEST(TileKernelsTest, ScoresOfOneQueryAreThoseOfThePortableLoops) {
  const std::size_t num_tiles = kSanitized ? 3 : 19;
  for (const PolarFormat& format : tile_formats()) {
    const Tiles tiles(format, num_tiles, 1);
    const PolarCodec<float> portable = codec_of(kPortable, format);
    const std::vector<std::byte> codes = tiles.encode(portable);
    const std::vector<float> expected = tiles.scores(portable, codes);
    for (const Kind kind : kinds()) {
      const Error error =
          score_error(tiles, 1, tiles.scores(codec_of(kind, format), codes), expected);
      const std::string what = name_of(format) + ", " + kind.name();
      EXPECT_LE(error.largest, kind.is_fixed() ? 2.5e-4 : 3e-6) << what;
      if (kind.is_words()) {
        const double rms = expected_rms_of_one_query(format);
        EXPECT_LE(error.rms, most_over(format) * rms) << what;
        EXPECT_GE(error.rms, 0.7 * rms) << what;
      } else if (kind.is_fixed()) {
        EXPECT_LE(error.rms, 5e-5) << what;
        EXPECT_GE(error.rms, 5e-6) << what;  // It is the 16-bit kernel that ran.
      }
    }
  }
}

// Queries of norm 32000 and vectors of norm 32767, both rounded: by coordinate once for the query
// and once for each level on the way down, of which the lowest has all nodes, the next half, ..
// Where trees stop at blocks, or a rounding comes of three factors at once, there is less.
TEST(TileKernelsTest, ScoresOfSeveralQueriesAreThoseOfThePortableLoops) {
  const double expected_rms = std::sqrt((1.0 + 2.0) / 12.0) / 32000.0;
  for (const PolarFormat& format : tile_formats()) {
    const PolarCodec<float> portable = codec_of(kPortable, format);
    for (const std::size_t num_rows : {2u, 3u, 4u, 7u, 8u, 67u}) {
      if (num_rows > 4 && format.head_dim > 128) continue;
      const Tiles tiles(format, num_rows == 4 && !kSanitized ? 17 : 3, num_rows);
      const std::vector<std::byte> codes = tiles.encode(portable);
      const std::vector<float> expected = tiles.scores(portable, codes);
      for (const Kind kind : kinds()) {
        const Error error =
            score_error(tiles, num_rows, tiles.scores(codec_of(kind, format), codes), expected);
        const std::string what =
            name_of(format) + ", " + kind.name() + ", " + std::to_string(num_rows) + " queries";
        EXPECT_LE(error.largest, kind.is_fixed() ? 1.5e-4 : 3e-6) << what;
        if (!kind.is_fixed()) continue;
        EXPECT_LE(error.rms, most_over(format) * expected_rms) << what;
        EXPECT_GE(error.rms, 0.7 * expected_rms) << what;
      }
    }
  }
}

// ---- Weighted sums ----

// Weights of either sign. 1e-3 is the documented bound; measured 8e-5 at most.
TEST(TileKernelsTest, WeightedSumsAreThoseOfThePortableLoops) {
  for (const PolarFormat& format : tile_formats()) {
    const PolarCodec<float> portable = codec_of(kPortable, format);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    for (const std::size_t num_rows : {1u, 2u, 3u, 4u, 7u, 8u, 67u}) {
      if (num_rows > 4 && format.head_dim > 128) continue;
      const Tiles tiles(format, num_rows == 1 && !kSanitized ? 17 : 3, num_rows);
      const std::vector<std::byte> codes = tiles.encode(portable);
      const std::vector<float> expected = tiles.sums(portable, codes);
      for (const Kind kind : kinds()) {
        const std::vector<float> sums = tiles.sums(codec_of(kind, format), codes);
        double largest = 0.0;
        for (std::size_t row = 0; row < num_rows; ++row) {
          std::vector<float> error(d);
          for (std::size_t i = 0; i < d; ++i) {
            error[i] = sums[row * d + i] - expected[row * d + i];
          }
          largest = std::max(largest, norm_of(error.data(), d) / tiles.unit(row));
        }
        const std::string what =
            name_of(format) + ", " + kind.name() + ", " + std::to_string(num_rows) + " rows";
        EXPECT_LE(largest, kind.is_fixed() ? 1.5e-4 : 1e-6) << what;
        if (kind.is_fixed()) {
          EXPECT_GE(largest, 2e-6) << what;
        }
      }
    }
  }
}

// ---- The cache ----

// Tails of 1 to 33 tokens, with nothing or with whole tiles before them.
TEST(TileKernelsTest, EveryTailHasTheScoresAndOutputsOfThePortableLoops) {
  for (const PolarFormat& format :
       {PolarFormat::paper(64), PolarFormat::full_depth(96, 2.625),
        PolarFormat::full_depth(128, 4.25), PolarFormat::full_depth(64, 4.625)}) {
    const Index d = format.head_dim;
    const RowMatrix<float> queries = gaussian_matrix<float>(2, d, 3);
    for (const Index before : {0, 512 - 32}) {
      const RowMatrix<float> keys = gaussian_matrix<float>(before + 33, d, 1);
      const RowMatrix<float> values = gaussian_matrix<float>(before + 33, d, 2);
      KVCache<float> expected = cache_of(kPortable, tile_config(format, format));
      std::vector<KVCache<float>> caches;
      for (const Kind kind : kinds()) caches.push_back(cache_of(kind, tile_config(format, format)));
      for (Index tail = 1; tail <= 33; ++tail) {
        const Index first = tail == 1 ? 0 : before + tail - 1;
        const Index count = before + tail - first;
        expected.append(keys.middleRows(first, count), values.middleRows(first, count));
        const RowMatrix<float> expected_scores = expected.attention_scores(queries);
        const RowMatrix<float> expected_output = expected.attend(queries);
        for (std::size_t k = 0; k < caches.size(); ++k) {
          const Kind kind = kinds()[k];
          const std::string what = name_of(format) + ", " + kind.name() + ", " +
                                   std::to_string(before) + " + " + std::to_string(tail);
          caches[k].append(keys.middleRows(first, count), values.middleRows(first, count));
          const RowMatrix<float> scores = caches[k].attention_scores(queries);
          double largest = 0.0;
          for (Index i = 0; i < scores.rows(); ++i) {
            for (Index t = 0; t < scores.cols(); ++t) {
              largest = std::max(
                  largest, static_cast<double>(std::abs(scores(i, t) - expected_scores(i, t)) /
                                               (queries.row(i).norm() * keys.row(t).norm())));
            }
          }
          EXPECT_LE(largest, kind.is_fixed() ? 2.5e-4 : 3e-6) << what;
          const float error = (caches[k].attend(queries) - expected_output).norm();
          EXPECT_LE(error, (kind.is_fixed() ? 1.5e-3f : 2e-5f) * expected_output.norm()) << what;
        }
      }
    }
  }
}

TEST(TileKernelsTest, EveryGroupSizeHasTheOutputsOfThePortableLoops) {
  for (const PolarFormat& format : {PolarFormat::paper(64), PolarFormat::full_depth(80, 3.25)}) {
    const Index d = format.head_dim;
    const RowMatrix<float> keys = gaussian_matrix<float>(550, 2 * d, 1);
    const RowMatrix<float> values = gaussian_matrix<float>(550, 2 * d, 2);
    for (const int group_size : {1, 2, 3, 4, 7, 8}) {
      KVCacheConfig config = tile_config(format, format);
      config.num_kv_heads = 2;
      config.num_query_heads = 2 * group_size;
      const RowMatrix<float> queries = gaussian_matrix<float>(3, 2 * group_size * d, 3);
      KVCache<float> portable = cache_of(kPortable, config);
      portable.append(keys, values);
      const RowMatrix<float> expected = portable.attend(queries);
      for (const Kind kind : kinds()) {
        KVCache<float> cache = cache_of(kind, config);
        cache.append(keys, values);
        EXPECT_LE((cache.attend(queries) - expected).norm(),
                  (kind.is_fixed() ? 1.5e-3f : 2e-5f) * expected.norm())
            << name_of(format) << ", " << kind.name() << ", groups of " << group_size;
      }
    }
  }
}

}  // namespace
