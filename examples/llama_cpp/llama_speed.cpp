// Speed and memory of one engine, cache format and length of context, as a line of JSON.
//
//   llama_speed --model m.gguf --text alice29.txt --engine polarquant --format 4.25 --context 8000
//
// Reads so many tokens of a text, then generates greedily. One measurement a process, so that the
// resident memory is that of this engine alone.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "command_line.hpp"
#include "divergence.hpp"
#include "engine_format.hpp"
#include "json.hpp"
#include "llama_engine.hpp"
#include "llama_model.hpp"

namespace {

const char* const kUsage =
    "usage: llama_speed --model FILE --text FILE --engine polarquant --format fp16|paper|BITS, or "
    "--engine llama.cpp --format f16|q8_0|q4_0 [--flash-attention yes|no] [--context 512] "
    "[--tokens 64] [--threads N] [--calibration FILE]";

struct Options {
  std::string model, text, engine, format, calibration;
  int context = 512;
  int num_tokens = 64;
  int num_threads = num_hardware_threads();
  bool flash_attention = true;  // of llama.cpp; its quantized caches need it
};

Options parse_options(int argc, char** argv) {
  Options options;
  parse_flags(argc, argv,
              {{"--model", into(options.model)},
               {"--text", into(options.text)},
               {"--engine", into(options.engine)},
               {"--format", into(options.format)},
               {"--flash-attention", into(options.flash_attention)},
               {"--context", into(options.context, 1)},
               {"--tokens", into(options.num_tokens, 1)},
               {"--threads", into(options.num_threads, 1)},
               {"--calibration", into(options.calibration)}},
              kUsage);
  if (options.model.empty() || options.text.empty() || options.format.empty()) fail(kUsage);
  if (!options.calibration.empty() && options.engine != "polarquant") {
    fail("--calibration is for --engine polarquant: llama.cpp's caches have none.");
  }
  if (options.engine != "polarquant" && options.engine != "llama.cpp") fail(kUsage);
  return options;
}

// A figure of /proc/self/status, bytes; NaN where there is none.
double process_bytes(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(name + ":", 0) == 0) return 1024.0 * std::stod(line.substr(name.size() + 1));
  }
  return std::nan("");
}

using Tokens = std::vector<llama_token>;
// Evaluates tokens behind those before and returns the last one's logits.
using Evaluate = std::function<const float*(const Tokens&)>;

void measure(const Options& options, const Tokens& prompt, int vocab_size, const Evaluate& evaluate,
             JsonObject& json) {
  const auto now = [] { return std::chrono::steady_clock::now(); };
  const auto seconds = [](auto from, auto to) {
    return std::chrono::duration<double>(to - from).count();
  };
  auto start = now();
  const float* logits = evaluate(prompt);
  json.add("prompt_tokens_per_second", options.context / seconds(start, now()));
  std::vector<double> times;
  for (int i = 0; i < options.num_tokens; ++i) {
    const llama_token token =
        static_cast<llama_token>(most_likely(logits, static_cast<std::size_t>(vocab_size)));
    start = now();
    logits = evaluate({token});
    times.push_back(seconds(start, now()));
  }
  std::nth_element(times.begin(), times.begin() + options.num_tokens / 2, times.end());
  json.add("tokens_per_second", 1.0 / times[static_cast<std::size_t>(options.num_tokens / 2)]);
  json.add("resident_bytes", process_bytes("VmRSS"));
  json.add("peak_bytes", process_bytes("VmHWM"));
}

void run_polarquant(const Options& options, const Tokens& prompt, JsonObject& json) {
  LlamaWeights weights(options.model);
  const polarquant::KVCacheConfig config =
      config_of(options.format, options.format, weights.head_dim);
  const auto calibration = calibration_from(
      options.calibration, {weights.num_layers, weights.num_kv_heads, weights.head_dim});
  LlamaEngine engine(std::move(weights), config, options.num_threads,
                     calibration ? &*calibration : nullptr);
  engine.reserve(prompt.size() + static_cast<std::size_t>(options.num_tokens));
  measure(
      options, prompt, engine.vocab_size(),
      [&](const Tokens& tokens) { return engine.evaluate(tokens); }, json);
  json.add("cache_bytes", static_cast<double>(engine.cache_bytes()));
  json.add("float16_bytes", static_cast<double>(engine.float16_cache_bytes()));
  json.add("kernels", std::string(engine.cache(0).kernel_name()));
}

void run_llama_cpp(const Options& options, const Tokens& prompt, JsonObject& json) {
  const Model model(options.model);
  ContextOptions context_options;
  context_options.num_tokens = options.context + options.num_tokens;
  context_options.num_threads = options.num_threads;
  context_options.flash_attention = options.flash_attention;
  const std::vector<std::pair<std::string, ggml_type>> types = {
      {"f16", GGML_TYPE_F16}, {"q8_0", GGML_TYPE_Q8_0}, {"q4_0", GGML_TYPE_Q4_0}};
  const auto type = std::find_if(types.begin(), types.end(),
                                 [&](const auto& known) { return known.first == options.format; });
  if (type == types.end()) fail("llama.cpp's format is f16, q8_0 or q4_0.");
  context_options.type_k = context_options.type_v = type->second;
  const Context context = make_context(model, context_options);
  measure(
      options, prompt, model.vocab_size(),
      [&](const Tokens& tokens) {
        Tokens batch = tokens;
        if (llama_decode(
                context.get(),
                llama_batch_get_one(batch.data(), static_cast<std::int32_t>(batch.size()))) != 0) {
          fail("llama.cpp failed to evaluate the text.");
        }
        return llama_get_logits_ith(context.get(), -1);
      },
      json);
  // By the types' sizes; llama.cpp allocates for the whole context.
  const double coordinates = 2.0 * model.num_layers() * model.num_kv_heads() * model.head_dim() *
                             context_options.num_tokens;
  json.add("cache_bytes", coordinates * static_cast<double>(ggml_type_size(type->second)) /
                              static_cast<double>(ggml_blck_size(type->second)));
  json.add("float16_bytes", coordinates * 2.0);
}

void run(const Options& options) {
  Tokens prompt;
  {
    const Model vocabulary(options.model, true);
    prompt = vocabulary.tokenize(read_file(options.text), true);
  }
  if (prompt.size() < static_cast<std::size_t>(options.context)) {
    fail("'" + options.text + "' has " + std::to_string(prompt.size()) + " tokens only.");
  }
  prompt.resize(static_cast<std::size_t>(options.context));
  JsonObject json;
  const bool is_plain = options.engine == "llama.cpp" && !options.flash_attention;
  json.add("engine", options.engine);
  json.add("format", options.format + (is_plain ? ", plain attention" : ""));
  json.add("context", options.context).add("threads", options.num_threads);
  (options.engine == "polarquant" ? run_polarquant : run_llama_cpp)(options, prompt, json);
  std::printf("%s\n", json.text().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  return run_program("llama_speed", [&] { run(parse_options(argc, argv)); });
}
