#include "polarquant/calibration/calibrator.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "plain_attention.hpp"
#include "polarquant/base/random.hpp"
#include "test_util.hpp"

namespace {

using Eigen::Index;
using polarquant::Calibration;
using polarquant::CalibrationKind;
using polarquant::Calibrator;
using polarquant::CalibratorShape;
using polarquant::Random;
using polarquant::RowMatrix;
using polarquant_test::AccumulatorOf;
using polarquant_test::expect_invalid;
using polarquant_test::gaussian_matrix;
using polarquant_test::OptionsOf;
using polarquant_test::PlainOptions;
using polarquant_test::random_int;
using polarquant_test::random_options;
using Matrix = RowMatrix<double>;

// ---- M, from its definition ----

// The keys behind the sinks less the centres of their spans of 64 tokens.
Matrix centered(const Matrix& keys, Index num_sinks) {
  Matrix result = keys;
  for (Index token = num_sinks; token < keys.rows(); ++token) {
    const Index start = num_sinks + (token - num_sinks) / 64 * 64;
    const Index first = std::max(start - 64, num_sinks);
    const Index end = std::min(start + 64, keys.rows());
    result.row(token) -= keys.middleRows(first, end - first).colwise().mean();
  }
  return result;
}

struct PlainMoments {
  Matrix channels;                        // M
  polarquant::KeyMatrixMoments matrices;  // C_q, C_k
};

PlainMoments plain_moments(const CalibratorShape& shape, int kv_head, const Matrix& queries,
                           const Matrix& keys, const PlainOptions& options) {
  const Index d = shape.head_dim;
  const Index num_tokens = keys.rows();
  const Index num_sinks = static_cast<Index>(shape.num_sink_tokens);
  const Index group = shape.num_query_heads / shape.num_kv_heads;
  const Matrix own = keys.middleCols(kv_head * d, d);
  const Matrix errors = centered(own, num_sinks);
  const double scale = options.scale.value_or(1.0 / std::sqrt(static_cast<double>(d)));
  const Index first_position = options.first_position.value_or(num_tokens - queries.rows());
  const Matrix zero = Matrix::Zero(d, d);
  PlainMoments moments{zero, {zero, zero}};
  for (Index head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const auto head_index = static_cast<std::size_t>(head);
    for (Index query = 0; query < queries.rows(); ++query) {
      const Eigen::RowVectorXd q = queries.row(query).segment(head * d, d);
      const Index position = first_position + query;
      std::vector<double> weights(static_cast<std::size_t>(num_tokens), 0.0);
      double sum = options.sink_logits.empty() ? 0.0 : std::exp(options.sink_logits[head_index]);
      for (Index token = 0; token < num_tokens; ++token) {
        if (options.causal && token > position) continue;
        if (options.window > 0 && token >= static_cast<Index>(options.window_sinks) &&
            position - token >= static_cast<Index>(options.window)) {
          continue;
        }
        double logit = scale * q.dot(own.row(token));
        if (options.soft_cap > 0) logit = options.soft_cap * std::tanh(logit / options.soft_cap);
        if (!options.alibi_slopes.empty()) {
          logit += options.alibi_slopes[head_index] * static_cast<double>(token - position);
        }
        if (options.mask.size() > 0) {
          const bool per_head = options.mask.rows() != queries.rows();
          logit += options.mask(per_head ? query * shape.num_query_heads + head : query, token);
        }
        weights[static_cast<std::size_t>(token)] = std::exp(logit);
        sum += std::exp(logit);
      }
      for (Index token = num_sinks; token < num_tokens; ++token) {
        const double weight = weights[static_cast<std::size_t>(token)];
        if (weight == 0.0) continue;
        const double square = weight * weight / (sum * sum);
        const Eigen::RowVectorXd error = errors.row(token);
        for (Index i = 0; i < d; ++i) {
          for (Index j = 0; j < d; ++j) {
            moments.channels(i, j) += square * q[i] * q[i] * error[j] * error[j];
            moments.matrices.queries(i, j) += square * error.squaredNorm() * q[i] * q[j];
            moments.matrices.keys(i, j) += square * q.squaredNorm() * error[i] * error[j];
          }
        }
      }
    }
  }
  return moments;
}

// Equal, for entries that are not far below the largest.
void expect_close(const Matrix& found, const Matrix& expected, double tolerance) {
  ASSERT_EQ(found.rows(), expected.rows());
  ASSERT_EQ(found.cols(), expected.cols());
  EXPECT_LE((found - expected).cwiseAbs().maxCoeff(),
            tolerance * std::max(expected.cwiseAbs().maxCoeff(), 1e-300));
}

template <typename T>
class CalibratorTest : public testing::Test {};
TYPED_TEST_SUITE(CalibratorTest, polarquant_test::ElementTypes, );  // clang++ wants the empty one.

TYPED_TEST(CalibratorTest, MomentsFollowTheirDefinition) {
  using T = TypeParam;
  using A = AccumulatorOf<T>;
  const double tolerance = std::is_same_v<T, double> ? 1e-11 : 2e-5;
  Random random(1);
  for (int trial = 0; trial < 40; ++trial) {
    const int num_kv_heads = random_int(random, 1, 2);
    CalibratorShape shape{2, num_kv_heads, num_kv_heads * random_int(random, 1, 3),
                          random_int(random, 2, 9), 0};
    shape.num_sink_tokens = static_cast<std::size_t>(random_int(random, 0, 5));
    const Index num_tokens = static_cast<Index>(shape.num_sink_tokens) +
                             random_int(random, 1, trial % 4 == 0 ? 400 : 90);
    const Index num_queries =
        trial % 2 == 0 ? num_tokens : random_int(random, 1, static_cast<int>(num_tokens));
    const auto seed = static_cast<std::uint64_t>(trial);
    const RowMatrix<T> queries = gaussian_matrix<T>(
        num_queries, shape.num_query_heads * shape.head_dim, 2 * seed + 100, 2.0);
    RowMatrix<T> keys =
        gaussian_matrix<T>(num_tokens, num_kv_heads * shape.head_dim, 2 * seed + 101, 1.0);
    // A mean that centring is to take away.
    for (Index i = 0; i < keys.size(); ++i) {
      keys.data()[i] = static_cast<T>(static_cast<float>(keys.data()[i]) + 1.5f);
    }
    const PlainOptions plain =
        trial < 5 ? PlainOptions{}
                  : random_options(random, num_queries, shape.num_query_heads, num_tokens);
    const OptionsOf<A> options(plain);
    Calibrator calibrator(shape), matrices(shape, CalibrationKind::kMatrices);
    calibrator.add_window<T>(1, queries, keys, options.get());
    matrices.add_window<T>(1, queries, keys, options.get());
    for (int head = 0; head < num_kv_heads; ++head) {
      const PlainMoments expected = plain_moments(shape, head, queries.template cast<double>(),
                                                  keys.template cast<double>(), plain);
      expect_close(calibrator.moments(1, head), expected.channels, tolerance);
      EXPECT_EQ(calibrator.moments(0, head), Matrix::Zero(shape.head_dim, shape.head_dim));
      const polarquant::KeyMatrixMoments found = matrices.matrix_moments(1, head);
      expect_close(found.queries, expected.matrices.queries, tolerance);
      expect_close(found.keys, expected.matrices.keys, tolerance);
      EXPECT_EQ(matrices.matrix_moments(0, head).keys,
                Matrix::Zero(shape.head_dim, shape.head_dim));
    }
    EXPECT_EQ(calibrator.counts(1).num_windows, 1u);
    EXPECT_EQ(calibrator.counts(1).num_queries, static_cast<std::uint64_t>(num_queries));
  }
}

// ---- What follows from the definition ----

constexpr CalibratorShape kShape{3, 2, 4, 8, 4};

Matrix window_queries(std::uint64_t seed, Index num_tokens = 150) {
  Matrix queries = gaussian_matrix<double>(num_tokens, 32, seed);
  for (Index i = 0; i < 32; ++i) queries.col(i) *= std::exp(std::sin(static_cast<double>(i)));
  return queries;
}
Matrix window_keys(std::uint64_t seed, Index num_tokens = 150) {
  Matrix keys = gaussian_matrix<double>(num_tokens, 16, seed + 1000);
  for (Index i = 0; i < 16; ++i) keys.col(i) *= std::exp(std::cos(static_cast<double>(3 * i)));
  return keys;
}
void add(Calibrator& calibrator, int layer, std::uint64_t seed) {
  calibrator.add_window<double>(layer, window_queries(seed), window_keys(seed));
}

void expect_same(const Calibrator& x, const Calibrator& y) {
  for (int layer = 0; layer < kShape.num_layers; ++layer) {
    EXPECT_TRUE(x.counts(layer) == y.counts(layer));
    for (int head = 0; head < kShape.num_kv_heads; ++head) {
      expect_close(x.moments(layer, head), y.moments(layer, head), 1e-13);
    }
  }
}

TEST(CalibratorSumTest, WindowsAddUpInAnyOrderAndMerged) {
  Calibrator forward(kShape), backward(kShape), first(kShape), second(kShape);
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    add(forward, seed == 4 ? 2 : 0, seed);
    add(backward, seed == 1 ? 2 : 0, 5 - seed);
    add(seed < 3 ? first : second, seed == 4 ? 2 : 0, seed);
  }
  expect_same(forward, backward);
  first.merge(second);
  expect_same(forward, first);
  Calibrator empty(kShape);
  empty.merge(forward);
  expect_same(forward, empty);
  forward.merge(Calibrator(kShape));
  expect_same(forward, empty);
  EXPECT_EQ(forward.counts(0).num_windows, 3u);
  EXPECT_EQ(forward.counts(0).num_queries, 450u);

