#include "options.hpp"

#include <charconv>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <system_error>

namespace polarquant_demo {
namespace {

using polarquant::RadiusMeaning;

std::uint64_t parse_number(const std::string& option, const std::string& text,
                           std::uint64_t least) {
  std::uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stop != end || number < least) {
    throw std::invalid_argument(option + " is '" + text + "', must be a whole number from " +
                                std::to_string(least));
  }
  return number;
}

RadiusMeaning parse_radius_meaning(const std::string& text) {
  for (const RadiusMeaning meaning : {RadiusMeaning::kNorm, RadiusMeaning::kUnbiased,
                                      RadiusMeaning::kProjection, RadiusMeaning::kLeastSquares}) {
    if (text == radius_meaning_name(meaning)) return meaning;
  }
  throw std::invalid_argument("--radius-meaning is '" + text +
                              "', must be norm, unbiased, projection or least-squares");
}

}  // namespace

const char* radius_meaning_name(RadiusMeaning meaning) {
  switch (meaning) {
    case RadiusMeaning::kNorm:
      return "norm";
    case RadiusMeaning::kUnbiased:
      return "unbiased";
    case RadiusMeaning::kProjection:
      return "projection";
    case RadiusMeaning::kLeastSquares:
      break;
  }
  return "least-squares";
}

Options parse_options(int argc, const char* const* argv) {
  Options options;
  options.data = POLARQUANT_DEMO_DATA;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 == argc) throw std::invalid_argument(option + " needs a value after it");
      return argv[++i];
    };
    if (option == "--data") {
      options.data = value();
    } else if (option == "--out") {
      options.out = value();
    } else if (option == "--per-layer") {
      options.per_layer = true;
    } else if (option == "--compare-radius-meanings") {
      options.compare_radius_meanings = true;
    } else if (option == "--radius-meaning") {
      options.radius_meaning = parse_radius_meaning(value());
    } else if (option == "--seed") {
      options.seed = parse_number(option, value(), 0);
    } else if (option == "--timing-tokens") {
      options.num_timing_tokens = static_cast<std::size_t>(parse_number(option, value(), 1));
    } else if (option == "--help" || option == "-h") {
      options.help = true;
    } else {
      throw std::invalid_argument("'" + option + "' is no option; see --help");
    }
  }
  return options;
}

}  // namespace polarquant_demo
