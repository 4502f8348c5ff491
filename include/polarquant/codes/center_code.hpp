// The code of a centre, what a span of tokens has in common: 4 bits per coordinate and a step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"

POLARQUANT_BEGIN_NAMESPACE

// Tokens that share a centre: docs/design.md, "A centre per span".
inline constexpr std::size_t kSpanTokens = 2 * kTileTokens;

namespace detail {

// A centre is the mean of at most so many tokens before the span's start and as many behind it.
inline constexpr std::size_t kCenterReach = 2 * kTileTokens;
static_assert(kCenterReach <= kSpanTokens, "the sum is of tokens of one span");

// The step in bfloat16, then the indices n_i of 4 bits, i < head_dim, in ceil(head_dim / 8) words
// of 32 bits: word j holds n_j, n_(j + words), n_(j + 2 words) and so on from its low bits on, so
// that four bits of neighbouring words are neighbouring coordinates.
constexpr std::size_t center_words(std::size_t head_dim) { return (head_dim + 7) / 8; }
inline constexpr std::size_t kCenterStepBytes = 2;
constexpr std::size_t center_bytes(std::size_t head_dim) {
  return kCenterStepBytes + 4 * center_words(head_dim);
}

// x_i ~ step (n_i - 7.5), for x that is rotated already. What is subtracted from the vectors of a
// span is the decoded centre. So its error makes no result wrong: it adds to the energy that is
// left to encode, a hundredth of the centre's own. A uniform quantizer up to the largest coordinate
// is all that this takes.
template <typename A>
void encode_center(const A* rotated, std::size_t head_dim, std::byte* code) noexcept {
  std::memset(code, 0, center_bytes(head_dim));
  double largest = 0.0;
  for (std::size_t i = 0; i < head_dim; ++i) {
    const double x = static_cast<double>(rotated[i]);
    const double magnitude = x < 0.0 ? -x : x;
    largest = magnitude > largest ? magnitude : largest;
  }
  // As long as products with the step are normal numbers.
  if (!(largest >= 0x1p-100)) return;
  const std::uint32_t bits = float_bits(static_cast<float>(largest / 7.5));
  const std::uint16_t step = static_cast<std::uint16_t>((bits + 0xffffu) >> 16);  // Rounded up.
  std::memcpy(code, &step, sizeof step);
  const double inverse = 1.0 / static_cast<double>(bfloat16_to_float(step));
  const std::size_t num_words = center_words(head_dim);
  for (std::size_t i = 0; i < head_dim; ++i) {
    // The nearest n to x / step + 7.5.
    const double place = exactly_fused(static_cast<double>(rotated[i]), inverse, 8.0);
    const unsigned index = place < 0.0 ? 0u : place >= 16.0 ? 15u : static_cast<unsigned>(place);
    std::byte* const word = code + kCenterStepBytes + 4 * (i % num_words);
    std::uint32_t bits_of_word;
    std::memcpy(&bits_of_word, word, 4);
    bits_of_word |= index << (4 * (i / num_words));
    std::memcpy(word, &bits_of_word, 4);
  }
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
