// Attention with weighted sums (and scores) in 16-bit fixed point against that of the exact cache,
// on every instruction set with kernels for them.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "baselines/exact_attention.hpp"
#include "sample.hpp"
#include "tile_kernels_test_util.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using namespace polarquant_test;

using FixedSumsTest = polarquant_test::FixedTilesFixture;

INSTANTIATE_TEST_SUITE_P(Isas, FixedSumsTest, polarquant_test::fixed_tiles_isas(),
                         polarquant_test::isa_case_name);

// The largest of ||fixed - exact|| / ||exact|| over rows, in double: norms may be near the limits.
double largest_relative_error(const RowMatrix<float>& fixed, const RowMatrix<float>& exact) {
  double largest = 0.0;
  for (Index row = 0; row < exact.rows(); ++row) {
    const double error = (fixed.row(row).cast<double>() - exact.row(row).cast<double>()).norm();
    largest = std::max(largest, error / exact.row(row).cast<double>().norm());
  }
  return largest;
}

// Scores that are off by 1e-4 of ||q|| ||k|| are what moves weights here: more so in wide vectors.
TEST_P(FixedSumsTest, AttentionOverRandomTokensIsOffByATenthOfAPercentAndAHalfAtMost) {
  double largest = 0.0;
  for (const PolarFormat& format : tile_formats()) {
    for (const Index num_tokens : {40, kSanitized ? 600 : 1000}) {
      const RowMatrix<float> keys = gaussian_matrix<float>(num_tokens, format.head_dim, 1);
      const RowMatrix<float> values = gaussian_matrix<float>(num_tokens, format.head_dim, 2);
      const RowMatrix<float> queries = gaussian_matrix<float>(8, format.head_dim, 3);
      const CachePair caches(GetParam(), tile_config(format, format), keys, values);
      const double error =
          largest_relative_error(caches.fixed.attend(queries), caches.exact.attend(queries));
      EXPECT_LE(error, 1.5e-3) << name_of(format);
      EXPECT_GT(error, 1e-6) << name_of(format);  // It is the 16-bit kernel that ran.
      largest = std::max(largest, error);
    }
  }
  RecordProperty("largest_error", std::to_string(largest));
}

// Equal values leave no chance that roundings cancel.
TEST_P(FixedSumsTest, AttentionOverEqualValuesIsThatValue) {
  for (const PolarFormat& format : tile_formats()) {
    for (const Index num_tokens : {40, kSanitized ? 600 : 1000}) {
      const RowMatrix<float> keys = gaussian_matrix<float>(num_tokens, format.head_dim, 1);
      const RowMatrix<float> values =
          gaussian_matrix<float>(1, format.head_dim, 2).replicate(num_tokens, 1);
      const CachePair caches(GetParam(), tile_config(format, format), keys, values);
      const RowMatrix<float> value = caches.exact.decode_values(0).topRows(1);
      const RowMatrix<float> queries = gaussian_matrix<float>(4, format.head_dim, 3);
      EXPECT_LE(largest_relative_error(caches.fixed.attend(queries), value.replicate(4, 1)), 6e-4)
          << name_of(format);
    }
  }
}

// ---- Real keys and values ----

// What 16 bits add is small beside what the codes have already lost: at most 1 % of it on average
// over queries and heads, for every layer.
TEST_P(FixedSumsTest, OnTheRealSampleTheErrorIsSmallBesideThatOfTheCodes) {
  const polarquant_demo::Sample sample =
      polarquant_demo::load_sample(std::string(POLARQUANT_SOURCE_DIR) + "/data/smollm2-135m");
  const polarquant_demo::HeadShape& shape = sample.shape;
  const std::vector<PolarFormat> formats = {
      PolarFormat::paper(64), PolarFormat::full_depth(64, 3.25), PolarFormat::full_depth(64, 3.625),
      PolarFormat::full_depth(64, 4.25), PolarFormat::full_depth(64, 4.625)};
  std::vector<double> largest(formats.size());
  for (const polarquant_demo::Layer& layer : sample.layers) {
    const RowMatrix<float> queries = layer.queries.bottomRows(kSanitized ? 20 : 190);
    const RowMatrix<double> truth = polarquant_baselines::exact_attention(
        shape, polarquant_baselines::exact_scores(shape, queries, layer.keys), layer.values);
    for (std::size_t k = 0; k < formats.size(); ++k) {
      KVCacheConfig config = tile_config(formats[k], formats[k]);
      config.num_kv_heads = shape.num_kv_heads;
      config.num_query_heads = shape.num_query_heads;
      const CachePair caches(GetParam(), config, layer.keys, layer.values);
      const RowMatrix<double> exact = caches.exact.attend(queries).cast<double>();
      const RowMatrix<double> fixed = caches.fixed.attend(queries).cast<double>();
      double sum = 0.0;
      for (Index i = 0; i < queries.rows(); ++i) {
        for (Index head = 0; head < shape.num_query_heads; ++head) {
          const auto part = [i, head, &shape](const RowMatrix<double>& matrix) {
            return matrix.row(i).segment(head * shape.value_dim, shape.value_dim);
          };
          sum += (part(fixed) - part(exact)).norm() / (part(exact) - part(truth)).norm();
        }
      }
      const double mean = sum / static_cast<double>(queries.rows() * shape.num_query_heads);
      EXPECT_LE(mean, 0.01) << name_of(formats[k]) << ", layer " << layer.name;
      largest[k] = std::max(largest[k], mean);
    }
  }
  for (std::size_t k = 0; k < formats.size(); ++k) {
    RecordProperty("largest_mean_" + std::to_string(formats[k].bytes_per_vector()),
                   std::to_string(largest[k]));
  }
}