  const Calibration scales = forward.finish();
  const Calibration others = backward.finish();
  for (const int layer : {0, 2}) {
    for (std::size_t i = 0; i < 16; ++i) {
      EXPECT_NEAR(scales.layer(layer).key_scales[i] / others.layer(layer).key_scales[i], 1.0f,
                  1e-6f);
    }
  }
}

TEST(CalibratorSumTest, AMergeWithItselfIsTwice) {
  Calibrator calibrator(kShape), twice(kShape);
  add(calibrator, 1, 7);
  add(twice, 1, 7);
  add(twice, 1, 7);
  calibrator.merge(calibrator);
  expect_same(calibrator, twice);
}

// The last queries of a window alone are the whole less the first ones: blocks, and queries that
// are fewer than keys, make no difference.
TEST(CalibratorSumTest, QueriesAddUp) {
  Calibrator whole(kShape), parts(kShape);
  const Matrix queries = window_queries(3, 300);
  const Matrix keys = window_keys(3, 300);
  whole.add_window<double>(0, queries, keys);
  for (Index first = 0; first < 300; first += 75) {
    polarquant::AttentionOptions<double> options;
    options.first_position = first;
    parts.add_window<double>(0, queries.middleRows(first, 75), keys, options);
  }
  for (int head = 0; head < 2; ++head) {
    expect_close(parts.moments(0, head), whole.moments(0, head), 1e-13);
  }
}

