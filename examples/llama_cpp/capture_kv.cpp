// Captures the queries, keys and values of a real language model.
//
//   capture_kv --model m.gguf --text alice29.txt --out data --layers 0,15,29 --tokens 1000
//
// Runs the first --tokens tokens of a text through a Llama-family GGUF model on the CPU and takes,
// through llama.cpp's evaluation callback, what a KV cache sees: queries and keys after RoPE, and
// values as they enter the cache. Each layer becomes three NumPy files of fp16 in C order:
//
//   layer_NN_keys.npy     [tokens, num_kv_heads, head_dim]
//   layer_NN_values.npy   [tokens, num_kv_heads, head_dim]
//   layer_NN_queries.npy  [queries, num_query_heads, head_dim], those of the last --queries tokens
//
// Nothing is written before softmax(q.k / sqrt(head_dim)) V over the captured tensors has been
// found to equal the attention output that the model itself computed.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "ggml.h"
#include "kv_interceptor.hpp"
#include "llama_model.hpp"

namespace {

constexpr float kLargestHalf = 65504.0F;
// As a share of the largest output: rounding to float makes some 3e-7, a wrong tensor, scale or
// mask far more than this.
constexpr double kAttentionTolerance = 1e-4;
// Room for any shape; with the 10 bytes before it the data begins at a multiple of 64.
constexpr int kNpyHeaderSize = 118;
constexpr char kUsage[] =
    "usage: capture_kv --model FILE --text FILE --out FOLDER "
    "[--layers 0,15,29] [--tokens 1000] [--queries 190]";

struct Options {
  std::string model, text, out;
  std::vector<int> layers = {0, 15, 29};
  int num_tokens = 1000;
  int num_queries = 190;
};

Options parse_options(int argc, char** argv) {
  Options options;
  parse_flags(argc, argv,
              {{"--model", into(options.model)},
               {"--text", into(options.text)},
               {"--out", into(options.out)},
               {"--layers", into(options.layers, 0)},
               {"--tokens", into(options.num_tokens, 1)},
               {"--queries", into(options.num_queries, 1)}},
              kUsage);
  if (options.model.empty() || options.text.empty() || options.out.empty()) fail(kUsage);
  if (options.num_queries > options.num_tokens) fail("--queries cannot exceed --tokens.");
  return options;
}

// The bytes of a NumPy file (format 1.0, little-endian fp16) of the tensor's last num_rows tokens.
std::string npy_bytes(const std::string& name, const GraphTensor& tensor, int num_rows,
                      int num_heads, int head_dim) {
  const std::size_t count = static_cast<std::size_t>(num_rows) * num_heads * head_dim;
  const float* first = tensor.values.data() + tensor.values.size() - count;
  if (!std::all_of(first, first + count, [](float x) { return std::abs(x) <= kLargestHalf; })) {
    fail(name + " holds a value that fp16 cannot.");
  }
  std::vector<ggml_fp16_t> halves(count);
  ggml_fp32_to_fp16_row(first, halves.data(), static_cast<std::int64_t>(count));

  std::ostringstream header;
  header << "{'descr': '<f2', 'fortran_order': False, 'shape': (" << num_rows << ", " << num_heads
         << ", " << head_dim << "), }";
  std::string text = header.str();
  text.resize(kNpyHeaderSize - 1, ' ');
  const std::string preamble("\x93NUMPY\x01\x00", 8);
  const std::string size = {static_cast<char>(kNpyHeaderSize), '\0'};  // 16 bits, little-endian
  return preamble + size + text + '\n' +
         std::string(reinterpret_cast<const char*>(halves.data()), count * sizeof(ggml_fp16_t));
}

void capture(const Options& options) {
  const Model model(options.model);
  const int num_layers = model.num_layers();
  const int last = *std::max_element(options.layers.begin(), options.layers.end());
  if (last >= num_layers) {
    fail("layer " + std::to_string(last) + " is out of range: the model has " +
         std::to_string(num_layers) + " layers, counted from 0.");
  }
  if (options.num_tokens > model.train_context()) {
    fail("the model's context is " + std::to_string(model.train_context()) +
         " tokens, --tokens is more.");
  }
  std::vector<llama_token> tokens = model.tokenize(read_file(options.text), true);
  if (tokens.size() < static_cast<std::size_t>(options.num_tokens)) {
    fail("'" + options.text + "' is too short: " + std::to_string(tokens.size()) + " tokens, not " +
         std::to_string(options.num_tokens) + ".");
  }
  tokens.resize(static_cast<std::size_t>(options.num_tokens));

  KvInterceptor interceptor(options.layers, options.num_tokens);
  ContextOptions context_options;
  context_options.num_tokens = options.num_tokens;
  context_options.num_batch_tokens = options.num_tokens;  // one graph holds all tokens
  context_options.type_k = GGML_TYPE_F32;  // no deeper layer inherits the rounding of an fp16 cache
  context_options.type_v = GGML_TYPE_F32;
  context_options.flash_attention = false;
  context_options.callback = KvInterceptor::on_node;
  context_options.callback_data = &interceptor;
  const Context context = make_context(model, context_options);
  // Every token an output: otherwise the last layer goes on with fewer rows.
  evaluate(context.get(), tokens, 0);

  std::map<std::string, std::string> files;
  for (const int index : options.layers) {
    const CapturedLayer layer = interceptor.layer(index);
    const double error = attention_error(layer, options.num_tokens, options.num_queries);
    if (!(error <= kAttentionTolerance)) {
      fail("layer " + std::to_string(index) + " attends with other tensors than the captured.");
    }
    const std::string stem = (index < 10 ? "layer_0" : "layer_") + std::to_string(index);
    const auto add = [&](const char* what, const GraphTensor& tensor, int rows, int heads) {
      const std::string name = stem + what;
      files[name] = npy_bytes(name, tensor, rows, heads, layer.keys.head_dim);
    };
    add("_keys.npy", layer.keys, options.num_tokens, layer.keys.num_heads);
    add("_values.npy", layer.values, options.num_tokens, layer.keys.num_heads);
    add("_queries.npy", layer.queries, options.num_queries, layer.queries.num_heads);
    std::printf("layer %d: attention is the model's within %.1e of its largest\n", index, error);
  }
  std::filesystem::create_directories(options.out);
  for (const auto& [name, bytes] : files) {
    const std::filesystem::path path = std::filesystem::path(options.out) / name;
    std::ofstream file(path, std::ios::binary);
    if (!file.write(bytes.data(), static_cast<std::streamsize>(bytes.size())).flush()) {
      fail("cannot write '" + path.string() + "'.");
    }
  }
  std::printf("%zu files written to %s\n", files.size(), options.out.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  return run_program("capture_kv", [&] { capture(parse_options(argc, argv)); });
}