// ---- One token dominates ----

// Among 5,000 tokens with weights of 1e-8 each, beside a sink whose value is small, as real ones
// are.
TEST_P(FixedSumsTest, ASinkAmongManyTokensLeavesThemTheirShare) {
  const Index num_tokens = 5000;
  for (const PolarFormat& format : {PolarFormat::paper(128), PolarFormat::full_depth(128, 3.25),
                                    PolarFormat::full_depth(128, 4.625)}) {
    const RowMatrix<float> queries = gaussian_matrix<float>(1, 128, 3);
    RowMatrix<float> keys = gaussian_matrix<float>(num_tokens, 128, 1);
    RowMatrix<float> values = gaussian_matrix<float>(num_tokens, 128, 2);
    values.array() += 0.5f;
    values.row(0) *= 0.01f;
    for (const float length : {4.0f, 8.0f, 12.0f, 20.0f}) {  // sink weight 0.01 .. 0.9999
      keys.row(0) = queries.row(0) * (length / std::sqrt(128.0f));
      const CachePair caches(GetParam(), tile_config(format, format), keys, values);
      const RowMatrix<float> exact = caches.exact.attend(queries);
      const RowMatrix<float> fixed = caches.fixed.attend(queries);
      EXPECT_LE(largest_relative_error(fixed, exact), 1e-3) << name_of(format) << " " << length;
    }
  }
}

// The worst case: one page, the other 511 values all alike, each with a weight of about half a step
// of the sink's. Rounded to the nearest step they would all vanish or all double, 1 % of the norm
// of a value; the dither makes their sum right.
TEST_P(FixedSumsTest, ASinkBesideEqualTokensIsOffByATinyPartOfTheirNorm) {
  const RowMatrix<float> queries = gaussian_matrix<float>(1, 128, 3);
  const double query_norm = queries.row(0).cast<double>().norm();
  RowMatrix<float> values = gaussian_matrix<float>(1, 128, 7).replicate(512, 1);
  const double norm = values.row(0).cast<double>().norm();
  values.row(100) = gaussian_matrix<float>(1, 128, 8).row(0);
  for (const PolarFormat& format : {PolarFormat::paper(128), PolarFormat::full_depth(128, 3.25)}) {
    for (double logit = 6.0; logit <= 16.0; logit += 0.25) {
      RowMatrix<float> keys = RowMatrix<float>::Zero(512, 128);
      keys.row(100) =
          queries.row(0) * static_cast<float>(logit * std::sqrt(128.0) / (query_norm * query_norm));
      const CachePair caches(GetParam(), tile_config(format, format), keys, values);
      const double error = (caches.fixed.attend(queries) - caches.exact.attend(queries))
                               .row(0)
                               .cast<double>()
                               .norm();
      EXPECT_LE(error, 5e-4 * norm) << name_of(format) << " " << logit;
    }
  }
}

// ---- Zeros, extremes, tails ----

TEST_P(FixedSumsTest, AZeroQueryGivesTheMeanOfTheValues) {
  for (const PolarFormat& format : tile_formats()) {
    const RowMatrix<float> values = gaussian_matrix<float>(600, format.head_dim, 2);
    const CachePair caches(GetParam(), tile_config(format, format), values, values);
    const RowMatrix<float> query = RowMatrix<float>::Zero(1, format.head_dim);
    const RowMatrix<float> exact = caches.exact.attend(query);
    EXPECT_LE(largest_relative_error(exact, caches.exact.decode_values(0).colwise().mean()), 1e-5);
    EXPECT_LE(largest_relative_error(caches.fixed.attend(query), exact), 5e-3) << name_of(format);
  }
}

TEST_P(FixedSumsTest, ZeroValuesGiveZeros) {
  for (const PolarFormat& format : tile_formats()) {
    const RowMatrix<float> zeros = RowMatrix<float>::Zero(40, format.head_dim);
    const CachePair caches(GetParam(), tile_config(format, format), zeros, zeros);
    const RowMatrix<float> output =
        caches.fixed.attend(gaussian_matrix<float>(2, format.head_dim, 3));
    EXPECT_EQ(output, RowMatrix<float>::Zero(2, format.head_dim)) << name_of(format);
  }
}

