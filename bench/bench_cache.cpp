// What the cache costs around the kernels: exact segments, centres and transforms of keys beside a
// fully encoded cache, appending token by token beside appending at once.

#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <cstddef>
#include <memory>
#include <polarquant/polarquant.hpp>
#include <string>
#include <vector>

#include "memory.hpp"

namespace {

using polarquant::Arithmetic;
using polarquant::KVCache;
using polarquant::KVCacheConfig;
using polarquant::PolarFormat;
using polarquant::RowMatrix;

constexpr int kHeadDim = 128;

// kind: words of exact_segments, centred, and scales or matrices.
KVCacheConfig make_config(Arithmetic arithmetic, int num_query_heads, const std::string& kind) {
  const auto has = [&kind](const char* word) { return kind.find(word) != std::string::npos; };
  KVCacheConfig config;
  config.num_query_heads = num_query_heads;
  config.key_format = PolarFormat::full_depth(kHeadDim, 3.25);
  config.value_format = config.key_format;
  config.arithmetic = arithmetic;
  config.rotation = polarquant::RotationKind::kHadamard;
  config.num_sink_tokens = has("exact_segments") ? 4 : 0;
  config.num_recent_tokens = has("exact_segments") ? 128 : 0;
  config.centering = has("centred") ? polarquant::Centering::kLocal : polarquant::Centering::kNone;
  // Their numbers make no difference to the time.
  if (has("scales")) config.calibration.key_scales.assign(kHeadDim, 1.25f);
  if (has("matrices")) {
    std::vector<float> triangle;
    for (std::size_t i = 0; i < kHeadDim; ++i) {
      triangle.insert(triangle.end(), i, 0.001f);
      triangle.push_back(1.25f);
    }
    config.calibration.key_matrices =
        std::make_shared<const polarquant::KeyMatrices>(1, kHeadDim, triangle);
  }
  return config;
}

// Attention of one query token; exact: 4 sinks and 128 recent tokens.
void attend(benchmark::State& state, const KVCacheConfig& config, int num_tokens) {
  KVCache<float> cache(config);
  cache.append(RowMatrix<float>::Random(num_tokens, kHeadDim),
               RowMatrix<float>::Random(num_tokens, kHeadDim));
  const RowMatrix<float> query = RowMatrix<float>::Random(1, config.num_query_heads * kHeadDim);
  RowMatrix<float> output(1, config.num_query_heads * kHeadDim);
  polarquant::AlignedBuffer scratch(cache.scratch_bytes());
  const auto width = static_cast<std::size_t>(query.cols());
  for (auto _ : state) {
    cache.attend({query.data(), 1, width}, {output.data(), 1, width}, scratch.data());
    benchmark::DoNotOptimize(output.data());
  }
  state.SetLabel(cache.kernel_name());
  state.counters["exact_tokens"] =
      static_cast<double>(cache.num_tokens() - cache.num_encoded_tokens());
}

// Appends `step` tokens at a time; per_token is the time per token of keys and values.
void append(benchmark::State& state, const KVCacheConfig& config, std::size_t step) {
  constexpr std::size_t kNumTokens = 4096;
  const RowMatrix<float> rows = RowMatrix<float>::Random(kNumTokens, kHeadDim);
  KVCache<float> cache(config);
  cache.reserve(kNumTokens);
  polarquant::AlignedBuffer scratch(cache.scratch_bytes());
  for (auto _ : state) {
    cache.clear();
    for (std::size_t token = 0; token < kNumTokens; token += step) {
      const float* const first = rows.data() + token * kHeadDim;
      polarquant_bench::require_encoded(
          cache.append({first, step, kHeadDim}, {first, step, kHeadDim}, scratch.data()));
    }
  }
  state.counters["per_token"] = benchmark::Counter(
      kNumTokens, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

}  // namespace

int main(int argc, char** argv) {
  for (const Arithmetic arithmetic : {Arithmetic::kExact, Arithmetic::kFixedPoint}) {
    for (const int num_query_heads : {1, 4}) {
      for (const int num_tokens : {2048, 32768}) {
        for (const char* const what :
             {"encoded", "exact_segments", "centred", "centred_scales", "centred_matrices"}) {
          const std::string kind = what;
          benchmark::RegisterBenchmark(
              ("attend/" + kind + (arithmetic == Arithmetic::kExact ? "/float" : "/16-bit") +
               "/query_heads:" + std::to_string(num_query_heads) +
               "/tokens:" + std::to_string(num_tokens))
                  .c_str(),
              attend, make_config(arithmetic, num_query_heads, kind), num_tokens);
        }
      }
    }
  }
  // Centres beside exact segments: both keep recent tokens exact and encode whole tiles.
  for (const char* const what :
       {"encoded", "exact_segments", "exact_segments_centred", "exact_segments_centred_scales",
        "exact_segments_centred_matrices"}) {
    const std::string kind = what;
    for (const std::size_t step : {std::size_t{1}, std::size_t{512}}) {
      benchmark::RegisterBenchmark(("append/" + kind + "/step:" + std::to_string(step)).c_str(),
                                   append, make_config(Arithmetic::kExact, 1, kind), step);
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
