// What a calibration does to the channels of keys, on the sample.
#pragma once

#include <cstdint>
#include <string>

#include "sample.hpp"

namespace polarquant_demo {

// For every channel of KV head 0 in the middle layer: the mean square of its query heads' entries,
// that of the keys less their centres, the calibration's scale, and the mean square error of
// full_depth 3.25 without and with it:
// layer,channel,query_energy,key_energy,scale,error,calibrated_error. Does nothing for a sample
// without a calibration. Throws std::runtime_error if the file cannot be written.
void write_channels(const std::string& path, const Sample& sample, std::uint64_t seed);

}  // namespace polarquant_demo
