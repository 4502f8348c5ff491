#include "polarquant/method/online_codebooks.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "method_test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

PolarFormat full_format(int head_dim, double bits) {
  PolarFormat format = PolarFormat::full_depth(head_dim, bits);
  format.radius_meaning = RadiusMeaning::kNorm;
  return format;
}

CodebookSet fit(const PolarFormat& format, const Rotation& rotation, const std::vector<float>& rows,
                const OnlineCodebookOptions& options = {}) {
  const std::size_t d = static_cast<std::size_t>(format.head_dim);
  return online_codebooks<float>(format, rotation, {rows.data(), rows.size() / d, d}, options);
}

bool equal(const CodebookSet& x, const CodebookSet& y) {
  const auto same = [](const std::vector<polarquant::AngleCodebook>& p,
                       const std::vector<polarquant::AngleCodebook>& q) {
    return std::equal(
        p.begin(), p.end(), q.begin(), q.end(), [](const auto& one, const auto& other) {
          return one.centroids() == other.centroids() && one.is_circular() == other.is_circular();
        });
  };
  return same(x.levels, y.levels) && same(x.joins, y.joins);
}

double relative_mse(const PolarFormat& format, const std::shared_ptr<const Rotation>& rotation,
                    const CodebookSet& codebooks, const std::vector<float>& rows) {
  const PolarCodec<float> codec(with_codebooks(format, codebooks), rotation);
  return distortion_of(codec, rows).relative_mse.mean();
}

// Vectors as an unrotated key cache has them: every channel has a mean of its own.
std::vector<float> rows_with_means(std::size_t count, std::size_t d, std::uint64_t seed) {
  const std::vector<float> means = gaussian_vector<float>(d, 77);
  std::vector<float> rows = gaussian_vector<float>(count * d, seed);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = 0.3f * rows[i] + means[i % d];
  return rows;
}

TEST(OnlineCodebooksTest, OnGaussianVectorsAreCloseToTheOfflineOnes) {
  PolarFormat format = PolarFormat::paper(64);
  const CodebookSet offline = offline_codebooks(format);
  const CodebookSet online =
      fit(format, Rotation(RotationKind::kNone, 64, 0), gaussian_vector<float>(20000 * 64, 1));
  ASSERT_EQ(online.levels.size(), 4u);
  EXPECT_TRUE(online.joins.empty());
  // Level 1 is uniform: any turn of the codebook is as good, so its spacing is compared, which
  // single cells of k-means keep to some percent.
  const std::vector<double>& first = online.levels[0].centroids();
  for (std::size_t i = 1; i < 16; ++i) {
    EXPECT_NEAR(first[i] - first[i - 1], polarquant_test::kPi / 8.0,
                0.25 * polarquant_test::kPi / 8.0);
  }
  // Deeper: at least 80,000 samples with a spread below .35; a centroid is the mean of about 1/4
  // of them, amplified by at most 6 (codebook_test.cpp).
  for (std::size_t level = 1; level < 4; ++level) {
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_NEAR(online.levels[level].centroids()[i], offline.levels[level].centroids()[i], 0.01);
    }
  }
}

TEST(OnlineCodebooksTest, OnGaussianVectorsReachTheOfflineDistortion) {
  const PolarFormat format = full_format(64, 3.25);
  const auto rotation = make_rotation(RotationKind::kHaar, 64, 3);
  const CodebookSet online = fit(format, *rotation, gaussian_vector<float>(10000 * 64, 2));
  const double reached =
      relative_mse(format, rotation, online, gaussian_vector<float>(20000 * 64, 3));
  const double exact = format.expected_relative_mse();
  EXPECT_GT(reached, 0.98 * exact);
  EXPECT_LT(reached, 1.03 * exact);
}

