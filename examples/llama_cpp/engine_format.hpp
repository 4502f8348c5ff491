// Formats by name, for the programs that run the engine.
#pragma once

#include <cstddef>
#include <exception>
#include <optional>
#include <string>

#include "command_line.hpp"
#include "polarquant/calibration.hpp"
#include "polarquant/storage/config.hpp"

// "fp16", "fp32", "paper", "trellis-BITS", or a number of bits per coordinate for full_depth.
inline polarquant::CodecFormat format_of(const std::string& name, int head_dim) {
  if (name == "fp16") return polarquant::PolarFormat::uncompressed(head_dim);
  if (name == "fp32") {
    return polarquant::PolarFormat::uncompressed(head_dim, polarquant::FloatType::kFloat32);
  }
  if (name == "paper") return polarquant::PolarFormat::paper(head_dim);
  const bool is_trellis = name.rfind("trellis-", 0) == 0;
  const std::string number = is_trellis ? name.substr(8) : name;
  std::size_t used = 0;
  double bits = 0.0;
  try {
    bits = std::stod(number, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  if (used == 0 || used != number.size()) {
    fail("the format '" + name +
         "' is none of fp16, fp32, paper, trellis-3 and the like, or bits such as 4.25.");
  }
  if (is_trellis) return polarquant::TrellisFormat(head_dim, bits);
  return polarquant::PolarFormat::full_depth(head_dim, bits);
}

// The calibration in a file, of a model of this shape; none for an empty path.
inline std::optional<polarquant::Calibration> calibration_from(
    const std::string& path, const polarquant::CalibrationShape& shape) {
  if (path.empty()) return std::nullopt;
  return polarquant::load_calibration(path, shape);
}

// The library's defaults with these formats; exact tokens in fp16, as a cache of fp16 has them.
// With neither side compressed all tokens are exact, which is the fastest way to read them.
inline polarquant::KVCacheConfig config_of(const std::string& keys, const std::string& values,
                                           int head_dim) {
  polarquant::KVCacheConfig config;
  config.key_format = format_of(keys, head_dim);
  config.value_format = format_of(values, head_dim);
  config.exact_type = polarquant::FloatType::kFloat16;
  if (config.key_format.is_uncompressed() && config.value_format.is_uncompressed()) {
    config.exact_type = config.key_format.model().number_type();
    config.num_sink_tokens = 0;
    config.num_recent_tokens = polarquant::KVCacheConfig::kAllTokens;
    config.centering = polarquant::Centering::kNone;
  }
  return config;
}
