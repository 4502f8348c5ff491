// A program that lets the processor flush subnormal floats to zero (FTZ, DAZ), as audio and game
// engines and every program linked with -ffast-math do, gets the same bits.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "polarquant/base/float_types.hpp"
#include "polarquant/base/random.hpp"
#include "polarquant/codec/polar_codec.hpp"
#include "test_util.hpp"

#if defined(__SSE2__)
#include <xmmintrin.h>

namespace {

using namespace polarquant;
using polarquant::detail::double_to_float_bits;
using polarquant::detail::float16_to_float;
using polarquant::detail::float_bits;
using polarquant::detail::float_to_bfloat16;
using polarquant::detail::float_to_float16;
using namespace polarquant_test;

class FlushToZero {
 public:
  FlushToZero() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushToZero() { _mm_setcsr(saved_); }
  FlushToZero(const FlushToZero&) = delete;
  FlushToZero& operator=(const FlushToZero&) = delete;

 private:
  unsigned saved_;
};

// What `compute` returns with and without.
template <typename Compute>
void expect_same(const Compute& compute) {
  const auto plain = compute();
  const auto flushed = [&compute] {
    const FlushToZero scope;
    return compute();
  }();
  EXPECT_TRUE(plain == flushed);
}

TEST(FlushToZeroTest, LeavesEveryHalfItsValue) {
  expect_same([] {
    std::vector<std::uint32_t> bits;
    for (unsigned half = 0; half < 0x10000u; ++half) {
      if ((half & 0x7c00u) == 0x7c00u) continue;
      bits.push_back(float_bits(float16_to_float(static_cast<std::uint16_t>(half))));
    }
    return bits;
  });
}

TEST(FlushToZeroTest, LeavesTheRoundingOfFloatsAndDoubles) {
  expect_same([] {
    std::vector<std::uint32_t> bits;
    Random random(1);
    for (int i = 0; i < 100000; ++i) {
      const double x = (random.uniform() - 0.5) * polarquant::detail::fixed_pow(0.5, i % 150);
      bits.push_back(double_to_float_bits(x));
      bits.push_back(float_to_float16(polarquant::detail::float_from_bits(bits.back())));
      bits.push_back(float_to_bfloat16(polarquant::detail::float_from_bits(bits[bits.size() - 2])));
    }
    return bits;
  });
}

// Codes and what they decode to, of rows down to the subnormals of a half.
void expect_same_codes(const PolarFormat& format, double least) {
  const PolarCodec<float> codec(format, make_rotation(RotationKind::kHaar, format.head_dim, 3));
  for (double scale = 1.0; scale >= least; scale /= 10.0) {
    SCOPED_TRACE(format.description());
    SCOPED_TRACE(scale);
    expect_same([&] {
      const std::vector<float> rows = gaussian_vector<float>(40 * codec.head_dim(), 2, scale);
      const std::vector<std::byte> codes = encode_rows(codec, rows);
      EXPECT_FALSE(codes.empty());
      const std::vector<float> decoded = decode_rows(codec, codes);
      std::vector<std::uint32_t> bits;
      for (const std::byte byte : codes) bits.push_back(std::to_integer<std::uint32_t>(byte));
      for (const float entry : decoded) bits.push_back(float_bits(entry));
      return bits;
    });
  }
}

TEST(FlushToZeroTest, LeavesUncompressedHalves) {
  expect_same_codes(PolarFormat::uncompressed(64), 1e-8);
}

TEST(FlushToZeroTest, LeavesRadiiInHalves) {
  PolarFormat format = PolarFormat::paper(64);
  format.radius_type = FloatType::kFloat16;
  expect_same_codes(format, 1e-8);
}

TEST(FlushToZeroTest, LeavesRadiiInBfloat16) {
  expect_same_codes(PolarFormat::paper(64), 1e-30);
  expect_same_codes(PolarFormat::full_depth(80, 3.25), 1e-30);
}

}  // namespace
#endif
