// A Llama-family forward pass whose only KV cache is ours: ggml multiplies the matrices, KVCache
// holds keys and values and does all attention, of prompts and of single tokens.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cache_attention.hpp"
#include "command_line.hpp"
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "gguf_weights.hpp"
#include "polarquant/polarquant.hpp"

class LlamaEngine {
 public:
  // config: formats, rotation and segments of the caches of all layers; the heads are the model's.
  // calibration: its layers' scales, if there is one. Throws if they do not fit the model.
  LlamaEngine(LlamaWeights weights, polarquant::KVCacheConfig config, int num_threads,
              const polarquant::Calibration* calibration = nullptr)
      : weights_(std::move(weights)), num_threads_(num_threads) {
    config.num_kv_heads = weights_.num_kv_heads;
    config.num_query_heads = weights_.num_query_heads;
    for (const polarquant::CodecFormat* const side : {&config.key_format, &config.value_format}) {
      if (side->head_dim() != weights_.head_dim) {
        fail("a format is " + std::to_string(side->head_dim()) + " wide, the model's heads " +
             std::to_string(weights_.head_dim) + ".");
      }
    }
    const auto codec = std::make_shared<const polarquant::KVCodec<float>>(config);
    const auto scratch = std::make_shared<ThreadScratch>(
        num_threads, polarquant::KVCache<float>(config, codec).scratch_bytes());
    for (int layer = 0; layer < weights_.num_layers; ++layer) {
      if (calibration != nullptr) config.calibration = calibration->layer(layer);
      layers_.push_back(std::make_unique<CacheAttention>(config, codec, scratch));
    }
    ggml_threadpool_params params = ggml_threadpool_params_default(num_threads);
    threads_.reset(ggml_threadpool_new(&params));
  }

  int vocab_size() const { return weights_.vocab_size(); }
  std::size_t num_tokens() const { return layers_.front()->cache().num_tokens(); }
  const polarquant::KVCache<float>& cache(int layer) const {
    return layers_[static_cast<std::size_t>(layer)]->cache();
  }

  // What the caches of all layers have allocated.
  std::size_t cache_bytes() const {
    std::size_t bytes = 0;
    for (const auto& layer : layers_) bytes += layer->cache().memory_bytes();
    return bytes;
  }

  // What the same tokens take as fp16.
  std::size_t float16_cache_bytes() const {
    return num_tokens() * layers_.size() * 2 * sizeof(std::uint16_t) *
           static_cast<std::size_t>(weights_.num_kv_heads * weights_.head_dim);
  }

  // Allocates the caches for so many tokens in all.
  void reserve(std::size_t num_tokens) {
    for (const auto& layer : layers_) layer->cache().reserve(num_tokens);
  }

  // Evaluates tokens behind those in the caches. Returns the logits behind the last one,
  // [vocab_size], valid until the next call. Throws if a key or value is not finite; the tokens of
  // its chunk are then forgotten, those of chunks before it stay.
  const float* evaluate(const std::vector<std::int32_t>& tokens) {
    if (tokens.empty()) fail("an evaluation of no tokens.");
    const float* logits = nullptr;
    for (std::size_t first = 0; first < tokens.size(); first += kChunkTokens) {
      const std::size_t count = std::min(kChunkTokens, tokens.size() - first);
      logits = evaluate_chunk(tokens.data() + first, count);
    }
    return logits;
  }

 private:
  // Tokens in one graph.
  static constexpr std::size_t kChunkTokens = 512;
  static constexpr std::size_t kNodesPerLayer = 32;

  struct Free {
    void operator()(ggml_context* context) const { ggml_free(context); }
    void operator()(ggml_gallocr* allocator) const { ggml_gallocr_free(allocator); }
    void operator()(ggml_threadpool* threads) const { ggml_threadpool_free(threads); }
  };

  // A graph for a number of tokens; kept, since a token of text is like the one before.
  struct Graph {
    std::size_t num_tokens = 0;
    std::unique_ptr<ggml_context, Free> context;
    std::unique_ptr<ggml_gallocr, Free> allocator;
    ggml_cgraph* graph = nullptr;
    ggml_tensor* tokens = nullptr;
    ggml_tensor* positions = nullptr;
    ggml_tensor* logits = nullptr;
    ggml_cplan plan = {};
    std::vector<std::uint8_t> work;
  };

