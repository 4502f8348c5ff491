// Answers a prompt with an engine whose only KV cache is a compressed one.
//
//   llama_generate --model m.gguf --prompt "Why is the sky blue?" --format 4.25
//
// Streams the text, and says what the cache took. --compare yes runs llama.cpp with its own
// cache (fp16; fp32 for the format fp32) on the same tokens and says where the two would have gone
// on differently.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "command_line.hpp"
#include "divergence.hpp"
#include "engine_format.hpp"
#include "llama_engine.hpp"
#include "llama_model.hpp"

namespace {

const char* const kUsage =
    "usage: llama_generate --model FILE --prompt TEXT [--format fp16|fp32|paper|BITS] "
    "[--key-format F] [--value-format F] [--tokens 200] [--threads N] [--chat yes|no] "
    "[--stop yes|no] [--compare yes|no] [--calibration FILE]";

struct Options {
  std::string model, prompt, calibration;
  std::string key_format = "4.25";
  std::string value_format = "4.25";
  int num_tokens = 200;
  int num_threads = num_hardware_threads();
  bool chat = true;
  bool stop = true;  // at the model's end of text
  bool compare = false;
};

Options parse_options(int argc, char** argv) {
  Options options;
  parse_flags(
      argc, argv,
      {{"--model", into(options.model)},
       {"--prompt", into(options.prompt)},
       {"--format",
        [&](const std::string& value) { options.key_format = options.value_format = value; }},
       {"--key-format", into(options.key_format)},
       {"--value-format", into(options.value_format)},
       {"--tokens", into(options.num_tokens, 1)},
       {"--threads", into(options.num_threads, 1)},
       {"--chat", into(options.chat)},
       {"--stop", into(options.stop)},
       {"--compare", into(options.compare)},
       {"--calibration", into(options.calibration)}},
      kUsage);
  if (options.model.empty() || options.prompt.empty()) fail(kUsage);
  return options;
}

// The prompt as the model's chat template puts it.
std::string as_chat(const Model& model, const std::string& prompt) {
  const llama_chat_message message = {"user", prompt.c_str()};
  std::string text(prompt.size() + 4096, '\0');
  const std::int32_t size =
      llama_chat_apply_template(llama_model_chat_template(model.get(), nullptr), &message, 1, true,
                                text.data(), static_cast<std::int32_t>(text.size()));
  if (size < 0 || static_cast<std::size_t>(size) > text.size()) {
    fail("the model's chat template cannot be applied; try --chat no.");
  }
  text.resize(static_cast<std::size_t>(size));
  return text;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double largest_difference(const float* a, const float* b, std::size_t size) {
  double largest = 0.0;
  for (std::size_t i = 0; i < size; ++i) largest = std::max(largest, std::abs(double{a[i]} - b[i]));
  return largest;
}

// llama.cpp, its cache in `cache_type`, plain attention: its most likely token behind the prompt
// and behind each token of ours, given ours before it.
void compare(const Model& model, const std::vector<llama_token>& prompt,
             const std::vector<std::int32_t>& generated, const std::vector<float>& our_logits,
             ggml_type cache_type, int num_threads) {
  ContextOptions options;
  options.type_k = options.type_v = cache_type;
  options.num_tokens = static_cast<int>(prompt.size() + generated.size());
  options.flash_attention = false;
  options.num_threads = num_threads;
  const Context context = make_context(model, options);
  const int last = static_cast<int>(prompt.size()) - 1;
  const std::size_t vocab_size = static_cast<std::size_t>(model.vocab_size());
  const float* logits = evaluate(context.get(), prompt, last);
  const double ours = largest_difference(logits, our_logits.data(), vocab_size);
  options.flash_attention = true;
  const Context other = make_context(model, options);
  const double theirs = largest_difference(logits, evaluate(other.get(), prompt, last), vocab_size);
  std::printf(
      "behind the prompt the logits differ from llama.cpp's by at most %.2e; its own flash\n"
      "attention changes them by %.2e\n",
      ours, theirs);
  for (std::size_t i = 0; i < generated.size(); ++i) {
    const std::size_t their_token = most_likely(logits, vocab_size);
    const std::size_t our_token = static_cast<std::size_t>(generated[i]);
    if (their_token != our_token) {
      std::printf("token %zu differs from llama.cpp's, whose logits are %.2e apart there\n", i,
                  double{logits[their_token]} - logits[our_token]);
      return;
    }
    llama_token token = generated[i];
    if (llama_decode(context.get(), llama_batch_get_one(&token, 1)) != 0) {
      fail("llama.cpp failed to evaluate a token.");
    }
    logits = llama_get_logits(context.get());
  }
  std::printf("all %zu tokens are llama.cpp's\n", generated.size());
}

void run(const Options& options) {
  // The weights are the engine's; llama.cpp needs its own only to be compared with.
  const Model model(options.model, !options.compare);
  const std::vector<llama_token> prompt = model.tokenize(
      options.chat ? as_chat(model, options.prompt) : options.prompt, true, options.chat);
  LlamaWeights weights(options.model);
  const polarquant::KVCacheConfig config =
      config_of(options.key_format, options.value_format, weights.head_dim);
  const auto calibration = calibration_from(
      options.calibration, {weights.num_layers, weights.num_kv_heads, weights.head_dim});
  LlamaEngine engine(std::move(weights), config, options.num_threads,
                     calibration ? &*calibration : nullptr);
  engine.reserve(prompt.size() + static_cast<std::size_t>(options.num_tokens));

  auto start = std::chrono::steady_clock::now();
  const float* logits = engine.evaluate(prompt);
  const double prompt_seconds = seconds_since(start);
  const std::vector<float> prompt_logits(logits, logits + engine.vocab_size());

  const std::size_t vocab_size = static_cast<std::size_t>(engine.vocab_size());
  std::vector<std::int32_t> generated;
  start = std::chrono::steady_clock::now();
  while (generated.size() < static_cast<std::size_t>(options.num_tokens)) {
    const std::int32_t token = static_cast<std::int32_t>(most_likely(logits, vocab_size));
    if (options.stop && llama_vocab_is_eog(model.vocab(), token)) break;
    generated.push_back(token);
    std::printf("%s", model.text_of(token).c_str());
    std::fflush(stdout);
    logits = engine.evaluate({token});
  }
  const double seconds = seconds_since(start);

  std::printf("\n\n%zu tokens of prompt: %.0f tokens/s; %zu generated: %.1f tokens/s\n",
              prompt.size(), static_cast<double>(prompt.size()) / prompt_seconds, generated.size(),
              static_cast<double>(generated.size()) / seconds);
  std::printf("cache: %.2f MB allocated for %zu tokens, fp16 would hold %.2f MB; kernels: %s\n",
              static_cast<double>(engine.cache_bytes()) / 1e6, engine.num_tokens(),
              static_cast<double>(engine.float16_cache_bytes()) / 1e6,
              engine.cache(0).kernel_name());
  if (!options.compare) return;
  const bool is_float = options.key_format == "fp32" && options.value_format == "fp32";
  compare(model, prompt, generated, prompt_logits, is_float ? GGML_TYPE_F32 : GGML_TYPE_F16,
          options.num_threads);
}

}  // namespace

int main(int argc, char** argv) {
  return run_program("llama_generate", [&] { run(parse_options(argc, argv)); });
}
