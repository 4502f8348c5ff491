// The soft-cap of logits on every instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <vector>

#include "polarquant/base/isa.hpp"
#include "polarquant/codec/codec.hpp"
#include "test_util.hpp"

namespace {

using polarquant::PolarCodec;
using polarquant::PolarFormat;
using polarquant::RotationKind;

template <typename Check>
void for_each_isa(const Check& check) {
  using polarquant::Isa;
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kNeon}) {
    if (!polarquant::isa_is_available(isa)) continue;
    SCOPED_TRACE(polarquant::isa_name(isa));
    const polarquant_test::ScopedIsa scoped(polarquant::isa_name(isa));
    check();
  }
}

std::vector<double> logits_up_to(double largest) {
  std::vector<double> logits = {0.0};
  for (double x = largest; x > 1e-6; x *= 0.83) {
    logits.push_back(x);
    logits.push_back(-x);
  }
  return logits;
}

template <typename T>
std::vector<double> capped(const std::vector<double>& given, double cap, double shift) {
  const PolarCodec<T> codec(PolarFormat::uncompressed(16),
                            polarquant_test::make_rotation(RotationKind::kNone, 16));
  std::vector<T> logits(given.begin(), given.end());
  codec.vectors().cap_logits(logits.data(), logits.size(), static_cast<T>(cap),
                             static_cast<T>(shift));
  return std::vector<double>(logits.begin(), logits.end());
}

template <typename T>
void expect_capped(double cap, double relative_error) {
  SCOPED_TRACE(cap);
  const std::vector<double> given = logits_up_to(60.0);
  const std::vector<double> result = capped<T>(given, cap, 0.0);
  for (std::size_t i = 0; i < given.size(); ++i) {
    const double x = static_cast<double>(static_cast<T>(given[i]));
    const double right = cap * std::tanh(x / cap);
    ASSERT_NEAR(result[i], right, relative_error * std::abs(right)) << x;
  }
}

TEST(CapLogitsTest, IsTanhToARelativeErrorWhateverTheCap) {
  for_each_isa([] {
    for (double cap = 0.5; cap < 2e30; cap *= 7.0) expect_capped<float>(cap, 1.2e-6);
    for (double cap = 0.5; cap < 2e30; cap *= 7.0) expect_capped<double>(cap, 1e-15);
  });
}

TEST(CapLogitsTest, ALargeCapLeavesLogitsAsTheyAre) {
  for_each_isa([] {
    const std::vector<double> given = logits_up_to(60.0);
    for (const double cap : {1e8, 1e12, 1e30, 3e38}) {
      const std::vector<double> result = capped<float>(given, cap, 0.0);
      for (std::size_t i = 0; i < given.size(); ++i) {
        EXPECT_EQ(result[i], static_cast<double>(static_cast<float>(given[i]))) << cap;
      }
    }
  });
}

TEST(CapLogitsTest, TheShiftComesFirstAndHugeLogitsReachTheCap) {
  for_each_isa([] {
    const std::vector<double> result = capped<float>({1.0, 1e30, -1e30, -INFINITY}, 5.0, 0.5);
    EXPECT_NEAR(result[0], 5.0 * std::tanh(0.3), 1e-6);
    EXPECT_EQ(result[1], 5.0);
    EXPECT_EQ(result[2], -5.0);
    EXPECT_EQ(result[3], -5.0);
  });
}

}  // namespace
