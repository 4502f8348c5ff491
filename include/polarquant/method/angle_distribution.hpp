// The law of a polar angle: what the recursion's angles follow when the vector is random.
//
// paper: Lemma 2. After a random rotation the coordinates are, up to the norm, a point drawn
// uniformly from the sphere; then all angles are independent, and each has a law known in advance.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "polarquant/base/error.hpp"
#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// The distribution of one angle. Either uniform on [0, 2 pi), which is level 1 (two signed
// coordinates), or the angle that joins the radii of `a` and of `b` Gaussian coordinates:
//
//   psi = atan2(r_b, r_a) on [0, pi/2],   density  C cos(psi)^(a-1) sin(psi)^(b-1),
//   C = 2 Gamma((a+b)/2) / (Gamma(a/2) Gamma(b/2)).
//
// Level l >= 2 of the paper is a = b = 2^(l-1), where this is Lemma 2's
// Gamma(m) / (2^(m-2) Gamma(m/2)^2) sin(2 psi)^(m-1) with m = 2^(l-1).
// All results are the same bits on every platform (fixed_math.hpp).
class AngleDistribution {
 public:
  // The law of level `level`, 1-based. Throws std::invalid_argument outside 1 .. 10.
  static AngleDistribution of_level(int level) {
    if (level < 1 || level > 10) {
      detail::throw_invalid_argument({"level is ", level, ", must be 1 .. 10"});
    }
    return level == 1 ? AngleDistribution(0, 0) : of_join(1 << (level - 1), 1 << (level - 1));
  }

  // The law of the angle that joins the radius of `a` coordinates (the cosine's side) and that of
  // `b` coordinates (the sine's side). Throws std::invalid_argument unless both are even, 2 ..
  // 1024.
  static AngleDistribution of_join(int a, int b) {
    for (const int count : {a, b}) {
      if (count < 2 || count > 1024 || count % 2 != 0) {
        detail::throw_invalid_argument(
            {"a join of ", a, " and ", b, " coordinates: both must be even, 2 .. 1024"});
      }
    }
    return AngleDistribution(a, b);
  }

  // Uniform on the circle [0, 2 pi): level 1.
  bool is_circular() const { return a_ == 0; }

  // The support is [0, upper()]: 2 pi for level 1, pi/2 for all others.
  double upper() const { return is_circular() ? detail::kTwoPi : detail::kHalfPi; }

  // Probability density at psi, in 1/radian; zero outside the support.
  double density(double psi) const {
    if (psi < 0.0 || psi > upper()) return 0.0;
    if (is_circular()) return 1.0 / detail::kTwoPi;
    const detail::SinCos s = detail::fixed_sin_cos(psi);
    // Scaled by the factors of the normaliser as they come, so that nothing over- or underflows.
    return normalizer_ * detail::fixed_pow(s.cos / peak_.cos, a_ - 1) *
           detail::fixed_pow(s.sin / peak_.sin, b_ - 1);
  }

  // P(angle <= psi). With u = sin(psi)^2 it is the regularised incomplete beta function
  // I_u(b/2, a/2), which for these integers is a binomial tail: a finite sum of positive terms.
  double cumulative(double psi) const {
    if (psi <= 0.0) return 0.0;
    if (psi >= upper()) return 1.0;
    if (is_circular()) return psi / detail::kTwoPi;
    const detail::SinCos s = detail::fixed_sin_cos(psi);
    const double u = s.sin * s.sin;
    const double v = s.cos * s.cos;
    // The smaller tail is summed, from its largest term on.
    if (psi < mean_) {
      const BinomialTail below = binomial_tail(b_ / 2, a_ / 2, u, v);
      return below.first_term * below.series;
    }
    const BinomialTail above = binomial_tail(a_ / 2, b_ / 2, v, u);
    return detail::exactly_fused(-above.first_term, above.series, 1.0);
  }

