// The code of a centre: its bytes, its error, and that every instruction set reads it alike.
#include "polarquant/codes/center_code.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <string>
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
  choose_vector_kernels<A>(isa).expand_center(code.data(), head_dim, center.data());
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

// Dots and weighted sums of centres as they decode, in every instruction set.
template <typename A>
void expect_products_of_centers(std::size_t head_dim, std::size_t num_rows, std::size_t num_spans) {
  SCOPED_TRACE("head_dim " + std::to_string(head_dim) + ", rows " + std::to_string(num_rows) +
               ", spans " + std::to_string(num_spans));
  const std::size_t width = (head_dim + 15) / 16 * 16, stride = width + 16;
  const std::size_t num_bytes = center_bytes(head_dim);
  std::vector<std::byte> codes(num_spans * num_bytes);
  std::vector<std::vector<A>> centers;
  for (std::size_t s = 0; s < num_spans; ++s) {
    const std::vector<std::byte> code =
        encode(polarquant_test::gaussian_vector<float>(head_dim, 100 * head_dim + s));
    std::copy(code.begin(), code.end(), codes.begin() + static_cast<std::ptrdiff_t>(s * num_bytes));
    centers.push_back(expand<A>(code, head_dim));
  }
  std::vector<A> queries(num_rows * stride, A(0));
  for (std::size_t row = 0; row < num_rows; ++row) {
    const std::vector<A> query = polarquant_test::gaussian_vector<A>(head_dim, 7 + row);
    std::copy(query.begin(), query.end(),
              queries.begin() + static_cast<std::ptrdiff_t>(row * stride));
  }
  const std::vector<A> weights = polarquant_test::gaussian_vector<A>(num_rows * 8, 9);
  const std::vector<A> sums = polarquant_test::gaussian_vector<A>(num_rows * stride, 11);
  const double rounding = 8.0 * static_cast<double>(std::numeric_limits<A>::epsilon());
  const polarquant::Rows<const std::byte> given = {codes.data(), num_spans, num_bytes};

  for (const Isa isa : polarquant_test::available_isas()) {
    const auto kernels = choose_vector_kernels<A>(isa);
    std::vector<A> scratch(num_spans * width), dots(num_rows * 8, A(-1)), added = sums;
    kernels.dot_centers(given, head_dim, {queries.data(), num_rows, stride}, scratch.data(),
                        {dots.data(), num_rows, 8});
    kernels.add_centers(given, head_dim, {weights.data(), num_rows, 8}, scratch.data(),
                        {added.data(), num_rows, stride});
    for (std::size_t row = 0; row < num_rows; ++row) {
      for (std::size_t s = 0; s < 8; ++s) {
        double dot = s < num_spans ? 0.0 : -1.0, size = 0.0;  // What lies behind is left alone.
        for (std::size_t i = 0; s < num_spans && i < head_dim; ++i) {
          const double product =
              static_cast<double>(queries[row * stride + i]) * static_cast<double>(centers[s][i]);
          dot += product;
          size += std::fabs(product);
        }
        EXPECT_NEAR(static_cast<double>(dots[row * 8 + s]), dot, rounding * size)
            << row << ' ' << s;
      }
      for (std::size_t i = 0; i < stride; ++i) {
        if (i >= head_dim && i < width) continue;  // Anything.
        double sum = static_cast<double>(sums[row * stride + i]), size = std::fabs(sum);
        for (std::size_t s = 0; i < head_dim && s < num_spans; ++s) {
          const double product =
              static_cast<double>(weights[row * 8 + s]) * static_cast<double>(centers[s][i]);
          sum += product;
          size += std::fabs(product);
        }
        EXPECT_NEAR(static_cast<double>(added[row * stride + i]), sum, rounding * size)
            << row << ' ' << i;
      }
    }
  }
}

TEST(CenterKernelsTest, MultiplyCentersAsTheyDecode) {
  for (const std::size_t head_dim : {2u, 14u, 16u, 64u, 80u, 100u, 128u, 130u, 576u}) {
    for (const std::size_t num_rows : {1u, 4u, 6u}) {
      for (const std::size_t num_spans : {1u, 3u, 8u}) {
        expect_products_of_centers<float>(head_dim, num_rows, num_spans);
        expect_products_of_centers<double>(head_dim, num_rows, num_spans);
      }
    }
  }
}

}  // namespace
