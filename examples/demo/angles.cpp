#include "angles.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "polarquant/method/angle_distribution.hpp"
#include "polarquant/method/polar_transform.hpp"
#include "polarquant/method/rotation.hpp"
#include "text.hpp"

namespace polarquant_demo {
namespace {

using polarquant::AngleDistribution;
using polarquant::PolarShape;
using polarquant::Rotation;
using polarquant::RotationKind;

constexpr int kMaxLevels = 6;
constexpr std::size_t kNumBins = 90;

// counts[level - 1][bin] over all keys of a sample.
using Histograms = std::vector<std::array<double, kNumBins>>;

Histograms angle_histograms(const Sample& sample, const PolarShape& shape,
                            const Rotation& rotation) {
  Histograms counts(static_cast<std::size_t>(shape.levels), std::array<double, kNumBins>{});
  const std::size_t width = static_cast<std::size_t>(shape.head_dim);
  std::vector<double> key(width);
  std::vector<double> rotated(width);
  std::vector<double> radii(static_cast<std::size_t>(shape.num_radii()));
  std::vector<double> angles(static_cast<std::size_t>(shape.num_angles()));
  for (const Layer& layer : sample.layers) {
    const float* next = layer.keys.data();
    const std::size_t num_keys = static_cast<std::size_t>(layer.keys.size()) / width;
    for (std::size_t i = 0; i < num_keys; ++i, next += width) {
      std::copy_n(next, width, key.begin());
      rotation.apply(key.data(), rotated.data());
      polarquant::to_polar(shape, rotated.data(), radii.data(), angles.data());
      for (int level = 1; level <= shape.levels; ++level) {
        const double upper = AngleDistribution::of_level(level).upper();
        const double* const first = angles.data() + shape.first_angle(level);
        for (int j = 0; j < shape.num_angles(level); ++j) {
          const double bin = static_cast<double>(kNumBins) * first[j] / upper;
          counts[static_cast<std::size_t>(level - 1)]
                [std::min(static_cast<std::size_t>(bin), kNumBins - 1)] += 1.0;
        }
      }
    }
  }
  return counts;
}

}  // namespace

void write_angles(const std::string& path, const Sample& sample, std::uint64_t seed) {
  const int width = sample.shape.key_dim;
  PolarShape shape = {width, 0};
  while (shape.levels < kMaxLevels && width % (2 << shape.levels) == 0) ++shape.levels;
  const Histograms plain =
      angle_histograms(sample, shape, Rotation(RotationKind::kNone, width, seed));
  const Histograms rotated =
      angle_histograms(sample, shape, Rotation(RotationKind::kHaar, width, seed));

  std::vector<std::vector<std::string>> cells = {
      {"level", "angle", "without_rotation", "with_rotation", "exact"}};
  for (int level = 1; level <= shape.levels; ++level) {
    const std::size_t index = static_cast<std::size_t>(level - 1);
    const AngleDistribution law = AngleDistribution::of_level(level);
    double total = 0.0;
    for (const double count : plain[index]) total += count;
    const double scale = static_cast<double>(kNumBins) / (law.upper() * total);
    for (std::size_t bin = 0; bin < kNumBins; ++bin) {
      const double angle = law.upper() * (static_cast<double>(bin) + 0.5) / kNumBins;
      cells.push_back({std::to_string(level), formatted("%.6g", angle),
                       formatted("%.6g", scale * plain[index][bin]),
                       formatted("%.6g", scale * rotated[index][bin]),
                       formatted("%.6g", law.density(angle))});
    }
  }
  write_csv(path, cells);
}

}  // namespace polarquant_demo