TEST_P(FixedSumsTest, NoTokensGiveZeros) {
  for (const PolarFormat& format : {PolarFormat::paper(64), PolarFormat::full_depth(80, 3.25)}) {
    const RowMatrix<float> none(0, format.head_dim);
    const CachePair caches(GetParam(), tile_config(format, format), none, none);
    const RowMatrix<float> queries = gaussian_matrix<float>(3, format.head_dim, 3);
    EXPECT_EQ(caches.fixed.attend(queries), RowMatrix<float>::Zero(3, format.head_dim));
    EXPECT_EQ(caches.fixed.attention_scores(queries).cols(), 0);
  }
}

// Norms, not coordinates: a block of paper has a third of the norm of its vector. 1e-30 and 1e30
// are the range that bfloat16 radii promise.
TEST_P(FixedSumsTest, ErrorsDoNotDependOnTheNormOfTheValues) {
  for (const PolarFormat& format : {PolarFormat::paper(128), PolarFormat::full_depth(128, 3.25)}) {
    const RowMatrix<float> keys = gaussian_matrix<float>(100, 128, 1);
    const RowMatrix<float> queries = gaussian_matrix<float>(3, 128, 3);
    for (const double norm : {1e-31, 1e-30, 1e-20, 1e-10, 1e10, 1e20, 1e30}) {
      RowMatrix<float> values = gaussian_matrix<float>(100, 128, 2);
      for (Index row = 0; row < 100; ++row) {
        values.row(row) *= static_cast<float>(norm / values.row(row).cast<double>().norm());
      }
      const CachePair caches(GetParam(), tile_config(format, format), keys, values);
      EXPECT_LE(largest_relative_error(caches.fixed.attend(queries), caches.exact.attend(queries)),
                2e-3)
          << name_of(format) << ", norm " << norm;
    }
  }
}

// Each page has a scale of its own.
TEST_P(FixedSumsTest, PagesOfVeryDifferentNormsDoNotDisturbEachOther) {
  for (const PolarFormat& format : {PolarFormat::paper(64), PolarFormat::full_depth(64, 3.25)}) {
    const RowMatrix<float> keys = gaussian_matrix<float>(1100, 64, 1);
    const RowMatrix<float> queries = gaussian_matrix<float>(3, 64, 3);
    for (const double ratio : {1e-20, 1e20}) {
      RowMatrix<float> values = gaussian_matrix<float>(1100, 64, 2);
      values.middleRows(512, 512) *= static_cast<float>(ratio);
      const CachePair caches(GetParam(), tile_config(format, format), keys, values);
      EXPECT_LE(largest_relative_error(caches.fixed.attend(queries), caches.exact.attend(queries)),
                5e-3)
          << name_of(format) << ", ratio " << ratio;
    }
  }
}

TEST_P(FixedSumsTest, EveryTailIsOffByHalfAPercentAtMost) {
  for (const PolarFormat& format : {PolarFormat::paper(64), PolarFormat::full_depth(96, 2.625),
                                    PolarFormat::full_depth(64, 4.625)}) {
    const Index d = format.head_dim;
    const RowMatrix<float> queries = gaussian_matrix<float>(1, d, 3);
    CachePair caches(GetParam(), tile_config(format, format), gaussian_matrix<float>(1100, d, 1),
                     gaussian_matrix<float>(1100, d, 2));
    for (Index count = 1100; count > 0; count -= count > 34 ? 13 : 1) {
      caches.exact.truncate(static_cast<std::size_t>(count));
      caches.fixed.truncate(static_cast<std::size_t>(count));
      EXPECT_LE(largest_relative_error(caches.fixed.attend(queries), caches.exact.attend(queries)),
                5e-3)
          << name_of(format) << ", " << count << " tokens";
    }
  }
}

TEST_P(FixedSumsTest, EveryGroupSizeIsOffByHalfAPercentAtMost) {
  for (const PolarFormat& format : {PolarFormat::paper(64), PolarFormat::full_depth(80, 3.25)}) {
    const Index d = format.head_dim;
    for (const int group_size : {1, 2, 3, 4, 7, 8}) {
      KVCacheConfig config = tile_config(format, format);
      config.num_kv_heads = 2;
      config.num_query_heads = 2 * group_size;
      const CachePair caches(GetParam(), config, gaussian_matrix<float>(550, 2 * d, 1),
                             gaussian_matrix<float>(550, 2 * d, 2));
      const RowMatrix<float> queries = gaussian_matrix<float>(3, 2 * group_size * d, 3);
      const RowMatrix<float> exact = caches.exact.attend(queries);
      const RowMatrix<float> fixed = caches.fixed.attend(queries);
      for (Index head = 0; head < 2 * group_size; ++head) {
        EXPECT_LE(
            largest_relative_error(fixed.middleCols(head * d, d), exact.middleCols(head * d, d)),
            5e-3)
            << name_of(format) << ", groups of " << group_size;
      }
    }
  }
}

}  // namespace
