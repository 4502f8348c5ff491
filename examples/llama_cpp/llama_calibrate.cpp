// Makes a calibration of a model: the scales of its key channels, or a matrix for each KV head, and
// if asked for, bits by layer.
//
//   llama_calibrate --model m.gguf --text a.txt,b.txt --out m.calibration [--kind matrices]
//       [--average-bits 3.25]
//
// llama.cpp reads windows of the texts, taken evenly from each, and a Calibrator is shown the
// queries and keys of every layer. For bits by layer the divergence is measured with one side of
// one layer compressed at a time, at two rates, on windows of the same texts. Calibrate on texts
// that you do not evaluate on.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cache_formats.hpp"
#include "command_line.hpp"
#include "divergence.hpp"
#include "format_runner.hpp"
#include "llama_model.hpp"
#include "polarquant/calibration.hpp"
#include "progress.hpp"
#include "query_key_capture.hpp"
#include "text_windows.hpp"

namespace {

const char* const kUsage =
    "usage: llama_calibrate --model FILE --text FILE,.. --out FILE [--tokens 8192] [--window 2048] "
    "[--kind scales|matrices] [--average-bits BITS]";

struct Options {
  std::string model, out;
  std::vector<std::string> texts;
  int num_tokens = 8192;
  int window = 2048;
  polarquant::CalibrationKind kind = polarquant::CalibrationKind::kScales;
  double average_bits = 0.0;  // 0: no bits by layer
};

Options parse_options(int argc, char** argv) {
  Options options;
  std::string kind = "scales", average_bits;
  parse_flags(argc, argv,
              {{"--model", into(options.model)},
               {"--text", into(options.texts)},
               {"--out", into(options.out)},
               {"--tokens", into(options.num_tokens, 64)},
               {"--window", into(options.window, 64)},
               {"--kind", into(kind)},
               {"--average-bits", into(average_bits)}},
              kUsage);
  if (options.model.empty() || options.texts.empty() || options.out.empty()) fail(kUsage);
  if (kind == "matrices") {
    options.kind = polarquant::CalibrationKind::kMatrices;
  } else if (kind != "scales") {
    fail("--kind is '" + kind + "', must be scales or matrices.");
  }
  if (!average_bits.empty()) {
    std::size_t used = 0;
    try {
      options.average_bits = std::stod(average_bits, &used);
    } catch (const std::exception&) {
      used = 0;
    }
    if (used != average_bits.size() || !(options.average_bits > 0.0)) {
      fail("--average-bits is '" + average_bits + "', must be a number such as 3.25.");
    }
  }
  return options;
}

class CalibrationRun {
 public:
  explicit CalibrationRun(const Options& options) : options_(options), model_(options.model) {
    if (options.window > model_.train_context()) {
      fail("--window is " + std::to_string(options.window) + ", the model's context " +
           std::to_string(model_.train_context()) + " tokens.");
    }
    windows_ = read_windows(model_, options.texts, options.num_tokens, options.window);
  }

  void run() {
    polarquant::Calibration calibration = measure_transforms();
    if (options_.average_bits > 0.0) allocate(calibration);
    polarquant::save(calibration, options_.out);
    std::printf("%s: %s, %zu bytes, checksum %llu\n", options_.out.c_str(),
                calibration.shape().text().c_str(), polarquant::saved_bytes(calibration),
                static_cast<unsigned long long>(calibration.checksum()));
  }

 private:
  ContextOptions context_options(int num_tokens) const {
    ContextOptions options;
    options.num_tokens = options.num_batch_tokens = num_tokens;
    return options;
  }

