// The baselines of bench/baselines/ that are fitted to queries or channels are what their papers
// say: sizes, transforms, errors against formulas.

#include "baselines/fitted_codecs.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

#include "polarquant/base/random.hpp"

namespace polarquant_baselines {
namespace {

using polarquant::Random;
using polarquant::RowMatrix;

// Entries of column j are normal with the deviation deviations[j].
RowMatrix<float> gaussian_rows(Random& random, Eigen::Index rows,
                               const std::vector<double>& deviations) {
  RowMatrix<float> matrix(rows, static_cast<Eigen::Index>(deviations.size()));
  for (Eigen::Index i = 0; i < rows; ++i) {
    for (Eigen::Index j = 0; j < matrix.cols(); ++j) {
      matrix(i, j) =
          static_cast<float>(deviations[static_cast<std::size_t>(j)] * random.gaussian());
    }
  }
  return matrix;
}

std::vector<double> ones(std::size_t head_dim) { return std::vector<double>(head_dim, 1.0); }

// A few channels of the keys stand out, others of the queries.
struct ChannelStructure {
  std::vector<double> queries;
  std::vector<double> keys;

  explicit ChannelStructure(std::size_t head_dim) : queries(ones(head_dim)), keys(ones(head_dim)) {
    for (const std::size_t channel : {4u, 5u, 22u, 23u, 50u, 51u}) keys[channel] = 8.0;
    for (const std::size_t channel : {10u, 11u, 30u, 31u}) queries[channel] = 8.0;
  }

  FitStatistics statistics(Random& random) const {
    FitStatistics result(static_cast<Eigen::Index>(keys.size()));
    result.add({gaussian_rows(random, 4000, queries), gaussian_rows(random, 2000, keys),
                gaussian_rows(random, 2000, ones(keys.size()))});
    return result;
  }
};

std::vector<float> round_trip(const VectorCodec& codec, const float* vector) {
  std::vector<std::byte> code(codec.bytes_per_vector());
  std::vector<float> decoded(codec.head_dim());
  codec.encode(vector, code.data());
  codec.decode(code.data(), decoded.data());
  return decoded;
}

RowMatrix<float> errors(const VectorCodec& codec, const RowMatrix<float>& rows) {
  RowMatrix<float> result = rows;
  for (Eigen::Index i = 0; i < rows.rows(); ++i) {
    const std::vector<float> decoded = round_trip(codec, rows.row(i).data());
    result.row(i) -= Eigen::Map<const Eigen::RowVectorXf>(decoded.data(), rows.cols());
  }
  return result;
}

// Mean of |x - x'|^2 / |x|^2 over normal vectors.
double gaussian_mse(const VectorCodec& codec, int num_vectors) {
  Random random(11);
  const RowMatrix<float> rows = gaussian_rows(random, num_vectors, ones(codec.head_dim()));
  const RowMatrix<float> difference = errors(codec, rows);
  return (difference.rowwise().squaredNorm().array() / rows.rowwise().squaredNorm().array())
      .cast<double>()
      .mean();
}

// Mean of (q . (k - k'))^2 for queries with independent channels.
double logit_error(const VectorCodec& codec, const ChannelStructure& structure) {
  Random random(12);
  const RowMatrix<float> difference = errors(codec, gaussian_rows(random, 500, structure.keys));
  double total = 0.0;
  for (Eigen::Index j = 0; j < difference.cols(); ++j) {
    const double deviation = structure.queries[static_cast<std::size_t>(j)];
    total += deviation * deviation * static_cast<double>(difference.col(j).squaredNorm());
  }
  return total / static_cast<double>(difference.rows());
}

// Stores the floats themselves.
class FloatCodec final : public VectorCodec {
 public:
  explicit FloatCodec(std::size_t head_dim) : head_dim_(head_dim) {}
  std::size_t head_dim() const override { return head_dim_; }
  std::size_t bytes_per_vector() const override { return head_dim_ * sizeof(float); }
  double expected_relative_mse() const override { return 0.0; }
  void encode(const float* vector, std::byte* code) const override {
    std::memcpy(code, vector, bytes_per_vector());
  }
  void decode(const std::byte* code, float* vector) const override {
    std::memcpy(vector, code, bytes_per_vector());
  }

