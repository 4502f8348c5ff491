// The settings of a saved cache, in every version of the format (docs/format.md, "The saved
// cache").
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "polarquant/base/checksum.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codec/families.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/method/rotation.hpp"
#include "polarquant/saving/byte_streams.hpp"
#include "polarquant/storage/calibration.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/storage/kv_codec.hpp"
#include "polarquant/storage/kv_storage.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

inline constexpr std::uint64_t kSavedVersion = 3;

// The Centering of versions 1 and 2 for a mean that was estimated once, from the first tokens.
inline constexpr std::uint64_t kEstimatedMean = 2;

// What one side says of itself: its family of codes, the family's own numbers, the rotation.
struct SavedSide {
  std::string family;
  std::uint64_t rotation_kind = 0;
  std::uint64_t rotation_seed = 0;  // 0 without a rotation
  std::uint64_t rotation_checksum = 0;
  std::vector<std::uint64_t> numbers;

  friend bool operator==(const SavedSide& x, const SavedSide& y) {
    return x.family == y.family && x.rotation_kind == y.rotation_kind &&
           x.rotation_seed == y.rotation_seed && x.rotation_checksum == y.rotation_checksum &&
           x.numbers == y.numbers;
  }
};

// What a saved cache and the cache it is loaded into must agree on. The arithmetic, the instruction
// set and the number of query heads are not among it: codes do not depend on them.
struct SavedSettings {
  std::uint64_t num_kv_heads = 0;
  std::uint64_t num_sink_tokens = 0;
  std::uint64_t num_recent_tokens = 0;
  std::uint64_t exact_type = 0;
  std::uint64_t centering = 0;
  std::uint64_t span_tokens = 0;            // kSpanTokens; 0: spans have no centres. In versions 1
                                            // and 2 the tokens of an estimated mean
  std::uint64_t calibration = 0;            // a checksum; 0: none
  std::uint64_t centered_sides = kAnySide;  // 1: keys, 2: values, 3: both

  static constexpr std::uint64_t kAnySide = 7;  // not known: version 1 does not say
  SavedSide sides[2];
};

// Tokens as every machine writes them: kAllTokens is 2^40.
inline std::uint64_t saved_token_count(std::size_t num_tokens) {
  return num_tokens == KVCacheConfig::kAllTokens ? std::uint64_t{1} << 40 : num_tokens;
}

// What tells a cache's calibration from others: its checksum, or that of a transform which is no
// calibration's; 0 if keys are not transformed.
inline std::uint64_t calibration_of(const KVCacheConfig& config) {
  const LayerCalibration& layer = config.calibration;
  if (!layer.has_transform() || config.key_format.is_uncompressed()) return 0;
  if (layer.checksum != 0) return layer.checksum;
  const std::vector<float> numbers = layer.transform_numbers();
  Checksum sum;
  sum.add(numbers.data(), numbers.size() * sizeof(float));
  return sum.value();
}

template <typename A>
SavedSettings settings_of(const KVStorage<A>& storage) {
  const KVCacheConfig& config = storage.config();
  SavedSettings settings;
  settings.num_kv_heads = static_cast<std::uint64_t>(config.num_kv_heads);
  settings.num_sink_tokens = saved_token_count(config.num_sink_tokens);
  settings.num_recent_tokens = saved_token_count(config.num_recent_tokens);
  settings.exact_type = static_cast<std::uint64_t>(storage.exact_type());
  settings.centering = static_cast<std::uint64_t>(config.centering);
  settings.span_tokens = config.centering == Centering::kLocal ? kSpanTokens : 0;
  settings.calibration = calibration_of(config);
  settings.centered_sides = 0;
  for (const Side side : kSides) {
    const Codec<A>& codec = storage.codec()->side(side);
    SavedSide& saved = settings.sides[static_cast<std::size_t>(side)];
    if (!storage.head(side, 0).center.empty()) {
      settings.centered_sides |= std::uint64_t{1} << static_cast<unsigned>(side);
    }
    saved.family = codec.format().model().family();
    const bool is_rotated = codec.rotation().kind() != RotationKind::kNone;
    saved.rotation_kind = static_cast<std::uint64_t>(codec.rotation().kind());
    saved.rotation_seed = is_rotated ? codec.rotation().seed() : 0;
    saved.rotation_checksum = codec.rotation().checksum();
    saved.numbers = codec.format().model().settings();
  }
  return settings;
}

