// Which meaning of the stored radius serves keys, and which serves values.
#pragma once

#include <string>
#include <vector>

#include "options.hpp"
#include "quality.hpp"
#include "sample.hpp"

namespace polarquant_demo {

// Prints, for three formats and the four meanings, the errors with only the keys compressed and
// with only the values compressed, averaged over layers and over several rotations; writes every
// single figure to `path`. Throws std::runtime_error if that cannot be written.
void compare_radius_meanings(const std::string& path, const Sample& sample,
                             const std::vector<Reference>& references, const Options& options);

}  // namespace polarquant_demo
