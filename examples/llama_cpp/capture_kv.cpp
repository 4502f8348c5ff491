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
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "ggml.h"
#include "kv_interceptor.hpp"
#include "llama.h"

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

int parse_number(const std::string& text, int minimum) {
  int number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stop != end || number < minimum) {
    fail("'" + text + "' is not a whole number of at least " + std::to_string(minimum) + ".");
  }
  return number;
}

std::vector<int> parse_layers(const std::string& text) {
  std::vector<int> layers;
  std::istringstream list(text);
  for (std::string item; std::getline(list, item, ',');) layers.push_back(parse_number(item, 0));
  if (layers.empty()) fail("--layers needs a list such as 0,15,29.");
  return layers;
}

Options parse_options(int argc, char** argv) {
  Options options;
  using Text = const std::string&;
  const std::map<std::string, std::function<void(Text)>> flags = {
      {"--model", [&](Text value) { options.model = value; }},
      {"--text", [&](Text value) { options.text = value; }},
      {"--out", [&](Text value) { options.out = value; }},
      {"--layers", [&](Text value) { options.layers = parse_layers(value); }},
      {"--tokens", [&](Text value) { options.num_tokens = parse_number(value, 1); }},
      {"--queries", [&](Text value) { options.num_queries = parse_number(value, 1); }},
  };
  for (int i = 1; i < argc; i += 2) {
    const auto flag = flags.find(argv[i]);
    if (flag == flags.end()) fail("unknown flag '" + std::string(argv[i]) + "'; " + kUsage);
    if (i + 1 == argc) fail("the flag " + flag->first + " lacks its value.");
    flag->second(argv[i + 1]);
  }
  if (options.model.empty() || options.text.empty() || options.out.empty()) fail(kUsage);
  if (options.num_queries > options.num_tokens) fail("--queries cannot exceed --tokens.");
  return options;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  if (!file || !(content << file.rdbuf())) fail("cannot read '" + path + "', or it is empty.");
  return content.str();
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

std::vector<llama_token> tokenize(const llama_model* model, const std::string& path,
                                  int num_tokens) {
  const std::string text = read_file(path);
  std::vector<llama_token> tokens(text.size() + 8);  // a token has at least one byte
  const int found = llama_tokenize(llama_model_get_vocab(model), text.data(),
                                   static_cast<std::int32_t>(text.size()), tokens.data(),
                                   static_cast<std::int32_t>(tokens.size()), true, false);
  if (found < num_tokens) {
    fail("'" + path + "' is too short: " + std::to_string(found) + " tokens, not " +
         std::to_string(num_tokens) + ".");
  }
  tokens.resize(num_tokens);
  return tokens;
}

void capture(const Options& options) {
  // Failures are told in sentences of this program.
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_model_params model_params = llama_model_default_params();
  model_params.n_gpu_layers = 0;
  const std::unique_ptr<llama_model, decltype(&llama_model_free)> model(
      llama_model_load_from_file(options.model.c_str(), model_params), llama_model_free);
  if (!model) fail("cannot load '" + options.model + "' as a GGUF model.");
  const int num_layers = llama_model_n_layer(model.get());
  const int last = *std::max_element(options.layers.begin(), options.layers.end());
  if (last >= num_layers) {
    fail("layer " + std::to_string(last) + " is out of range: the model has " +
         std::to_string(num_layers) + " layers, counted from 0.");
  }
  const int context_size = llama_model_n_ctx_train(model.get());
  if (options.num_tokens > context_size) {
    fail("the model's context is " + std::to_string(context_size) + " tokens, --tokens is more.");
  }
  std::vector<llama_token> tokens = tokenize(model.get(), options.text, options.num_tokens);

  KvInterceptor interceptor(options.layers, options.num_tokens);
  llama_context_params params = llama_context_default_params();
  params.n_ctx = options.num_tokens;
  params.n_batch = options.num_tokens;
  params.n_ubatch = options.num_tokens;  // one graph holds all tokens
  params.n_threads_batch = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  params.type_k = GGML_TYPE_F32;  // no deeper layer inherits the rounding of an fp16 cache
  params.type_v = GGML_TYPE_F32;
  params.cb_eval = KvInterceptor::on_node;
  params.cb_eval_user_data = &interceptor;
  const std::unique_ptr<llama_context, decltype(&llama_free)> context(
      llama_init_from_model(model.get(), params), llama_free);
  if (!context) fail("llama.cpp could not make a context for the model.");
  if (llama_decode(context.get(), llama_batch_get_one(tokens.data(), options.num_tokens)) != 0) {
    fail("llama.cpp failed to evaluate the text.");
  }

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
  try {
    capture(parse_options(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "capture_kv: %s\n", error.what());
    return 1;
  }
  return 0;
}
