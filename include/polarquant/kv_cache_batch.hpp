// One call over the caches of many sequences.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "polarquant/attention/matrix.hpp"
#include "polarquant/attention/options.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/kv_cache.hpp"
#include "polarquant/storage/config.hpp"

POLARQUANT_BEGIN_NAMESPACE

// The part of one sequence in a batch: its cache, its queries and where its output goes; as for
// KVCache::attend on Rows.
template <typename T>
struct BatchItem {
  using Accumulator = typename KVCache<T>::Accumulator;

  const KVCache<T>* cache = nullptr;
  Rows<const T> queries;
  Rows<Accumulator> output;  // output.count = queries.count
  AttentionOptions<Accumulator> options;
};

// Attention of every item over its own cache, each of its own length and number of queries: bit for
// bit what the items give alone. scratch: batch_scratch_bytes(). Threads share a batch by calling
// this with parts of it, each with its own scratch.
template <typename T>
void attend_batch(const BatchItem<T>* items, std::size_t num_items, std::byte* scratch) noexcept {
  for (std::size_t i = 0; i < num_items; ++i) {
    items[i].cache->attend(items[i].queries, items[i].output, scratch, items[i].options);
  }
}

// What the largest of the items needs.
template <typename T>
std::size_t batch_scratch_bytes(const BatchItem<T>* items, std::size_t num_items) {
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < num_items; ++i) {
    bytes = (std::max)(bytes, items[i].cache->scratch_bytes());
  }
  return bytes;
}

// The same on matrices. queries: those of caches[0], then those of caches[1], .., as many of each:
// [caches.size() * queries per cache, num_query_heads * key head_dim]. Returns the outputs in this
// order. Throws std::invalid_argument for a null cache, caches of different shapes, a number of
// queries that is no multiple of theirs, or what attend throws.
template <typename T>
RowMatrix<typename KVCache<T>::Accumulator> attend_batch(
    const std::vector<const KVCache<T>*>& caches, const RowMatrixRef<T>& queries,
    const AttentionOptions<typename KVCache<T>::Accumulator>& options = {}) {
  using Accumulator = typename KVCache<T>::Accumulator;
  const Eigen::Index num_caches = static_cast<Eigen::Index>(caches.size());
  if (num_caches == 0 ? queries.rows() != 0 : queries.rows() % num_caches != 0) {
    detail::throw_invalid_argument({"a batch of ", queries.rows(),
                                    " queries, must be a multiple of its ", num_caches, " caches"});
  }
  if (num_caches == 0) return {};
  for (std::size_t i = 0; i < caches.size(); ++i) {
    if (caches[i] == nullptr) {
      detail::throw_invalid_argument({"cache ", i, " of the batch is null"});
    }
    for (const auto& [what, columns] :
         {std::pair<const char*, std::size_t (KVCacheConfig::*)() const>{
              "num_query_heads * key head_dim", &KVCacheConfig::query_columns},
          {"num_query_heads * value head_dim", &KVCacheConfig::output_columns}}) {
      const std::size_t expected = (caches[0]->config().*columns)();
      const std::size_t found = (caches[i]->config().*columns)();
      if (found == expected) continue;
      detail::throw_invalid_argument(
          {"cache ", i, " of the batch has ", what, " = ", found, ", the first has ", expected});
    }
  }
  const Eigen::Index count = queries.rows() / num_caches;
  RowMatrix<Accumulator> output(queries.rows(),
                                static_cast<Eigen::Index>(caches[0]->config().output_columns()));
  for (Eigen::Index i = 0; i < num_caches; ++i) {
    output.middleRows(i * count, count) =
        caches[static_cast<std::size_t>(i)]->attend(queries.middleRows(i * count, count), options);
  }
  return output;
}

POLARQUANT_END_NAMESPACE
