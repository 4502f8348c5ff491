// What the tests of the method's headers share beside test_util.hpp: ULPs, statistics, exact laws.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "test_util.hpp"

namespace polarquant_test {

inline constexpr double kPi = 3.14159265358979323846;

// |value - exact| in units of the last place of a double of exact's size.
inline double ulp_error(double value, long double exact) {
  const double rounded = std::abs(static_cast<double>(exact));
  const double ulp = std::nextafter(rounded, std::numeric_limits<double>::infinity()) - rounded;
  return static_cast<double>(std::abs(static_cast<long double>(value) - exact) /
                             static_cast<long double>(ulp));
}

// FNV-1a over the bytes of numbers, in the order given.
class Fingerprint {
 public:
  void add(double value) {
    std::uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    for (int byte = 0; byte < 8; ++byte) {
      hash_ = (hash_ ^ ((bits >> (8 * byte)) & 0xffu)) * 1099511628211ULL;
    }
  }
  std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = 14695981039346656037ULL;
};

// Kolmogorov's statistic sqrt(n) sup |F_n - F|: below 1.95 with probability .999 if F is the law.
template <typename Cumulative>
double kolmogorov_statistic(std::vector<double> samples, const Cumulative& cumulative) {
  std::sort(samples.begin(), samples.end());
  const double n = static_cast<double>(samples.size());
  double largest = 0.0;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const double f = cumulative(samples[i]);
    largest =
        std::max({largest, f - static_cast<double>(i) / n, static_cast<double>(i + 1) / n - f});
  }
  return std::sqrt(n) * largest;
}

inline constexpr double kKolmogorovBound = 1.95;

// The density of paper.md's join of a and b coordinates, by the C library.
inline double join_density(int a, int b, double psi) {
  const double log_c =
      std::log(2.0) + std::lgamma(0.5 * (a + b)) - std::lgamma(0.5 * a) - std::lgamma(0.5 * b);
  return std::exp(log_c + (a - 1) * std::log(std::cos(psi)) + (b - 1) * std::log(std::sin(psi)));
}

// Composite Simpson's rule on [low, high].
template <typename Function>
double simpson(double low, double high, int num_panels, const Function& f) {
  if (!(high > low)) return 0.0;
  const double step = (high - low) / (2 * num_panels);
  double total = f(low) + f(high);
  for (int i = 1; i < 2 * num_panels; ++i) total += (i % 2 != 0 ? 4.0 : 2.0) * f(low + i * step);
  return total * step / 3.0;
}

}  // namespace polarquant_test
