#include "table.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

#include "polarquant/method/polar_format.hpp"
#include "polarquant/storage/page_pool.hpp"
#include "text.hpp"

namespace polarquant_demo {
namespace {

using polarquant::PolarFormat;

void print_table(const Evaluation& evaluation) {
  std::vector<std::vector<std::string>> cells = {
      {"format", "bits per\ncoordinate", "bytes\nheld", "com-\npression", "MSE of\nkeys",
       "\nexpected", "MSE of\nvalues", "\nexpected", "score\nerror", "output\nerror",
       "same\nstrongest", "ns per\ntoken", "fp16\nbeside", "same,\nkExact"}};
  const double float16_bytes = static_cast<double>(evaluation.rows.front().mean.memory_bytes);
  for (const Row& row : evaluation.rows) {
    const double bytes = static_cast<double>(row.mean.memory_bytes);
    cells.push_back({row.name, formatted("%.3f", row.bits_per_coordinate), formatted("%.0f", bytes),
                     formatted("%.2fx", float16_bytes / bytes), formatted("%.3g", row.mean.key_mse),
                     formatted("%.3g", row.expected_key_mse), formatted("%.3g", row.mean.value_mse),
                     formatted("%.3g", row.expected_value_mse),
                     formatted("%.4f", row.mean.score_error),
                     formatted("%.2f%%", 100.0 * row.mean.output_error),
                     formatted("%.1f%%", 100.0 * row.mean.same_strongest),
                     formatted("%.1f", row.time.fixed_point), formatted("%.1f", row.time.float16),
                     formatted("%.1f", row.time.exact)});
  }
  print_columns(cells);
}

void print_layers(const Sample& sample, const Evaluation& evaluation) {
  std::vector<std::vector<std::string>> cells = {{"format", "layer", "MSE of\nkeys",
                                                  "MSE of\nvalues", "score\nerror", "output\nerror",
                                                  "same\nstrongest"}};
  for (const Row& row : evaluation.rows) {
    for (std::size_t i = 0; i < row.layers.size(); ++i) {
      const Quality& layer = row.layers[i];
      cells.push_back({row.name, sample.layers[i].name, formatted("%.3g", layer.key_mse),
                       formatted("%.3g", layer.value_mse), formatted("%.4f", layer.score_error),
                       formatted("%.2f%%", 100.0 * layer.output_error),
                       formatted("%.1f%%", 100.0 * layer.same_strongest)});
    }
  }
  std::printf("\n");
  print_columns(cells);
}

void print_columns_meaning(const Sample& sample, const Evaluation& evaluation,
                           const Options& options) {
  std::printf(
      "\n"
      "bits per coordinate  what a key or value takes in its code, with its scales, norm or "
      "radii,\n"
      "                     divided by its width\n"
      "bytes held           what the caches of all layers have allocated; this library's allocate\n"
      "                     pages of %zu tokens; the rotation and codebooks, which all caches of "
      "a\n"
      "                     model share, are not counted\n"
      "compression          the bytes held by fp16 divided by those of the row\n"
      "MSE                  mean over the sample's vectors of ||x - x'||^2 / ||x||^2\n"
      "expected             the same by theory, for any vector after a random rotation; -: there "
      "is\n"
      "                     no closed form\n"
      "score error          root mean square of (q.k' - q.k) / sqrt(head_dim), what goes into the\n"
      "                     softmax: an error of 1 changes a weight by a factor of e\n"
      "output error         mean over queries and heads of ||o' - o|| / ||o||, o being the exact\n"
      "                     output of causal attention, in double\n"
      "same strongest       share of queries and heads whose key of largest score stays the same\n"
      "ns per token         median time of `attend` for one query token, divided by cached tokens\n"
      "                     and KV heads: all %d query heads of a KV head; one thread, %zu tokens\n"
      "                     (layer %s, repeated), kernels: %s; -: this baseline is written for "
      "its\n"
      "                     errors, its time would say nothing\n"
      "fp16 beside          the same for an fp16 attention written by hand for this instruction "
      "set, in\n"
      "                     turns with the row's (not PolarFormat::uncompressed, which is plain "
      "loops)\n"
      "same, kExact         ns per token with Arithmetic::kExact instead of the default; kernels: "
      "%s\n",
      polarquant::detail::kPageTokens, sample.shape.num_query_heads / sample.shape.num_kv_heads,
      options.num_timing_tokens, sample.layers[sample.layers.size() / 2].name.c_str(),
      evaluation.fixed_point_kernel.c_str(), evaluation.exact_kernel.c_str());
}

const Row* find_row(const Evaluation& evaluation, const std::string& name) {
  const auto row = std::find_if(evaluation.rows.begin(), evaluation.rows.end(),
                                [&name](const Row& r) { return r.name == name; });
  return row == evaluation.rows.end() ? nullptr : &*row;
}

struct Range {
  double least = HUGE_VAL;
  double most = 0.0;

