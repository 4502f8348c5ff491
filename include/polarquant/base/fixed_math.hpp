// Elementary functions whose result is the same bits on every compiler, flag and platform.
//
// A rotation made from a seed, and a codebook made from a density, must be the same on the machine
// that saves a cache and on the one that loads it. The C library's logarithm and cosine differ in
// the last bit between systems, and a compiler may or may not fuse a product with a sum. So these
// functions use only operations that IEEE 754 rounds in one way (+ - * / sqrt fma), in a fixed
// order, and every product that feeds a sum is an explicit fma. version.hpp keeps the flags that
// allow a compiler to reorder them, such as -ffast-math, away from this library.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

inline constexpr double kPi = 3.14159265358979323846;
inline constexpr double kTwoPi = 6.28318530717958647693;
inline constexpr double kHalfPi = 1.57079632679489661923;
inline constexpr double kLn2 = 0.693147180559945309417;

// a b + c with one rounding. The builtin, not std::fma, so that a loop compiled for a machine with
// the instruction becomes that instruction even where inlining is off.
#if defined(__GNUC__)
inline __attribute__((always_inline)) double fused(double a, double b, double c) {
  return __builtin_fma(a, b, c);
}
inline __attribute__((always_inline)) float fused(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}

// Not std::sqrt, which is compiled as the unit is: -ffast-math may make it an approximation.
inline double square_root(double x) { return __builtin_sqrt(x); }
inline float square_root(float x) { return __builtin_sqrtf(x); }
#else
inline double fused(double a, double b, double c) { return std::fma(a, b, c); }
inline float fused(float a, float b, float c) { return std::fma(a, b, c); }
inline double square_root(double x) { return std::sqrt(x); }
inline float square_root(float x) { return std::sqrt(x); }
#endif

// The same for what must be equal bits in every build. clang (14) leaves the flags of -ffast-math
// on calls in spite of version.hpp, and on a machine without the instruction takes them for leave
// to round twice; a pointer that it cannot look through keeps the call of the C library.
#if defined(__clang__) && !defined(__FMA__) && !defined(__aarch64__)
inline double exactly_fused(double a, double b, double c) {
  static double (*const volatile function)(double, double, double) = std::fma;
  return function(a, b, c);
}
#else
inline double exactly_fused(double a, double b, double c) { return fused(a, b, c); }
#endif

// base^exponent for exponent >= 0, by squaring.
inline double fixed_pow(double base, int exponent) {
  double result = 1.0;
  for (; exponent > 0; exponent /= 2) {
    if (exponent % 2 != 0) result *= base;
    base *= base;
  }
  return result;
}

// Natural logarithm of a positive normal double, to 2 ULP: x = 2^e m with m in [1/sqrt 2, sqrt 2),
// log m = 2 atanh((m - 1) / (m + 1)) by its odd power series.
inline double fixed_log(double x) {
  std::uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  bits = (bits & 0x000fffffffffffffULL) | 0x3ff0000000000000ULL;
  double m;
  std::memcpy(&m, &bits, sizeof m);
  if (m > 1.41421356237309504880) {
    m *= 0.5;
    ++exponent;
  }
  const double t = (m - 1.0) / (m + 1.0);
  const double t2 = t * t;
  double series = 0.0;
  for (int k = 23; k >= 3; k -= 2) series = exactly_fused(series, t2, 1.0 / k);
  const double log_m = 2.0 * exactly_fused(t * t2, series, t);
  return exactly_fused(static_cast<double>(exponent), kLn2, log_m);
}

struct SinCos {
  double sin;
  double cos;
};

// Sine and cosine of an angle in [0, pi/2], by Taylor series on [0, pi/4]: the sine to 2 ULP, the
// cosine to 2^-52. The double nearest pi/2 stands for pi/2 itself, so that its cosine is exactly 0
// and a cosine near it is right to 2^-52, not relative to itself.
inline SinCos fixed_sin_cos(double angle) {
  const bool reflect = angle > kHalfPi / 2;
  const double x = reflect ? kHalfPi - angle : angle;
  const double x2 = x * x;
  double sin_series = 1.0;
  double cos_series = 1.0;
  for (int k = 18; k >= 2; k -= 2) {
    const double k1 = static_cast<double>(k) * (k + 1);
    const double k0 = static_cast<double>(k) * (k - 1);
    sin_series = exactly_fused(-x2 / k1, sin_series, 1.0);
    cos_series = exactly_fused(-x2 / k0, cos_series, 1.0);
  }
  const double sine = x * sin_series;
  return reflect ? SinCos{cos_series, sine} : SinCos{sine, cos_series};
}

// The same for an angle in [0, 2 pi), by quadrants, both to 2^-51; exact at multiples of kHalfPi.
inline SinCos fixed_sin_cos_full(double angle) {
  if (angle < kHalfPi) return fixed_sin_cos(angle);
  if (angle < kPi) {
    const SinCos s = fixed_sin_cos(angle - kHalfPi);
    return {s.cos, -s.sin};
  }
  const SinCos s = fixed_sin_cos_full(angle - kPi);
  return {-s.sin, -s.cos};
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
