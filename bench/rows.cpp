#include "rows.hpp"

#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>
#include <stdexcept>
#include <utility>

#include "baselines/exact_attention.hpp"
#include "baselines/units.hpp"
#include "contest.hpp"
#include "heads.hpp"

namespace polarquant_bench {
namespace {

using polarquant::KVCodec;
using polarquant::PolarFormat;
using polarquant_baselines::exact_attention;
using polarquant_baselines::exact_scores;
using polarquant_baselines::Float16Kernels;
using polarquant_baselines::Float16Work;
using polarquant_baselines::HeadShape;
using polarquant_baselines::UnitIsa;

PolarFormat format_of(const Row& row) {
  if (row.format == "paper") return PolarFormat::paper(row.head_dim);
  const std::string prefix = "full_depth_";
  if (row.format.rfind(prefix, 0) != 0) throw std::invalid_argument("no format " + row.format);
  return PolarFormat::full_depth(row.head_dim, std::stod(row.format.substr(prefix.size())));
}

KVCacheConfig config_of(const Row& row) {
  KVCacheConfig config;
  config.num_query_heads = row.num_queries;
  config.key_format = format_of(row);
  config.value_format = config.key_format;
  config.arithmetic =
      row.fixed_point ? polarquant::Arithmetic::kFixedPoint : polarquant::Arithmetic::kExact;
  return config;
}

// What both sides work on.
struct Inputs {
  explicit Inputs(const Row& row)
      : keys(gaussian(row.num_tokens, row.head_dim, 1)),
        values(gaussian(row.num_tokens, row.head_dim, 2)),
        queries(gaussian(1, row.num_queries * row.head_dim, 3)),
        weights(gaussian(row.num_queries, row.num_tokens, 4)) {
    const float largest = weights.maxCoeff();
    weights = (weights.array() - largest).exp();
  }