// ---- Since version 2: the sections CONF, KEYS and VALS ----

// Pointers to the numbers of CONF, in their order, of const or other settings.
template <typename Settings>
auto conf_numbers(Settings& settings) {
  return std::array{&settings.num_kv_heads, &settings.num_sink_tokens, &settings.num_recent_tokens,
                    &settings.exact_type,   &settings.centering,       &settings.span_tokens,
                    &settings.calibration,  &settings.centered_sides};
}

inline constexpr std::size_t kConfNumbers =
    std::tuple_size_v<decltype(conf_numbers(std::declval<SavedSettings&>()))>;
inline constexpr std::size_t kConfNumbers1 = 6;  // the first of them, in version 1
inline constexpr std::size_t kSideNumbers = 4;   // before the family's own
inline constexpr const char* kSideSections[] = {"KEYS", "VALS"};
inline constexpr std::uint64_t kMaxFamilyNumbers = 1000;

inline std::uint64_t settings_bytes(const SavedSettings& settings) {
  std::uint64_t bytes = section_bytes(8 * kConfNumbers);
  for (const SavedSide& side : settings.sides) {
    bytes += section_bytes(8 * (kSideNumbers + side.numbers.size()));
  }
  return bytes;
}

inline void write_settings(const SavedSettings& settings, SectionWriter& writer) {
  writer.begin("CONF", 8 * kConfNumbers);
  for (const std::uint64_t* const number : conf_numbers(settings)) writer.number(*number);
  writer.end();
  for (const Side which : kSides) {
    const SavedSide& side = settings.sides[static_cast<std::size_t>(which)];
    writer.begin(kSideSections[static_cast<std::size_t>(which)],
                 8 * (kSideNumbers + side.numbers.size()));
    writer.fill(8, [&side](std::byte* out) {
      std::memset(out, 0, 8);
      std::memcpy(out, side.family.data(), (std::min<std::size_t>)(side.family.size(), 8));
    });
    for (const std::uint64_t number :
         {side.rotation_kind, side.rotation_seed, side.rotation_checksum}) {
      writer.number(number);
    }
    for (const std::uint64_t number : side.numbers) writer.number(number);
    writer.end();
  }
}

inline SavedSettings read_settings_2(SectionReader& reader) {
  SavedSettings settings;
  reader.begin("CONF", 8 * kConfNumbers);
  for (std::uint64_t* const number : conf_numbers(settings)) *number = reader.number();
  reader.end();
  for (const Side which : kSides) {
    SavedSide& side = settings.sides[static_cast<std::size_t>(which)];
    const std::uint64_t size = reader.begin_up_to(kSideSections[static_cast<std::size_t>(which)],
                                                  8 * (kSideNumbers + kMaxFamilyNumbers));
    if (size % 8 != 0 || size < 8 * kSideNumbers) {
      throw_runtime_error({"loading: section \"", kSideSections[static_cast<std::size_t>(which)],
                           "\" has ", size, " bytes: damaged"});
    }
    char family[9] = {};
    std::memcpy(family, reader.take(8), 8);
    side.family = family;
    side.rotation_kind = reader.number();
    side.rotation_seed = reader.number();
    side.rotation_checksum = reader.number();
    side.numbers.resize(static_cast<std::size_t>(size / 8 - kSideNumbers));
    for (std::uint64_t& number : side.numbers) number = reader.number();
    reader.end();
  }
  return settings;
}

// ---- Version 1: all in CONF, for the one family there was ----

inline SavedSettings read_settings_1(SectionReader& reader) {
  constexpr std::size_t kFamilyNumbers = 22;  // and one more behind the rotation
  SavedSettings settings;
  reader.begin("CONF", 8 * (kConfNumbers1 + 2 * (kFamilyNumbers + 4)));
  const auto numbers = conf_numbers(settings);
  for (std::size_t i = 0; i < kConfNumbers1; ++i) *numbers[i] = reader.number();
  for (SavedSide& side : settings.sides) {
    side.family = kFirstFamily;
    side.numbers.resize(kFamilyNumbers + 1);
    for (std::size_t i = 0; i < kFamilyNumbers; ++i) side.numbers[i] = reader.number();
    side.rotation_kind = reader.number();
    side.rotation_seed = reader.number();
    side.rotation_checksum = reader.number();
    side.numbers.back() = reader.number();
  }
  reader.end();
  return settings;
}

