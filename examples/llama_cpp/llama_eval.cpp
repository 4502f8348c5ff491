// What a compressed KV cache costs a real language model.
//
//   llama_eval --model m.gguf --text wikitext2_test.txt --out out/llama/quality.json
//
// llama.cpp reads windows of a text. Before they enter its fp16 cache, the keys (after RoPE) and
// the values of every layer become decode(encode(x)) of the format under test; rows of llama.cpp's
// own quantized caches have nothing replaced. Compared are the distributions of the next token in
// the second half of each window with those of the plain fp16 cache: Kullback-Leibler divergence,
// perplexity, most likely token.
//
// Nothing is reported unless all keys and values of all layers were intercepted, replacing them by
// themselves changes no bit of the logits, and replacing them by zeros ruins them.

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cache_formats.hpp"
#include "command_line.hpp"
#include "divergence.hpp"
#include "fitted_formats.hpp"
#include "format_runner.hpp"
#include "json.hpp"
#include "llama_model.hpp"
#include "progress.hpp"
#include "text_windows.hpp"

namespace {

// A distribution that knows nothing of its context is further away than this, in nats.
constexpr double kRuinedDivergence = 1.0;

// What methods are fitted to, as much as measure.sh shows llama_calibrate.
constexpr int kFitTokens = 16384;
constexpr int kFitWindow = 2048;

const char* const kUsage =
    "usage: llama_eval --model FILE --text FILE --out FILE.json "
    "[--rows main,peers,settings,seeds,few,fitted,layers,heads,none] [--pairs KEYS/VALUES,...] "
    "[--window 512] [--windows 64] [--other-text FILE] "
    "[--calibration FILE,..] [--fit-texts FILE,..]";

struct Options {
  std::string model, text, other_text, out;
  std::vector<std::string> rows = {"main"};
  std::vector<std::string> pairs;         // formats of keys and of values, "full_depth 4.25/paper"
  std::vector<std::string> calibrations;  // of keys, and bits by layer where they have them
  std::vector<std::string> fit_texts;     // for the rows "fitted"
  int window = 512;
  int num_windows = 64;
};

Options parse_options(int argc, char** argv) {
  Options options;
  parse_flags(argc, argv,
              {{"--model", into(options.model)},
               {"--text", into(options.text)},
               {"--other-text", into(options.other_text)},
               {"--out", into(options.out)},
               {"--rows", into(options.rows)},
               {"--pairs", into(options.pairs)},
               {"--calibration", into(options.calibrations)},
               {"--fit-texts", into(options.fit_texts)},
               {"--window", into(options.window, 16)},
               {"--windows", into(options.num_windows, 1)}},
              kUsage);
  if (options.model.empty() || options.text.empty() || options.out.empty()) fail(kUsage);
  return options;
}

std::pair<std::string, std::string> parse_pair(const std::string& text) {
  const std::vector<std::string> sides = split(text, '/');
  if (sides.size() != 2) fail("'" + text + "' is not a pair such as full_depth 4.25/paper.");
  return {sides[0], sides[1]};
}

// fitted: null without --fit-texts.
std::vector<CacheFormat> formats_of(const Options& options, const Model& model,
                                    const FittedFormats* fitted) {
  std::vector<CacheFormat> formats;
  std::vector<SharedCalibration> calibrations;
  for (const std::string& path : options.calibrations) {
    calibrations.push_back(calibration_of(path, model));
  }
  for (const std::string& pair : options.pairs) {
    const auto [keys, values] = parse_pair(pair);
    const CacheFormat format = mixed_format("given", keys, values);
    formats.push_back(format);
    add_calibrated(format, calibrations, formats);
  }
  for (const SharedCalibration& calibration : calibrations) {
    if (!(calibration->layer(0).key_bits > 0.0)) continue;
    CacheFormat format = mixed_format("given", "fp16", "fp16");
    format.name = "bits by layer";
    for (int layer = 0; layer < model.num_layers(); ++layer) {
      const polarquant::LayerCalibration& own = calibration->layer(layer);
      format.layer_codecs.emplace_back("full_depth " + std::to_string(own.key_bits),
                                       "full_depth " + std::to_string(own.value_bits));
    }
    formats.push_back(calibrated(format, calibration));
  }
  for (const std::string& name : options.rows) {
    std::vector<CacheFormat> more;
    if (name == "main") {
      more = main_formats(calibrations);
    } else if (name == "peers") {
      more = llama_cpp_formats();
    } else if (name == "settings") {
      more = setting_formats();
    } else if (name == "seeds") {
      more = seed_formats();
    } else if (name == "fitted") {
      if (fitted == nullptr) fail("the rows fitted need --fit-texts.");
      more = fitted->rows();
    } else if (name == "few") {
      more = few_formats(calibrations);
    } else if (name == "layers" || name == "heads") {
      more = layer_formats(model.num_layers(), model.num_kv_heads(), name == "heads");
    } else if (name == "none") {
      continue;
    } else {
      fail("there are no rows '" + name + "'; " + kUsage);
    }
    formats.insert(formats.end(), more.begin(), more.end());
  }
  return formats;
}

// One row of the comparison, with what it has measured so far.
struct Row {
  FormatRunner runner;
  std::vector<TokenScore> scores = {};
  std::vector<double> window_divergences = {};
};

class Evaluation {
 public:
  explicit Evaluation(const Options& options)
      : options_(options),
        model_(options.model),
        plain_(make_context(model_, context_options())),
        shared_(model_, context_options()) {
    if (options.window > model_.train_context()) {
      fail("--window is " + std::to_string(options.window) + ", the model's context " +
           std::to_string(model_.train_context()) + " tokens.");
    }
    read_windows();
    measure_other_means();
    if (!options.fit_texts.empty()) {
      fitted_ = std::make_unique<FittedFormats>(
          model_, ::read_windows(model_, options.fit_texts, kFitTokens, kFitWindow));
    }
    for (const CacheFormat& format : formats_of(options, model_, fitted_.get())) add_row(format);
  }

