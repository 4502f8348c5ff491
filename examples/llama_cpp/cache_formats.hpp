// The rows of the comparison: what each makes of keys and of values, and in which layers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "side_codec.hpp"

struct CacheFormat {
  std::string name;
  std::string group;  // of the table
  SideFormat keys;
  SideFormat values;
  // llama.cpp's own cache of this type, nothing intercepted: "q8_0", "q4_0", "q4_0 plain" (without
  // its Hadamard transform). Empty: the sides above.
  std::string own_cache;
  // Codecs of keys and of values layer by layer, in place of those of the sides; empty: the sides'.
  std::vector<std::pair<std::string, std::string>> layer_codecs;
  int num_exact_layers = 0;  // so many first and so many last layers are left alone
  int only_layer = -1;       // only this layer is changed
  int only_head = -1;        // and only this KV head of it

  bool changes(int layer, int num_layers) const {
    if (only_layer >= 0) return layer == only_layer;
    return layer >= num_exact_layers && layer < num_layers - num_exact_layers;
  }
};

inline SideFormat centered(const std::string& codec) {
  SideFormat side;
  side.codec = codec;
  side.mean = MeanOf::kFirstTokens;
  return side;
}

// What the defaults were before spans had centres.
inline SideFormat with_first_mean(const std::string& codec) {
  SideFormat side = centered(codec);
  side.num_sinks = polarquant::KVCacheConfig().num_sink_tokens;
  return side;
}

inline CacheFormat both_sides(const std::string& group, const std::string& name,
                              const SideFormat& side) {
  CacheFormat format;
  format.name = name;
  format.group = group;
  format.keys = format.values = side;
  return format;
}

// Keys and values with a centre for each span and 4 sinks: the library's defaults, but for the
// recent window, which an interception cannot have.
inline SideFormat with_defaults(const std::string& codec) {
  SideFormat side;
  side.codec = codec;
  side.mean = MeanOf::kSpan;
  side.num_sinks = polarquant::KVCacheConfig().num_sink_tokens;  // 4, as the rows' names say
  return side;
}

inline CacheFormat mixed_format(const std::string& group, const std::string& keys,
                                const std::string& values) {
  CacheFormat format =
      both_sides(group, "keys " + keys + ", values " + values, with_defaults(keys));
  format.values = with_defaults(values);
  return format;
}

inline CacheFormat own_cache(const std::string& name, const std::string& type) {
  CacheFormat format;
  format.name = name;
  format.group = "llama.cpp";
  format.own_cache = type;
  return format;
}

using SharedCalibration = std::shared_ptr<const polarquant::Calibration>;

// The same with the scales or the matrices of a calibration on keys.
inline CacheFormat calibrated(CacheFormat format, const SharedCalibration& calibration) {
  const bool has_matrices = calibration->layer(0).key_matrices != nullptr;
  format.keys.calibration = calibration;
  format.group = "calibrated";
  format.name += has_matrices ? ", calibrated with matrices" : ", calibrated";
  return format;
}

// Adds them with each of some calibrations.
inline void add_calibrated(const CacheFormat& format,
                           const std::vector<SharedCalibration>& calibrations,
                           std::vector<CacheFormat>& formats) {
  for (const SharedCalibration& calibration : calibrations) {
    formats.push_back(calibrated(format, calibration));
  }
}

// The caches that llama.cpp's users have.
inline std::vector<CacheFormat> llama_cpp_formats() {
  return {own_cache("llama.cpp q8_0 + Hadamard", "q8_0"),
          own_cache("llama.cpp q4_0 + Hadamard", "q4_0")};
}

// Everything with the library's defaults, and once more with each calibration.
inline std::vector<CacheFormat> main_formats(const std::vector<SharedCalibration>& calibrations) {
  std::vector<CacheFormat> formats = llama_cpp_formats();
  formats.push_back(own_cache("llama.cpp q4_0, no rotation", "q4_0 plain"));
  const std::vector<std::string> codecs = {
      "full_depth 2.25", "full_depth 2.625",  "full_depth 3.25",   "full_depth 3.625",
      "paper",           "full_depth 4.25",   "full_depth 4.5",    "full_depth 4.625",
      "scalar 3",        "unbiased_scalar 3", "unbiased_scalar 4", "q4_0"};
  for (const std::string& codec : codecs) {
    formats.push_back(both_sides("defaults", codec, with_defaults(codec)));
  }
  const std::vector<CacheFormat> plain = formats;
  for (const CacheFormat& format : plain) {
    if (format.group == "defaults") add_calibrated(format, calibrations, formats);
  }
  return formats;
}

