// The families of codes that the library brings: their codecs, and their formats in saved files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "polarquant/base/compiled.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codec/codec_format.hpp"
#include "polarquant/codec/polar_codec.hpp"
#include "polarquant/codec/trellis_codec.hpp"
#include "polarquant/method/polar_format.hpp"
#include "polarquant/trellis/trellis_format.hpp"

POLARQUANT_BEGIN_NAMESPACE

// The codec of a format. Throws what the codec's constructor throws, and std::invalid_argument if
// the family has none for A.
template <typename A>
std::shared_ptr<const Codec<A>> make_codec(const CodecFormat& format, const CodecSetup& setup) {
  const std::string found = format.problem();
  if (!found.empty()) detail::throw_invalid_argument(found);
  // The library's own are named here and not in their models, so that a program compiles those of
  // the types that it uses.
  if (const PolarFormat* const polar = format.polar()) {
    return std::make_shared<const PolarCodec<A>>(*polar, setup);
  }
  if (const TrellisFormat* const trellis = format.trellis()) {
    return std::make_shared<const TrellisCodec<A>>(*trellis, setup);
  }
  std::shared_ptr<const Codec<A>> codec;
  if constexpr (std::is_same_v<A, float>) {
    codec = format.model().make_float(setup);
  } else {
    codec = format.model().make_double(setup);
  }
  if (codec != nullptr) return codec;
  detail::throw_invalid_argument(format.description() + " has no codec for results of " +
                                 (std::is_same_v<A, float> ? "float" : "double"));
}

POLARQUANT_INSTANTIATE(std::shared_ptr<const Codec<float>> make_codec<float>(const CodecFormat&,
                                                                             const CodecSetup&));
POLARQUANT_INSTANTIATE(std::shared_ptr<const Codec<double>> make_codec<double>(const CodecFormat&,
                                                                               const CodecSetup&));

namespace detail {

// The one that version 1 of the saved cache knew, and did not name.
inline constexpr const char* kFirstFamily = "polar";

// What PolarModel::settings() wrote; false if no format can have them.
inline bool read_polar_settings(const std::vector<std::uint64_t>& numbers, PolarFormat& format) {
  constexpr std::size_t kFirstBits = 4;
  constexpr std::size_t kNumBits = PolarFormat::kMaxLevels + PolarFormat::kMaxJoins;
  if (numbers.size() != kFirstBits + kNumBits + 1) return false;
  // Width and depth; the others are kept in a byte, which would cut them.
  for (std::size_t i = 0; i + 1 < numbers.size(); ++i) {
    if (numbers[i] > (i < 2 ? 1024u : 255u)) return false;
  }
  format.head_dim = static_cast<int>(numbers[0]);
  format.levels = static_cast<int>(numbers[1]);
  format.radius_type = static_cast<FloatType>(numbers[2]);
  format.radius_meaning = static_cast<RadiusMeaning>(numbers[3]);
  for (std::size_t i = 0; i < kNumBits; ++i) {
    std::uint8_t& bits = i < PolarFormat::kMaxLevels
                             ? format.level_bits[i]
                             : format.join_bits[i - PolarFormat::kMaxLevels];
    bits = static_cast<std::uint8_t>(numbers[kFirstBits + i]);
  }
  return format.problem().empty();
}

// What TrellisModel::settings() wrote; false if no format can have them.
inline bool read_trellis_settings(const std::vector<std::uint64_t>& numbers,
                                  TrellisFormat& format) {
  if (numbers.size() != 2 || numbers[0] > 1024 || numbers[1] > 16) return false;
  format = {static_cast<int>(numbers[0]), static_cast<double>(numbers[1]) / 2.0};
  return format.problem().empty();
}

// A format as a saved file tells it.
struct SavedFormat {
  CodecFormat format;       // not set: a family that the library does not bring, or given codebooks
  std::string description;  // for people
};

inline SavedFormat read_format(const std::string& family,
                               const std::vector<std::uint64_t>& numbers) {
  if (family == "trellis") {
    TrellisFormat trellis;
    if (!read_trellis_settings(numbers, trellis)) return {{}, family + " with wrong settings"};
    const CodecFormat format = trellis;
    return {format, format.description()};
  }
  PolarFormat polar;
  if (family != kFirstFamily) return {{}, "a format of the family \"" + family + "\""};
  if (!read_polar_settings(numbers, polar)) return {{}, family + " with wrong settings"};
  const CodecFormat format = polar;
  const bool is_offline = format.model().settings().back() == numbers.back();
  if (is_offline) return {format, format.description()};
  return {{}, format.description() + ", given codebooks"};
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
