// Takes queries, keys and values out of a llama.cpp graph while it is computed, and proves that
// they are the ones the model attends with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "ggml-backend.h"
#include "ggml.h"

// A node of the graph, copied: values in the order [num_tokens, num_heads, head_dim].
struct GraphTensor {
  std::vector<float> values;
  int head_dim = 0;   // As the graph states them, which splits the heads of queries and keys in
  int num_heads = 0;  // every model, but not always those of values and outputs.
};

struct CapturedLayer {
  const GraphTensor& queries;  // after RoPE
  const GraphTensor& keys;     // after RoPE
  const GraphTensor& values;   // before they enter the cache
  const GraphTensor& outputs;  // of attention, before the output projection
};

class KvInterceptor {
 public:
  KvInterceptor(const std::vector<int>& layers, int num_tokens) : num_tokens_(num_tokens) {
    for (const int layer : layers) {
      for (const char* name : {"Qcur", "Kcur", "Vcur", "kqv_out"}) tensors_[key(name, layer)];
    }
  }

  // llama_context_params::cb_eval, with the interceptor as user data: asked before a node is
  // computed whether it is wanted, and called again with the data if so.
  static bool on_node(ggml_tensor* node, bool ask, void* self) {
    return static_cast<KvInterceptor*>(self)->take(*node, ask);
  }

  // The tensors of a layer after the evaluation. Throws if one is missing or the shapes are not
  // those of grouped-query attention.
  CapturedLayer layer(int index) const {
    const CapturedLayer found = {get("Qcur", index), get("Kcur", index), get("Vcur", index),
                                 get("kqv_out", index)};
    if (found.queries.head_dim != found.keys.head_dim ||
        found.queries.num_heads % found.keys.num_heads != 0 ||
        found.values.values.size() != found.keys.values.size() ||
        found.outputs.values.size() != found.queries.values.size()) {
      fail("the shapes of layer " + std::to_string(index) + " are not grouped-query attention.");
    }
    return found;
  }

 private:
  static std::string key(const char* name, int layer) {
    return std::string(name) + "-" + std::to_string(layer);
  }

  const GraphTensor& get(const char* name, int layer) const {
    const GraphTensor& tensor = tensors_.at(key(name, layer));
    if (tensor.values.empty()) fail("'" + key(name, layer) + "' was not intercepted.");
    return tensor;
  }

  bool take(const ggml_tensor& node, bool ask) {
    const auto found = tensors_.find(ggml_get_name(&node));
    // A projection and its rotation share a name; attention sees the rotated query and key.
    const bool is_rotated = node.op == GGML_OP_ROPE && node.ne[2] == num_tokens_;
    const bool needs_rope = node.name[0] == 'Q' || node.name[0] == 'K';
    const bool is_wanted = found != tensors_.end() && node.type == GGML_TYPE_F32 &&
                           ggml_is_contiguous(&node) && (is_rotated || !needs_rope);
    if (ask || !is_wanted) return !ask || is_wanted;
    GraphTensor& tensor = found->second;  // the last of a name counts: a bias follows its product
    tensor.head_dim = static_cast<int>(node.ne[0]);
    tensor.num_heads = static_cast<int>(node.ne[1]);
    tensor.values.resize(static_cast<std::size_t>(ggml_nelements(&node)));
    ggml_backend_tensor_get(&node, tensor.values.data(), 0, ggml_nbytes(&node));
    return true;
  }

  std::map<std::string, GraphTensor> tensors_;
  int num_tokens_;
};

// The largest difference between softmax(q.k / sqrt(head_dim)) V over the captured tensors and the
// model's own attention output in the last num_queries tokens, as a share of the largest output.
inline double attention_error(const CapturedLayer& layer, int num_tokens, int num_queries) {
  const int dim = layer.keys.head_dim;
  const int num_heads = layer.queries.num_heads;
  const int num_kv_heads = layer.keys.num_heads;
  const auto row = [dim](const GraphTensor& tensor, int heads, int token, int head) {
    return tensor.values.data() + (static_cast<std::size_t>(token) * heads + head) * dim;
  };
  double largest_error = 0.0;
  double largest_output = 0.0;
  std::vector<double> scores(num_tokens);
  for (int token = num_tokens - num_queries; token < num_tokens; ++token) {
    for (int head = 0; head < num_heads; ++head) {
      const int kv_head = head / (num_heads / num_kv_heads);
      const float* query = row(layer.queries, num_heads, token, head);
      for (int t = 0; t <= token; ++t) {
        const float* key = row(layer.keys, num_kv_heads, t, kv_head);
        scores[t] = 0.0;
        for (int i = 0; i < dim; ++i) scores[t] += static_cast<double>(query[i]) * key[i];
        scores[t] /= std::sqrt(dim);
      }
      const double maximum = *std::max_element(scores.begin(), scores.begin() + token + 1);
      std::vector<double> output(dim, 0.0);
      double sum = 0.0;
      for (int t = 0; t <= token; ++t) {
        const float* value = row(layer.values, num_kv_heads, t, kv_head);
        const double weight = std::exp(scores[t] - maximum);
        sum += weight;
        for (int i = 0; i < dim; ++i) output[i] += weight * value[i];
      }
      const float* expected = row(layer.outputs, num_heads, token, head);
      for (int i = 0; i < dim; ++i) {
        largest_error = std::max(largest_error, std::abs(output[i] / sum - expected[i]));
        largest_output = std::max(largest_output, std::abs(double{expected[i]}));
      }
    }
  }
  return largest_error / largest_output;
}
