// Codebooks for angles: given, or the 1-D k-means optimum of a known law (offline). Those fitted to
// samples (online): k_means.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "polarquant/base/error.hpp"
#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/method/angle_distribution.hpp"

POLARQUANT_BEGIN_NAMESPACE

struct KMeansOptions;  // k_means.hpp

// 2^bits centroids in increasing order, and the boundaries between their cells: an angle is
// replaced by the nearest centroid. paper: section 4.1.
class AngleCodebook {
 public:
  // The minimiser of E|psi - theta|^2 under a law (Lloyd-Max), to 1e-12 radian. The laws are
  // log-concave, so the stationary point is the only one. The same bits on every platform.
  // Throws std::invalid_argument unless 0 <= bits <= 8 (1 <= bits on the circle).
  static AngleCodebook lloyd_max(const AngleDistribution& law, int bits);

  // 1-D k-means with a k-means++ start on `angles`, radians in [0, pi/2], or in [0, 2 pi) if
  // circular. paper: the online codebooks. Throws std::invalid_argument if there are fewer angles
  // than centroids, or an angle is outside the range. Defined in k_means.hpp.
  static AngleCodebook k_means(std::vector<double> angles, const KMeansOptions& options);

  // A codebook of given centroids, not decreasing, in the range of k_means. Throws
  // std::invalid_argument if they are not, or their number is not a power of two up to 256.
  static AngleCodebook from_centroids(std::vector<double> centroids, bool circular);

  int bits() const { return bits_; }
  bool is_circular() const { return circular_; }
  const std::vector<double>& centroids() const { return centroids_; }

  // Where the nearest centroid changes, increasing: 2^bits - 1 of them, or 2^bits on the circle.
  const std::vector<double>& boundaries() const { return boundaries_; }

  // Index of the centroid of the cell that holds psi: (number of boundaries <= psi + offset)
  // modulo 2^bits. The offset is not 0 only on a circle whose cell number 0 holds the angle 0.
  int index(double psi) const {
    const auto passed = std::upper_bound(boundaries_.begin(), boundaries_.end(), psi);
    return (static_cast<int>(passed - boundaries_.begin()) + index_offset_) & ((1 << bits_) - 1);
  }
  int index_offset() const { return index_offset_; }

  // The same centroids on the same range.
  friend bool operator==(const AngleCodebook& x, const AngleCodebook& y) {
    return x.circular_ == y.circular_ && x.centroids_ == y.centroids_;
  }
  friend bool operator!=(const AngleCodebook& x, const AngleCodebook& y) { return !(x == y); }

 private:
  AngleCodebook(std::vector<double> centroids, bool circular);

  std::vector<double> centroids_;
  std::vector<double> boundaries_;
  int bits_ = 0;
  int index_offset_ = 0;
  bool circular_ = false;
};

// What a codebook does to the two factors of a node, the angle psi being drawn from a law and theta
// its centroid. From these follow the exact distortions of a format (format.hpp).
struct CosineMoments {
  double cosine;          // E[cos psi cos theta]; on the circle E[cos(psi - theta)]
  double sine;            // E[sin psi sin theta]; 0 on the circle
  double cosine_squared;  // E[(cos psi cos theta)^2]; on the circle E[cos(psi - theta)^2]
  double sine_squared;    // E[(sin psi sin theta)^2]
  double cross;           // E[cos psi cos theta sin psi sin theta]
};

// The moments of a codebook for angles that follow `law`. Throws std::invalid_argument if one of
// the two is circular and the other is not.
CosineMoments cosine_moments(const AngleDistribution& law, const AngleCodebook& codebook);

// All codebooks of a format: one for each level, first level first, and one for each join.
struct CodebookSet {
  std::vector<AngleCodebook> levels;
  std::vector<AngleCodebook> joins;

  friend bool operator==(const CodebookSet& x, const CodebookSet& y) {
    return x.levels == y.levels && x.joins == y.joins;
  }
  friend bool operator!=(const CodebookSet& x, const CodebookSet& y) { return !(x == y); }
};