// Where all queries see all tokens, and their order does not change the centres, it changes
// nothing.
TEST(CalibratorSumTest, OrderOfTokensDoesNotMatterWithinASpan) {
  CalibratorShape shape = kShape;
  shape.num_sink_tokens = 0;
  Calibrator calibrator(shape), reversed(shape);
  polarquant::AttentionOptions<double> options;
  options.causal = false;
  const Matrix queries = window_queries(5, 60);
  const Matrix keys = window_keys(5, 60);
  calibrator.add_window<double>(0, queries, keys, options);
  reversed.add_window<double>(0, queries, keys.colwise().reverse(), options);
  expect_same(calibrator, reversed);
}

TEST(CalibratorSumTest, SizeOfAllQueriesDoesNotMatter) {
  // Logits stay as they are by the scale.
  Calibrator calibrator(kShape), larger(kShape);
  polarquant::AttentionOptions<double> options;
  options.scale = 0.25;
  calibrator.add_window<double>(0, window_queries(6), window_keys(6), options);
  options.scale = 0.25 / 64.0;
  larger.add_window<double>(0, 64.0 * window_queries(6), window_keys(6), options);
  EXPECT_EQ(calibrator.finish().layer(0).key_scales, larger.finish().layer(0).key_scales);
}

TEST(CalibratorSumTest, WhatAllKeysShareDoesNotMatter) {
  Calibrator calibrator(kShape), shifted(kShape);
  const Matrix keys = window_keys(8);
  add(calibrator, 0, 8);
  shifted.add_window<double>(0, window_queries(8),
                             keys + Matrix::Ones(keys.rows(), 1) * window_keys(9).row(0));
  for (int head = 0; head < 2; ++head) {
    expect_close(shifted.moments(0, head), calibrator.moments(0, head), 1e-9);
  }
}

