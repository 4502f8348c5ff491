// The paged cache against KVCache: two sequences with a common prefix, the same outputs; and the
// time that attention takes in each.
#include "paged_cache.hpp"

#include <chrono>
#include <cstdio>
#include <polarquant/polarquant.hpp>

using polarquant::RowMatrix;

namespace {

// ||output - expected|| / ||expected|| for one query of all heads.
float difference(PagedCache& pages, const Sequence& sequence,
                 const polarquant::KVCache<float>& cache, const RowMatrix<float>& query) {
  const RowMatrix<float> expected = cache.attend(query);
  RowMatrix<float> output(1, expected.cols());
  pages.attend(sequence, query.data(), output.data());
  return (output - expected).norm() / expected.norm();
}

template <typename Call>
double best_seconds(Call&& call) {
  double best = 1e9;
  for (int repetition = 0; repetition < 20; ++repetition) {
    const auto begin = std::chrono::steady_clock::now();
    call();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::min(best, seconds.count());
  }
  return best;
}

}  // namespace

int main() {
  polarquant::KVCacheConfig config;
  config.num_kv_heads = 2;
  config.num_query_heads = 8;
  config.key_format = polarquant::PolarFormat::full_depth(128, 4.25);
  config.value_format = polarquant::PolarFormat::paper(128);
  config.rotation = polarquant::RotationKind::kHadamard;
  config.arithmetic = polarquant::Arithmetic::kExact;  // The two agree to rounding.
  // The pages know no exact tokens and no centring; nor does the cache, then.
  config.num_sink_tokens = config.num_recent_tokens = 0;
  config.centering = polarquant::Centering::kNone;
  constexpr Eigen::Index kNumTokens = 4000;
  PagedCache pages(config, 2 * kNumTokens / kPageTokens + 2);
  polarquant::KVCache<float> cache(config);
  const RowMatrix<float> keys = RowMatrix<float>::Random(kNumTokens, 2 * 128);
  const RowMatrix<float> values = RowMatrix<float>::Random(kNumTokens, 2 * 128);
  const RowMatrix<float> query = 4.0f * RowMatrix<float>::Random(1, 8 * 128);

  Sequence sequence;
  bool appended = true;
  const auto append = [&](Sequence& target, Eigen::Index token) {
    appended &= pages.append(target, keys.row(token).data(), values.row(token).data());
  };
  for (Eigen::Index token = 0; token < 700; ++token) append(sequence, token);
  cache.append(keys.topRows(700), values.topRows(700));
  float largest = difference(pages, sequence, cache, query);

  // A second sequence goes on from the first 700 tokens; the first goes its own way.
  Sequence fork = pages.fork(sequence);
  polarquant::KVCache<float> copy = cache.copy();
  for (Eigen::Index token = 700; token < 750; ++token) append(fork, token);
  copy.append(keys.middleRows(700, 50), values.middleRows(700, 50));
  for (Eigen::Index token = 750; token < kNumTokens; ++token) append(sequence, token);
  cache.append(keys.bottomRows(kNumTokens - 750), values.bottomRows(kNumTokens - 750));
  largest = std::max(
      {largest, difference(pages, fork, copy, query), difference(pages, sequence, cache, query)});
  std::printf("largest relative difference to KVCache: %.1e\n", static_cast<double>(largest));

  RowMatrix<float> output(1, 8 * 128);
  const double paged = best_seconds([&] { pages.attend(sequence, query.data(), output.data()); });
  const double whole = best_seconds([&] { output = cache.attend(query); });
  const double num_visits = 2.0 * static_cast<double>(cache.num_tokens());
  std::printf("four query heads of a KV head, per token: %.1f ns paged, %.1f ns in KVCache\n",
              paged / num_visits * 1e9, whole / num_visits * 1e9);
  return appended && largest < 1e-5f ? 0 : 1;
}
