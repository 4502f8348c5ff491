// One row of the benchmarks: its name and how it runs.
#pragma once

#include <benchmark/benchmark.h>

#include <string>

namespace polarquant_bench {

inline constexpr int kNumRounds = 15;
inline constexpr double kTurnSeconds = 4e-3;

struct Row {
  std::string operation;         // scores, values, attention
  std::string format = "paper";  // or full_depth_<bits>
  std::string isa;
  bool fixed_point = false;
  int head_dim = 128;
  int num_tokens = 32768;
  int num_queries = 1;  // query heads that share the KV head
  bool from_memory = false;

  std::string name() const {
    return operation + "/" + format + "/" + isa + (fixed_point ? "-16bit" : "") + "/" +
           std::to_string(head_dim) + "/" + std::to_string(num_tokens) + "/" +
           std::to_string(num_queries) + (from_memory ? "/memory" : "/hot");
  }
};

// A turn of ours and one of each baseline per iteration; reports ours, and the baselines as
// counters.
void run_row(benchmark::State& state, const Row& row);

}  // namespace polarquant_bench
