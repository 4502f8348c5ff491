// The demo's command line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "polarquant/method/polar_format.hpp"

namespace polarquant_demo {

inline constexpr char kUsage[] =
    "usage: polarquant_demo [options]\n"
    "\n"
    "Compresses the keys and values of a language model and prints what each format does to them.\n"
    "\n"
    "  --data FOLDER          files layer_NAME_{keys,values,queries}.npy, fp16 or fp32,\n"
    "                         [tokens, heads, head_dim]; default: the sample in data/\n"
    "  --out FOLDER           where table.csv, law.csv and angles.csv go; default: out/demo\n"
    "  --per-layer            a second table, with the errors of each layer\n"
    "  --radius-meaning NAME  norm, unbiased, projection or least-squares, for keys and values;\n"
    "                         default: the library's own\n"
    "  --compare-radius-meanings\n"
    "                         only compares these four, for keys and for values\n"
    "  --seed N               of the rotation; default: 42\n"
    "  --timing-tokens N      length of the cache that is timed; default: 16000\n"
    "  --help                 prints this\n";

struct Options {
  std::string data;
  std::string out = "out/demo";
  bool per_layer = false;
  bool compare_radius_meanings = false;
  bool help = false;
  std::optional<polarquant::RadiusMeaning> radius_meaning;
  std::uint64_t seed = 42;
  std::size_t num_timing_tokens = 16000;
};

// The name of a radius meaning on the command line.
const char* radius_meaning_name(polarquant::RadiusMeaning meaning);

// Throws std::invalid_argument, one sentence, for what it does not understand.
Options parse_options(int argc, const char* const* argv);

}  // namespace polarquant_demo
