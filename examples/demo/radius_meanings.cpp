#include "radius_meanings.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "evaluation.hpp"
#include "polarquant/method/polar_format.hpp"
#include "text.hpp"

namespace polarquant_demo {
namespace {

using polarquant::PolarFormat;
using polarquant::RadiusMeaning;

constexpr std::uint64_t kNumSeeds = 5;

// The mean and the standard deviation of the mean.
std::string mean_and_deviation(const char* format, const std::vector<double>& values) {
  const double count = static_cast<double>(values.size());
  double mean = 0.0;
  for (const double value : values) mean += value / count;
  double variance = 0.0;
  for (const double value : values) variance += (value - mean) * (value - mean) / (count - 1.0);
  return formatted(format, mean) + " +- " + formatted(format, std::sqrt(variance / count));
}

}  // namespace

void compare_radius_meanings(const std::string& path, const Sample& sample,
                             const std::vector<Reference>& references, const Options& options) {
  const HeadShape& shape = sample.shape;
  std::vector<std::vector<std::string>> csv = {{"side", "format", "meaning", "seed", "layer",
                                                "relative_mse", "score_error", "output_error",
                                                "same_strongest"}};
  for (const bool is_value : {false, true}) {
    const int width = is_value ? shape.value_dim : shape.key_dim;
    const std::vector<std::pair<std::string, PolarFormat>> formats = {
        {"paper", PolarFormat::paper(width)},
        {"full_depth 3.25", PolarFormat::full_depth(width, 3.25)},
        {"full_depth 4.25", PolarFormat::full_depth(width, 4.25)}};
    std::vector<std::vector<std::string>> cells = {
        {"format", "meaning", "relative MSE", "score error", "output error", "same strongest"}};
    for (const auto& [name, format] : formats) {
      for (const RadiusMeaning meaning :
           {RadiusMeaning::kNorm, RadiusMeaning::kUnbiased, RadiusMeaning::kProjection,
            RadiusMeaning::kLeastSquares}) {
        PolarFormats pair = {PolarFormat::uncompressed(shape.key_dim),
                             PolarFormat::uncompressed(shape.value_dim)};
        PolarFormat& compressed = is_value ? pair.values : pair.keys;
        compressed = format;
        compressed.radius_meaning = meaning;
        std::vector<double> mse;
        std::vector<double> score_error;
        std::vector<double> output_error;
        std::vector<double> same_strongest;
        for (std::uint64_t seed = options.seed; seed < options.seed + kNumSeeds; ++seed) {
          const std::vector<Quality> layers =
              evaluate_formats(sample, references, {pair.keys, pair.values}, seed);
          for (std::size_t i = 0; i < layers.size(); ++i) {
            csv.push_back({is_value ? "values" : "keys", name, radius_meaning_name(meaning),
                           std::to_string(seed), sample.layers[i].name,
                           formatted("%.9g", is_value ? layers[i].value_mse : layers[i].key_mse),
                           formatted("%.9g", layers[i].score_error),
                           formatted("%.9g", layers[i].output_error),
                           formatted("%.9g", layers[i].same_strongest)});
          }
          const Quality mean = average(layers);
          mse.push_back(is_value ? mean.value_mse : mean.key_mse);
          score_error.push_back(mean.score_error);
          output_error.push_back(100.0 * mean.output_error);
          same_strongest.push_back(100.0 * mean.same_strongest);
        }
        cells.push_back({name, radius_meaning_name(meaning), mean_and_deviation("%.5f", mse),
                         is_value ? "-" : mean_and_deviation("%.4f", score_error),
                         mean_and_deviation("%.3f", output_error) + " %",
                         is_value ? "-" : mean_and_deviation("%.2f", same_strongest) + " %"});
      }
    }
    std::printf("%s compressed, %s in fp16; mean of %d rotations +- standard error:\n\n",
                is_value ? "Values" : "Keys", is_value ? "keys" : "values",
                static_cast<int>(kNumSeeds));
    print_columns(cells);
    std::printf("\n");
  }
  write_csv(path, csv);
}

}  // namespace polarquant_demo
