// Scores in 16-bit fixed point against those of the exact cache, on every instruction set with
// kernels for them.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "sample.hpp"
#include "tile_kernels_test_util.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using namespace polarquant_test;

using FixedScoresTest = polarquant_test::FixedTilesFixture;

INSTANTIATE_TEST_SUITE_P(Isas, FixedScoresTest, polarquant_test::fixed_tiles_isas(),
                         polarquant_test::isa_case_name);

// The documented bound, and what is typical of it: an error is the sum of some ten independent
// roundings to 2^-15 of the norm.
constexpr double kMaxError = 1e-3;
constexpr double kRmsError = 5e-5;

// Of |difference| / (||q|| ||k||).
struct ScoreError {
  double largest = 0.0;
  double sum_of_squares = 0.0;
  double count = 0.0;

  void add(double error) {
    largest = std::max(largest, std::abs(error));
    sum_of_squares += error * error;
    count += 1.0;
  }
  double rms() const { return std::sqrt(sum_of_squares / count); }
};

// Of the columns of a head, row by row.
Eigen::VectorXd norms_of(const RowMatrix<float>& rows, Index head, Index head_dim) {
  return rows.middleCols(head * head_dim, head_dim).cast<double>().rowwise().norm();
}

// Every score of one head of keys for one query head.
void add_errors(const CachePair& caches, const RowMatrix<float>& keys,
                const RowMatrix<float>& queries, ScoreError* error) {
  const KVCacheConfig& config = caches.exact.config();
  const Index d = config.key_format.head_dim();
  const Index num_heads = config.num_query_heads;
  const Index group_size = num_heads / config.num_kv_heads;
  const RowMatrix<float> exact = caches.exact.attention_scores(queries);
  const RowMatrix<float> fixed = caches.fixed.attention_scores(queries);
  for (Index head = 0; head < num_heads; ++head) {
    const Eigen::VectorXd key_norms = norms_of(keys, head / group_size, d);
    const Eigen::VectorXd query_norms = norms_of(queries, head, d);
    for (Index token = 0; token < keys.rows(); ++token) {
      for (Index i = 0; i < queries.rows(); ++i) {
        const Index row = i * num_heads + head;
        error->add(
            (static_cast<double>(fixed(row, token)) - static_cast<double>(exact(row, token))) /
            (key_norms(token) * query_norms(i)));
      }
    }
  }
}

TEST_P(FixedScoresTest, ErrorsOfEveryFormatAreWithinTheDocumentedBound) {
  const Index num_tokens = kSanitized ? 200 : 1000;
  double largest = 0.0;
  double largest_rms = 0.0;
  for (const PolarFormat& format : tile_formats()) {
    const RowMatrix<float> keys = gaussian_matrix<float>(num_tokens, format.head_dim, 1);
    const RowMatrix<float> queries = gaussian_matrix<float>(8, format.head_dim, 3);
    const CachePair caches(GetParam(), tile_config(format, format), keys, keys);
    ASSERT_EQ(caches.fixed.kernel_name(),
              std::string(polarquant::isa_name(GetParam())) + " tiles, 16-bit")
        << name_of(format);
    ScoreError error;
    add_errors(caches, keys, queries, &error);
    EXPECT_LE(error.largest, kMaxError) << name_of(format);
    EXPECT_LE(error.rms(), kRmsError) << name_of(format);
    EXPECT_GT(error.rms(), 1e-6) << name_of(format);  // It is the 16-bit kernel that ran.
    largest = std::max(largest, error.largest);
    largest_rms = std::max(largest_rms, error.rms());
  }
  RecordProperty("largest_error", std::to_string(largest));
  RecordProperty("largest_rms_error", std::to_string(largest_rms));
}

TEST_P(FixedScoresTest, ErrorsOnTheRealSampleAreWithinTheDocumentedBound) {
  const polarquant_demo::Sample sample =
      polarquant_demo::load_sample(std::string(POLARQUANT_SOURCE_DIR) + "/data/smollm2-135m");
  for (const PolarFormat& format : {PolarFormat::paper(64), PolarFormat::full_depth(64, 3.25),
                                    PolarFormat::full_depth(64, 4.625)}) {
    KVCacheConfig config = tile_config(format, format);
    config.num_kv_heads = sample.shape.num_kv_heads;
    config.num_query_heads = sample.shape.num_query_heads;
    ScoreError error;
    for (const polarquant_demo::Layer& layer : sample.layers) {
      const RowMatrix<float> queries = layer.queries.topRows(kSanitized ? 10 : 60);
      add_errors(CachePair(GetParam(), config, layer.keys, layer.values), layer.keys, queries,
                 &error);
    }
    EXPECT_LE(error.largest, kMaxError) << name_of(format);
    EXPECT_LE(error.rms(), kRmsError) << name_of(format);
    RecordProperty("largest_error_" + std::to_string(format.bytes_per_vector()),
                   std::to_string(error.largest));
  }
}

