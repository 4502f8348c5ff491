#include "polarquant/base/fixed_math.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>

#include "method_test_util.hpp"

namespace {

using polarquant::Random;
using polarquant::detail::fixed_log;
using polarquant::detail::fixed_pow;
using polarquant::detail::fixed_sin_cos;
using polarquant::detail::fixed_sin_cos_full;
using polarquant::detail::fused;
using polarquant::detail::kHalfPi;
using polarquant::detail::kPi;
using polarquant::detail::kTwoPi;
using polarquant::detail::SinCos;
using polarquant_test::Fingerprint;
using polarquant_test::ulp_error;

constexpr double kTwoUlpOfOne = 0x1.0p-52;

TEST(FixedMathTest, FusedRoundsOnceInDouble) {
  const double x = 1.0 + 0x1.0p-30;
  EXPECT_EQ(fused(x, x, -(1.0 + 0x1.0p-29)), 0x1.0p-60);
}

TEST(FixedMathTest, FusedRoundsOnceInFloat) {
  const float x = 1.0f + 0x1.0p-13f;
  EXPECT_EQ(fused(x, x, -(1.0f + 0x1.0p-12f)), 0x1.0p-26f);
}

TEST(FixedMathTest, PowerIsExactWhereADoubleCanHoldIt) {
  EXPECT_EQ(fixed_pow(3.0, 0), 1.0);
  EXPECT_EQ(fixed_pow(3.0, 1), 3.0);
  EXPECT_EQ(fixed_pow(3.0, 13), 1594323.0);
  EXPECT_EQ(fixed_pow(0.5, 1000), std::ldexp(1.0, -1000));
}

TEST(FixedMathTest, LogarithmIsRightTo2UlpOverAllNormalDoubles) {
  Random random(1);
  for (int exponent = -1022; exponent <= 1023; ++exponent) {
    for (int i = 0; i < 100; ++i) {
      const double x = std::ldexp(1.0 + random.uniform(), exponent);
      ASSERT_LE(ulp_error(fixed_log(x), std::log(static_cast<long double>(x))), 2.0) << x;
    }
  }
}

TEST(FixedMathTest, LogarithmIsRightTo2UlpAroundOne) {
  for (int i = -2000; i <= 2000; ++i) {
    if (i == 0) continue;
    for (const double step : {0x1.0p-53, 0x1.0p-40, 0x1.0p-20, 0x1.0p-12}) {
      const double x = 1.0 + i * step;
      if (x == 1.0) continue;
      ASSERT_LE(ulp_error(fixed_log(x), std::log(static_cast<long double>(x))), 2.0) << x;
    }
  }
  EXPECT_EQ(fixed_log(1.0), 0.0);
}

TEST(FixedMathTest, SineIsRightTo2UlpOnTheQuadrant) {
  Random random(2);
  for (int i = 0; i < 200000; ++i) {
    const double x = random.uniform() * kHalfPi;
    ASSERT_LE(ulp_error(fixed_sin_cos(x).sin, std::sin(static_cast<long double>(x))), 2.0) << x;
  }
}

TEST(FixedMathTest, SineIsRightTo2UlpForTinyAngles) {
  for (int exponent = -300; exponent < 0; ++exponent) {
    const double x = std::ldexp(1.3, exponent);
    ASSERT_LE(ulp_error(fixed_sin_cos(x).sin, std::sin(static_cast<long double>(x))), 2.0) << x;
  }
}

TEST(FixedMathTest, CosineIsRightTo2UlpBelowPiOver3) {
  Random random(3);
  for (int i = 0; i < 200000; ++i) {
    const double x = random.uniform() * (kPi / 3.0);
    ASSERT_LE(ulp_error(fixed_sin_cos(x).cos, std::cos(static_cast<long double>(x))), 2.0) << x;
  }
}

TEST(FixedMathTest, SineAndCosineAreRightTo2UlpOfOneOnTheWholeCircle) {
  Random random(4);
  for (int i = 0; i < 400000; ++i) {
    const double x = random.uniform() * kTwoPi;
    const SinCos s = fixed_sin_cos_full(x);
    const long double exact = static_cast<long double>(x);
    ASSERT_LE(std::abs(static_cast<long double>(s.sin) - std::sin(exact)), 2 * kTwoUlpOfOne) << x;
    ASSERT_LE(std::abs(static_cast<long double>(s.cos) - std::cos(exact)), 2 * kTwoUlpOfOne) << x;
  }
}

// The encoder's quadrant boundaries depend on it: a cosine of 6e-17 would misplace half an axis.
TEST(FixedMathTest, SineAndCosineOfQuarterTurnsAreExact) {
  const double quarters[] = {0.0, kHalfPi, kPi, 3.0 * kHalfPi};
  const double sines[] = {0.0, 1.0, 0.0, -1.0};
  const double cosines[] = {1.0, 0.0, -1.0, 0.0};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(fixed_sin_cos_full(quarters[i]).sin, sines[i]) << i;
    EXPECT_EQ(fixed_sin_cos_full(quarters[i]).cos, cosines[i]) << i;
  }
  EXPECT_EQ(fixed_sin_cos(kHalfPi).sin, 1.0);
  EXPECT_EQ(fixed_sin_cos(kHalfPi).cos, 0.0);
}

TEST(FixedMathTest, ResultsAreTheSameBitsEverywhere) {
  Fingerprint logarithms;
  Fingerprint sines;
  for (int i = 1; i <= 10000; ++i) {
    logarithms.add(fixed_log(i / 3000.0));
    const SinCos s = fixed_sin_cos_full(i / 1600.0);
    sines.add(s.sin);
    sines.add(s.cos);
  }
  EXPECT_EQ(logarithms.value(), 0x6c339eac85cadae0ULL);
  EXPECT_EQ(sines.value(), 0xfede7bbd827663dULL);
}

}  // namespace