  // The angle with cumulative(angle) = probability, to 1e-14, or in the far upper tail to what the
  // rounding of a probability near 1 leaves. Throws std::invalid_argument unless
  // 0 <= probability <= 1.
  double quantile(double probability) const {
    if (!(probability >= 0.0 && probability <= 1.0)) {
      detail::throw_invalid_argument({"probability is ", probability, ", must be 0 .. 1"});
    }
    if (is_circular()) return probability * detail::kTwoPi;
    double low = 0.0;
    double high = detail::kHalfPi;
    for (int step = 0; step < 60; ++step) {
      const double middle = 0.5 * (low + high);
      (cumulative(middle) < probability ? low : high) = middle;
    }
    return 0.5 * (low + high);
  }

  // Mean, radians; pi/4 where a = b.
  double mean() const { return mean_; }

  // Variance, radians^2.
  double variance() const { return variance_; }

  // The integral of g(psi, sin psi, cos psi) density(psi) over [low, high] within the support, by
  // Gauss-Legendre quadrature on panels no wider than the law itself; relative error below 1e-13
  // for smooth g. Not for level 1, whose integrals are elementary.
  template <typename Function>
  double integrate(double low, double high, Function&& g) const {
    double total = 0.0;
    const double half_panel = for_each_node(
        low, high, [&](double psi, const detail::SinCos& s, double density, double weight) {
          total = detail::exactly_fused(density * g(psi, s.sin, s.cos), weight, total);
        });
    return total * half_panel;
  }

  // The integrals that codebooks are made of, in one pass: of 1, psi, cos, sin, cos^2 and sin cos,
  // the same bits as integrate gives.
  struct Moments {
    double mass = 0.0;
    double angle = 0.0;
    double cosine = 0.0;
    double sine = 0.0;
    double cosine_squared = 0.0;
    double cross = 0.0;
  };
  POLARQUANT_NOINLINE Moments moments(double low, double high) const {
    using detail::exactly_fused;
    Moments sum;
    const double half_panel = for_each_node(
        low, high, [&sum](double psi, const detail::SinCos& s, double density, double weight) {
          sum.mass = exactly_fused(density, weight, sum.mass);
          sum.angle = exactly_fused(density * psi, weight, sum.angle);
          sum.cosine = exactly_fused(density * s.cos, weight, sum.cosine);
          sum.sine = exactly_fused(density * s.sin, weight, sum.sine);
          sum.cosine_squared = exactly_fused(density * (s.cos * s.cos), weight, sum.cosine_squared);
          sum.cross = exactly_fused(density * (s.sin * s.cos), weight, sum.cross);
        });
    for (double* const value :
         {&sum.mass, &sum.angle, &sum.cosine, &sum.sine, &sum.cosine_squared, &sum.cross}) {
      *value *= half_panel;
    }
    return sum;
  }

  int a() const { return a_; }
  int b() const { return b_; }

 private:
  // Calls visit(psi, its sine and cosine, density, weight) at every node of the quadrature over
  // [low, high]; what it sums is to be multiplied by the result.
  template <typename Visit>
  double for_each_node(double low, double high, const Visit& visit) const {
    // Eight nodes and weights on [-1, 1], the positive half.
    constexpr std::array<double, 4> kNodes = {0.18343464249564980494, 0.52553240991632898582,
                                              0.79666647741362673959, 0.96028985649753623168};
    constexpr std::array<double, 4> kWeights = {0.36268378337836198297, 0.31370664587788728734,
                                                0.22238103445337447054, 0.10122853629037625915};
    // Outside mean -+ 12 widths the density is below 1e-20 of its peak for every law there is.
    low = (std::max)({low, 0.0, detail::exactly_fused(-12.0, width_, mean_)});
    high = (std::min)({high, detail::kHalfPi, detail::exactly_fused(12.0, width_, mean_)});
    if (!(high > low)) return 0.0;
    const int num_panels = 1 + static_cast<int>((high - low) / width_);
    const double half_panel = 0.5 * (high - low) / num_panels;
    for (int panel = 0; panel < num_panels; ++panel) {
      const double center =
          detail::exactly_fused(static_cast<double>(2 * panel + 1), half_panel, low);
      for (std::size_t k = 0; k < kNodes.size(); ++k) {
        for (const double node : {-kNodes[k], kNodes[k]}) {
          const double psi = detail::exactly_fused(node, half_panel, center);
          const detail::SinCos s = detail::fixed_sin_cos(psi);
          const double density = normalizer_ * detail::fixed_pow(s.cos / peak_.cos, a_ - 1) *
                                 detail::fixed_pow(s.sin / peak_.sin, b_ - 1);
          visit(psi, s, density, kWeights[k]);
        }
      }
    }
    return half_panel;
  }

