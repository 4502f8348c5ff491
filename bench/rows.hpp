// One row of the benchmarks: its name, and the sides that take turns at its work.
#pragma once

#include <benchmark/benchmark.h>

#include <cstddef>
#include <string>
#include <vector>

#include "contest.hpp"

namespace polarquant_bench {

inline constexpr int kNumRounds = 15;
inline constexpr double kTurnSeconds = 4e-3;

struct Row {
  std::string operation;
  std::string format = "paper";  // full_depth_<bits>; or a peer: eigen_fp32, q8_0-like, q4_0-like
  std::string isa = "avx512";
  bool fixed_point = true;
  int head_dim = 128;
  int num_tokens = 32768;
  int num_queries = 1;  // query heads that share the KV head; for prefill, query tokens
  // Of keys (and as much of values) on each side, head after head in rotation; 0: hot, one head.
  std::size_t memory_bytes = 0;

  bool from_memory() const { return memory_bytes > 0; }

  // A row's queries are query heads of one token, but for prefill, and from memory, tokens: caches
  // of one query head, which take long to make, so serve every group; the work is the same.
  int num_query_heads() const { return from_memory() || operation == "prefill" ? 1 : num_queries; }

  bool is_peer() const { return format == "eigen_fp32" || format.back() == 'e'; }

  // operation/format/isa/head_dim/num_tokens/num_queries/regime
  std::string name() const {
    return operation + "/" + format + "/" + isa + (fixed_point && !is_peer() ? "-16bit" : "") +
           "/" + std::to_string(head_dim) + "/" + std::to_string(num_tokens) + "/" +
           std::to_string(num_queries) + (from_memory() ? "/memory" : "/hot");
  }
};

// The sides of a row, the one that it is named after first, and what that one is worth.
struct Work {
  std::vector<Side> sides;
  std::string kernel;
  double bits = 0.0;
  double error = 0.0;          // relative, to double on the inputs
  double error_decoded = 0.0;  // relative, to double on what the codes decode to
};

// scores: q . k. values: the weighted sum. attention: both, with softmax. prefill: attention of
// many query tokens, against Eigen.
Work scores_work(const Row& row);
Work values_work(const Row& row);
Work attention_work(const Row& row);
Work prefill_work(const Row& row);

// dot, dot_rows: rows in the caller's memory, a call for each or one call for all. encode_haar,
// encode_hadamard: batches of 64. decode: by tiles. append: one token at a time, against a batch.
Work dot_work(const Row& row);
Work encode_work(const Row& row);
Work decode_work(const Row& row);
Work append_work(const Row& row);

// threads: attention of two KV heads by two threads, against one. growth: attention per token of a
// long cache, against one of 16,384 tokens.
Work threads_work(const Row& row);
Work growth_work(const Row& row);

// A turn of every side per iteration. Reports the first; the best of the others, which are one
// baseline built in several ways; and from memory what a plain sum reads.
void run_row(benchmark::State& state, const Row& row);

}  // namespace polarquant_bench