namespace detail {

// Mass and first moment of a law over each cell between consecutive edges.
struct CellMoments {
  double mass;
  double mean;
};

inline CellMoments cell_moments(const AngleDistribution& law, double low, double high) {
  const AngleDistribution::Moments cell = law.moments(low, high);
  // A cell of no mass (far in a tail) keeps its middle.
  return {cell.mass, cell.mass > 0.0 ? cell.angle / cell.mass : 0.5 * (low + high)};
}

// A start close to the optimum: the quantiles of density^(1/3), the optimal point density of a
// quantizer with many levels (Panter and Dite), with the powers rounded to integers.
POLARQUANT_COLD inline std::vector<double> point_density_quantiles(const AngleDistribution& law,
                                                                   int count) {
  constexpr int kGrid = 2048;
  constexpr double kStep = kHalfPi / kGrid;
  const int p = (law.a() - 1) / 3;
  const int q = (law.b() - 1) / 3;
  const AngleDistribution shape =
      AngleDistribution::of_join((std::max)(2, (p + 1) / 2 * 2), (std::max)(2, (q + 1) / 2 * 2));
  std::vector<double> mass(kGrid + 1, 0.0);
  for (int i = 0; i < kGrid; ++i) {
    const double density = shape.density((i + 0.5) * kStep);
    mass[static_cast<std::size_t>(i) + 1] =
        exactly_fused(density, kStep, mass[static_cast<std::size_t>(i)]);
  }
  std::vector<double> points;
  std::size_t cell = 0;
  for (int k = 0; k < count; ++k) {
    const double target = mass.back() * ((k + 0.5) / count);
    while (mass[cell + 1] < target) ++cell;
    const double fraction = (target - mass[cell]) / (mass[cell + 1] - mass[cell]);
    points.push_back((static_cast<double>(cell) + fraction) * kStep);
  }
  return points;
}

inline std::vector<double> midpoints(const std::vector<double>& centroids) {
  std::vector<double> result;
  for (std::size_t i = 1; i < centroids.size(); ++i) {
    result.push_back(0.5 * (centroids[i - 1] + centroids[i]));
  }
  return result;
}

// One Newton step towards theta_i = E[psi | cell i], whose Jacobian is tridiagonal because a cell's
// edges depend on its two neighbours alone. Returns the new centroids.
POLARQUANT_COLD inline std::vector<double> lloyd_newton_step(const AngleDistribution& law,
                                                             const std::vector<double>& theta) {
  const std::size_t n = theta.size();
  std::vector<double> edges = midpoints(theta);
  edges.insert(edges.begin(), 0.0);
  edges.push_back(law.upper());
  std::vector<double> lower(n), diagonal(n), upper(n), residual(n), centroid(n);
  for (std::size_t i = 0; i < n; ++i) {
    const CellMoments cell = cell_moments(law, edges[i], edges[i + 1]);
    centroid[i] = cell.mean;
    residual[i] = cell.mean - theta[i];
    // d mean / d edge = density(edge) |edge - mean| / mass, and an edge moves by half of either
    // neighbour.
    const bool has_mass = cell.mass > 0.0;
    const double left =
        i > 0 && has_mass ? 0.5 * law.density(edges[i]) * (cell.mean - edges[i]) / cell.mass : 0.0;
    const double right = i + 1 < n && has_mass ? 0.5 * law.density(edges[i + 1]) *
                                                     (edges[i + 1] - cell.mean) / cell.mass
                                               : 0.0;
    lower[i] = -left;
    upper[i] = -right;
    diagonal[i] = 1.0 - (left + right);
  }
  // Thomas algorithm.
  for (std::size_t i = 1; i < n; ++i) {
    const double factor = lower[i] / diagonal[i - 1];
    diagonal[i] = exactly_fused(-factor, upper[i - 1], diagonal[i]);
    residual[i] = exactly_fused(-factor, residual[i - 1], residual[i]);
  }
  std::vector<double> next(n);
  for (std::size_t i = n; i-- > 0;) {
    const double above = i + 1 < n ? residual[i + 1] : 0.0;
    residual[i] = exactly_fused(-upper[i], above, residual[i]) / diagonal[i];
    next[i] = theta[i] + residual[i];
  }
  // Far from the optimum a Newton step may leave the order; then Lloyd's own step is taken.
  double previous = 0.0;
  for (const double value : next) {
    if (!(value > previous && value < law.upper())) return centroid;
    previous = value;
  }
  return next;
}

}  // namespace detail

POLARQUANT_COLD inline AngleCodebook::AngleCodebook(std::vector<double> centroids, bool circular)
    : centroids_(std::move(centroids)), circular_(circular) {
  while ((std::size_t{1} << bits_) < centroids_.size()) ++bits_;
  boundaries_ = detail::midpoints(centroids_);
  if (!circular_) return;
  // The cell across the cut at 0: its boundary lies on one side of the cut or on the other.
  const double wrap = 0.5 * (centroids_.front() + (centroids_.back() - detail::kTwoPi));
  if (wrap >= 0.0) {
    boundaries_.insert(boundaries_.begin(), wrap);
    index_offset_ = (1 << bits_) - 1;
  } else {
    boundaries_.push_back(wrap + detail::kTwoPi);
  }
}

