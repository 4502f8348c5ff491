// The rows of the demo's table.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "options.hpp"
#include "polarquant/method/polar_format.hpp"
#include "quality.hpp"
#include "sample.hpp"
#include "timing.hpp"

namespace polarquant_demo {

// One format on the whole sample. Figures that do not exist for a format are NaN.
struct Row {
  std::string name;
  double bits_per_coordinate = 0.0;  // of keys and values together
  double expected_key_mse = 0.0;
  double expected_value_mse = 0.0;
  std::vector<Quality> layers;
  Quality mean;
  AttendTime time;
  // full_depth rows are points of one curve.
  bool is_full_depth = false;
};

struct Evaluation {
  std::vector<Row> rows;             // the first is the fp16 baseline
  std::vector<std::string> skipped;  // a sentence for each row that the sample's widths forbid
  std::string exact_kernel;          // the library's kernels, as KVCache::kernel_name tells them
  std::string fixed_point_kernel;
};

// A pair of formats for the polar cache.
struct PolarFormats {
  polarquant::PolarFormat keys;
  polarquant::PolarFormat values;
};

// A pair of formats of any family.
struct SideFormats {
  polarquant::CodecFormat keys;
  polarquant::CodecFormat values;
};

// The errors of a cache of these formats on every layer, each token being a code.
std::vector<Quality> evaluate_formats(const Sample& sample,
                                      const std::vector<Reference>& references,
                                      const SideFormats& formats, std::uint64_t seed);

// All rows, in the order in which they are printed.
Evaluation evaluate_all(const Sample& sample, const std::vector<Reference>& references,
                        const Options& options);

}  // namespace polarquant_demo