 private:
  std::size_t head_dim_;
};

TEST(FitStatisticsTest, PiecesAddUpToTheWhole) {
  Random random(1);
  const RowMatrix<float> queries = gaussian_rows(random, 30, ones(8));
  const RowMatrix<float> keys = gaussian_rows(random, 20, ones(8));
  const RowMatrix<float> values = gaussian_rows(random, 20, ones(8));
  std::vector<double> weights;
  for (int t = 0; t < 20; ++t) weights.push_back(random.uniform());
  FitStatistics whole(8);
  whole.add({queries, keys, values, weights});
  FitStatistics pieces(8);
  pieces.add({queries.topRows(10), keys.topRows(12), values.topRows(12),
              std::vector<double>(weights.begin(), weights.begin() + 12)});
  pieces.add({queries.bottomRows(20), keys.bottomRows(8), values.bottomRows(8),
              std::vector<double>(weights.begin() + 12, weights.end())});
  EXPECT_TRUE(whole.query_moments().isApprox(pieces.query_moments(), 1e-12));
  EXPECT_TRUE(whole.key_moments().isApprox(pieces.key_moments(), 1e-12));
  EXPECT_TRUE(whole.value_moments().isApprox(pieces.value_moments(), 1e-12));
  EXPECT_EQ(whole.key_maxima(), pieces.key_maxima());
  EXPECT_EQ(whole.key_maxima().cast<float>(),
            Eigen::VectorXf(keys.cwiseAbs().colwise().maxCoeff().transpose()));
}

TEST(FitStatisticsTest, WithoutWeightsTokensCountByTheirSquaredScores) {
  Random random(2);
  const RowMatrix<float> queries = gaussian_rows(random, 30, ones(8));
  const RowMatrix<float> keys = gaussian_rows(random, 20, ones(8));
  const RowMatrix<float> values = gaussian_rows(random, 20, ones(8));
  const Eigen::MatrixXd scores = queries.cast<double>() * keys.cast<double>().transpose();
  std::vector<double> weights;
  for (Eigen::Index t = 0; t < 20; ++t) weights.push_back(scores.col(t).squaredNorm());
  FitStatistics given(8);
  given.add({queries, keys, values, weights});
  FitStatistics none(8);
  none.add({queries, keys, values});
  EXPECT_TRUE(given.value_moments().isApprox(none.value_moments(), 1e-12));
}

TEST(FitStatisticsTest, RefusesRowsThatDoNotMatch) {
  const RowMatrix<float> wide = RowMatrix<float>::Zero(4, 8);
  const RowMatrix<float> narrow = RowMatrix<float>::Zero(4, 6);
  const RowMatrix<float> few = RowMatrix<float>::Zero(3, 8);
  FitStatistics statistics(8);
  EXPECT_THROW(statistics.add({narrow, wide, wide}), std::invalid_argument);
  EXPECT_THROW(statistics.add({wide, wide, few}), std::invalid_argument);
  EXPECT_THROW(statistics.add({wide, wide, wide, {1.0}}), std::invalid_argument);
}

TEST(GroupCodecTest, StoresAQuarterBitOfSideNumbers) {
  for (const int bits : {2, 3}) {
    for (const std::size_t head_dim : {64u, 128u, 192u, 256u}) {
      const GroupCodec codec(head_dim, GroupFormat::quarter(head_dim, bits));
      EXPECT_EQ(codec.bits_per_coordinate(), bits + 0.25);
    }
  }
  EXPECT_EQ(GroupCodec(64, GroupFormat::quarter(64, 2)).bytes_per_vector(), 18u);
  EXPECT_EQ(GroupCodec(64, GroupFormat::quarter(64, 3)).bytes_per_vector(), 26u);
  EXPECT_EQ(GroupCodec(128, GroupFormat::quarter(128, 2)).bytes_per_vector(), 36u);
  EXPECT_EQ(GroupCodec(128, GroupFormat::quarter(128, 3)).bytes_per_vector(), 52u);
}

TEST(GroupCodecTest, RefusesWhatItCannotHold) {
  EXPECT_THROW(GroupCodec(96, GroupFormat::quarter(96, 2)), std::invalid_argument);
  EXPECT_THROW(GroupCodec(64, {0, 64, SideNumbers::kHalves}), std::invalid_argument);
  EXPECT_THROW(GroupCodec(64, {5, 64, SideNumbers::kBytes}), std::invalid_argument);
  EXPECT_THROW(GroupCodec(64, {2, 64, SideNumbers::kHalves}, 0.0), std::invalid_argument);
}

// n uniform entries of a segment of length 1: given the least and the largest, the others are
// uniform between them, so that their errors are uniform in a step: range^2 / (12 levels^2), with
// E range^2 = n (n - 1) / ((n + 1) (n + 2)). The least and the largest are met.
TEST(GroupCodecTest, UniformEntriesHaveTheErrorOfTheirStep) {
  for (const int bits : {2, 3}) {
    for (const SideNumbers side : {SideNumbers::kHalves, SideNumbers::kBytes}) {
      const double n = 64.0;
      const GroupCodec codec(128, {bits, 64, side});
      Random random(3);
      RowMatrix<float> rows(4000, 128);
      for (Eigen::Index i = 0; i < rows.size(); ++i) {
        rows.data()[i] = static_cast<float>(random.uniform() - 0.5);
      }
      const double mse =
          static_cast<double>(errors(codec, rows).squaredNorm()) / static_cast<double>(rows.size());
      const double levels = std::pow(2.0, bits) - 1.0;
      const double expected =
          (n - 2.0) / n * n * (n - 1.0) / ((n + 1.0) * (n + 2.0)) / (12.0 * levels * levels);
      // A byte's scale is up to 2^(1/16) off: steps are wider, or narrower and entries beyond them.
      const bool is_exact = side == SideNumbers::kHalves;
      EXPECT_GT(mse / expected, is_exact ? 0.99 : std::exp2(-0.125));
      EXPECT_LT(mse / expected, is_exact ? 1.01 : std::exp2(0.125));
    }
  }
}

// Not below the optimal quantizer of a normal variable (Max, 1960), not above the error of a step
// that reaches from -3 to 3.
TEST(GroupCodecTest, GaussianEntriesStayBetweenTheirBounds) {
  for (const std::size_t head_dim : {64u, 128u}) {
    const double two = gaussian_mse(GroupCodec(head_dim, GroupFormat::quarter(head_dim, 2)), 2000);
    const double three =
        gaussian_mse(GroupCodec(head_dim, GroupFormat::quarter(head_dim, 3)), 2000);
    EXPECT_GT(two, 0.117482);
    EXPECT_LT(two, 36.0 / 9.0 / 12.0);
    EXPECT_GT(three, 0.034548);
    EXPECT_LT(three, 36.0 / 49.0 / 12.0);
  }
}

// 0.96 and 0.92 are published for 2 bits; at 3 bits that is too much of a vector.
TEST(GroupCodecTest, ClippingLowersTheErrorOfGaussianEntries) {
  const auto gain = [](int bits, double ratio) {
    const GroupFormat format = GroupFormat::quarter(128, bits);
    return gaussian_mse(GroupCodec(128, format, ratio), 2000) /
           gaussian_mse(GroupCodec(128, format), 2000);
  };
  EXPECT_LT(gain(2, 0.96), 0.65);
  EXPECT_LT(gain(2, 0.92), 0.55);
  EXPECT_LT(gain(3, 0.98), 0.88);
  EXPECT_GT(gain(3, 0.92), 0.88);
}

TEST(GroupCodecTest, ClipsToARankAmongTheMagnitudes) {
  std::vector<float> x(64);
  for (std::size_t i = 0; i < 64; ++i) {
    x[i] = (i % 2 == 0 ? 1.0f : -1.0f) * static_cast<float>(i + 1);
  }
  // Rank 57 of 64 magnitudes, from 0, is 58.
  const std::vector<float> decoded =
      round_trip(GroupCodec(64, {8, 64, SideNumbers::kHalves}, 0.9), x.data());
  EXPECT_NEAR(decoded[63], -58.0f, 0.25f);
  EXPECT_NEAR(decoded[62], 58.0f, 0.25f);
  EXPECT_NEAR(decoded[40], 41.0f, 0.25f);
}

TEST(GroupCodecTest, ZerosStayZerosAndConstantsNearlyConstant) {
  for (const SideNumbers side : {SideNumbers::kHalves, SideNumbers::kBytes}) {
    const GroupCodec codec(64, {2, 64, side});
    for (const float constant : {0.0f, 5.0f, -0.01f}) {
      const std::vector<float> x(64, constant);
      for (const float decoded : round_trip(codec, x.data())) {
        EXPECT_LE(std::fabs(decoded - constant), 0.05f * std::fabs(constant));
      }
    }
    // Far from zero, and hardly a range.
    std::vector<float> x(64, 100.0f);
    x[3] = 101.0f;
    for (const float decoded : round_trip(codec, x.data())) EXPECT_NEAR(decoded, 100.0f, 6.0f);
  }
}

TEST(OscarTest, RotationIsOrthogonalAndEqualizesTheImportance) {
  Random random(4);
  for (const std::size_t head_dim : {64u, 128u}) {
    const Eigen::MatrixXd moments = ChannelStructure(head_dim).statistics(random).query_moments();
    const Eigen::MatrixXd rotation = oscar_rotation(moments);
    const Eigen::Index d = moments.rows();
    EXPECT_TRUE((rotation.transpose() * rotation).isIdentity(1e-10));
    const Eigen::VectorXd importance = (rotation.transpose() * moments * rotation).diagonal();
    EXPECT_LT((importance.array() - moments.trace() / static_cast<double>(d)).abs().maxCoeff(),
              1e-9 * moments.trace());
  }
}

TEST(OscarTest, BeforeItMixesItDiagonalizes) {
  Random random(5);
  const Eigen::MatrixXd moments = ChannelStructure(64).statistics(random).query_moments();
  const Eigen::MatrixXd basis = oscar_rotation(moments) * oscar_mixing(64).transpose();
  Eigen::MatrixXd rest = basis.transpose() * moments * basis;
  const Eigen::VectorXd eigenvalues = rest.diagonal();
  rest.diagonal().setZero();
  EXPECT_LT(rest.cwiseAbs().maxCoeff(), 1e-9 * eigenvalues.maxCoeff());
  for (Eigen::Index i = 1; i < 64; ++i) EXPECT_GE(eigenvalues[i], eigenvalues[i - 1] - 1e-9);
}

// The page's example: the first to position 0, the second to 64, the third to 32, the fourth to 96.
TEST(OscarTest, NeighboursAreSpreadByReversedBits) {
  const Eigen::MatrixXd mixing = oscar_mixing(128);
  const auto place_of = [&mixing](Eigen::Index column) {
    for (Eigen::Index place = 0; place < 128; ++place) {
      bool same = true;
      for (Eigen::Index i = 0; i < 7; ++i) {
        same = same && (mixing(Eigen::Index{1} << i, place) < 0.0) == (((column >> i) & 1) != 0);
      }
      if (same) return place;
    }
    return Eigen::Index{-1};
  };
  EXPECT_EQ(place_of(127), 0);
  EXPECT_EQ(place_of(126), 64);
  EXPECT_EQ(place_of(125), 32);
  EXPECT_EQ(place_of(124), 96);
  EXPECT_THROW(oscar_mixing(96), std::invalid_argument);
}

// A rotation leaves normal vectors normal.
TEST(OscarTest, GaussianKeysHaveTheErrorOfTheQuantizer) {
  Random random(6);
  const FitStatistics statistics = ChannelStructure(128).statistics(random);
  for (const int bits : {2, 3}) {
    for (const bool is_value : {false, true}) {
      const auto codec = make_fitted_codec({"oscar", bits + 0.25, is_value}, statistics);
      const GroupCodec quantizer(128, GroupFormat::quarter(128, bits),
                                 oscar_clip_ratio(is_value, bits));
      EXPECT_NEAR(gaussian_mse(*codec, 3000) / gaussian_mse(quantizer, 3000), 1.0, 0.02);
    }
  }
}

// Against the same quantizer of the channels as they are, clipped or not.
TEST(OscarTest, LowersTheErrorOfScores) {
  Random random(7);
  for (const std::size_t head_dim : {64u, 128u}) {
    const ChannelStructure structure(head_dim);
    const FitStatistics statistics = structure.statistics(random);
    for (const int bits : {2, 3}) {
      const GroupFormat format = GroupFormat::quarter(head_dim, bits);
      const double error =
          logit_error(*make_fitted_codec({"oscar", bits + 0.25}, statistics), structure);
      for (const double clip_ratio : {1.0, oscar_clip_ratio(false, bits)}) {
        EXPECT_LT(error, 0.8 * logit_error(GroupCodec(head_dim, format, clip_ratio), structure));
      }
    }
  }
}

TEST(SmoothAttentionTest, ScalesAreRootsOfTheLargerMaximumOfAPair) {
  RowMatrix<float> keys = RowMatrix<float>::Zero(2, 8);
  keys.row(0) << 1.0f, -9.0f, 0.25f, 0.5f, 0.0f, 0.0f, 4.0f, -1.0f;
  keys.row(1) << -2.0f, 3.0f, 0.0f, -4.0f, 0.0f, 0.0f, -1.0f, -16.0f;
  FitStatistics statistics(8);
  statistics.add({keys, keys, keys});
  Eigen::VectorXd adjacent(8);
  adjacent << 3.0, 3.0, 2.0, 2.0, 1.0, 1.0, 4.0, 4.0;
  EXPECT_TRUE(smooth_attention_scales(statistics, RopePairs::kAdjacent).isApprox(adjacent, 1e-12));
  Eigen::VectorXd halves(8);
  halves << std::sqrt(2.0), 3.0, 2.0, 4.0, std::sqrt(2.0), 3.0, 2.0, 4.0;
  EXPECT_TRUE(smooth_attention_scales(statistics, RopePairs::kHalves).isApprox(halves, 1e-12));
}

TEST(SmoothAttentionTest, WithoutAQuantizerScoresAndKeysStayAsTheyAre) {
  Random random(8);
  const ChannelStructure structure(64);
  const Eigen::VectorXd scales =
      smooth_attention_scales(structure.statistics(random), RopePairs::kAdjacent);
  const Eigen::MatrixXd queries = gaussian_rows(random, 5, structure.queries).cast<double>();
  const RowMatrix<float> keys = gaussian_rows(random, 20, structure.keys);
  const Eigen::MatrixXd smoothed = keys.cast<double>() * scales.cwiseInverse().asDiagonal();
  const Eigen::MatrixXd multiplied = queries * scales.asDiagonal();
  EXPECT_TRUE((multiplied * smoothed.transpose())
                  .isApprox(queries * keys.cast<double>().transpose(), 1e-14));
  const LinearCodec codec(std::make_unique<FloatCodec>(64),
                          Eigen::MatrixXd(scales.cwiseInverse().asDiagonal()),
                          Eigen::MatrixXd(scales.asDiagonal()));
  EXPECT_LT(errors(codec, keys).cwiseAbs().maxCoeff(), 4e-7f * keys.cwiseAbs().maxCoeff());
}

TEST(SmoothAttentionTest, LowersTheErrorOfScores) {
  Random random(9);
  for (const std::size_t head_dim : {64u, 128u}) {
    const ChannelStructure structure(head_dim);
    const FitStatistics statistics = structure.statistics(random);
    for (const int bits : {2, 3}) {
      const auto codec = make_fitted_codec({"smooth_attention", bits + 0.25}, statistics);
      const GroupCodec unfitted(head_dim, GroupFormat::quarter(head_dim, bits));
      EXPECT_LT(logit_error(*codec, structure), 0.5 * logit_error(unfitted, structure));
    }
  }
}

TEST(BlockGtqTest, AllocationSpendsItsBudgetWhereTheEnergyIs) {
  Random random(10);
  std::vector<double> scores;
  for (int i = 0; i < 32; ++i) scores.push_back(std::exp(2.0 * random.gaussian()));
  for (const int budget : {32, 45, 64, 96, 200, 256}) {
    const std::vector<int> widths = block_gtq_widths(scores, budget);
    int sum = 0;
    for (const int width : widths) sum += width;
    EXPECT_EQ(sum, budget);
    for (std::size_t i = 0; i < 32; ++i) {
      EXPECT_GE(widths[i], 1);
      EXPECT_LE(widths[i], 8);
      for (std::size_t j = 0; j < 32; ++j) {
        if (scores[i] > scores[j]) {
          EXPECT_GE(widths[i], widths[j]);
        }
      }
    }
  }
  EXPECT_THROW(block_gtq_widths(scores, 31), std::invalid_argument);
  EXPECT_THROW(block_gtq_widths(scores, 257), std::invalid_argument);
}

// The gains of a pair fall with every bit, so that taking the largest is optimal.
TEST(BlockGtqTest, AllocationIsTheBestOfAll) {
  const std::vector<double> scores{7.0, 0.3, 40.0};
  const auto cost = [&scores](int a, int b, int c) {
    return std::ldexp(scores[0], -2 * a) + std::ldexp(scores[1], -2 * b) +
           std::ldexp(scores[2], -2 * c);
  };
  for (int budget = 3; budget <= 24; ++budget) {
    double least = std::numeric_limits<double>::infinity();
    for (int a = 1; a <= 8; ++a) {
      for (int b = 1; b <= 8; ++b) {
        const int c = budget - a - b;
        if (c >= 1 && c <= 8) least = std::min(least, cost(a, b, c));
      }
    }
    const std::vector<int> widths = block_gtq_widths(scores, budget);
    EXPECT_EQ(cost(widths[0], widths[1], widths[2]), least);
  }
}

TEST(BlockGtqTest, NormsArePaidForFromTheBudget) {
  Random random(11);
  std::vector<double> scores;
  for (int i = 0; i < 64; ++i) scores.push_back(std::exp(1.5 * random.gaussian()));
  for (const std::size_t norm_bits : {8u, 16u}) {
    for (const std::size_t total : {288u, 416u}) {
      const std::vector<int> widths = block_gtq_widths_with_norms(scores, total, norm_bits);
      BlockGtqOptions options;
      options.norm_bits = norm_bits;
      const BlockGtqCodec codec(widths, options);
      std::size_t bits = norm_bits * codec.num_groups();
      for (const int width : widths) bits += 2 * static_cast<std::size_t>(width);
      EXPECT_EQ(codec.bytes_per_vector(), (bits + 7) / 8);
      EXPECT_LE(codec.bytes_per_vector(), total / 8);
      EXPECT_GE(codec.bytes_per_vector() + 2, total / 8);
      EXPECT_GT(codec.num_groups(), 1u);
    }
  }
  EXPECT_THROW(block_gtq_widths_with_norms(scores, 128, 16), std::invalid_argument);
}

TEST(BlockGtqTest, EqualEnergiesGetOneGroup) {
  const std::vector<int> widths =
      block_gtq_widths_with_norms(std::vector<double>(32, 1.0), 144, 16);
  EXPECT_EQ(widths, std::vector<int>(32, 2));
}

// |x - x'|^2 / |x|^2 in n dimensions: with y the vector of centroids and x' = y |x| / |y|, it is
// 2 - 2 <x, y> / (|x| |y|), and for |x|^2 = n the means of x_i y_i and y_i^2 over the law of a
// coordinate, (1 - x^2 / n)^((n - 3) / 2), concentrate. What is left out is of the order of 1 / n;
// measured for 1 .. 4 bits it is -2.2 / n .. 0.
double lloyd_max_error(int width, double n) {
  const std::vector<float>& centroids = gaussian_centroids(width);
  double mass = 0.0;
  double product = 0.0;
  double square = 0.0;
  for (double x = -7.9995; x < 8.0; x += 1e-3) {
    if (x * x >= n) continue;
    double nearest = static_cast<double>(centroids[0]);
    for (const float centroid : centroids) {
      const double y = static_cast<double>(centroid);
      if (std::fabs(x - y) < std::fabs(x - nearest)) nearest = y;
    }
    const double density = std::pow(1.0 - x * x / n, 0.5 * (n - 3.0));
    mass += density;
    product += density * x * nearest;
    square += density * nearest * nearest;
  }
  return 2.0 - 2.0 * product / std::sqrt(square * mass);
}

void expect_lloyd_max_error(double error, int width, double n) {
  EXPECT_GT(error / lloyd_max_error(width, n), 0.99 - 2.2 / n);
  EXPECT_LT(error / lloyd_max_error(width, n), 1.01);
}

// An optimal quantizer's output has <x, y> = |y|^2 = 1 - D, hence the cosine sqrt(1 - D).
TEST(BlockGtqTest, ErrorTendsToThatOfTheKnownDistortions) {
  const double distortions[] = {0.363380, 0.117482, 0.034548, 0.009501};  // Max, 1960
  for (int width = 1; width <= 4; ++width) {
    EXPECT_NEAR(lloyd_max_error(width, 1e6) / (2.0 - 2.0 * std::sqrt(1.0 - distortions[width - 1])),
                1.0, 1e-4);
  }
}

TEST(BlockGtqTest, GaussianVectorsHaveTheErrorOfLloydMax) {
  for (const std::size_t head_dim : {64u, 128u}) {
    for (int width = 1; width <= 4; ++width) {
      BlockGtqOptions options;
      const double mse = gaussian_mse(*make_block_gtq_values(head_dim, width, options), 2000);
      expect_lloyd_max_error(mse, width, static_cast<double>(head_dim));
      // The relative error of a byte's norm is at most 2^(1/16) - 1.
      options.norm_bits = 8;
      const double bytes = gaussian_mse(*make_block_gtq_values(head_dim, width, options), 2000);
      EXPECT_GT(bytes, mse);
      EXPECT_LT(bytes, mse + std::pow(std::exp2(1.0 / 16.0) - 1.0, 2.0));
    }
  }
}

TEST(BlockGtqTest, EachGroupHasTheErrorOfItsWidth) {
  std::vector<int> widths(32, 2);
  for (std::size_t i = 0; i < 12; ++i) widths[i] = 4;
  for (const RopePairs pairs : {RopePairs::kAdjacent, RopePairs::kHalves}) {
    BlockGtqOptions options;
    options.pairs = pairs;
    const BlockGtqCodec codec(widths, options);
    EXPECT_EQ(codec.bytes_per_vector(), 4u + (20u * 2u * 2u + 12u * 2u * 4u) / 8u);
    EXPECT_TRUE((codec.rotation() * codec.rotation().transpose()).isIdentity(1e-5f));
    Random random(12);
    const RowMatrix<float> difference = errors(codec, gaussian_rows(random, 3000, ones(64)));
    double fine = 0.0;
    double coarse = 0.0;
    for (Eigen::Index pair = 0; pair < 32; ++pair) {
      for (Eigen::Index place = 0; place < 2; ++place) {
        const double error =
            static_cast<double>(difference.col(rope_channel(pairs, 64, pair, place)).squaredNorm());
        (pair < 12 ? fine : coarse) += error / 3000.0;
      }
    }
    expect_lloyd_max_error(fine / 24.0, 4, 24.0);
    expect_lloyd_max_error(coarse / 40.0, 2, 40.0);
  }
}

TEST(BlockGtqTest, ZerosStayZeros) {
  std::vector<int> widths(32, 2);
  widths[7] = 5;
  for (const std::size_t norm_bits : {8u, 16u}) {
    BlockGtqOptions options;
    options.norm_bits = norm_bits;
    const std::vector<float> zeros(64, 0.0f);
    EXPECT_EQ(round_trip(BlockGtqCodec(widths, options), zeros.data()), zeros);
  }
  EXPECT_THROW(BlockGtqCodec(std::vector<int>(32, 9), {}), std::invalid_argument);
  BlockGtqOptions options;
  options.norm_bits = 12;
  EXPECT_THROW(BlockGtqCodec(widths, options), std::invalid_argument);
}

// Against equal widths of the same bytes: three of them where that is what 3.25 bits hold.
TEST(BlockGtqTest, LowersTheErrorOfScores) {
  Random random(13);
  for (const std::size_t head_dim : {64u, 128u}) {
    const ChannelStructure structure(head_dim);
    const FitStatistics statistics = structure.statistics(random);
    for (const std::size_t norm_bits : {8u, 16u}) {
      for (const int bits : {2, 3}) {
        BlockGtqOptions options;
        options.norm_bits = norm_bits;
        const std::unique_ptr<VectorCodec> fitted =
            fit_block_gtq_keys(statistics, bits + 0.25, options);
        EXPECT_LE(fitted->bits_per_coordinate(), bits + 0.25);
        EXPECT_LT(logit_error(*fitted, structure),
                  0.7 * logit_error(*make_block_gtq_values(head_dim, bits, options), structure));
      }
    }
  }
}

TEST(FittedCodecsTest, StoreWhatTheirFormatsSay) {
  Random random(14);
  for (const std::size_t head_dim : {64u, 128u}) {
    const FitStatistics statistics = ChannelStructure(head_dim).statistics(random);
    for (const int bits : {2, 3}) {
      const std::size_t budget = head_dim / 32 * (4 * static_cast<std::size_t>(bits) + 1);
      for (const bool is_value : {false, true}) {
        for (const char* const method : {"oscar", "smooth_attention"}) {
          EXPECT_EQ(
              make_fitted_codec({method, bits + 0.25, is_value}, statistics)->bytes_per_vector(),
              budget);
        }
      }
      for (const char* const method : {"block_gtq", "block_gtq_byte_norms"}) {
        const std::size_t bytes =
            make_fitted_codec({method, bits + 0.25, false}, statistics)->bytes_per_vector();
        EXPECT_LE(bytes, budget);
        EXPECT_GE(bytes + 2, budget);
      }
      EXPECT_EQ(make_fitted_codec({"block_gtq", bits + 0.25, true}, statistics)->bytes_per_vector(),
                head_dim / 8 * static_cast<std::size_t>(bits) + 2);
    }
  }
}

TEST(FittedCodecsTest, RefuseWhatIsNotKnown) {
  const FitStatistics statistics(64);
  EXPECT_THROW(make_fitted_codec({"oscars", 2.25}, statistics), std::invalid_argument);
  EXPECT_THROW(make_fitted_codec({"oscar", 2.5}, statistics), std::invalid_argument);
  EXPECT_THROW(make_fitted_codec({"smooth_attention", 2.25}, FitStatistics(80)),
               std::invalid_argument);
}

}  // namespace
}  // namespace polarquant_baselines
