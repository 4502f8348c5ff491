// Attention of one query token over a hot cache: what each format and arithmetic costs, with fast
// kernels and without. per_token is the time per cached token and KV head.

#include <benchmark/benchmark.h>

#include <polarquant/polarquant.hpp>
#include <string>

namespace {

using polarquant::Arithmetic;
using polarquant::KVCache;
using polarquant::KVCacheConfig;
using polarquant::PolarFormat;
using polarquant::RowMatrix;

constexpr int kNumTokens = 8192;

void attend(benchmark::State& state, const PolarFormat& format, Arithmetic arithmetic,
            int num_query_heads) {
  KVCacheConfig config;
  config.num_query_heads = num_query_heads;
  config.key_format = format;
  config.value_format = format;
  config.arithmetic = arithmetic;
  config.num_sink_tokens = config.num_recent_tokens = 0;
  config.centering = polarquant::Centering::kNone;
  KVCache<float> cache(config);
  cache.append(RowMatrix<float>::Random(kNumTokens, format.head_dim),
               RowMatrix<float>::Random(kNumTokens, format.head_dim));
  const RowMatrix<float> query = RowMatrix<float>::Random(1, num_query_heads * format.head_dim);
  for (auto _ : state) benchmark::DoNotOptimize(cache.attend(query).data());
  state.SetLabel(cache.kernel_name());
  state.counters["bits"] = format.bits_per_coordinate();
  state.counters["per_token"] = benchmark::Counter(
      kNumTokens, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

void add(const std::string& name, const PolarFormat& format) {
  for (const Arithmetic arithmetic : {Arithmetic::kExact, Arithmetic::kFixedPoint}) {
    for (const int num_query_heads : {1, 4}) {
      const std::string full_name = "attend/" + name +
                                    (arithmetic == Arithmetic::kExact ? "/exact" : "/16-bit") +
                                    "/head_dim:" + std::to_string(format.head_dim) +
                                    "/query_heads:" + std::to_string(num_query_heads);
      benchmark::RegisterBenchmark(full_name.c_str(), attend, format, arithmetic, num_query_heads);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  add("paper", PolarFormat::paper(128));
  add("full_depth_3.25", PolarFormat::full_depth(128, 3.25));
  add("full_depth_4.25", PolarFormat::full_depth(128, 4.25));
  add("full_depth_4.25", PolarFormat::full_depth(100, 4.25));  // no multiple of 16: plain loops
  PolarFormat half_radii = PolarFormat::paper(128);
  half_radii.radius_type = polarquant::FloatType::kFloat16;  // plain loops too
  add("paper_float16_radii", half_radii);
  add("uncompressed", PolarFormat::uncompressed(128));
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