TEST(CalibratorSumTest, SinksTakeTheirShareAndAddNothing) {
  // All weight on a sink: the others' is exp(-20) of it.
  CalibratorShape shape{1, 1, 1, 4, 2};
  Matrix keys = gaussian_matrix<double>(40, 4, 1, 0.1);
  const Matrix queries = Matrix::Ones(40, 4);
  Calibrator plain(shape), drained(shape), sunk(shape);
  plain.add_window<double>(0, queries, keys);
  const double before = plain.moments(0, 0).sum();
  keys.row(1).setConstant(10.0);
  drained.add_window<double>(0, queries, keys);
  EXPECT_LT(drained.moments(0, 0).sum(), before * 1e-10);
  EXPECT_GT(drained.moments(0, 0).sum(), before * 1e-25);
  // A learned sink does the same.
  keys.row(1).setConstant(0.0);
  const double logit = 20.0;
  polarquant::AttentionOptions<double> options;
  options.sink_logits = &logit;
  sunk.add_window<double>(0, queries, keys, options);
  EXPECT_LT(sunk.moments(0, 0).sum(), before * 1e-10);
}

TEST(CalibratorSumTest, ScalesAreThoseOfTheMoments) {
  Calibrator calibrator(kShape);
  EXPECT_FALSE(calibrator.finish().has_layer(0));
  add(calibrator, 1, 1);
  const Calibration early = calibrator.finish();
  add(calibrator, 1, 2);
  const Calibration late = calibrator.finish({2, 0.1});
  EXPECT_NE(early.checksum(), late.checksum());
  EXPECT_FALSE(late.has_layer(0));
  EXPECT_FALSE(late.has_layer(2));
  EXPECT_EQ(late.shape(), kShape.calibration());
  EXPECT_EQ(late.counts(1).num_windows, 2u);
  EXPECT_EQ(late.layer(1).key_bits, 0.0);
  for (int head = 0; head < 2; ++head) {
    const std::vector<double> expected =
        polarquant::channel_scales(calibrator.moments(1, head), {2, 0.1});
    for (std::size_t i = 0; i < 8; ++i) {
      EXPECT_EQ(late.layer(1).key_scales[static_cast<std::size_t>(head) * 8 + i],
                static_cast<float>(expected[i]));
    }
  }
  // Keys that are all alike have no error to avoid.
  Calibrator constant(kShape);
  constant.add_window<double>(0, window_queries(1), Matrix::Ones(150, 16));
  EXPECT_EQ(constant.finish().layer(0).key_scales, std::vector<float>(16, 1.0f));
}

