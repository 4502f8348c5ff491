// Replaces the keys and values of every layer in a llama.cpp graph while it is computed, on their
// way into the cache.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "command_line.hpp"
#include "ggml-backend.h"
#include "ggml.h"
#include "polarquant/attention/matrix.hpp"

class KvReplacer {
 public:
  // Called with the layer, whether these are values, and the rows [num_tokens, num_kv_heads *
  // head_dim], which it may change: keys after RoPE, values as they enter the cache.
  using Change = std::function<void(int layer, bool is_value, polarquant::RowMatrix<float>& rows)>;

  KvReplacer(int num_layers, int num_kv_heads)
      : num_layers_(num_layers), num_heads_(num_kv_heads) {}

  // llama_context_params::cb_eval, with the replacer as user data.
  static bool on_node(ggml_tensor* node, bool ask, void* self) {
    return static_cast<KvReplacer*>(self)->visit(*node, ask);
  }

  void set_change(Change change) { change_ = std::move(change); }

  // Of keys and values both, so many tokens must have passed in each layer since the last call:
  // throws otherwise, naming the layer.
  void check_and_reset(std::size_t num_tokens) {
    for (int layer = 0; layer < num_layers_; ++layer) {
      for (const bool is_value : {false, true}) {
        const std::size_t count = num_tokens_[{layer, is_value}];
        if (count != num_tokens) {
          fail("of the " + std::to_string(num_tokens) + " " + (is_value ? "values" : "keys") +
               " of layer " + std::to_string(layer) + " " + std::to_string(count) +
               " were intercepted: llama.cpp's graph is not the one this program knows.");
        }
      }
    }
    num_tokens_.clear();
  }

 private:
  bool visit(ggml_tensor& node, bool ask) {
    const char side = node.name[0];
    if ((side != 'K' && side != 'V') || !is_wanted(node, side == 'V')) return !ask;
    if (ask) return true;
    const int layer = parse_number(std::string(node.name).substr(5), 0);
    polarquant::RowMatrix<float> rows(node.ne[2], node.ne[0] * node.ne[1]);
    ggml_backend_tensor_get(&node, rows.data(), 0, ggml_nbytes(&node));
    change_(layer, side == 'V', rows);
    ggml_backend_tensor_set(&node, rows.data(), 0, ggml_nbytes(&node));
    num_tokens_[{layer, side == 'V'}] += static_cast<std::size_t>(node.ne[2]);
    return true;
  }

  // A product, its bias and its rotation share a name. What enters the cache is the rotated key,
  // and the value split into heads.
  bool is_wanted(const ggml_tensor& node, bool is_value) const {
    const std::string name = node.name;
    if (name.rfind(is_value ? "Vcur-" : "Kcur-", 0) != 0) return false;
    if (name.find_first_not_of("0123456789", 5) != std::string::npos) return false;
    const bool is_last = is_value ? node.op == GGML_OP_RESHAPE : node.op == GGML_OP_ROPE;
    return is_last && node.type == GGML_TYPE_F32 && node.ne[1] == num_heads_ &&
           ggml_is_contiguous(&node);
  }

  int num_layers_;
  int num_heads_;
  Change change_;
  std::map<std::pair<int, bool>, std::size_t> num_tokens_;  // by layer and side
};
