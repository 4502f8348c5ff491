#include "polarquant/base/float_types.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "polarquant/base/random.hpp"

namespace {

using polarquant::float_type_bytes;
using polarquant::float_type_name;
using polarquant::FloatType;
using polarquant::Random;
using polarquant::detail::bfloat16_to_float;
using polarquant::detail::double_to_float_bits;
using polarquant::detail::float16_to_float;
using polarquant::detail::float_bits;
using polarquant::detail::float_from_bits;
using polarquant::detail::float_to_bfloat16;
using polarquant::detail::float_to_float16;
using polarquant::detail::is_finite;
using polarquant::detail::is_nan;
using polarquant::detail::is_negative_infinity;

// A 16-bit binary format of IEEE 754's kind.
struct Kind {
  int precision;     // bits of the significand, the leading one included
  int min_exponent;  // of the smallest normal number
  double largest;
};

constexpr Kind kHalf{11, -14, 65504.0};
const Kind kBfloat{8, -126, std::ldexp(255.0, 120)};

// The value of a finite pattern, from the definition.
double value_of(const Kind& kind, unsigned bits) {
  const int num_fraction_bits = kind.precision - 1;
  const int exponent = static_cast<int>((bits & 0x7fffu) >> num_fraction_bits);
  const int fraction = static_cast<int>(bits & ((1u << num_fraction_bits) - 1u));
  const int significand = exponent == 0 ? fraction : fraction + (1 << num_fraction_bits);
  const double magnitude = std::ldexp(
      significand, (exponent == 0 ? 1 : exponent) - 1 + kind.min_exponent - num_fraction_bits);
  return (bits & 0x8000u) != 0 ? -magnitude : magnitude;
}

// Round to nearest, ties to even, in double arithmetic, where it is exact.
double rounded(const Kind& kind, double x) {
  if (x == 0.0) return x;
  const int exponent = std::max(std::ilogb(x), kind.min_exponent);
  const int last_place = exponent - kind.precision + 1;
  const double result = std::ldexp(std::nearbyint(std::ldexp(x, -last_place)), last_place);
  if (std::abs(result) > kind.largest) {
    return std::copysign(std::numeric_limits<double>::infinity(), x);
  }
  return result;
}

double value_or_infinity(const Kind& kind, unsigned bits, unsigned infinity) {
  if ((bits & 0x7fffu) != infinity) return value_of(kind, bits);
  const double value = std::numeric_limits<double>::infinity();
  return (bits & 0x8000u) != 0 ? -value : value;
}

double to_half(float x) { return value_or_infinity(kHalf, float_to_float16(x), 0x7c00u); }
double to_bfloat(float x) { return value_or_infinity(kBfloat, float_to_bfloat16(x), 0x7f80u); }

TEST(FloatTypesTest, SizesAreThoseOfTheTypes) {
  EXPECT_EQ(float_type_bytes(FloatType::kBFloat16), 2);
  EXPECT_EQ(float_type_bytes(FloatType::kFloat16), 2);
  EXPECT_EQ(float_type_bytes(FloatType::kFloat32), 4);
  EXPECT_EQ(float_type_bytes(FloatType::kFloat64), 8);
}

TEST(FloatTypesTest, NamesAreThoseOfTheTypes) {
  EXPECT_STREQ(float_type_name(FloatType::kBFloat16), "bfloat16");
  EXPECT_STREQ(float_type_name(FloatType::kFloat16), "float16");
  EXPECT_STREQ(float_type_name(FloatType::kFloat32), "float32");
  EXPECT_STREQ(float_type_name(FloatType::kFloat64), "float64");
}

TEST(FloatTypesTest, EveryFiniteHalfHasItsValue) {
  for (unsigned bits = 0; bits < 0x10000u; ++bits) {
    if ((bits & 0x7c00u) == 0x7c00u) continue;
    ASSERT_EQ(static_cast<double>(float16_to_float(static_cast<std::uint16_t>(bits))),
              value_of(kHalf, bits))
        << bits;
  }
}

TEST(FloatTypesTest, EveryFiniteHalfSurvivesTheRoundTrip) {
  for (unsigned bits = 0; bits < 0x10000u; ++bits) {
    if ((bits & 0x7c00u) == 0x7c00u) continue;
    ASSERT_EQ(float_to_float16(float16_to_float(static_cast<std::uint16_t>(bits))), bits);
  }
}

TEST(FloatTypesTest, EveryFiniteBfloat16HasItsValue) {
  for (unsigned bits = 0; bits < 0x10000u; ++bits) {
    if ((bits & 0x7f80u) == 0x7f80u) continue;
    ASSERT_EQ(static_cast<double>(bfloat16_to_float(static_cast<std::uint16_t>(bits))),
              value_of(kBfloat, bits))
        << bits;
  }
}

TEST(FloatTypesTest, EveryFiniteBfloat16SurvivesTheRoundTrip) {
  for (unsigned bits = 0; bits < 0x10000u; ++bits) {
    if ((bits & 0x7f80u) == 0x7f80u) continue;
    ASSERT_EQ(float_to_bfloat16(bfloat16_to_float(static_cast<std::uint16_t>(bits))), bits);
  }
}

// Between any two neighbours: the tie goes to the even one, its neighbours to the nearer one.
TEST(FloatTypesTest, HalvesRoundToNearestAndTiesToEven) {
  for (std::uint16_t bits = 0; bits < 0x7bffu; ++bits) {
    const std::uint16_t above = static_cast<std::uint16_t>(bits + 1);
    const float tie = static_cast<float>(0.5 * (value_of(kHalf, bits) + value_of(kHalf, above)));
    const std::uint16_t even = bits % 2 == 0 ? bits : above;
    ASSERT_EQ(float_to_float16(tie), even);
    ASSERT_EQ(float_to_float16(-tie), even | 0x8000u);
    ASSERT_EQ(float_to_float16(std::nextafter(tie, 0.0f)), bits);
    ASSERT_EQ(float_to_float16(std::nextafter(tie, 1e6f)), above);
  }
}

TEST(FloatTypesTest, Bfloat16RoundsToNearestAndTiesToEven) {
  for (std::uint16_t bits = 0; bits < 0x7f7fu; ++bits) {
    const std::uint16_t above = static_cast<std::uint16_t>(bits + 1);
    const float tie =
        static_cast<float>(0.5 * (value_of(kBfloat, bits) + value_of(kBfloat, above)));
    const std::uint16_t even = bits % 2 == 0 ? bits : above;
    ASSERT_EQ(float_to_bfloat16(tie), even);
    ASSERT_EQ(float_to_bfloat16(-tie), even | 0x8000u);
    ASSERT_EQ(float_to_bfloat16(std::nextafter(tie, 0.0f)), bits);
    ASSERT_EQ(float_to_bfloat16(std::nextafter(tie, std::numeric_limits<float>::infinity())),
              above);
  }
}

TEST(FloatTypesTest, AnyFiniteFloatRoundsAsDoubleArithmeticSays) {
  Random random(1);
  for (int i = 0; i < 1000000; ++i) {
    const float x = float_from_bits(static_cast<std::uint32_t>(random.next()));
    if (!std::isfinite(x)) continue;
    ASSERT_EQ(to_half(x), rounded(kHalf, x)) << x;
    ASSERT_EQ(to_bfloat(x), rounded(kBfloat, x)) << x;
  }
}

TEST(FloatTypesTest, FloatsInTheRangeOfHalvesRoundAsDoubleArithmeticSays) {
  Random random(2);
  for (int i = 0; i < 1000000; ++i) {
    const double magnitude = std::exp2(-27.0 + 44.0 * random.uniform());
    const float x = static_cast<float>(magnitude) * random.sign();
    ASSERT_EQ(to_half(x), rounded(kHalf, x)) << x;
  }
}

TEST(FloatTypesTest, HalfOverflowsToInfinityFrom65520On) {
  EXPECT_EQ(float_to_float16(65504.0f), 0x7bffu);
  EXPECT_EQ(float_to_float16(std::nextafter(65520.0f, 0.0f)), 0x7bffu);
  EXPECT_EQ(float_to_float16(65520.0f), 0x7c00u);
  EXPECT_EQ(float_to_float16(-65520.0f), 0xfc00u);
  EXPECT_EQ(float_to_float16(65536.0f), 0x7c00u);
  EXPECT_EQ(float_to_float16(std::numeric_limits<float>::max()), 0x7c00u);
  EXPECT_EQ(float_to_float16(std::numeric_limits<float>::infinity()), 0x7c00u);
}

TEST(FloatTypesTest, HalfUnderflowsToASignedZeroUpToHalfTheSmallest) {
  EXPECT_EQ(float_to_float16(0x1.0p-24f), 0x0001u);
  EXPECT_EQ(float_to_float16(0x1.0p-25f), 0x0000u);
  EXPECT_EQ(float_to_float16(std::nextafter(0x1.0p-25f, 1.0f)), 0x0001u);
  EXPECT_EQ(float_to_float16(-0x1.0p-25f), 0x8000u);
  EXPECT_EQ(float_to_float16(std::numeric_limits<float>::denorm_min()), 0x0000u);
}

TEST(FloatTypesTest, Bfloat16OverflowsToInfinityHalfAStepAboveItsLargest) {
  EXPECT_EQ(float_to_bfloat16(float_from_bits(0x7f7f7fffu)), 0x7f7fu);
  EXPECT_EQ(float_to_bfloat16(float_from_bits(0x7f7f8000u)), 0x7f80u);
  EXPECT_EQ(float_to_bfloat16(std::numeric_limits<float>::max()), 0x7f80u);
  EXPECT_EQ(float_to_bfloat16(-std::numeric_limits<float>::infinity()), 0xff80u);
}

TEST(FloatTypesTest, ZerosKeepTheirSign) {
  EXPECT_EQ(float_to_float16(-0.0f), 0x8000u);
  EXPECT_EQ(float_to_bfloat16(-0.0f), 0x8000u);
  EXPECT_EQ(float_bits(float16_to_float(0x8000u)), 0x80000000u);
  EXPECT_EQ(float_bits(bfloat16_to_float(0x8000u)), 0x80000000u);
}

// A rounding error uniform over a step 2^-7 has mean square 2^-14 / 12 in [1, 2); relative to x,
// with log x uniform, times E x^-2 = 3 / (8 log 2): 2.75e-6.
TEST(FloatTypesTest, Bfloat16CostsTheExactRelativeMse) {
  Random random(3);
  constexpr int kCount = 1000000;
  double total = 0.0;
  for (int i = 0; i < kCount; ++i) {
    const float x = static_cast<float>(std::exp2(random.uniform()));
    const double error =
        (static_cast<double>(bfloat16_to_float(float_to_bfloat16(x))) - x) / static_cast<double>(x);
    total += error * error;
  }
  const double exact = 0x1.0p-14 / 12.0 * 3.0 / (8.0 * std::log(2.0));
  EXPECT_NEAR(total / kCount, exact, 0.01 * exact);
}

template <typename T>
void expect_kinds_of_numbers() {
  using Limits = std::numeric_limits<T>;
  for (const T number : {T(0), -T(0), T(-1.5), Limits::max(), Limits::lowest(), Limits::min(),
                         Limits::denorm_min()}) {
    EXPECT_TRUE(is_finite(number)) << number;
    EXPECT_FALSE(is_nan(number)) << number;
    EXPECT_FALSE(is_negative_infinity(number)) << number;
  }
  EXPECT_FALSE(is_finite(Limits::infinity()));
  EXPECT_FALSE(is_nan(Limits::infinity()));
  EXPECT_FALSE(is_negative_infinity(Limits::infinity()));
  EXPECT_FALSE(is_finite(-Limits::infinity()));
  EXPECT_FALSE(is_nan(-Limits::infinity()));
  EXPECT_TRUE(is_negative_infinity(-Limits::infinity()));
  for (const T number : {Limits::quiet_NaN(), -Limits::quiet_NaN(), Limits::signaling_NaN()}) {
    EXPECT_FALSE(is_finite(number));
    EXPECT_TRUE(is_nan(number));
    EXPECT_FALSE(is_negative_infinity(number));
  }
}

TEST(FloatTypesTest, NanAndInfinitiesAreToldByTheirBits) {
  expect_kinds_of_numbers<float>();
  expect_kinds_of_numbers<double>();
}

TEST(FloatTypesTest, AnyDoubleBecomesTheFloatThatACastMakes) {
  Random random(5);
  for (int i = 0; i < 200000; ++i) {
    // From below half the smallest subnormal to beyond the largest.
    const int exponent = static_cast<int>(random.uniform() * 290.0) - 155;
    const double x = (random.uniform() - 0.5) * std::ldexp(1.0, exponent);
    ASSERT_EQ(double_to_float_bits(x), float_bits(static_cast<float>(x))) << x;
  }
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double x : {0.0, -0.0, 0x1p-149, 0x1p-150, -0x1.8p-149, 0x1.fffffffp-127, 0x1p-126,
                         -0x1.ffffffp127, infinity, -infinity}) {
    EXPECT_EQ(double_to_float_bits(x), float_bits(static_cast<float>(x))) << x;
  }
}

}  // namespace