  polarquant::Calibration measure_transforms() {
    polarquant::Calibrator calibrator(
        {model_.num_layers(), model_.num_kv_heads(), model_.num_query_heads(), model_.head_dim()},
        options_.kind);
    Progress progress(static_cast<int>(windows_.size()) * model_.num_layers());
    QueryKeyCapture capture(model_.num_layers(), model_.num_query_heads(), model_.num_kv_heads(),
                            [&](int layer, const QueryKeyCapture::Tensors& seen) {
                              calibrator.add_window<float>(layer, seen.queries, seen.keys);
                              progress.step("layer " + std::to_string(layer));
                            });
    ContextOptions options = context_options(options_.window);
    options.callback = QueryKeyCapture::on_node;
    options.callback_data = &capture;
    const Context context = make_context(model_, options);
    for (const std::vector<llama_token>& window : windows_) {
      evaluate(context.get(), window, options_.window - 1);
      capture.check_and_reset();
    }
    return calibrator.finish();
  }

  // Divergence of one side of one layer at a time, with the calibration's transforms.
  void allocate(polarquant::Calibration& calibration) {
    constexpr double kMeasured[] = {2.25, 3.25};
    constexpr int kWindow = 512;
    constexpr std::size_t kNumWindows = 4;
    const auto shared_calibration = std::make_shared<const polarquant::Calibration>(calibration);
    FormatRunner::Shared shared(model_, context_options(kWindow));
    const Context plain = make_context(model_, context_options(kWindow));
    std::vector<std::vector<llama_token>> windows;
    std::vector<ReferenceDistribution> references;
    const int first_scored = kWindow / 2 - 1;
    for (std::size_t i = 0; i < std::min(kNumWindows, windows_.size()); ++i) {
      const std::vector<llama_token>& from = windows_[i * windows_.size() / kNumWindows];
      windows.emplace_back(from.begin(), from.begin() + std::min<int>(kWindow, options_.window));
      references.emplace_back(evaluate(plain.get(), windows.back(), first_scored),
                              windows.back().size() - static_cast<std::size_t>(first_scored),
                              static_cast<std::size_t>(model_.vocab_size()));
    }
    std::vector<polarquant::LayerRates> rates(static_cast<std::size_t>(model_.num_layers()));
    Progress progress(model_.num_layers() * 2 * 2);
    for (int layer = 0; layer < model_.num_layers(); ++layer) {
      for (const bool is_value : {false, true}) {
        for (const double bits : kMeasured) {
          SideFormat side = with_defaults("full_depth " + std::to_string(bits));
          side.calibration = shared_calibration;
          CacheFormat format;
          (is_value ? format.values : format.keys) = side;
          format.only_layer = layer;
          FormatRunner runner(shared, format);
          double divergence = 0.0;
          for (std::size_t i = 0; i < windows.size(); ++i) {
            const float* const logits = runner.run(windows[i], first_scored);
            const std::size_t count =
                windows[i].size() - static_cast<std::size_t>(first_scored) - 1;
            for (std::size_t j = 0; j < count; ++j) {
              const std::size_t next = static_cast<std::size_t>(first_scored) + j + 1;
              divergence +=
                  references[i]
                      .compare(j, logits + j * static_cast<std::size_t>(model_.vocab_size()),
                               static_cast<std::size_t>(windows[i][next]))
                      .divergence /
                  static_cast<double>(count * windows.size());
            }
          }
          polarquant::LayerRates& own = rates[static_cast<std::size_t>(layer)];
          (is_value ? own.values : own.keys).push_back({bits, divergence});
          progress.step("layer " + std::to_string(layer) + (is_value ? ", values" : ", keys"));
        }
      }
    }
    // Every size of a code, a byte apart.
    std::vector<double> allowed;
    const double step = 8.0 / model_.head_dim();
    for (double bits = 2.0; bits <= 5.5; bits += step) allowed.push_back(bits);
    const auto given = polarquant::allocate_bits(rates, allowed, options_.average_bits);
    for (int layer = 0; layer < model_.num_layers(); ++layer) {
      const polarquant::LayerBits& bits = given[static_cast<std::size_t>(layer)];
      calibration.set_bits(layer, bits.keys, bits.values);
    }
  }

  Options options_;
  Model model_;
  std::vector<std::vector<llama_token>> windows_;
};

}  // namespace

int main(int argc, char** argv) {
  return run_program("llama_calibrate", [&] { CalibrationRun(parse_options(argc, argv)).run(); });
}
