// Takes the queries, keys and values of every layer out of a llama.cpp graph while it is computed.
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

  // Of one layer and one graph's tokens: queries and keys after RoPE, values as they enter the
  // cache, [num_tokens, num_heads * head_dim] each.
  struct Tensors {
    Rows queries, keys, values;

    bool is_complete() const {
      return keys.rows() > 0 && queries.rows() == keys.rows() && values.rows() == keys.rows();
    }
  };
  using Use = std::function<void(int layer, const Tensors& tensors)>;

  QueryKeyCapture(int num_layers, int num_query_heads, int num_kv_heads, Use use)
      : num_layers_(num_layers),
        num_query_heads_(num_query_heads),
        num_kv_heads_(num_kv_heads),
        use_(std::move(use)) {}

  // llama_context_params::cb_eval, with the capture as user data.
  static bool on_node(ggml_tensor* node, bool ask, void* self) {
    return static_cast<QueryKeyCapture*>(self)->visit(*node, ask);
  }

  // So many layers must have been seen since the last call: throws otherwise.
  void check_and_reset() {
    if (num_seen_ != num_layers_) {
      fail("the queries, keys and values of " + std::to_string(num_seen_) +
           " layers were intercepted, the model has " + std::to_string(num_layers_) +
           ": llama.cpp's graph is not the one this program knows.");
    }
    num_seen_ = 0;
  }

 private:
  bool visit(const ggml_tensor& node, bool ask) {
    const char side = node.name[0];
    if (!is_wanted(node, side)) return !ask;
    if (ask) return true;
    const int layer = parse_number(std::string(node.name).substr(5), 0);
    Rows rows(node.ne[2], node.ne[0] * node.ne[1]);
    ggml_backend_tensor_get(&node, rows.data(), 0, ggml_nbytes(&node));
    (side == 'Q'   ? waiting_.queries
     : side == 'K' ? waiting_.keys
                   : waiting_.values) = std::move(rows);
    // Whichever comes last completes a layer.
    if (!waiting_.is_complete()) return true;
    use_(layer, waiting_);
    waiting_ = {};
    ++num_seen_;
    return true;
  }

  // A product, its bias and its rotation share a name. Attention sees the rotated query and key,
  // and the value split into heads.
  bool is_wanted(const ggml_tensor& node, char side) const {
    const std::string name = node.name;
    if (side != 'Q' && side != 'K' && side != 'V') return false;
    if (name.compare(1, 4, "cur-") != 0) return false;
    if (name.find_first_not_of("0123456789", 5) != std::string::npos) return false;
    const bool is_last = node.op == (side == 'V' ? GGML_OP_RESHAPE : GGML_OP_ROPE);
    return is_last && node.type == GGML_TYPE_F32 && ggml_is_contiguous(&node) &&
           node.ne[1] == (side == 'Q' ? num_query_heads_ : num_kv_heads_);
  }

  int num_layers_;
  int num_query_heads_;
  int num_kv_heads_;
  Use use_;
  Tensors waiting_;
  int num_seen_ = 0;
};
