// Prints rows for readers, and writes them for programs.
#pragma once

#include <string>

#include "evaluation.hpp"
#include "options.hpp"
#include "sample.hpp"

namespace polarquant_demo {

// The table, what its columns mean and what to read from it, to stdout.
void print_evaluation(const Sample& sample, const Evaluation& evaluation, const Options& options);

// All rows as a table of comma-separated values; what does not exist is empty. Throws
// std::runtime_error if the file cannot be written.
void write_table(const std::string& path, const Evaluation& evaluation);

// The exact expected error of full_depth at every size it can have, for the plot:
// side,bits_per_coordinate,relative_mse. Throws as write_table does.
void write_law(const std::string& path, const Sample& sample);

}  // namespace polarquant_demo