inline SavedSettings read_settings(SectionReader& reader, std::uint64_t version) {
  return version == 1 ? read_settings_1(reader) : read_settings_2(reader);
}

// ---- For people ----

inline std::string name_of_exact_type(std::uint64_t type) {
  return type > static_cast<std::uint64_t>(FloatType::kFloat64)
             ? message({"type number ", type})
             : float_type_name(static_cast<FloatType>(type));
}

inline std::string name_of_centering(std::uint64_t centering) {
  constexpr const char* kNames[] = {"kNone", "kGiven", "an estimated mean", "kLocal"};
  return centering < 4 ? kNames[centering] : message({"number ", centering});
}

inline std::string name_of_calibration(std::uint64_t checksum) {
  return checksum == 0 ? "no calibration" : message({"the calibration of checksum ", checksum});
}

inline std::string name_of_rotation(const SavedSide& side) {
  constexpr const char* kNames[] = {"kNone", "kHadamard", "kHaar"};
  const std::string kind =
      side.rotation_kind < 3 ? kNames[side.rotation_kind] : message({"kind ", side.rotation_kind});
  return message({kind, " of seed ", side.rotation_seed});
}

// Throws std::runtime_error with both values if what was found is not what the cache has. A mean
// that was estimated goes into a cache with a given mean (which load compares), and into one with
// centres of spans, whose tokens then have that mean.
inline void check_settings(const SavedSettings& found, const SavedSettings& own) {
  const auto compare = [](const char* what, const std::string& theirs, const std::string& ours,
                          bool are_equal) {
    if (are_equal) return;
    throw_runtime_error(
        {"loading: the saved cache has ", what, " ", theirs, ", this cache has ", ours});
  };
  const auto compare_numbers = [&compare](const char* what, std::uint64_t theirs,
                                          std::uint64_t ours) {
    compare(what, message({theirs}), message({ours}), theirs == ours);
  };
  compare_numbers("num_kv_heads", found.num_kv_heads, own.num_kv_heads);
  compare_numbers("num_sink_tokens", found.num_sink_tokens, own.num_sink_tokens);
  compare_numbers("num_recent_tokens", found.num_recent_tokens, own.num_recent_tokens);
  compare("exact_type", name_of_exact_type(found.exact_type), name_of_exact_type(own.exact_type),
          found.exact_type == own.exact_type);
  const bool is_estimated = found.centering == kEstimatedMean;
  compare("centering", name_of_centering(found.centering), name_of_centering(own.centering),
          is_estimated ? own.centering != static_cast<std::uint64_t>(Centering::kNone)
                       : found.centering == own.centering);
  if (!is_estimated) compare_numbers("spans of tokens", found.span_tokens, own.span_tokens);
  compare("keys under", name_of_calibration(found.calibration),
          name_of_calibration(own.calibration), found.calibration == own.calibration);
  if (found.centered_sides != SavedSettings::kAnySide) {
    compare_numbers("means of sides (1 keys, 2 values)", found.centered_sides, own.centered_sides);
  }
  for (const Side which : kSides) {
    const bool is_key = which == Side::kKeys;
    const SavedSide& theirs = found.sides[static_cast<std::size_t>(which)];
    const SavedSide& ours = own.sides[static_cast<std::size_t>(which)];
    if (theirs == ours) continue;
    const std::string their_format = read_format(theirs.family, theirs.numbers).description;
    const std::string our_format = read_format(ours.family, ours.numbers).description;
    compare(is_key ? "keys in" : "values in", their_format, our_format,
            theirs.family == ours.family && their_format == our_format);
    compare(is_key ? "a key rotation" : "a value rotation", name_of_rotation(theirs),
            name_of_rotation(ours), name_of_rotation(theirs) == name_of_rotation(ours));
    throw_runtime_error({"loading: the ", is_key ? "keys" : "values",
                         " of the saved cache have other codebooks or another rotation than this "
                         "cache's, though their names are the same"});
  }
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