// A query along a key uses the whole range of 16 bits, a one-hot one in a single coordinate.
TEST_P(FixedScoresTest, NothingOverflowsForQueriesAlongTheirKeys) {
  for (const PolarFormat& format : tile_formats()) {
    if (format.head_dim > 256) continue;
    const Index d = format.head_dim;
    RowMatrix<float> keys(2 * d + 20, d);
    keys.topRows(d) = RowMatrix<float>::Identity(d, d);
    keys.middleRows(d, d) = -RowMatrix<float>::Identity(d, d);
    keys.bottomRows(20) = gaussian_matrix<float>(20, d, 1);
    for (const RotationKind kind : {RotationKind::kNone, RotationKind::kHadamard}) {
      KVCacheConfig config = tile_config(format, format);
      config.rotation = kind;
      const CachePair caches(GetParam(), config, keys, keys);
      ScoreError error;
      add_errors(caches, keys, keys, &error);
      EXPECT_LE(error.largest, kMaxError) << name_of(format);
      // Along what the codes hold, not what they were made of.
      ScoreError own;
      const RowMatrix<float> decoded = caches.exact.decode_keys(0);
      add_errors(caches, keys, decoded, &own);
      EXPECT_LE(own.largest, kMaxError) << name_of(format);
    }
  }
}

TEST_P(FixedScoresTest, AScoreDoesNotDependOnTheTokensBehindIt) {
  for (const PolarFormat& format : {PolarFormat::paper(64), PolarFormat::full_depth(96, 2.625),
                                    PolarFormat::full_depth(64, 4.625)}) {
    const Index d = format.head_dim;
    const RowMatrix<float> keys = gaussian_matrix<float>(1100, d, 1);
    const RowMatrix<float> queries = gaussian_matrix<float>(3, d, 3);
    CachePair caches(GetParam(), tile_config(format, format), keys, keys);
    const RowMatrix<float> all = caches.fixed.attention_scores(queries);
    for (const Index count : {1100, 1025, 1024, 1023, 513, 512, 511, 65, 64, 63, 33, 32, 31, 30, 29,
                              28,   27,   26,   25,   24,  23,  22,  21, 20, 19, 18, 17, 16, 15, 14,
                              13,   12,   11,   10,   9,   8,   7,   6,  5,  4,  3,  2,  1,  0}) {
      caches.fixed.truncate(static_cast<std::size_t>(count));
      const RowMatrix<float> scores = caches.fixed.attention_scores(queries);
      ASSERT_EQ(scores.cols(), count);
      EXPECT_EQ(scores, all.leftCols(count)) << name_of(format) << ", " << count << " tokens";
    }
  }
}

TEST_P(FixedScoresTest, EveryGroupSizeGivesTheScoresOfItsHeadsAlone) {
  for (const PolarFormat& format : {PolarFormat::paper(64), PolarFormat::full_depth(80, 3.25)}) {
    const Index d = format.head_dim;
    const RowMatrix<float> keys = gaussian_matrix<float>(550, 2 * d, 1);
    for (const int group_size : {1, 2, 3, 4, 7, 8}) {
      KVCacheConfig config = tile_config(format, format);
      config.num_kv_heads = 2;
      config.num_query_heads = 2 * group_size;
      const RowMatrix<float> queries = gaussian_matrix<float>(3, 2 * group_size * d, 3);
      ScoreError error;
      add_errors(CachePair(GetParam(), config, keys, keys), keys, queries, &error);
      EXPECT_LE(error.largest, kMaxError) << name_of(format) << ", groups of " << group_size;
    }
  }
}

// A norm squared in float would be infinite from 2e19 on, and zero below 1e-23.
TEST_P(FixedScoresTest, ErrorsDoNotDependOnTheNorms) {
  for (const PolarFormat& format : {PolarFormat::paper(64), PolarFormat::full_depth(64, 3.25)}) {
    for (const double scale : {1e-30, 1e-20, 1e-10, 1e10, 1e20, 1e30}) {
      const RowMatrix<float> keys = gaussian_matrix<float>(100, 64, 1, scale);
      const RowMatrix<float> queries = gaussian_matrix<float>(5, 64, 3, 1.0 / scale);
      const CachePair caches(GetParam(), tile_config(format, format), keys, keys);
      ASSERT_GT(caches.exact.attention_scores(queries).cwiseAbs().maxCoeff(), 1.0f);
      ScoreError error;
      add_errors(caches, keys, queries, &error);
      EXPECT_LE(error.largest, kMaxError) << name_of(format) << ", scale " << scale;
      EXPECT_LE(error.rms(), kRmsError) << name_of(format) << ", scale " << scale;
    }
  }
}

TEST_P(FixedScoresTest, AZeroQueryHasZeroScores) {
  for (const PolarFormat& format : tile_formats()) {
    const RowMatrix<float> keys = gaussian_matrix<float>(50, format.head_dim, 1);
    const CachePair caches(GetParam(), tile_config(format, format), keys, keys);
    const RowMatrix<float> scores =
        caches.fixed.attention_scores(RowMatrix<float>::Zero(2, format.head_dim));
    EXPECT_EQ(scores, RowMatrix<float>::Zero(2, 50)) << name_of(format);
  }
}

TEST_P(FixedScoresTest, ZeroKeysHaveZeroScores) {
  for (const PolarFormat& format : tile_formats()) {
    RowMatrix<float> keys = gaussian_matrix<float>(50, format.head_dim, 1);
    keys.middleRows(7, 30).setZero();
    const CachePair caches(GetParam(), tile_config(format, format), keys, keys);
    const RowMatrix<float> scores =
        caches.fixed.attention_scores(gaussian_matrix<float>(2, format.head_dim, 3));
    EXPECT_EQ(scores.middleCols(7, 30).cwiseAbs().maxCoeff(), 0.0f) << name_of(format);
    EXPECT_GT(scores.leftCols(7).cwiseAbs().maxCoeff(), 0.0f) << name_of(format);
  }
}

}  // namespace
