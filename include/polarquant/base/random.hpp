// Random numbers that are the same bits everywhere, which the standard distributions are not.
#pragma once

#include <cstdint>

#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// A stream of random numbers from a seed: SplitMix64 (Steele, Lea, Flood, 2014).
// Equal seeds give equal streams on every compiler, flag and platform.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }

  // Uniform on [0, 1), a multiple of 2^-53.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

  // +1 or -1 with equal probability.
  float sign() { return (next() >> 63) != 0 ? -1.0f : 1.0f; }

  // Standard normal, by Marsaglia's polar method. Each pair of draws gives two values; the second
  // is dropped, so that the stream's position depends on nothing but the draws themselves.
  double gaussian() {
    for (;;) {
      const double u = 2.0 * uniform() - 1.0;  // Exact: doubling and the difference fit 53 bits.
      const double v = 2.0 * uniform() - 1.0;
      const double s = detail::exactly_fused(u, u, v * v);
      if (s > 0.0 && s < 1.0) return u * detail::square_root(-2.0 * detail::fixed_log(s) / s);
    }
  }

 private:
  std::uint64_t state_;
};

POLARQUANT_END_NAMESPACE
