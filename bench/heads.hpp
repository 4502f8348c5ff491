// KV heads to attend to: one, again and again (hot), or so many in rotation that none is still in a
// cache when its turn comes (memory).
#pragma once

#include <cstddef>
#include <memory>
#include <polarquant/polarquant.hpp>
#include <string>
#include <vector>

#include "baselines/float16_attention.hpp"
#include "memory.hpp"
#include "rows.hpp"

namespace polarquant_bench {

using polarquant::KVCache;
using polarquant::KVCacheConfig;

// So many that they hold memory_bytes, one at least.
std::size_t num_heads_for(std::size_t head_bytes, std::size_t memory_bytes);

// Throws std::invalid_argument if there is no such format.
polarquant::PolarFormat format_of(const Row& row);

// One KV head.
KVCacheConfig config_of(const Row& row);

// What all sides work on.
struct Inputs {
  RowMatrix<float> keys;     // [num_tokens, head_dim]
  RowMatrix<float> values;   // [num_tokens, head_dim]
  RowMatrix<float> queries;  // [num_queries, head_dim]
};
std::shared_ptr<const Inputs> inputs_of(const Row& row);

// Compressed caches of one KV head each. Their codes are equal, each in memory of its own.
class CompressedHeads {
 public:
  CompressedHeads(const KVCacheConfig& config, const RowMatrix<float>& keys,
                  const RowMatrix<float>& values, std::size_t memory_bytes);

  const KVCache<float>& front() const { return heads_.front(); }
  const KVCache<float>& next() { return heads_[turn_.next()]; }
  std::byte* scratch() { return scratch_.data(); }

 private:
  std::vector<KVCache<float>> heads_;
  Turn turn_;
  Scratch scratch_;
};

// Those of a row. From memory, the last ones are kept for the next row like it.
std::shared_ptr<CompressedHeads> compressed_heads(const Row& row, const Inputs& inputs);

// fp16 keys and values.
struct Float16Heads {
  Float16Heads(const Inputs& inputs, std::size_t memory_bytes);

  polarquant_baselines::Float16Span keys_of(std::size_t head) {
    return {keys.head<std::uint16_t>(head), stride};
  }
  polarquant_baselines::Float16Span values_of(std::size_t head) {
    return {values.head<std::uint16_t>(head), stride};
  }

  std::size_t num_tokens;
  std::size_t stride;
  CopiedHeads keys;
  CopiedHeads values;
  Turn turn;
};
std::shared_ptr<Float16Heads> float16_heads(const Row& row, const Inputs& inputs);

// The loops for an instruction set as each compiler built them.
struct NamedKernels {
  std::string name;
  polarquant_baselines::Float16Kernels kernels;
};
std::vector<NamedKernels> float16_kernels(const std::string& isa);

}  // namespace polarquant_bench