TEST(CalibratorSumTest, MatricesAreThoseOfTheMoments) {
  Calibrator calibrator(kShape, CalibrationKind::kMatrices), first(kShape, calibrator.kind()),
      second(kShape, calibrator.kind());
  EXPECT_FALSE(calibrator.finish().has_layer(0));
  for (std::uint64_t seed = 1; seed <= 2; ++seed) {
    add(calibrator, 1, seed);
    add(seed == 1 ? second : first, 1, seed);
  }
  first.merge(second);
  const Calibration found = calibrator.finish({}, {0.25, 0.5});
  EXPECT_FALSE(found.has_layer(0));
  EXPECT_EQ(found.counts(1).num_windows, 2u);
  EXPECT_TRUE(found.layer(1).key_scales.empty());
  ASSERT_NE(found.layer(1).key_matrices, nullptr);
  for (int head = 0; head < 2; ++head) {
    const polarquant::KeyMatrixMoments moments = calibrator.matrix_moments(1, head);
    expect_close(first.matrix_moments(1, head).queries, moments.queries, 1e-13);
    expect_close(first.matrix_moments(1, head).keys, moments.keys, 1e-13);
    const Matrix expected = polarquant::key_matrix(moments, {0.25, 0.5});
    const auto transform =
        found.layer(1).key_matrices->transform<double>(static_cast<std::size_t>(head));
    for (Index i = 0; i < 8; ++i) {
      for (Index j = 0; j < 8; ++j) {
        EXPECT_NEAR(static_cast<double>(transform.matrix[i * 8 + j]), expected(i, j), 1e-6);
      }
    }
  }
  // Keys that are all alike have no error to avoid.
  Calibrator constant(kShape, CalibrationKind::kMatrices);
  constant.add_window<double>(0, window_queries(1), Matrix::Ones(150, 16));
  const polarquant::LayerCalibration layer = constant.finish().layer(0);
  const auto unit = layer.key_matrices->transform<double>(1);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(unit.matrix[i], i % 9 == 0 ? 1.0f : 0.0f);
}

TEST(CalibratorSumTest, KindsAreNotMixed) {
  Calibrator scales(kShape), matrices(kShape, CalibrationKind::kMatrices);
  add(matrices, 0, 1);
  expect_invalid([&] { scales.merge(matrices); }, {"for scales and for matrices"});
  EXPECT_EQ(scales.counts(0).num_windows, 0u);
  expect_invalid([&] { matrices.moments(0, 0); }, {"the other kind"});
  expect_invalid([&] { scales.matrix_moments(0, 0); }, {"the other kind"});
  expect_invalid(
      [] {
        Calibrator({1, 1, 1, 1}, CalibrationKind::kMatrices);
      },
      {"head_dim 1", "at least 2"});
  expect_invalid([] { Calibrator(kShape, static_cast<CalibrationKind>(7)); },
                 {"calibration kind is 7"});
}

// ---- Bad input ----

TEST(CalibratorErrorTest, BadShapesAreNamed) {
  const auto error = [](int layers, int kv_heads, int query_heads, int head_dim,
                        std::initializer_list<const char*> parts) {
    expect_invalid(
        [&] {
          Calibrator calibrator({layers, kv_heads, query_heads, head_dim});
        },
        parts);
  };
  error(0, 1, 1, 8, {"num_layers is 0", "must be 1 .. "});
  error(1, -1, 1, 8, {"num_kv_heads is -1", "must be 1 .. "});
  error(1, 1, 1, 1 << 20, {"head_dim is 1048576", "must be 1 .. "});
  error(1, 2, 3, 8, {"num_query_heads is 3", "multiple of num_kv_heads = 2"});
  error(1, 2, 0, 8, {"num_query_heads is 0", "multiple of num_kv_heads = 2"});
}