TEST(OnlineCodebooksTest, BeatTheOfflineOnesOnVectorsThatAreNotRotated) {
  const PolarFormat format = full_format(16, 4.0);
  const auto rotation = make_rotation(RotationKind::kNone, 16, 0);
  const CodebookSet online = fit(format, *rotation, rows_with_means(20000, 16, 4));
  const std::vector<float> fresh = rows_with_means(20000, 16, 5);
  const double with_online = relative_mse(format, rotation, online, fresh);
  const double with_offline = relative_mse(format, rotation, offline_codebooks(format), fresh);
  EXPECT_LT(with_online, 0.9 * with_offline);
  EXPECT_GT(with_online, 0.0);
}

// All level-1 angles within .2 around one of two directions, one of them across the cut.
TEST(OnlineCodebooksTest, FollowDirectionsThatCrossTheCut) {
  PolarFormat format;
  format.head_dim = 2;
  format.levels = 1;
  format.level_bits = {1};
  std::vector<float> rows;
  const std::vector<float> noise = gaussian_vector<float>(1000, 6);
  for (std::size_t i = 0; i < noise.size(); ++i) {
    const double psi = (i % 2 == 0 ? 0.02 : 2.0) + 0.05 * static_cast<double>(noise[i]);
    rows.push_back(static_cast<float>(std::cos(psi)));
    rows.push_back(static_cast<float>(std::sin(psi)));
  }
  const CodebookSet online = fit(format, Rotation(RotationKind::kNone, 2, 0), rows);
  EXPECT_NEAR(online.levels[0].centroids()[0], 0.02, 0.01);
  EXPECT_NEAR(online.levels[0].centroids()[1], 2.0, 0.01);
}

TEST(OnlineCodebooksTest, OfJoinedPartsFitEveryJoin) {
  PolarFormat format = full_format(112, 4.0);
  format.join_bits = {2, 2};
  const CodebookSet online =
      fit(format, Rotation(RotationKind::kNone, 112, 0), gaussian_vector<float>(20000 * 112, 7));
  const CodebookSet offline = offline_codebooks(format);
  ASSERT_EQ(online.joins.size(), 2u);
  for (std::size_t join = 0; join < 2; ++join) {
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_NEAR(online.joins[join].centroids()[i], offline.joins[join].centroids()[i], 0.01);
    }
  }
}

TEST(OnlineCodebooksTest, AreFittedAfterTheRotation) {
  const PolarFormat format = full_format(16, 4.0);
  const Rotation rotation(RotationKind::kHaar, 16, 9);
  const std::vector<float> rows = rows_with_means(500, 16, 8);
  std::vector<double> rotated;
  for (std::size_t row = 0; row < 500; ++row) {
    const std::vector<double> x(rows.begin() + static_cast<std::ptrdiff_t>(16 * row),
                                rows.begin() + static_cast<std::ptrdiff_t>(16 * row + 16));
    std::vector<double> y(16);
    rotation.apply(x.data(), y.data());
    rotated.insert(rotated.end(), y.begin(), y.end());
  }
  const CodebookSet of_rotated = online_codebooks<double>(
      format, Rotation(RotationKind::kNone, 16, 0), {rotated.data(), 500, 16});
  EXPECT_TRUE(equal(fit(format, rotation, rows), of_rotated));
}

TEST(OnlineCodebooksTest, EqualSeedsGiveEqualCodebooksAndOthersNeedNot) {
  const PolarFormat format = full_format(16, 4.0);
  const Rotation rotation(RotationKind::kHaar, 16, 9);
  const std::vector<float> rows = gaussian_vector<float>(500 * 16, 10);
  OnlineCodebookOptions other;
  other.seed = 1;
  EXPECT_TRUE(equal(fit(format, rotation, rows), fit(format, rotation, rows)));
  EXPECT_FALSE(equal(fit(format, rotation, rows), fit(format, rotation, rows, other)));
}

TEST(OnlineCodebooksTest, DoNotDependOnTheStrideOrTypeOfRows) {
  const PolarFormat format = full_format(16, 4.0);
  const Rotation rotation(RotationKind::kHadamard, 16, 9);
  std::vector<Eigen::half> halves(500 * 20);
  std::vector<float> floats(500 * 16);
  const std::vector<float> values = gaussian_vector<float>(500 * 16, 11);
  for (std::size_t i = 0; i < values.size(); ++i) {
    halves[i / 16 * 20 + i % 16] = static_cast<Eigen::half>(values[i]);
    floats[i] = static_cast<float>(halves[i / 16 * 20 + i % 16]);
  }
  const CodebookSet of_halves =
      online_codebooks<Eigen::half>(format, rotation, {halves.data(), 500, 20});
  EXPECT_TRUE(equal(of_halves, fit(format, rotation, floats)));
}

