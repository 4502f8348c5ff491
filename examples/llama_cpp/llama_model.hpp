// A GGUF model in llama.cpp: loading, tokens, contexts, logits.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "command_line.hpp"
#include "ggml-backend.h"
#include "llama.h"
#include "polarquant/calibration.hpp"

inline int num_hardware_threads() {
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

class Model {
 public:
  // Throws if the file cannot be read as a model. vocab_only: no weights, for its tokens alone.
  explicit Model(const std::string& path, bool vocab_only = false)
      : model_(load(path, vocab_only), llama_model_free) {
    if (!model_) fail("llama.cpp cannot load the model '" + path + "'.");
  }

  llama_model* get() const { return model_.get(); }
  const llama_vocab* vocab() const { return llama_model_get_vocab(get()); }
  int vocab_size() const { return llama_vocab_n_tokens(vocab()); }
  int num_layers() const { return llama_model_n_layer(get()); }
  int num_kv_heads() const { return llama_model_n_head_kv(get()); }
  int num_query_heads() const { return llama_model_n_head(get()); }
  int train_context() const { return llama_model_n_ctx_train(get()); }
  int head_dim() const { return llama_model_n_embd(get()) / num_query_heads(); }

  // The tokens of a text, with those that the model's tokenizer puts around it if `add_special`;
  // names of special tokens in the text stand for them if `parse_special`.
  std::vector<llama_token> tokenize(const std::string& text, bool add_special,
                                    bool parse_special = false) const {
    std::vector<llama_token> tokens(text.size() + 8);  // a token has at least one byte
    const std::int32_t count =
        llama_tokenize(vocab(), text.data(), static_cast<std::int32_t>(text.size()), tokens.data(),
                       static_cast<std::int32_t>(tokens.size()), add_special, parse_special);
    if (count < 0) fail("llama.cpp cannot tokenize the text.");
    tokens.resize(static_cast<std::size_t>(count));
    return tokens;
  }

  std::string text_of(llama_token token) const {
    std::string text(256, '\0');
    const std::int32_t size = llama_token_to_piece(
        vocab(), token, text.data(), static_cast<std::int32_t>(text.size()), 0, false);
    text.resize(static_cast<std::size_t>(std::max<std::int32_t>(size, 0)));
    return text;
  }

 private:
  static llama_model* load(const std::string& path, bool vocab_only) {
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    params.vocab_only = vocab_only;
    return llama_model_load_from_file(path.c_str(), params);
  }

  std::unique_ptr<llama_model, decltype(&llama_model_free)> model_;
};

// A calibration of this model; null for an empty path. Throws for a file that is none, or another
// model's.
inline std::shared_ptr<const polarquant::Calibration> calibration_of(const std::string& path,
                                                                     const Model& model) {
  if (path.empty()) return nullptr;
  return std::make_shared<const polarquant::Calibration>(polarquant::load_calibration(
      path, {model.num_layers(), model.num_kv_heads(), model.head_dim()}));
}

struct ContextOptions {
  int num_tokens = 512;        // length of the cache
  int num_batch_tokens = 512;  // in one graph
  ggml_type type_k = GGML_TYPE_F16;
  ggml_type type_v = GGML_TYPE_F16;
  // Quantized values need flash attention; the rows of a comparison all have it.
  bool flash_attention = true;
  int num_threads = num_hardware_threads();
  ggml_backend_sched_eval_callback callback = nullptr;
  void* callback_data = nullptr;
};

using Context = std::unique_ptr<llama_context, decltype(&llama_free)>;

// Throws if llama.cpp makes none.
inline Context make_context(const Model& model, const ContextOptions& options) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<std::uint32_t>(options.num_tokens);
  params.n_batch = static_cast<std::uint32_t>(options.num_tokens);
  params.n_ubatch = static_cast<std::uint32_t>(options.num_batch_tokens);
  params.n_threads = options.num_threads;
  params.n_threads_batch = options.num_threads;
  params.type_k = options.type_k;
  params.type_v = options.type_v;
  params.flash_attn_type =
      options.flash_attention ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.cb_eval = options.callback;
  params.cb_eval_user_data = options.callback_data;
  Context context(llama_init_from_model(model.get(), params), llama_free);
  if (!context) fail("llama.cpp could not make a context for the model.");
  return context;
}

// Evaluates the tokens from an empty cache and returns the logits of the positions from `first`
// on, [tokens.size() - first, vocab_size]: they stay valid until the context is used again.
inline const float* evaluate(llama_context* context, const std::vector<llama_token>& tokens,
                             int first) {
  llama_memory_clear(llama_get_memory(context), true);
  const int count = static_cast<int>(tokens.size());
  llama_batch batch = llama_batch_init(count, 0, 1);
  for (int i = 0; i < count; ++i) {
    batch.token[i] = tokens[static_cast<std::size_t>(i)];
    batch.pos[i] = i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = static_cast<std::int8_t>(i >= first);
  }
  batch.n_tokens = count;
  const int status = llama_decode(context, batch);
  llama_batch_free(batch);
  if (status != 0) fail("llama.cpp failed to evaluate " + std::to_string(count) + " tokens.");
  return llama_get_logits(context);
}
