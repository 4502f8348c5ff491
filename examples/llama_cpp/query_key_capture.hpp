// Takes the queries and keys of every layer out of a llama.cpp graph while it is computed.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "command_line.hpp"
#include "ggml-backend.h"
#include "ggml.h"
#include "polarquant/attention/matrix.hpp"

class QueryKeyCapture {
 public:
  using Rows = polarquant::RowMatrix<float>;

  // What is called for each layer with the queries and keys of one graph's tokens, after RoPE:
  // [num_tokens, num_query_heads * head_dim] and [num_tokens, num_kv_heads * head_dim].
  using Use = std::function<void(int layer, const Rows& queries, const Rows& keys)>;

  QueryKeyCapture(int num_layers, int num_query_heads, int num_kv_heads, Use use)
      : num_layers_(num_layers), num_heads_{num_query_heads, num_kv_heads}, use_(std::move(use)) {}

  // llama_context_params::cb_eval, with the capture as user data.
  static bool on_node(ggml_tensor* node, bool ask, void* self) {
    return static_cast<QueryKeyCapture*>(self)->visit(*node, ask);
  }

  // So many layers must have been seen since the last call: throws otherwise.
  void check_and_reset() {
    if (num_seen_ != num_layers_) {
      fail("the queries and keys of " + std::to_string(num_seen_) + " layers were intercepted, " +
           "the model has " + std::to_string(num_layers_) +
           ": llama.cpp's graph is not the one this program knows.");
    }
    num_seen_ = 0;
  }

 private:
  bool visit(const ggml_tensor& node, bool ask) {
    const bool is_key = node.name[0] == 'K';
    if (!is_wanted(node, is_key)) return !ask;
    if (ask) return true;
    const int layer = parse_number(std::string(node.name).substr(5), 0);
    Rows rows(node.ne[2], node.ne[0] * node.ne[1]);
    ggml_backend_tensor_get(&node, rows.data(), 0, ggml_nbytes(&node));
    waiting_[is_key] = std::move(rows);
    // Whichever comes second completes a layer.
    if (waiting_[0].rows() != waiting_[1].rows() || waiting_[0].rows() == 0) return true;
    use_(layer, waiting_[0], waiting_[1]);
    for (Rows& each : waiting_) each.resize(0, 0);
    ++num_seen_;
    return true;
  }

  // A product, its bias and its rotation share a name; attention sees the rotated one.
  bool is_wanted(const ggml_tensor& node, bool is_key) const {
    const std::string name = node.name;
    if (name.rfind(is_key ? "Kcur-" : "Qcur-", 0) != 0) return false;
    if (name.find_first_not_of("0123456789", 5) != std::string::npos) return false;
    return node.op == GGML_OP_ROPE && node.type == GGML_TYPE_F32 &&
           node.ne[1] == num_heads_[is_key] && ggml_is_contiguous(&node);
  }

  int num_layers_;
  int num_heads_[2];  // of queries, of keys
  Use use_;
  Rows waiting_[2];
  int num_seen_ = 0;
};
