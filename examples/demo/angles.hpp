// The angles of real keys against the law that a random rotation gives them (the paper's Figure 2).
#pragma once

#include <cstdint>
#include <string>

#include "sample.hpp"

namespace polarquant_demo {

// Histograms of the angles of all keys, without rotation and after the Haar rotation of `seed`, and
// the exact density, levels 1 .. 6 (or fewer for narrow heads), as densities in 1/radian:
// level,angle,without_rotation,with_rotation,exact. `angle` is the middle of a bin, in radians.
// Throws std::runtime_error if the file cannot be written.
void write_angles(const std::string& path, const Sample& sample, std::uint64_t seed);

}  // namespace polarquant_demo