// One setting at a time, at two sizes.
inline std::vector<CacheFormat> setting_formats() {
  std::vector<CacheFormat> formats;
  for (const std::string codec : {"full_depth 3.25", "full_depth 4.25"}) {
    const auto add = [&](const std::string& what, const SideFormat& keys,
                         const SideFormat& values) {
      CacheFormat format = both_sides(codec, codec + ", " + what, keys);
      format.values = values;
      formats.push_back(format);
    };
    SideFormat plain;
    plain.codec = codec;
    const SideFormat center = centered(codec);
    add("not centred", plain, plain);
    add("centred", center, center);
    add("centred, 4 sinks", with_first_mean(codec), with_first_mean(codec));
    add("a centre per span, 4 sinks", with_defaults(codec), with_defaults(codec));
    add("only keys centred", center, plain);
    SideFormat side = center;
    side.mean = MeanOf::kOtherText;
    add("centred by another text", side, side);
    side = plain;
    side.num_sinks = 4;
    add("4 sinks", side, side);
    side = center;
    side.rotation = polarquant::RotationKind::kNone;
    add("centred, no rotation", side, side);
    side.rotation = polarquant::RotationKind::kHadamard;
    add("centred, Hadamard", side, side);
    side = center;
    side.online = true;
    add("centred, online codebooks", side, side);
    side.rotation = polarquant::RotationKind::kNone;
    add("centred, online, no rotation", side, side);
    CacheFormat exact = both_sides(codec, codec + ", centred, 2 + 2 layers exact", center);
    exact.num_exact_layers = 2;
    formats.push_back(exact);
    SideFormat fp16;
    add("centred, values fp16", center, fp16);
    add("centred, keys fp16", fp16, center);
  }
  const auto add_mixed = [&](const std::string& keys, const std::string& values) {
    formats.push_back(mixed_format("mixed", keys, values));
  };
  add_mixed("full_depth 4.25", "full_depth 3.25");
  add_mixed("full_depth 3.25", "full_depth 2.625");
  add_mixed("full_depth 3.625", "full_depth 2.875");
  add_mixed("full_depth 4.625", "full_depth 3.875");
  add_mixed("q8_0", "full_depth 3.25");
  add_mixed("q8_0", "full_depth 4.25");
  return formats;
}

// The chosen few, for long windows.
inline std::vector<CacheFormat> few_formats(const std::vector<SharedCalibration>& calibrations) {
  std::vector<CacheFormat> formats = llama_cpp_formats();
  for (const std::string codec : {"full_depth 3.25", "paper", "full_depth 4.25", "q4_0"}) {
    formats.push_back(
        both_sides("centred", codec + ", mean of the first 128, 4 sinks", with_first_mean(codec)));
    const CacheFormat format = both_sides("defaults", codec, with_defaults(codec));
    formats.push_back(format);
    add_calibrated(format, calibrations, formats);
  }
  return formats;
}

// Other rotations, by their seed.
inline std::vector<CacheFormat> seed_formats() {
  std::vector<CacheFormat> formats;
  for (const std::string codec : {"full_depth 3.25", "full_depth 4.25"}) {
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      SideFormat side = with_defaults(codec);
      side.seed = seed;
      formats.push_back(both_sides(codec, codec + ", seed " + std::to_string(seed), side));
    }
  }
  return formats;
}

// One layer at a time (keys and values apart), or one KV head.
inline std::vector<CacheFormat> layer_formats(int num_layers, int num_kv_heads, bool by_head) {
  std::vector<CacheFormat> formats;
  const SideFormat side = with_defaults("full_depth 3.25");
  const SideFormat fp16;
  for (int layer = 0; layer < num_layers; ++layer) {
    for (int head = by_head ? 0 : -1; head < (by_head ? num_kv_heads : 0); ++head) {
      const std::string where = "layer " + std::to_string(layer) +
                                (by_head ? ", head " + std::to_string(head) : std::string());
      for (const bool is_value : {false, true}) {
        CacheFormat format = both_sides(is_value ? "values" : "keys",
                                        where + (is_value ? ", values" : ", keys"), fp16);
        (is_value ? format.values : format.keys) = side;
        format.only_layer = layer;
        format.only_head = head;
        formats.push_back(format);
      }
    }
  }
  return formats;
}