  RowMatrix<float> keys;
  RowMatrix<float> values;
  RowMatrix<float> queries;  // of one token: the heads side by side
  RowMatrix<float> weights;  // [num_queries, num_tokens]
};

// The inputs of the last row that was asked for, or rows like it.
const Inputs& inputs_of(const Row& row) {
  static std::map<std::string, std::unique_ptr<Inputs>> store;
  const std::string key = std::to_string(row.head_dim) + "/" + std::to_string(row.num_tokens) +
                          "/" + std::to_string(row.num_queries);
  std::unique_ptr<Inputs>& inputs = store[key];
  if (inputs == nullptr) {
    store.clear();
    return *(store[key] = std::make_unique<Inputs>(row));
  }
  return *inputs;
}

template <typename Exact>
double relative_error(const RowMatrix<float>& result, const Exact& exact) {
  return (result.cast<double>() - exact).norm() / exact.norm();
}

// Everything a row needs: the sides and what ours is worth.
struct Work {
  std::vector<Side> sides;  // ours first
  std::string kernel;
  double bits = 0.0;
  double error = 0.0;          // of our result, to double on the inputs
  double error_decoded = 0.0;  // to double on what the codes decode to
};

struct NamedKernels {
  std::string name;
  Float16Kernels kernels;
};

std::vector<NamedKernels> float16_kernels(const std::string& isa) {
  const UnitIsa unit_isa = isa == "avx512" ? UnitIsa::kAvx512
                           : isa == "avx2" ? UnitIsa::kAvx2
                           : isa == "neon" ? UnitIsa::kNeon
                                           : UnitIsa::kScalar;
  std::vector<NamedKernels> result;
#if defined(POLARQUANT_BENCH_GCC)
  result.push_back({"fp16 by g++", {}});
  polarquant_float16_by_gcc(unit_isa, &result.back().kernels);
#endif
#if defined(POLARQUANT_BENCH_CLANG)
  result.push_back({"fp16 by clang++", {}});
  polarquant_float16_by_clang(unit_isa, &result.back().kernels);
#endif
  return result;
}

double bytes_of_rows(const Row& row, double num_sides) {
  return num_sides * row.num_tokens * row.head_dim * 2.0;
}

Work scores(const Row& row) {
  const Inputs& inputs = inputs_of(row);
  auto heads = std::make_shared<CompressedHeads>(config_of(row), inputs.keys, inputs.values, 1);
  auto scratch = std::make_shared<Scratch>(heads->front().scratch_bytes());
  auto result = std::make_shared<RowMatrix<float>>(row.num_queries, row.num_tokens);
  Work work;
  work.kernel = heads->front().kernel_name();
  work.bits = heads->front().config().key_format.bits_per_coordinate();
  work.sides.push_back(
      {"ours", static_cast<double>(row.num_tokens),
       static_cast<double>(heads->front().codec()->keys.bytes_per_vector()) * row.num_tokens,
       [heads, scratch, result, &inputs] {
         heads->next().attention_scores(rows_of(inputs.queries), rows_of(*result), scratch->data());
       }});
  auto rows = std::make_shared<Float16Heads>(inputs.keys, 1);
  auto scores16 = std::make_shared<RowMatrix<float>>(row.num_queries, row.num_tokens);
  for (const NamedKernels& baseline : float16_kernels(row.isa)) {
    work.sides.push_back({baseline.name, static_cast<double>(row.num_tokens), bytes_of_rows(row, 1),
                          [rows, scores16, &inputs, row, kernels = baseline.kernels] {
                            const auto head = rows->head(0);
                            kernels.score(head.data, rows->num_tokens(), head.stride,
                                          inputs.queries.data(),
                                          static_cast<std::size_t>(row.num_queries),
                                          scores16->data(), rows->num_tokens());
                          }});
  }
  for (const Side& side : work.sides) side.run();
  const HeadShape shape = {1, row.num_queries, row.head_dim, row.head_dim};
  const RowMatrix<double> exact = exact_scores(shape, inputs.queries, inputs.keys);
  work.error = relative_error(*result, exact);
  work.error_decoded =
      relative_error(*result, exact_scores(shape, inputs.queries, heads->front().decode_keys(0)));
  if (relative_error(*scores16, exact) > 1e-3) throw std::logic_error("the baseline is wrong");
  return work;
}

Work attention(const Row& row) {
  const Inputs& inputs = inputs_of(row);
  auto heads = std::make_shared<CompressedHeads>(config_of(row), inputs.keys, inputs.values, 1);
  auto scratch = std::make_shared<Scratch>(heads->front().scratch_bytes());
  auto result = std::make_shared<RowMatrix<float>>(1, row.num_queries * row.head_dim);
  Work work;
  work.kernel = heads->front().kernel_name();
  work.bits = heads->front().config().key_format.bits_per_coordinate();
  work.sides.push_back({"ours", static_cast<double>(row.num_tokens),
                        static_cast<double>(heads->front().bytes_per_token()) * row.num_tokens,
                        [heads, scratch, result, &inputs] {
                          heads->next().attend(rows_of(inputs.queries), rows_of(*result),
                                               scratch->data());
                        }});
  auto keys = std::make_shared<Float16Heads>(inputs.keys, 1);
  auto values = std::make_shared<Float16Heads>(inputs.values, 1);
  auto result16 = std::make_shared<RowMatrix<float>>(1, row.num_queries * row.head_dim);
  const std::size_t stride = keys->head(0).stride;
  auto work16 = std::make_shared<Float16Work>(stride, stride);
  for (int h = 0; h < row.num_queries; ++h) {
    std::copy_n(inputs.queries.data() + h * row.head_dim, row.head_dim,
                work16->queries.data() + static_cast<std::size_t>(h) * stride);
  }
  for (const NamedKernels& baseline : float16_kernels(row.isa)) {
    work.sides.push_back(
        {baseline.name, static_cast<double>(row.num_tokens), bytes_of_rows(row, 2),
         [keys, values, work16, result16, row, stride, kernels = baseline.kernels] {
           attend_group(kernels, keys->head(0), values->head(0), keys->num_tokens(),
                        static_cast<std::size_t>(row.num_queries),
                        1.0f / std::sqrt(static_cast<float>(row.head_dim)), *work16);
           for (std::size_t h = 0; h < static_cast<std::size_t>(row.num_queries); ++h) {
             const float inverse = 1.0f / work16->totals[h];
             for (std::size_t j = 0; j < static_cast<std::size_t>(row.head_dim); ++j) {
               result16->data()[h * static_cast<std::size_t>(row.head_dim) + j] =
                   inverse * work16->sums[h * stride + j];
             }
           }
         }});
  }
  for (const Side& side : work.sides) side.run();
  const HeadShape shape = {1, row.num_queries, row.head_dim, row.head_dim};
  const RowMatrix<double> exact =
      exact_attention(shape, exact_scores(shape, inputs.queries, inputs.keys), inputs.values);
  work.error = relative_error(*result, exact);
  work.error_decoded = relative_error(
      *result,
      exact_attention(shape, exact_scores(shape, inputs.queries, heads->front().decode_keys(0)),
                      heads->front().decode_values(0)));
  if (relative_error(*result16, exact) > 1e-3) throw std::logic_error("the baseline is wrong");
  return work;
}

// Weighted sums on tiles, as the cache computes them.
class TileSums {
 public:
  TileSums(const Row& row, const RowMatrix<float>& values)
      : codec_(config_of(row)),
        num_tokens_(static_cast<std::size_t>(row.num_tokens)),
        tile_bytes_(polarquant::tile_bytes(codec_.values.bytes_per_vector())),
        tiles_((num_tokens_ + polarquant::kTileTokens - 1) / polarquant::kTileTokens * tile_bytes_),
        scratch_(AttentionScratch(codec_, nullptr).num_bytes) {
    const AttentionScratch work(codec_, scratch_.data());
    for (std::size_t t = 0; t < num_tokens_; t += polarquant::kTileTokens) {
      codec_.values.encode_tile(
          {values.data() + t * codec_.values.head_dim(),
           std::min(polarquant::kTileTokens, num_tokens_ - t), codec_.values.head_dim()},
          0, tile(t), work.codec_scratch);
    }
  }