POLARQUANT_COLD inline AngleCodebook AngleCodebook::from_centroids(std::vector<double> centroids,
                                                                   bool circular) {
  const std::size_t count = centroids.size();
  if (count == 0 || count > 256 || (count & (count - 1)) != 0 || (circular && count < 2)) {
    detail::throw_invalid_argument(
        {"a codebook has ", count,
         " centroids, must be a power of two up to 256 (2 or more on the circle)"});
  }
  const double upper = circular ? detail::kTwoPi : detail::kHalfPi;
  for (std::size_t i = 0; i < count; ++i) {
    const bool in_range =
        centroids[i] >= 0.0 && (circular ? centroids[i] < upper : centroids[i] <= upper);
    if (!in_range || (i > 0 && centroids[i] < centroids[i - 1])) {
      detail::throw_invalid_argument({"centroid ", i, " is ", centroids[i],
                                      ", must not decrease and be within [0, ",
                                      circular ? "2 pi)" : "pi/2]"});
    }
  }
  return AngleCodebook(std::move(centroids), circular);
}

POLARQUANT_COLD inline AngleCodebook AngleCodebook::lloyd_max(const AngleDistribution& law,
                                                              int bits) {
  if (bits < (law.is_circular() ? 1 : 0) || bits > 8) {
    detail::throw_invalid_argument(
        {"a codebook of ", bits, " bits: must be ", law.is_circular() ? 1 : 0, " .. 8"});
  }
  const int count = 1 << bits;
  std::vector<double> theta;
  if (law.is_circular()) {
    for (int i = 0; i < count; ++i) theta.push_back((i + 0.5) * (detail::kTwoPi / count));
    AngleCodebook uniform(std::move(theta), true);
    // Exactly the multiples of 2 pi / count, which a rounded midpoint can miss.
    for (int i = 0; i < count; ++i) {
      uniform.boundaries_[static_cast<std::size_t>(i)] = i * (detail::kTwoPi / count);
    }
    uniform.index_offset_ = count - 1;
    return uniform;
  }
  if (count == 1) return AngleCodebook({law.mean()}, false);
  theta = detail::point_density_quantiles(law, count);
  for (int iteration = 0; iteration < 100; ++iteration) {
    const std::vector<double> next = detail::lloyd_newton_step(law, theta);
    double change = 0.0;
    for (std::size_t i = 0; i < next.size(); ++i) {
      change = (std::max)(change, std::abs(next[i] - theta[i]));
    }
    theta = next;
    if (change < 1e-13) break;
  }
  if (law.a() == law.b()) {  // Mirror symmetry, which rounding leaves to within 1e-13.
    for (std::size_t i = 0, j = theta.size() - 1; i < j; ++i, --j) {
      theta[i] = 0.5 * (theta[i] + (detail::kHalfPi - theta[j]));
      theta[j] = detail::kHalfPi - theta[i];
    }
  }
  return AngleCodebook(std::move(theta), false);
}

POLARQUANT_COLD inline CosineMoments cosine_moments(const AngleDistribution& law,
                                                    const AngleCodebook& codebook) {
  using detail::exactly_fused;
  if (law.is_circular() != codebook.is_circular()) {
    detail::throw_invalid_argument("a circular angle needs a circular codebook, and no other does");
  }
  CosineMoments sum{0.0, 0.0, 0.0, 0.0, 0.0};
  const std::size_t count = codebook.centroids().size();
  if (law.is_circular()) {
    // Half a cell of width x contributes the integrals of cos and of cos^2 = (1 + cos(2 .)) / 2
    // over [0, x], under the density 1 / (2 pi).
    for (std::size_t i = 0; i < count; ++i) {
      const double next = i + 1 < count ? codebook.centroids()[i + 1]
                                        : codebook.centroids().front() + detail::kTwoPi;
      // Up to pi: a fitted codebook may leave most of the circle to one cell.
      const detail::SinCos s = detail::fixed_sin_cos_full(0.5 * (next - codebook.centroids()[i]));
      sum.cosine = exactly_fused(s.sin, 1.0 / detail::kPi, sum.cosine);
      sum.cosine_squared = exactly_fused(s.sin * s.cos, 0.5 / detail::kPi, sum.cosine_squared);
    }
    sum.cosine_squared += 0.5;
    return sum;
  }
  for (std::size_t i = 0; i < count; ++i) {
    const double low = i == 0 ? 0.0 : codebook.boundaries()[i - 1];
    const double high = i + 1 < count ? codebook.boundaries()[i] : law.upper();
    const detail::SinCos theta = detail::fixed_sin_cos(codebook.centroids()[i]);
    const AngleDistribution::Moments cell = law.moments(low, high);
    sum.cosine = exactly_fused(theta.cos, cell.cosine, sum.cosine);
    sum.sine = exactly_fused(theta.sin, cell.sine, sum.sine);
    sum.cosine_squared =
        exactly_fused(theta.cos * theta.cos, cell.cosine_squared, sum.cosine_squared);
    sum.sine_squared =
        exactly_fused(theta.sin * theta.sin, cell.mass - cell.cosine_squared, sum.sine_squared);
    sum.cross = exactly_fused(theta.cos * theta.sin, cell.cross, sum.cross);
  }
  return sum;
}

POLARQUANT_END_NAMESPACE
