// The weights and numbers of a Llama-family model, straight from its GGUF file.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "ggml.h"
#include "gguf.h"

struct LlamaLayer {
  ggml_tensor* attention_norm;
  ggml_tensor* query;
  ggml_tensor* key;
  ggml_tensor* value;
  ggml_tensor* attention_output;
  ggml_tensor* feed_forward_norm;
  ggml_tensor* gate;
  ggml_tensor* up;
  ggml_tensor* down;
};

// Immutable once loaded.
class LlamaWeights {
 public:
  int num_layers = 0;
  int width = 0;  // of the residual stream
  int num_query_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int rope_dim = 0;
  int train_context = 0;
  float rope_base = 10000.0f;
  float norm_epsilon = 1e-5f;

  ggml_tensor* embedding = nullptr;  // [width, vocab_size], as ggml counts dimensions
  ggml_tensor* output_norm = nullptr;
  ggml_tensor* output = nullptr;        // the embedding again, if the model ties them
  ggml_tensor* rope_factors = nullptr;  // null: none
  std::vector<LlamaLayer> layers;

  // Throws if the file is not a Llama model of the plain kind that this program computes.
  explicit LlamaWeights(const std::string& path) {
    ggml_context* tensors = nullptr;
    gguf_init_params params = {};
    params.no_alloc = false;
    params.ctx = &tensors;
    file_.reset(gguf_init_from_file(path.c_str(), params));
    tensors_.reset(tensors);
    if (!file_) fail("'" + path + "' cannot be read as a GGUF file.");
    const std::int64_t architecture = gguf_find_key(file_.get(), "general.architecture");
    if (architecture < 0 || std::string(gguf_get_val_str(file_.get(), architecture)) != "llama") {
      fail("'" + path + "' is not a model of the Llama architecture.");
    }
    read_numbers();
    read_tensors();
  }

  int vocab_size() const { return static_cast<int>(output->ne[1]); }

 private:
  // `otherwise` < 0: the number must be there.
  double number(const char* name, double otherwise = -1.0) const {
    const std::string key = std::string("llama.") + name;
    const std::int64_t id = gguf_find_key(file_.get(), key.c_str());
    if (id < 0) {
      if (otherwise < 0.0) fail("the model file lacks '" + key + "'.");
      return otherwise;
    }
    switch (gguf_get_kv_type(file_.get(), id)) {
      case GGUF_TYPE_UINT32:
        return gguf_get_val_u32(file_.get(), id);
      case GGUF_TYPE_FLOAT32:
        return gguf_get_val_f32(file_.get(), id);
      default:
        fail("'" + key + "' of the model file is not one number for all layers.");
    }
  }

  void read_numbers() {
    num_layers = static_cast<int>(number("block_count"));
    width = static_cast<int>(number("embedding_length"));
    num_query_heads = static_cast<int>(number("attention.head_count"));
    num_kv_heads = static_cast<int>(number("attention.head_count_kv", num_query_heads));
    if (num_kv_heads < 1 || num_query_heads % num_kv_heads != 0) {
      fail(std::to_string(num_query_heads) + " query heads do not share " +
           std::to_string(num_kv_heads) + " KV heads.");
    }
    head_dim = static_cast<int>(number("attention.key_length", width / num_query_heads));
    rope_dim = static_cast<int>(number("rope.dimension_count", head_dim));
    train_context = static_cast<int>(number("context_length"));
    rope_base = static_cast<float>(number("rope.freq_base", rope_base));
    norm_epsilon = static_cast<float>(number("attention.layer_norm_rms_epsilon"));
    if (number("expert_count", 0.0) != 0.0) fail("models with experts are not computed here.");
    const std::int64_t scaling = gguf_find_key(file_.get(), "llama.rope.scaling.type");
    const bool is_scaled =
        scaling >= 0 && std::string(gguf_get_val_str(file_.get(), scaling)) != "none";
    if (is_scaled || gguf_find_key(file_.get(), "llama.rope.scale_linear") >= 0) {
      fail("models with scaled RoPE are not computed here.");
    }
    if (gguf_find_key(file_.get(), "llama.attention.scale") >= 0) {
      fail("models with an attention scale of their own are not computed here.");
    }
    if (number("attention.value_length", head_dim) != head_dim) {
      fail("models whose values are not as wide as their keys are not computed here.");
    }
  }

  void read_tensors() {
    embedding = tensor("token_embd.weight");
    output_norm = tensor("output_norm.weight");
    output = ggml_get_tensor(tensors_.get(), "output.weight");
    if (output == nullptr) output = embedding;
    rope_factors = ggml_get_tensor(tensors_.get(), "rope_freqs.weight");
    for (int layer = 0; layer < num_layers; ++layer) {
      const std::string block = "blk." + std::to_string(layer) + ".";
      for (const char* const part :
           {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}) {
        if (ggml_get_tensor(tensors_.get(), (block + part + ".bias").c_str()) != nullptr) {
          fail("models with '" + block + part + ".bias' are not computed here.");
        }
      }
      layers.push_back({tensor(block + "attn_norm.weight"), tensor(block + "attn_q.weight"),
                        tensor(block + "attn_k.weight"), tensor(block + "attn_v.weight"),
                        tensor(block + "attn_output.weight"), tensor(block + "ffn_norm.weight"),
                        tensor(block + "ffn_gate.weight"), tensor(block + "ffn_up.weight"),
                        tensor(block + "ffn_down.weight")});
    }
  }

  ggml_tensor* tensor(const std::string& name) const {
    ggml_tensor* const found = ggml_get_tensor(tensors_.get(), name.c_str());
    if (found == nullptr) fail("the model file lacks the tensor '" + name + "'.");
    return found;
  }

  struct Free {
    void operator()(gguf_context* file) const { gguf_free(file); }
    void operator()(ggml_context* context) const { ggml_free(context); }
  };
  std::unique_ptr<gguf_context, Free> file_;
  std::unique_ptr<ggml_context, Free> tensors_;
};