  const polarquant::PolarCodec<float>& codec() const { return codec_.values; }

  // output: [weights.rows(), head_dim].
  void run(const RowMatrix<float>& weights, RowMatrix<float>& output) {
    const auto& codec = codec_.values;
    const AttentionScratch work(codec_, scratch_.data());
    const std::size_t count = static_cast<std::size_t>(weights.rows());
    const std::size_t sums_size = codec.head_dim() * polarquant::kTileTokens;
    std::fill_n(work.sums, count * sums_size, 0.0f);
    constexpr std::size_t kPage = 512;
    for (std::size_t t = 0; t < num_tokens_; t += kPage) {
      const std::size_t num_tiles =
          (std::min(kPage, num_tokens_ - t) + polarquant::kTileTokens - 1) /
          polarquant::kTileTokens;
      codec.kernels().accumulate_tiles(codec.tables(), tile(t), num_tiles,
                                       {weights.data() + t, count, num_tokens_}, work.tile,
                                       {work.sums, count, sums_size});
    }
    for (std::size_t i = 0; i < count; ++i) {
      codec.kernels().reduce_lanes(work.sums + i * sums_size, codec.head_dim(), 1.0f, work.total);
      codec.finish(work.total, output.data() + i * codec.head_dim());
    }
  }

  RowMatrix<float> decode() {
    const AttentionScratch work(codec_, scratch_.data());
    RowMatrix<float> rows(static_cast<Eigen::Index>(num_tokens_),
                          static_cast<Eigen::Index>(codec().head_dim()));
    for (std::size_t t = 0; t < num_tokens_; t += polarquant::kTileTokens) {
      codec().decode_tile(tile(t),
                          {rows.data() + t * codec().head_dim(),
                           std::min(polarquant::kTileTokens, num_tokens_ - t), codec().head_dim()},
                          work.codec_scratch);
    }
    return rows;
  }

