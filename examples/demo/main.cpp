// The demo on real keys and values: what each format costs, and what it does to attention.

#include <cstdio>
#include <exception>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "angles.hpp"
#include "channels.hpp"
#include "evaluation.hpp"
#include "options.hpp"
#include "radius_meanings.hpp"
#include "sample.hpp"
#include "table.hpp"

namespace {

using namespace polarquant_demo;

void run(const Options& options) {
  const Sample sample = load_sample(options.data);
  std::error_code error;
  std::filesystem::create_directories(options.out, error);
  if (error) throw std::runtime_error(options.out + ": cannot be made a folder");

  const HeadShape& shape = sample.shape;
  std::printf("%s: %zu layers of %d KV heads and %d query heads, keys %d wide, values %d wide.\n",
              options.data.c_str(), sample.layers.size(), shape.num_kv_heads, shape.num_query_heads,
              shape.key_dim, shape.value_dim);
  std::printf("Layer %s has %td tokens and the queries of the last %td.\n\n",
              sample.layers.front().name.c_str(), sample.layers.front().keys.rows(),
              sample.layers.front().queries.rows());
  std::vector<Reference> references;
  for (const Layer& layer : sample.layers) references.emplace_back(shape, layer);

  if (options.compare_radius_meanings) {
    compare_radius_meanings(options.out + "/radius_meanings.csv", sample, references, options);
    return;
  }
  const Evaluation evaluation = evaluate_all(sample, references, options);
  print_evaluation(sample, evaluation, options);
  write_table(options.out + "/table.csv", evaluation);
  write_law(options.out + "/law.csv", sample);
  write_angles(options.out + "/angles.csv", sample, options.seed);
  write_channels(options.out + "/channels.csv", sample, options.seed);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse_options(argc, argv);
    if (options.help) {
      std::fputs(kUsage, stdout);
    } else {
      run(options);
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "polarquant_demo: %s\n", error.what());
    return 1;
  }
}
