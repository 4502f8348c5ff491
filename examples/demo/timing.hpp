// The time of attention, beside that of fp16 in the same seconds.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

#include "sample.hpp"

namespace polarquant_demo {

// Nanoseconds per cached token and KV head of one `attend` call with one query token: all query
// heads of the KV head's group are served.
struct AttendTime {
  double fixed_point = 0.0;  // by default: Arithmetic::kFixedPoint
  double exact = 0.0;        // the same codes with Arithmetic::kExact
  double float16 = 0.0;
};

// Appends the layer's tokens again and again until the cache holds num_tokens.
template <typename Cache>
void fill_for_timing(Cache& cache, const Layer& layer, std::size_t num_tokens) {
  cache.reserve(num_tokens);
  while (cache.num_tokens() < num_tokens) {
    const Eigen::Index count = std::min<Eigen::Index>(
        layer.keys.rows(), static_cast<Eigen::Index>(num_tokens - cache.num_tokens()));
    cache.append(layer.keys.topRows(count), layer.values.topRows(count));
  }
}

template <typename Cache>
double seconds_of_attend(const Cache& cache, const RowMatrix<float>& query) {
  const auto begin = std::chrono::steady_clock::now();
  const RowMatrix<float> output = cache.attend(query);
  const auto end = std::chrono::steady_clock::now();
  return std::chrono::duration<double>(end - begin).count();
}

inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Medians of kNumRepetitions calls on each of three caches of equal length, turn by turn, so that
// what else the machine does meets all.
template <typename Cache, typename Float16Cache>
AttendTime time_attend(const Cache& exact, const Cache& fixed_point, const Float16Cache& float16,
                       const HeadShape& shape, const Layer& layer) {
  constexpr int kNumRepetitions = 25;
  const RowMatrix<float> query = layer.queries.bottomRows(1);
  std::vector<double> seconds[3];
  // The first turn touches memory for the first time, and does not count.
  for (int repetition = 0; repetition <= kNumRepetitions; ++repetition) {
    const double turn[3] = {seconds_of_attend(exact, query), seconds_of_attend(fixed_point, query),
                            seconds_of_attend(float16, query)};
    for (int i = 0; repetition > 0 && i < 3; ++i) seconds[i].push_back(turn[i]);
  }
  const double scale =
      1e9 / (static_cast<double>(exact.num_tokens()) * static_cast<double>(shape.num_kv_heads));
  return {scale * median(seconds[1]), scale * median(seconds[0]), scale * median(seconds[2])};
}

}  // namespace polarquant_demo