  void run() {
    Progress progress(options_.num_windows * (static_cast<int>(rows_.size()) + 1));
    for (const std::vector<llama_token>& window : windows_) {
      const ReferenceDistribution reference = plain_run(window, &window == &windows_.front());
      add_scores(plain_scores_, reference, plain_logits_.data(), window);
      progress.step("fp16");
      for (Row& row : rows_) {
        const float* const logits = row.runner.run(window, first_scored());
        const std::size_t before = row.scores.size();
        add_scores(row.scores, reference, logits, window);
        double divergence = 0.0;
        for (std::size_t i = before; i < row.scores.size(); ++i) {
          divergence += row.scores[i].divergence;
        }
        row.window_divergences.push_back(divergence /
                                         static_cast<double>(row.scores.size() - before));
        progress.step(row.runner.format().name);
      }
    }
  }

  void report() const {
    std::vector<std::string> rows;
    const DivergenceSummary plain = summarize(plain_scores_);
    std::printf("%-44s %7s %7s %9s %10s %10s %9s\n", "format", "K bits", "V bits", "ppl", "KL mean",
                "KL 99 %", "same top");
    print_row("fp16", 16.0, 16.0, plain);
    for (const Row& row : rows_) {
      const CacheFormat& format = row.runner.format();
      const auto [key_bits, value_bits] = row.runner.bits();
      const DivergenceSummary summary = summarize(row.scores);
      print_row(format.name.c_str(), key_bits, value_bits, summary);
      JsonObject json;
      json.add("name", format.name).add("group", format.group);
      json.add("key_bits", key_bits).add("value_bits", value_bits);
      json.add("fixed_bytes_per_layer", static_cast<double>(row.runner.fixed_bytes()));
      json.add("layer", format.only_layer).add("head", format.only_head);
      add_summary(json, summary);
      json.add("window_divergences", row.window_divergences);
      rows.push_back(json.text());
    }
    JsonObject json;
    json.add("num_layers", model_.num_layers()).add("num_kv_heads", model_.num_kv_heads());
    json.add("head_dim", model_.head_dim()).add("window", options_.window);
    json.add("num_windows", options_.num_windows);
    JsonObject fp16;
    add_summary(fp16, plain);
    json.raw("fp16", fp16.text());
    json.raw("rows", json_list(rows, ",\n"));
    write_file(options_.out, json.text() + "\n");
  }

 private:
  ContextOptions context_options() const {
    ContextOptions options;
    options.num_tokens = options_.window;
    options.num_batch_tokens = options_.window;
    return options;
  }

  void read_windows() {
    std::vector<llama_token> tokens = model_.tokenize(read_file(options_.text), false);
    const std::size_t size = static_cast<std::size_t>(options_.window);
    const std::size_t needed = size * static_cast<std::size_t>(options_.num_windows);
    if (tokens.size() < needed) {
      fail("'" + options_.text + "' has " + std::to_string(tokens.size()) + " tokens, " +
           std::to_string(options_.num_windows) + " windows of " + std::to_string(options_.window) +
           " need " + std::to_string(needed) + ".");
    }
    for (std::size_t i = 0; i < needed; i += size) {
      windows_.emplace_back(tokens.begin() + static_cast<std::ptrdiff_t>(i),
                            tokens.begin() + static_cast<std::ptrdiff_t>(i + size));
    }
    if (!llama_vocab_get_add_bos(model_.vocab())) return;
    for (std::vector<llama_token>& window : windows_) {
      window.front() = llama_vocab_bos(model_.vocab());
    }
  }

