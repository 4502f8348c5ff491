// The code of a centre: its bytes, its error, and that every instruction set reads it alike.
#include "polarquant/codes/center_code.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

#include "polarquant/kernels/dispatch.hpp"
#include "test_util.hpp"

namespace {

using polarquant::Isa;
using polarquant::detail::center_bytes;
using polarquant::detail::center_words;
using polarquant::detail::choose_vector_kernels;

// All numbers of the last words, which may be more than head_dim.
template <typename A>
std::vector<A> expand(const std::vector<std::byte>& code, std::size_t head_dim,
                      Isa isa = Isa::kScalar) {
  std::vector<A> center(8 * center_words(head_dim));
  choose_vector_kernels<A>(isa).expand_centers({code.data(), 1, code.size()}, head_dim,
                                               {center.data(), 1, center.size()});
  center.resize(head_dim);
  return center;
}

template <typename A>
std::vector<std::byte> encode(const std::vector<A>& rotated) {
  std::vector<std::byte> code(center_bytes(rotated.size()), std::byte{0xff});
  polarquant::detail::encode_center(rotated.data(), rotated.size(), code.data());
  return code;
}

TEST(CenterCodeTest, Takes4BitsPerCoordinateAnd16More) {
  EXPECT_EQ(center_bytes(128), 66u);
  EXPECT_EQ(center_bytes(64), 34u);
  EXPECT_EQ(center_bytes(20), 2u + 12u);  // Words of eight coordinates.
}

// Read without the library: the step in bfloat16, four bits of word j being coordinates j,
// j + words, and so on.
TEST(CenterCodeTest, HasTheBytesOfTheDocumentation) {
  for (const std::size_t head_dim : {2u, 6u, 14u, 16u, 80u, 128u, 130u}) {
    const std::vector<float> given = polarquant_test::gaussian_vector<float>(head_dim, head_dim);
    const std::vector<std::byte> code = encode(given);
    const std::uint32_t step_bits =
        (static_cast<std::uint32_t>(code[0]) << 16) | (static_cast<std::uint32_t>(code[1]) << 24);
    float step;
    std::memcpy(&step, &step_bits, sizeof step);
    const std::vector<float> center = expand<float>(code, head_dim);
    const std::size_t words = (head_dim + 7) / 8;
    for (std::size_t i = 0; i < head_dim; ++i) {
      const std::size_t bit = 4 * (i / words);
      const unsigned byte = static_cast<unsigned>(code[2 + 4 * (i % words) + bit / 8]);
      const unsigned index = (byte >> (bit % 8)) & 15u;
      EXPECT_EQ(center[i], step * (static_cast<float>(index) - 7.5f));
      // The nearest of 16 levels.
      EXPECT_LE(std::fabs(center[i] - given[i]), 0.5001f * step) << i;
    }
    // No larger than the largest coordinate asks for, but for its rounding to 8 bits.
    float largest = 0.0f;
    for (const float x : given) largest = std::max(largest, std::fabs(x));
    EXPECT_GE(7.5f * step, largest);
    EXPECT_LE(7.5f * step, largest * (1.0f + 0x1p-7f));
  }
}

TEST(CenterCodeTest, EveryInstructionSetReadsTheSameNumbers) {
  for (const std::size_t head_dim : {2u, 14u, 16u, 48u, 64u, 100u, 128u, 576u}) {
    const std::vector<std::byte> code =
        encode(polarquant_test::gaussian_vector<float>(head_dim, 3 * head_dim));
    const std::vector<float> floats = expand<float>(code, head_dim);
    const std::vector<double> doubles = expand<double>(code, head_dim);
    for (const Isa isa : polarquant_test::available_isas()) {
      EXPECT_EQ(expand<float>(code, head_dim, isa), floats);
      EXPECT_EQ(expand<double>(code, head_dim, isa), doubles);
    }
    for (std::size_t i = 0; i < head_dim; ++i)
      EXPECT_EQ(static_cast<double>(floats[i]), doubles[i]);
  }
}

TEST(CenterCodeTest, ZeroAndWhatIsNearlyZeroAreZero) {
  for (const float tiny : {0.0f, 1e-31f, -1e-38f}) {
    const std::vector<float> center = expand<float>(encode(std::vector<float>(16, tiny)), 16);
    EXPECT_EQ(center, std::vector<float>(16, 0.0f));
  }
}

TEST(CenterCodeTest, HugeCoordinatesStayFinite) {
  std::vector<float> given(16, 1e37f);
  given[3] = -3e38f;
  const std::vector<float> center = expand<float>(encode(given), 16);
  for (std::size_t i = 0; i < 16; ++i) EXPECT_TRUE(std::isfinite(center[i]));
  EXPECT_NEAR(center[3] / 3e38f, -1.0f, 0.01f);
}

// The same scaled row in every instruction set, rounded once.
TEST(ConditionTest, IsRoundedOnceEverywhere) {
  const std::vector<float> scales = polarquant_test::gaussian_vector<float>(80, 1);
  const std::vector<float> center = polarquant_test::gaussian_vector<float>(80, 2);
  const std::vector<float> given = polarquant_test::gaussian_vector<float>(80, 3);
  for (const Isa isa : polarquant_test::available_isas()) {
    const auto kernels = choose_vector_kernels<float>(isa);
    std::vector<float> row = given;
    kernels.condition(scales.data(), center.data(), 80, row.data());
    for (std::size_t i = 0; i < 80; ++i)
      EXPECT_EQ(row[i], std::fma(scales[i], given[i], -center[i]));
    row = given;
    kernels.condition(nullptr, center.data(), 80, row.data());
    for (std::size_t i = 0; i < 80; ++i) EXPECT_EQ(row[i], given[i] - center[i]);
    row = given;
    kernels.condition(scales.data(), nullptr, 80, row.data());
    for (std::size_t i = 0; i < 80; ++i) EXPECT_EQ(row[i], given[i] * scales[i]);
    row = given;
    kernels.condition(nullptr, nullptr, 80, row.data());
    EXPECT_EQ(row, given);
  }
}

}  // namespace
