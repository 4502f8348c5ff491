// What a saved cache says of itself (docs/format.md, "The saved cache").
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <istream>
#include <string>

#include "polarquant/base/compiled.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec_format.hpp"
#include "polarquant/codec/families.hpp"
#include "polarquant/method/rotation.hpp"
#include "polarquant/saving/byte_streams.hpp"
#include "polarquant/saving/saved_file.hpp"
#include "polarquant/saving/saved_layout.hpp"
#include "polarquant/saving/saved_settings.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/storage/kv_codec.hpp"

POLARQUANT_BEGIN_NAMESPACE

// What a saved file says of itself.
struct SavedCacheInfo {
  std::uint64_t version = 0;    // of the format
  std::uint64_t num_bytes = 0;  // of the whole
  std::size_t num_tokens = 0;

  // What loads it, with as many query heads as KV heads. To be set before: a format whose codebooks
  // were given, or of a family that the library does not bring; a mean that was given for one of
  // two sides of equal width, of which version 1 does not say the side; the calibration.
  KVCacheConfig config;

  std::uint64_t calibration = 0;  // checksum of the one that keys were scaled by; 0: none

  // The formats, for people.
  std::string key_format;
  std::string value_format;
};

namespace detail {

inline SavedCounts read_counts(SectionReader& reader, std::uint64_t version) {
  SavedCounts counts;
  reader.begin("SIZE", 8 * num_counts(version));
  counts.num_tokens = reader.number();
  counts.num_encoded = reader.number();
  if (version < 3) {
    const std::uint64_t is_pending = reader.number();
    if (is_pending > 1) throw_runtime_error({"loading: ", is_pending, " in \"SIZE\": damaged"});
    counts.mean_is_pending = is_pending == 1;
    if (version > 1) counts.num_removed = reader.number();
  } else {
    for (std::uint64_t* const count :
         {&counts.first_slot, &counts.num_removed, &counts.num_summed, &counts.num_summed_rows}) {
      *count = reader.number();
    }
  }
  reader.end();
  return counts;
}

// The means of a configuration, where the widths of both sides are known.
inline void read_given_means(SectionReader& reader, const SavedSettings& settings,
                             std::uint64_t most_bytes, KVCacheConfig& config) {
  if (!config.key_format.is_set() || !config.value_format.is_set()) return;
  const std::uint64_t num_entries = reader.begin_up_to("MEAN", most_bytes) / 8;
  std::size_t widths[2];
  for (const Side side : kSides) {
    const std::size_t index = static_cast<std::size_t>(side);
    const bool is_centered = (settings.centered_sides >> index) % 2 != 0;
    const CodecFormat& format = side == Side::kKeys ? config.key_format : config.value_format;
    widths[index] = is_centered ? static_cast<std::size_t>(format.head_dim()) : 0;
  }
  const std::uint64_t num_heads = settings.num_kv_heads;
  if (settings.centered_sides == SavedSettings::kAnySide) {  // Version 1 does not say.
    // Of one side, and nothing tells of which.
    if (widths[0] == widths[1] && num_entries == num_heads * widths[0]) return;
    if (num_entries == num_heads * widths[0]) {
      widths[1] = 0;
    } else if (num_entries == num_heads * widths[1]) {
      widths[0] = 0;
    }
  }
  if (num_entries != num_heads * (widths[0] + widths[1])) {
    throw_runtime_error({"loading: ", num_entries, " entries of means: damaged"});
  }
  for (std::uint64_t head = 0; head < num_heads; ++head) {
    for (const Side side : kSides) {
      std::vector<float>& mean = side == Side::kKeys ? config.key_mean : config.value_mean;
      for (std::size_t i = 0; i < widths[static_cast<std::size_t>(side)]; ++i) {
        double entry;
        std::memcpy(&entry, reader.take(8), 8);
        mean.push_back(static_cast<float>(entry));
      }
    }
  }
  reader.end();
}

SavedCacheInfo read_info(ByteSource& source);

#if !POLARQUANT_USES_COMPILED
POLARQUANT_INLINE SavedCacheInfo read_info(ByteSource& source) {
  SectionReader reader(source);
  const SavedHeader header = read_header(kSavedCacheKind, source, reader);
  const SavedSettings settings = read_settings(reader, header.version);
  const SavedCounts counts = read_counts(reader, header.version);
  SavedCacheInfo info;
  info.version = header.version;
  info.num_bytes = header.total;
  info.num_tokens = static_cast<std::size_t>(counts.num_tokens);
  info.calibration = settings.calibration;
  KVCacheConfig& config = info.config;
  const auto number = [](std::uint64_t value) {
    return static_cast<std::size_t>((std::min<std::uint64_t>)(value, KVCacheConfig::kAllTokens));
  };
  config.num_kv_heads = config.num_query_heads =
      static_cast<int>((std::min<std::uint64_t>)(settings.num_kv_heads, 1u << 20));
  config.num_sink_tokens = number(settings.num_sink_tokens);
  config.num_recent_tokens = number(settings.num_recent_tokens);
  config.exact_type = static_cast<FloatType>(settings.exact_type);
  // A cache with centres of spans takes the means that were estimated over.
  config.centering = settings.centering == kEstimatedMean
                         ? Centering::kLocal
                         : static_cast<Centering>(settings.centering);
  for (const Side side : kSides) {
    const SavedSide& saved = settings.sides[static_cast<std::size_t>(side)];
    const SavedFormat found = read_format(saved.family, saved.numbers);
    const bool is_key = side == Side::kKeys;
    (is_key ? config.key_format : config.value_format) = found.format;
    (is_key ? info.key_format : info.value_format) = found.description;
    // An uncompressed side is not rotated, whatever the configuration says.
    if (static_cast<RotationKind>(saved.rotation_kind) != RotationKind::kNone || is_key) {
      config.rotation = static_cast<RotationKind>(saved.rotation_kind);
      config.seed = saved.rotation_seed;
    }
  }
  if (config.centering != Centering::kGiven) return info;
  if (header.version > 1) {
    reader.begin("HOLE", 16 * counts.num_removed);
    for (std::uint64_t i = 0; i < 2 * counts.num_removed; ++i) reader.number();
    reader.end();
  }
  read_given_means(reader, settings, header.total, config);
  return info;
}
#endif

}  // namespace detail

// What a saved cache says of itself, before it is loaded: KVCache<float> cache(info.config) is one
// that it fits into (of the type whose rows were exact, if that matters). Throws std::runtime_error
// if it is no saved cache, or what was read of it is damaged.
inline SavedCacheInfo read_saved_info(std::istream& stream) {
  detail::StreamSource source(stream);
  return detail::read_info(source);
}
inline SavedCacheInfo read_saved_info(const std::byte* data, std::size_t size) {
  detail::MemorySource source(data, size);
  return detail::read_info(source);
}
inline SavedCacheInfo read_saved_info(const std::string& path) {
  SavedCacheInfo info;
  detail::read_file(path, [&info](std::istream& stream) { info = read_saved_info(stream); });
  return info;
}

POLARQUANT_END_NAMESPACE