  void add(double value) {
    least = std::min(least, value);
    most = std::max(most, value);
  }
};

// What the figures of this run say, in sentences; those whose rows are missing are left out.
void print_reading(const Sample& sample, const Evaluation& evaluation) {
  std::printf("\nWhat to read from it:\n");
  Range mse;
  Range exact;
  Range fixed_point;
  for (const Row& row : evaluation.rows) {
    if (!std::isnan(row.expected_key_mse)) {
      for (const double ratio :
           {row.mean.key_mse / row.expected_key_mse, row.mean.value_mse / row.expected_value_mse}) {
        mse.add(ratio);
      }
    }
    if (!std::isnan(row.time.exact)) {
      exact.add(row.time.exact / row.time.float16);
      fixed_point.add(row.time.fixed_point / row.time.float16);
    }
  }
  if (mse.most > 0.0) {
    std::printf("- The error is known before the data is: measured / expected is %.3f to %.3f.\n",
                mse.least, mse.most);
  }
  const Row* const paper = find_row(evaluation, "paper");
  const Row* const full = find_row(evaluation, "full_depth 3.25");
  if (paper != nullptr && full != nullptr) {
    std::printf(
        "- One radius per vector, not per 16 coordinates: full_depth 3.25 has %.2f times the key\n"
        "  MSE of the paper's format at %.2f times its bits.\n",
        full->mean.key_mse / paper->mean.key_mse,
        full->bits_per_coordinate / paper->bits_per_coordinate);
  }
  // Against full_depth of the same size, by theory: no row has exactly that size.
  for (const char* const name :
       {"scalar Lloyd-Max, 3 bits", "scalar Lloyd-Max, 4 bits", "q4_0-like + Hadamard"}) {
    const Row* const row = find_row(evaluation, name);
    if (row == nullptr || full == nullptr) continue;
    const PolarFormat same =
        PolarFormat::full_depth(sample.shape.key_dim, row->bits_per_coordinate);
    // By theory on both sides, where the baseline has one.
    const bool has_theory = !std::isnan(row->expected_key_mse);
    std::printf(
        "- %s: its %s key MSE is %.2f times that expected of full_depth at %.3f bits.\n", name,
        has_theory ? "expected" : "measured",
        (has_theory ? row->expected_key_mse : row->mean.key_mse) / same.expected_relative_mse(),
        row->bits_per_coordinate);
  }
  if (exact.most > 0.0) {
    std::printf(
        "- Attention on the codes takes %.2f to %.2f times as long as on fp16 (%.2f to %.2f with\n"
        "  Arithmetic::kExact).\n",
        fixed_point.least, fixed_point.most, exact.least, exact.most);
  }
}

}  // namespace

void print_evaluation(const Sample& sample, const Evaluation& evaluation, const Options& options) {
  print_table(evaluation);
  for (const std::string& reason : evaluation.skipped) std::printf("no row %s\n", reason.c_str());
  if (options.per_layer) print_layers(sample, evaluation);
  print_columns_meaning(sample, evaluation, options);
  print_reading(sample, evaluation);
}

void write_table(const std::string& path, const Evaluation& evaluation) {
  std::vector<std::vector<std::string>> cells = {
      {"format", "bits_per_coordinate", "memory_bytes", "key_mse", "expected_key_mse", "value_mse",
       "expected_value_mse", "score_error", "output_error", "same_strongest", "ns_per_token",
       "float16_ns_per_token", "exact_ns_per_token", "is_full_depth"}};
  for (const Row& row : evaluation.rows) {
    cells.push_back(
        {row.name, formatted("%.9g", row.bits_per_coordinate),
         std::to_string(row.mean.memory_bytes), formatted("%.9g", row.mean.key_mse),
         formatted("%.9g", row.expected_key_mse, ""), formatted("%.9g", row.mean.value_mse),
         formatted("%.9g", row.expected_value_mse, ""), formatted("%.9g", row.mean.score_error),
         formatted("%.9g", row.mean.output_error), formatted("%.9g", row.mean.same_strongest),
         formatted("%.9g", row.time.fixed_point, ""), formatted("%.9g", row.time.float16, ""),
         formatted("%.9g", row.time.exact, ""), row.is_full_depth ? "1" : "0"});
  }
  write_csv(path, cells);
}

void write_law(const std::string& path, const Sample& sample) {
  constexpr double kFirstBits = 2.5;
  constexpr double kLastBits = 5.5;
  std::vector<std::vector<std::string>> cells = {{"side", "bits_per_coordinate", "relative_mse"}};
  for (const bool is_value : {false, true}) {
    const int width = is_value ? sample.shape.value_dim : sample.shape.key_dim;
    // Every other byte at 128: the curve is smooth, and each search takes a while.
    const int step = std::max(1, width / 64);
    for (int bytes = static_cast<int>(std::ceil(kFirstBits * width / 8.0));
         bytes <= static_cast<int>(kLastBits * width / 8.0); bytes += step) {
      const PolarFormat format = PolarFormat::full_depth(width, 8.0 * bytes / width);
      cells.push_back({is_value ? "values" : "keys",
                       formatted("%.9g", format.bits_per_coordinate()),
                       formatted("%.9g", format.expected_relative_mse())});
    }
  }
  write_csv(path, cells);
}

}  // namespace polarquant_demo