TEST(CalibratorErrorTest, BadWindowsAddNothing) {
  Calibrator calibrator(kShape);
  add(calibrator, 1, 1);
  const Matrix before = calibrator.moments(1, 1);
  const auto error = [&](int layer, const Matrix& queries, const Matrix& keys,
                         std::initializer_list<const char*> parts,
                         const polarquant::AttentionOptions<double>& options = {}) {
    expect_invalid([&] { calibrator.add_window<double>(layer, queries, keys, options); }, parts);
    EXPECT_EQ(calibrator.moments(1, 1), before);
    EXPECT_EQ(calibrator.counts(1).num_windows, 1u);
    EXPECT_EQ(calibrator.counts(1).num_queries, 150u);
    EXPECT_EQ(calibrator.counts(0).num_windows, 0u);
  };
  const Matrix queries = window_queries(2, 10);
  const Matrix keys = window_keys(2, 10);
  error(3, queries, keys, {"layer 3", "has 3 layers"});
  error(-1, queries, keys, {"layer -1", "has 3 layers"});
  error(1, queries.leftCols(31), keys, {"queries are 10 x 31", "4 * 8 = 32"});
  error(1, queries, window_queries(2, 10), {"keys are 10 x 32", "2 * 8 = 16"});
  error(1, queries.topRows(0), keys, {"0 queries and 10 keys", "at least 1"});
  error(1, queries, keys.topRows(9), {"10 queries and 9 keys", "no more than keys"});
  error(1, queries.topRows(2), keys.topRows(4), {"4 keys", "more than num_sink_tokens = 4"});
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()}) {
    Matrix damaged = queries;
    damaged(7, 3) = bad;
    error(1, damaged, keys, {"queries have a NaN or an infinity in row 7, column 3"});
    damaged = keys;
    damaged(0, 15) = bad;
    error(1, queries, damaged, {"keys have a NaN or an infinity in row 0, column 15"});
  }
  polarquant::AttentionOptions<double> options;
  options.soft_cap = -1.0;
  error(1, queries, keys, {"soft_cap is -1"}, options);
  // Squares, and scores, beyond double.
  for (const double factor : {1e140, 1e170}) {
    error(1, factor * queries, factor * keys, {"layer 1", "infinite", "nothing was added"});
  }
}

TEST(CalibratorErrorTest, OverflowOfFloatIsNamed) {
  Calibrator calibrator(kShape);
  for (const float factor : {1e12f, 1e25f}) {
    const RowMatrix<float> queries = window_queries(1).cast<float>() * factor;
    const RowMatrix<float> keys = window_keys(1).cast<float>() * factor;
    if (factor > 1e20f) {
      expect_invalid([&] { calibrator.add_window<float>(0, queries, keys); }, {"infinite"});
    } else {
      calibrator.add_window<float>(0, queries, keys);
    }
  }
  EXPECT_EQ(calibrator.counts(0).num_windows, 1u);
  for (const float scale : calibrator.finish().layer(0).key_scales) EXPECT_GT(scale, 0.0f);
}

TEST(CalibratorErrorTest, OtherShapesAreNotMerged) {
  Calibrator calibrator(kShape);
  add(calibrator, 0, 1);
  CalibratorShape shape = kShape;
  shape.num_sink_tokens = 5;
  Calibrator other(shape);
  add(other, 0, 1);
  expect_invalid([&] { calibrator.merge(other); },
                 {"3 layers of 2 KV heads of 8 channels with 4 query heads and 5 sinks",
                  "4 query heads and 4 sinks"});
  EXPECT_EQ(calibrator.counts(0).num_windows, 1u);
  expect_invalid([&] { calibrator.counts(3); }, {"layer 3", "has 3 layers"});
  expect_invalid([&] { calibrator.moments(0, 2); }, {"KV head 2", "has 2"});
}

}  // namespace
