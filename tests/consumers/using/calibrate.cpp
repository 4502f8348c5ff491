// Two layers of a model whose queries look at few channels: calibrated, saved and loaded, the
// scores of a cache are closer to the exact ones than without.
#include "calibrate.hpp"

#include <cstdio>

#include "check.hpp"

namespace {

RowMatrix<float> rows(Eigen::Index count, Eigen::Index columns, std::uint64_t seed) {
  const std::vector<float> values = gaussian(static_cast<std::size_t>(count * columns), seed);
  return Eigen::Map<const RowMatrix<float>>(values.data(), count, columns);
}

}  // namespace

int main() {
  polarquant::Calibrator calibrator({2, 1, 2, 64});
  const RowMatrix<float> keys = rows(600, 64, 1);
  RowMatrix<float> queries = rows(600, 128, 2);
  for (Eigen::Index i = 0; i < 128; ++i) queries.col(i) *= i % 16 == 3 ? 6.0f : 0.3f;
  for (const int layer : {0, 1}) show(calibrator, layer, queries, keys);
  const std::string path = "using_calibrate.calibration";
  finish(calibrator, path);
  const polarquant::Calibration calibration = polarquant::load_calibration(path, {2, 1, 64});
  std::remove(path.c_str());

  polarquant::KVCacheConfig config;
  config.num_query_heads = 2;
  config.key_format = polarquant::PolarFormat::full_depth(64, 3.25);
  config.value_format = polarquant::PolarFormat::full_depth(64, 3.25);
  const auto error_of = [&](const polarquant::KVCacheConfig& of_layer) {
    polarquant::KVCache<float> cache(of_layer);
    cache.append(keys, keys);
    const RowMatrix<float> scores = cache.attention_scores(queries.topRows(1));
    const RowMatrix<float> exact = queries.row(0).leftCols(64) * keys.transpose();
    return (scores.row(0) - exact).norm();
  };
  const float plain = error_of(config);
  const float calibrated = error_of(config_of_layer(config, calibration, 1));
  return calibrated < 0.7f * plain && calibrated > 0.0f ? 0 : 1;
}