  const float* evaluate_chunk(const std::int32_t* tokens, std::size_t count) {
    Graph& graph = count == 1 ? single_ : prompt_;
    if (graph.num_tokens != count) build(graph, count);
    for (const auto& layer : layers_) layer->reserve(count);
    const std::size_t num_earlier = num_tokens();
    std::vector<std::int32_t> positions(count);
    for (std::size_t i = 0; i < count; ++i) {
      positions[i] = static_cast<std::int32_t>(num_earlier + i);
    }
    std::memcpy(graph.tokens->data, tokens, count * sizeof *tokens);
    std::memcpy(graph.positions->data, positions.data(), count * sizeof *tokens);
    if (ggml_graph_compute(graph.graph, &graph.plan) != GGML_STATUS_SUCCESS) {
      fail("ggml failed to compute the model.");
    }
    for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
      if (layers_[layer]->append_result().failure == polarquant::EncodeFailure::kNone) continue;
      for (const auto& changed : layers_) {
        polarquant::KVCache<float>& cache = changed->cache();
        cache.truncate(std::min(cache.num_tokens(), num_earlier));
      }
      fail("layer " + std::to_string(layer) + " made a key or value that is not finite.");
    }
    return static_cast<const float*>(graph.logits->data);
  }

  void build(Graph& graph, std::size_t count) {
    const std::size_t num_nodes = kNodesPerLayer * (layers_.size() + 1);
    graph.num_tokens = count;
    graph.context.reset(ggml_init(
        {num_nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(num_nodes, false), nullptr,
         true}));
    ggml_context* const context = graph.context.get();
    graph.graph = ggml_new_graph_custom(context, num_nodes, false);
    const std::int64_t num_tokens = static_cast<std::int64_t>(count);
    graph.tokens = ggml_new_tensor_1d(context, GGML_TYPE_I32, num_tokens);
    graph.positions = ggml_new_tensor_1d(context, GGML_TYPE_I32, num_tokens);
    ggml_set_input(graph.tokens);
    ggml_set_input(graph.positions);

    ggml_tensor* stream = ggml_get_rows(context, weights_.embedding, graph.tokens);
    for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
      stream = add_layer(graph, layer, stream);
    }
    graph.logits =
        ggml_mul_mat(context, weights_.output, normed(context, stream, weights_.output_norm));
    ggml_set_output(graph.logits);
    ggml_build_forward_expand(graph.graph, graph.logits);

    graph.allocator.reset(ggml_gallocr_new(ggml_backend_cpu_buffer_type()));
    if (!ggml_gallocr_alloc_graph(graph.allocator.get(), graph.graph)) {
      fail("no memory for a graph of " + std::to_string(count) + " tokens.");
    }
    graph.plan = ggml_graph_plan(graph.graph, num_threads_, threads_.get());
    graph.work.resize(graph.plan.work_size);
    graph.plan.work_data = graph.work.data();
  }

  ggml_tensor* normed(ggml_context* context, ggml_tensor* stream, ggml_tensor* weight) const {
    return ggml_mul(context, ggml_rms_norm(context, stream, weights_.norm_epsilon), weight);
  }

  ggml_tensor* rotated(const Graph& graph, ggml_tensor* heads) const {
    // Adjacent pairs, as GGUF files of Llama models keep them; no scaling of any kind.
    return ggml_rope_ext(graph.context.get(), heads, graph.positions, weights_.rope_factors,
                         weights_.rope_dim, GGML_ROPE_TYPE_NORMAL, weights_.train_context,
                         weights_.rope_base, 1.0f, 0.0f, 1.0f, 32.0f, 1.0f);
  }

  ggml_tensor* add_layer(const Graph& graph, std::size_t index, ggml_tensor* stream) {
    ggml_context* const context = graph.context.get();
    const LlamaLayer& layer = weights_.layers[index];
    const std::int64_t count = static_cast<std::int64_t>(graph.num_tokens);
    const auto heads = [&](ggml_tensor* weight, ggml_tensor* input, int num_heads) {
      return ggml_reshape_3d(context, ggml_mul_mat(context, weight, input), weights_.head_dim,
                             num_heads, count);
    };
    ggml_tensor* const input = normed(context, stream, layer.attention_norm);
    ggml_tensor* const queries =
        rotated(graph, heads(layer.query, input, weights_.num_query_heads));
    ggml_tensor* const keys = rotated(graph, heads(layer.key, input, weights_.num_kv_heads));
    ggml_tensor* const values = heads(layer.value, input, weights_.num_kv_heads);
    ggml_tensor* attention = layers_[index]->add_to_graph(context, queries, keys, values);
    if (index + 1 == layers_.size()) {
      // Only the last token's logits are asked for.
      attention = last_token(context, attention);
      stream = last_token(context, stream);
    }
    stream = ggml_add(context, ggml_mul_mat(context, layer.attention_output, attention), stream);
    ggml_tensor* const hidden = normed(context, stream, layer.feed_forward_norm);
    ggml_tensor* const gated = ggml_swiglu_split(context, ggml_mul_mat(context, layer.gate, hidden),
                                                 ggml_mul_mat(context, layer.up, hidden));
    return ggml_add(context, ggml_mul_mat(context, layer.down, gated), stream);
  }

  static ggml_tensor* last_token(ggml_context* context, ggml_tensor* tensor) {
    return ggml_view_2d(context, tensor, tensor->ne[0], 1, tensor->nb[1],
                        static_cast<std::size_t>(tensor->ne[1] - 1) * tensor->nb[1]);
  }

  LlamaWeights weights_;
  int num_threads_;
  std::vector<std::unique_ptr<CacheAttention>> layers_;
  std::unique_ptr<ggml_threadpool, Free> threads_;
  Graph single_, prompt_;
};