TEST(OnlineCodebooksTest, LeaveZeroVectorsOut) {
  const PolarFormat format = full_format(16, 4.0);
  const Rotation rotation(RotationKind::kHaar, 16, 9);
  std::vector<float> rows = gaussian_vector<float>(500 * 16, 12);
  const CodebookSet before = fit(format, rotation, rows);
  rows.insert(rows.end(), 16 * 300, 0.0f);
  EXPECT_TRUE(equal(fit(format, rotation, rows), before));
}

// A pair has one angle, so with at most 60 of 100 rows every second row is used.
TEST(OnlineCodebooksTest, UseAtMostTheGivenNumberOfAngles) {
  const PolarFormat format = full_format(2, 12.0);
  PolarFormat coarse = format;
  coarse.level_bits[0] = 3;
  const Rotation rotation(RotationKind::kNone, 2, 0);
  std::vector<float> rows = gaussian_vector<float>(100 * 2, 13);
  OnlineCodebookOptions options;
  options.max_num_angles = 60;
  const CodebookSet before = fit(coarse, rotation, rows, options);
  for (std::size_t row = 1; row < 100; row += 2) rows[2 * row] = 1e3f;
  EXPECT_TRUE(equal(fit(coarse, rotation, rows, options), before));
  EXPECT_FALSE(equal(fit(coarse, rotation, rows), before));
}

// Errors ------------------------------------------------------------------------------------------

TEST(OnlineCodebooksTest, InvalidFormatIsAnError) {
  PolarFormat format = full_format(16, 4.0);
  format.level_bits[0] = 9;
  const std::vector<float> rows = gaussian_vector<float>(500 * 16, 14);
  expect_invalid([&] { fit(format, Rotation(RotationKind::kNone, 16, 0), rows); },
                 {"level 1 has 9 bits"});
}

TEST(OnlineCodebooksTest, UncompressedFormatIsAnError) {
  const std::vector<float> rows = gaussian_vector<float>(500 * 16, 14);
  expect_invalid(
      [&] { fit(PolarFormat::uncompressed(16), Rotation(RotationKind::kNone, 16, 0), rows); },
      {"uncompressed", "no angles"});
}

TEST(OnlineCodebooksTest, RotationOfAnotherWidthIsAnErrorThatNamesBoth) {
  const std::vector<float> rows = gaussian_vector<float>(500 * 16, 14);
  expect_invalid([&] { fit(full_format(16, 4.0), Rotation(RotationKind::kNone, 32, 0), rows); },
                 {"32 wide", "the format 16"});
}

TEST(OnlineCodebooksTest, EntryThatIsNotFiniteIsAnErrorThatNamesIt) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    std::vector<float> rows = gaussian_vector<float>(500 * 16, 14);
    rows[16 * 123 + 5] = bad;
    expect_invalid([&] { fit(full_format(16, 4.0), Rotation(RotationKind::kHaar, 16, 0), rows); },
                   {"row 123", "coordinate 5"});
  }
}

TEST(OnlineCodebooksTest, FewerAnglesThanCentroidsAreAnErrorThatNamesBoth) {
  PolarFormat format = full_format(16, 4.0);
  format.level_bits = {4, 2, 2, 2};
  const std::vector<float> rows = gaussian_vector<float>(3 * 16, 14);
  expect_invalid([&] { fit(format, Rotation(RotationKind::kNone, 16, 0), rows); },
                 {"4 centroids", "3 angles"});
}

TEST(OnlineCodebooksTest, NoRowsAreAnError) {
  expect_invalid([&] { fit(full_format(16, 4.0), Rotation(RotationKind::kNone, 16, 0), {}); },
                 {"0 angles", "too few"});
}

}  // namespace
