// Needle in a haystack: finds a number that was told somewhere in a long text.
//
//   llama_needle --model m.gguf --text alice29.txt --out out/llama/needle.json
//
// The text, with a sentence that states a passkey of five digits at some depth, and at the end the
// question for it. Judged are the log-probability of the right digits, and whether greedy decoding
// gives all of them (which it does exactly if each right digit is the most likely after the ones
// before it). Keys and values are replaced as in llama_eval.

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

#include "cache_formats.hpp"
#include "command_line.hpp"
#include "divergence.hpp"
#include "format_runner.hpp"
#include "json.hpp"
#include "llama_model.hpp"
#include "progress.hpp"

namespace {

const char* const kUsage =
    "usage: llama_needle --model FILE --text FILE --out FILE.json [--contexts 512,1000,2000,4000,"
    "6000,8000] [--depths 0,20,40,60,80,100] [--calibration FILE]";

// Tokens in one graph.
constexpr int kBatchTokens = 512;

struct Options {
  std::string model, text, out, calibration;
  std::vector<int> contexts = {512, 1000, 2000, 4000, 6000, 8000};
  std::vector<int> depths = {0, 20, 40, 60, 80, 100};  // per cent
};

Options parse_options(int argc, char** argv) {
  Options options;
  parse_flags(argc, argv,
              {{"--model", into(options.model)},
               {"--text", into(options.text)},
               {"--out", into(options.out)},
               {"--contexts", into(options.contexts, 256)},
               {"--depths", into(options.depths, 0)},
               {"--calibration", into(options.calibration)}},
              kUsage);
  if (options.model.empty() || options.text.empty() || options.out.empty()) fail(kUsage);
  if (*std::max_element(options.depths.begin(), options.depths.end()) > 100) {
    fail("--depths are per cent, at most 100.");
  }
  return options;
}

// A prompt and the tokens of its right continuation.
struct Needle {
  std::vector<llama_token> tokens;  // the answer at the end
  std::size_t answer_size = 0;
};

std::string passkey_of(int context, int depth) {
  // Any five digits, another number for every cell.
  const unsigned mixed =
      (static_cast<unsigned>(context) * 131u + static_cast<unsigned>(depth) + 7u) * 2654435761u;
  return std::to_string(10000u + mixed % 90000u);
}

// A prompt of `context` tokens with the answer, the needle at `depth` per cent of the haystack.
Needle make_needle(const Model& model, const std::vector<llama_token>& haystack, int context,
                   int depth) {
  const std::string passkey = passkey_of(context, depth);
  const auto special = [&](const std::string& text) { return model.tokenize(text, false, true); };
  const std::vector<llama_token> head = special(
      "<|im_start|>user\nThere is a passkey hidden in the text below. Find it and remember "
      "it.\n\n");
  const std::vector<llama_token> fact = special(
      "\n\nThe passkey is " + passkey + ". Remember it. " + passkey + " is the passkey.\n\n");
  const std::vector<llama_token> question =
      special("\n\nWhat is the passkey?<|im_end|>\n<|im_start|>assistant\nThe passkey is ");
  const std::vector<llama_token> answer = special(passkey);
  const std::size_t frame = head.size() + fact.size() + question.size() + answer.size();
  if (static_cast<std::size_t>(context) <= frame ||
      static_cast<std::size_t>(context) - frame > haystack.size()) {
    fail("a context of " + std::to_string(context) + " tokens: the prompt without text has " +
         std::to_string(frame) + ", the text " + std::to_string(haystack.size()) + ".");
  }
  const std::size_t size = static_cast<std::size_t>(context) - frame;
  const std::size_t before = size * static_cast<std::size_t>(depth) / 100;
  Needle needle;
  needle.answer_size = answer.size();
  const auto append = [&needle](auto begin, auto end) {
    needle.tokens.insert(needle.tokens.end(), begin, end);
  };
  const auto at = [&haystack](std::size_t i) {
    return haystack.begin() + static_cast<std::ptrdiff_t>(i);
  };
  append(head.begin(), head.end());
  append(at(0), at(before));
  append(fact.begin(), fact.end());
  append(at(before), at(size));
  append(question.begin(), question.end());
  append(answer.begin(), answer.end());
  return needle;
}

struct Found {
  double log_probability = 0.0;  // of all digits, nats
  bool greedy = true;
};

Found judge(const Needle& needle, const float* logits, std::size_t vocab_size) {
  Found found;
  const std::size_t first = needle.tokens.size() - needle.answer_size;
  for (std::size_t i = 0; i < needle.answer_size; ++i, logits += vocab_size) {
    const std::size_t right = static_cast<std::size_t>(needle.tokens[first + i]);
    found.log_probability += double{logits[right]} - log_sum_exp(logits, vocab_size);
    found.greedy = found.greedy && most_likely(logits, vocab_size) == right;
  }
  return found;
}

std::vector<CacheFormat> needle_formats(const SharedCalibration& calibration) {
  std::vector<CacheFormat> formats = {both_sides("llama.cpp", "fp16", SideFormat())};
  // Not llama.cpp's own cache of it, whose attention takes minutes for a long prompt.
  SideFormat blocks;
  blocks.codec = "q4_0";
  formats.push_back(both_sides("peers", "q4_0 + Hadamard", blocks));
  for (const char* const codec : {"full_depth 3.25", "paper", "full_depth 4.25"}) {
    formats.push_back(both_sides("defaults", codec, with_defaults(codec)));
    if (calibration != nullptr) formats.push_back(calibrated(formats.back(), calibration));
  }
  return formats;
}

void run(const Options& options) {
  const Model model(options.model);
  const int longest = *std::max_element(options.contexts.begin(), options.contexts.end());
  if (longest > model.train_context()) {
    fail("a context of " + std::to_string(longest) + " tokens: the model's is " +
         std::to_string(model.train_context()) + ".");
  }
  const std::vector<llama_token> haystack = model.tokenize(read_file(options.text), false);
  ContextOptions context_options;
  context_options.num_tokens = longest;
  context_options.num_batch_tokens = kBatchTokens;
  FormatRunner::Shared shared(model, context_options);
  std::vector<FormatRunner> runners;
  const SharedCalibration calibration = calibration_of(options.calibration, model);
  for (const CacheFormat& format : needle_formats(calibration)) {
    runners.emplace_back(shared, format);
  }

  Progress progress(
      static_cast<int>(runners.size() * options.contexts.size() * options.depths.size()));
  std::vector<std::string> cells;
  for (const int context : options.contexts) {
    for (const int depth : options.depths) {
      const Needle needle = make_needle(model, haystack, context, depth);
      const int first_answer = context - static_cast<int>(needle.answer_size);
      for (FormatRunner& runner : runners) {
        const float* const logits = runner.run(needle.tokens, first_answer - 1);
        const Found found = judge(needle, logits, static_cast<std::size_t>(model.vocab_size()));
        JsonObject cell;
        cell.add("format", runner.format().name).add("context", context).add("depth", depth);
        cell.add("log_probability", found.log_probability).add("greedy", found.greedy ? 1.0 : 0.0);
        cells.push_back(cell.text());
        progress.step(runner.format().name + " at " + std::to_string(context));
      }
    }
  }
  JsonObject json;
  json.raw("cells", json_list(cells, ",\n"));
  write_file(options.out, json.text() + "\n");
}

}  // namespace

int main(int argc, char** argv) {
  return run_program("llama_needle", [&] { run(parse_options(argc, argv)); });
}
