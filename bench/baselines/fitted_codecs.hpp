// The nearest published methods that look at queries or at channels, by name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "baselines/block_gtq_codec.hpp"
#include "baselines/fit_statistics.hpp"
#include "baselines/group_codec.hpp"
#include "baselines/oscar_codec.hpp"
#include "baselines/smooth_attention_codec.hpp"
#include "baselines/vector_codec.hpp"

namespace polarquant_baselines {

struct FittedFormat {
  // "oscar", "block_gtq", "block_gtq_byte_norms" or "smooth_attention".
  std::string method;

  // Stored bits of a coordinate, all side information counted, at most: 2.25 or 3.25. Block-GTQ's
  // values, which have one width, stay below where their norm leaves bits over.
  double bits_per_coordinate = 2.25;

  bool is_value = false;

  // Of "oscar" and "smooth_attention": the quantile of a vector's magnitudes to which it is
  // clipped, 1 for none; 0: that of the method, oscar_clip_ratio() and 1.
  double clip_ratio = 0.0;

  RopePairs pairs = RopePairs::kAdjacent;
  std::uint64_t seed = 0;
};

// Of one KV head. Throws std::invalid_argument for a method that is not known, for bits that are
// no integer and a quarter, or for a head_dim that does not suit the method: a power of two for
// "oscar", a multiple of 64 for both with groups.
inline std::unique_ptr<VectorCodec> make_fitted_codec(const FittedFormat& format,
                                                      const FitStatistics& statistics) {
  const std::size_t head_dim = static_cast<std::size_t>(statistics.head_dim());
  const int bits = static_cast<int>(format.bits_per_coordinate);
  if (format.bits_per_coordinate != bits + 0.25) {
    throw std::invalid_argument("fitted formats have an integer and a quarter bits, not " +
                                std::to_string(format.bits_per_coordinate));
  }
  if (format.method == "oscar") {
    const double clip_ratio =
        format.clip_ratio > 0.0 ? format.clip_ratio : oscar_clip_ratio(format.is_value, bits);
    return make_oscar_codec(
        format.is_value ? statistics.value_moments() : statistics.query_moments(),
        GroupFormat::quarter(head_dim, bits), clip_ratio);
  }
  if (format.method == "smooth_attention") {
    const GroupFormat group = GroupFormat::quarter(head_dim, bits);
    const double clip_ratio = format.clip_ratio > 0.0 ? format.clip_ratio : 1.0;
    if (format.is_value) return std::make_unique<GroupCodec>(head_dim, group, clip_ratio);
    return make_smooth_attention_codec(smooth_attention_scales(statistics, format.pairs), group,
                                       clip_ratio);
  }
  if (format.method == "block_gtq" || format.method == "block_gtq_byte_norms") {
    BlockGtqOptions options;
    options.pairs = format.pairs;
    options.norm_bits = format.method == "block_gtq" ? 16 : 8;
    options.seed = format.seed;
    return format.is_value ? make_block_gtq_values(head_dim, bits, options)
                           : fit_block_gtq_keys(statistics, format.bits_per_coordinate, options);
  }
  throw std::invalid_argument("the fitted method '" + format.method + "' is not known");
}

}  // namespace polarquant_baselines