  // The means of keys and values over the start of another text, by layer.
  void measure_other_means() {
    if (options_.other_text.empty()) return;
    std::vector<llama_token> tokens = model_.tokenize(read_file(options_.other_text), false);
    if (tokens.size() < static_cast<std::size_t>(options_.window)) {
      fail("'" + options_.other_text + "' is shorter than a window.");
    }
    tokens.resize(static_cast<std::size_t>(options_.window));
    const auto take_mean = [this](int layer, bool is_value, polarquant::RowMatrix<float>& rows) {
      // The first tokens are unlike all others.
      other_means_[is_value][layer] =
          mean_of_tokens(rows, 4, static_cast<std::size_t>(rows.rows()));
    };
    shared_.run(take_mean, tokens, first_scored());
  }

  int first_scored() const { return options_.window / 2 - 1; }

  void add_row(const CacheFormat& format) {
    for (const SideFormat* const side : {&format.keys, &format.values}) {
      if (side->mean == MeanOf::kOtherText && options_.other_text.empty()) {
        std::fprintf(stderr, "no row '%s': it needs --other-text\n", format.name.c_str());
        return;
      }
    }
    rows_.push_back({FormatRunner(shared_, format, other_means_[0], other_means_[1])});
  }

  // Runs the window on the plain fp16 cache; in the first one, checks that the interception
  // intercepts.
  ReferenceDistribution plain_run(const std::vector<llama_token>& window, bool check) {
    const std::size_t num_scored = window.size() - static_cast<std::size_t>(first_scored());
    const std::size_t vocab_size = static_cast<std::size_t>(model_.vocab_size());
    const float* const logits = evaluate(plain_.get(), window, first_scored());
    plain_logits_.assign(logits, logits + num_scored * vocab_size);
    ReferenceDistribution reference(plain_logits_.data(), num_scored, vocab_size);
    if (!check) return reference;
    const float* changed =
        shared_.run([](int, bool, polarquant::RowMatrix<float>&) {}, window, first_scored());
    if (std::memcmp(changed, plain_logits_.data(), plain_logits_.size() * sizeof(float)) != 0) {
      fail("keys and values replaced by themselves changed the logits: the interception is wrong.");
    }
    changed = shared_.run([](int, bool, polarquant::RowMatrix<float>& rows) { rows.setZero(); },
                          window, first_scored());
    std::vector<TokenScore> scores;
    add_scores(scores, reference, changed, window);
    const double divergence = summarize(scores).mean_divergence;
    if (!(divergence > kRuinedDivergence)) {
      fail("keys and values of zeros changed the distributions by " + std::to_string(divergence) +
           " nats only: the interception does not reach the cache.");
    }
    std::fprintf(stderr,
                 "replaced by themselves: the same logits, bit for bit; by zeros: %.1f nats\n",
                 divergence);
    return reference;
  }

  // The last position predicts a token that is not in the window.
  void add_scores(std::vector<TokenScore>& scores, const ReferenceDistribution& reference,
                  const float* logits, const std::vector<llama_token>& window) const {
    const std::size_t vocab_size = static_cast<std::size_t>(model_.vocab_size());
    const std::size_t first = static_cast<std::size_t>(first_scored());
    for (std::size_t i = 0; first + i + 1 < window.size(); ++i) {
      scores.push_back(reference.compare(i, logits + i * vocab_size,
                                         static_cast<std::size_t>(window[first + i + 1])));
    }
  }

  static void print_row(const char* name, double key_bits, double value_bits,
                        const DivergenceSummary& summary) {
    std::printf("%-44s %7.3f %7.3f %9.3f %10.5f %10.4f %8.2f%%\n", name, key_bits, value_bits,
                summary.perplexity, summary.mean_divergence, summary.percentile99_divergence,
                100.0 * summary.same_top);
  }

  static void add_summary(JsonObject& json, const DivergenceSummary& summary) {
    json.add("num_tokens", static_cast<double>(summary.num_tokens));
    json.add("perplexity", summary.perplexity).add("mean_divergence", summary.mean_divergence);
    json.add("percentile99_divergence", summary.percentile99_divergence);
    json.add("percentile999_divergence", summary.percentile999_divergence);
    json.add("same_top", summary.same_top);
  }

  Options options_;
  Model model_;
  Context plain_;
  FormatRunner::Shared shared_;
  std::vector<std::vector<llama_token>> windows_;
  Means other_means_[2];  // of keys, of values
  std::unique_ptr<FittedFormats> fitted_;
  std::vector<Row> rows_;
  std::vector<float> plain_logits_;
  std::vector<TokenScore> plain_scores_;
};

}  // namespace

int main(int argc, char** argv) {
  return run_program("llama_eval", [&] {
    Evaluation evaluation(parse_options(argc, argv));
    evaluation.run();
    evaluation.report();
  });
}