  AngleDistribution(int a, int b) : a_(a), b_(b) {
    if (is_circular()) {
      mean_ = detail::kPi;
      variance_ = detail::kPi * detail::kPi / 3.0;
      return;
    }
    // The density peaks where tan(psi)^2 = (b-1)/(a-1), and is written as its value there times
    // (cos/peak cos)^(a-1) (sin/peak sin)^(b-1): for a = b = 512 the bare powers are 1e-154.
    const double sum = a + b - 2.0;
    peak_ = {detail::square_root((b - 1.0) / sum), detail::square_root((a - 1.0) / sum)};
    width_ = 1.0 / detail::square_root(2.0 * sum + 4.0);
    mean_ = mode();
    normalizer_ = 1.0;
    normalizer_ = 1.0 / moments(0.0, detail::kHalfPi).mass;
    const double first = a == b ? detail::kHalfPi / 2 : moments(0.0, detail::kHalfPi).angle;
    mean_ = first;
    variance_ = integrate(0.0, detail::kHalfPi, [first](double psi, double, double) {
      return (psi - first) * (psi - first);
    });
  }

  // The angle of the peak, by bisection on its sine.
  double mode() const {
    double low = 0.0;
    double high = detail::kHalfPi;
    for (int step = 0; step < 50; ++step) {
      const double middle = 0.5 * (low + high);
      (detail::fixed_sin_cos(middle).sin < peak_.sin ? low : high) = middle;
    }
    return 0.5 * (low + high);
  }

  // A sum, as its first term times the sum of all terms over the first.
  struct BinomialTail {
    double first_term;
    double series;
  };

  // sum_{j >= p} C(p+q-1, j) x^j y^(p+q-1-j) with x + y = 1.
  static BinomialTail binomial_tail(int p, int q, double x, double y) {
    const int n = p + q - 1;
    // The first term, its factors interleaved so that the product stays in range.
    double term = 1.0;
    int powers_of_x = p;
    int powers_of_y = n - p;
    for (int i = 1; i <= n - p; ++i) {
      term *= static_cast<double>(p + i) / i;
      while (term > 1.0 && (powers_of_x > 0 || powers_of_y > 0)) {
        term *= powers_of_x > 0 ? x : y;
        --(powers_of_x > 0 ? powers_of_x : powers_of_y);
      }
    }
    term *= detail::fixed_pow(x, powers_of_x) * detail::fixed_pow(y, powers_of_y);
    // By Horner's rule on the ratios of neighbours, with explicit fmas: a running sum of running
    // products is fused by one compiler and not by another.
    double series = 1.0;
    for (int j = n - 1; j >= p; --j) {
      series = detail::exactly_fused((x / y) * static_cast<double>(n - j) / (j + 1), series, 1.0);
    }
    return {term, series};
  }

  int a_;
  int b_;
  detail::SinCos peak_{0.0, 0.0};
  double width_ = 0.0;
  double normalizer_ = 0.0;
  double mean_ = 0.0;
  double variance_ = 0.0;
};

POLARQUANT_END_NAMESPACE