 private:
  using AttentionScratch = polarquant::detail::AttentionScratch<float>;

  std::byte* tile(std::size_t token) {
    return tiles_.data() + token / polarquant::kTileTokens * tile_bytes_;
  }

  KVCodec<float> codec_;
  std::size_t num_tokens_;
  std::size_t tile_bytes_;
  HugeArray<std::byte> tiles_;
  Scratch scratch_;
};

Work values(const Row& row) {
  const Inputs& inputs = inputs_of(row);
  auto sums = std::make_shared<TileSums>(row, inputs.values);
  auto result = std::make_shared<RowMatrix<float>>(row.num_queries, row.head_dim);
  Work work;
  work.kernel = sums->codec().kernel_name();
  work.bits = sums->codec().format().bits_per_coordinate();
  work.sides.push_back({"ours", static_cast<double>(row.num_tokens),
                        static_cast<double>(sums->codec().bytes_per_vector()) * row.num_tokens,
                        [sums, result, &inputs] { sums->run(inputs.weights, *result); }});
  auto rows = std::make_shared<Float16Heads>(inputs.values, 1);
  auto result16 = std::make_shared<RowMatrix<float>>(
      row.num_queries, static_cast<Eigen::Index>(rows->head(0).stride));
  for (const NamedKernels& baseline : float16_kernels(row.isa)) {
    work.sides.push_back({baseline.name, static_cast<double>(row.num_tokens), bytes_of_rows(row, 1),
                          [rows, result16, &inputs, row, kernels = baseline.kernels] {
                            const auto head = rows->head(0);
                            result16->setZero();
                            kernels.accumulate(head.data, rows->num_tokens(), head.stride,
                                               inputs.weights.data(), rows->num_tokens(),
                                               static_cast<std::size_t>(row.num_queries),
                                               result16->data());
                          }});
  }
  for (const Side& side : work.sides) side.run();
  const RowMatrix<double> exact = inputs.weights.cast<double>() * inputs.values.cast<double>();
  work.error = relative_error(*result, exact);
  work.error_decoded = relative_error(
      *result, (inputs.weights.cast<double>() * sums->decode().cast<double>()).eval());
  if (relative_error(result16->leftCols(row.head_dim), exact) > 1e-3) {
    throw std::logic_error("the baseline is wrong");
  }
  return work;
}

Work work_of(const Row& row) {
  ::setenv("POLARQUANT_ISA", row.isa.c_str(), 1);
  if (row.operation == "scores") return scores(row);
  if (row.operation == "values") return values(row);
  if (row.operation == "attention") return attention(row);
  throw std::invalid_argument("no operation " + row.operation);
}

}  // namespace

void run_row(benchmark::State& state, const Row& row) {
  const Work work = work_of(row);
  Contest contest(work.sides, kTurnSeconds);
  for (auto _ : state) state.SetIterationTime(contest.play_round());
  std::size_t best = 1;
  for (std::size_t i = 1; i < contest.num_sides(); ++i) {
    if (contest.median_seconds(i) < contest.median_seconds(best)) best = i;
  }
  const Side& ours = contest.side(0);
  const double seconds = contest.median_seconds(0);
  state.counters["ns_per_token"] = seconds * 1e9;
  state.counters["code_bytes_per_second"] = ours.num_bytes / ours.num_tokens / seconds;
  state.counters["bits"] = work.bits;
  state.counters["error"] = work.error;
  state.counters["error_decoded"] = work.error_decoded;
  state.counters["fp16_ns_per_token"] = contest.median_seconds(best) * 1e9;
  state.counters["ratio"] = contest.median_ratio(0, best);
  state.SetLabel(work.kernel + "; " + contest.side(best).name);
}

}  // namespace polarquant_bench
