// Attention over a KVCache as operations of a ggml graph.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "ggml.h"
#include "polarquant/polarquant.hpp"

// Working memory of each thread, which all layers use in turn.
class ThreadScratch {
 public:
  ThreadScratch(int num_threads, std::size_t num_bytes) {
    for (int i = 0; i < num_threads; ++i) pieces_.emplace_back(num_bytes);
  }

  int num_threads() const { return static_cast<int>(pieces_.size()); }
  std::byte* of(int thread) { return pieces_[static_cast<std::size_t>(thread)].data(); }

 private:
  std::vector<polarquant::AlignedBuffer> pieces_;
};

// One layer's cache, and what its operations in the graph share. The operations run on ggml's own
// threads; nothing is allocated in them.
class CacheAttention {
 public:
  // scratch: of cache.scratch_bytes() at least, which is the same for all caches of a codec.
  CacheAttention(const polarquant::KVCacheConfig& config,
                 std::shared_ptr<const polarquant::KVCodec<float>> codec,
                 std::shared_ptr<ThreadScratch> scratch)
      : cache_(config, std::move(codec)),
        scratch_(std::move(scratch)),
        parts_(static_cast<std::size_t>(scratch_->num_threads()), {1, config}) {}

  polarquant::KVCache<float>& cache() { return cache_; }
  const polarquant::KVCache<float>& cache() const { return cache_; }

  // To be called before a graph of so many new tokens runs.
  void reserve(std::size_t num_tokens) { cache_.reserve(cache_.num_tokens() + num_tokens); }

  // What append made of the last graph's keys and values.
  const polarquant::AppendResult& append_result() const { return append_result_; }

  // Adds to the graph: append the keys and values of its tokens, [head_dim, num_kv_heads,
  // num_tokens] as ggml counts, then attend with their queries, [head_dim, num_query_heads,
  // num_tokens]. Returns [num_query_heads * head_dim, num_tokens].
  ggml_tensor* add_to_graph(ggml_context* graph, ggml_tensor* queries, ggml_tensor* keys,
                            ggml_tensor* values) {
    const int num_threads = scratch_->num_threads();
    ggml_tensor* appended[] = {keys, values};
    ggml_tensor* const append =
        ggml_custom_4d(graph, GGML_TYPE_F32, 1, 1, 1, 1, appended, 2, run_append, 1, this);
    // Arguments are what an operation waits for.
    ggml_tensor* attended[] = {queries, append};
    const std::int64_t width = queries->ne[0] * queries->ne[1];
    ggml_tensor* const output =
        ggml_custom_4d(graph, GGML_TYPE_F32, width, queries->ne[2], 1, 1, attended, 2,
                       queries->ne[2] == 1 ? run_parts : run_rows, num_threads, this);
    if (queries->ne[2] != 1) return output;
    ggml_tensor* merged[] = {output};
    return ggml_custom_4d(graph, GGML_TYPE_F32, width, 1, 1, 1, merged, 1, run_merge, 1, this);
  }

 private:
  // Queries that a thread takes at a time: enough to share the unpacking of a tile.
  static constexpr std::size_t kBlockRows = 64;

  static polarquant::Rows<const float> rows_of(const ggml_tensor& tensor) {
    const std::size_t width = static_cast<std::size_t>(tensor.ne[0] * tensor.ne[1]);
    return {static_cast<const float*>(tensor.data), static_cast<std::size_t>(tensor.ne[2]), width};
  }

  static void run_append(ggml_tensor* node, int thread, int, void* self) {
    if (thread != 0) return;
    CacheAttention& layer = *static_cast<CacheAttention*>(self);
    layer.append_result_ =
        layer.cache_.append(rows_of(*node->src[0]), rows_of(*node->src[1]), layer.scratch_->of(0));
    layer.next_block_ = 0;
  }

  // Many queries: threads take blocks of them.
  static void run_rows(ggml_tensor* node, int thread, int, void* self) {
    CacheAttention& layer = *static_cast<CacheAttention*>(self);
    const polarquant::Rows<const float> queries = rows_of(*node->src[0]);
    const std::size_t width = static_cast<std::size_t>(node->ne[0]);
    const std::size_t num_earlier = layer.cache_.num_tokens() - queries.count;
    while (true) {
      const std::size_t first = kBlockRows * layer.next_block_.fetch_add(1);
      if (first >= queries.count) return;
      const std::size_t count = std::min(kBlockRows, queries.count - first);
      polarquant::AttentionOptions<float> options;
      options.first_position = static_cast<std::ptrdiff_t>(num_earlier + first);
      layer.cache_.attend(queries.block(first, count),
                          {static_cast<float*>(node->data) + first * width, count, width},
                          layer.scratch_->of(thread), options);
    }
  }

  // One query: threads share the tokens.
  static void run_parts(ggml_tensor* node, int thread, int num_threads, void* self) {
    CacheAttention& layer = *static_cast<CacheAttention*>(self);
    const std::size_t index = static_cast<std::size_t>(thread);
    const std::size_t num_tokens = layer.cache_.num_tokens();
    // Whole tiles each.
    const std::size_t num_tiles = num_tokens / polarquant::kTileTokens + 1;
    const auto begin_of = [&](std::size_t i) {
      return num_tiles * i / static_cast<std::size_t>(num_threads) * polarquant::kTileTokens;
    };
    layer.cache_.attend_partial(
        rows_of(*node->src[0]), layer.parts_[index].rows(), layer.scratch_->of(thread), {},
        polarquant::Part::tokens(begin_of(index), begin_of(index + 1) - begin_of(index)));
  }

  static void run_merge(ggml_tensor* node, int thread, int, void* self) {
    if (thread != 0) return;
    CacheAttention& layer = *static_cast<CacheAttention*>(self);
    const polarquant::PartialRows<float> whole = layer.parts_[0].rows();
    for (std::size_t i = 1; i < layer.parts_.size(); ++i) {
      polarquant::merge(whole, layer.parts_[i].rows());
    }
    const std::size_t width = static_cast<std::size_t>(node->ne[0]);
    polarquant::finish(whole, polarquant::Rows<float>{static_cast<float*>(node->data), 1, width});
  }

  polarquant::KVCache<float> cache_;
  polarquant::AppendResult append_result_;
  std::shared_ptr<ThreadScratch> scratch_;
  std::vector<polarquant::PartialAttention<float>> parts_;  // of each thread, for one query
  std::atomic<std::size_t> next_block_{0};
};
