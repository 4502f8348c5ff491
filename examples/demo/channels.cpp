#include "channels.hpp"

#include <cstddef>
#include <string>
#include <vector>

#include "polarquant/kv_cache.hpp"
#include "text.hpp"

namespace polarquant_demo {
namespace {

using Eigen::Index;
using polarquant::KVCache;

KVCache<float> filled(const Sample& sample, const Layer& layer, bool is_calibrated,
                      std::uint64_t seed) {
  polarquant::KVCacheConfig config;
  config.num_kv_heads = sample.shape.num_kv_heads;
  config.num_query_heads = sample.shape.num_query_heads;
  config.key_format = polarquant::PolarFormat::full_depth(sample.shape.key_dim, 3.25);
  config.value_format = polarquant::PolarFormat::full_depth(sample.shape.value_dim, 3.25);
  config.seed = seed;
  if (is_calibrated) config.calibration = sample.calibration->layer(layer.index());
  KVCache<float> cache(config);
  cache.append(layer.keys, layer.values);
  cache.encode_recent();
  return cache;
}

}  // namespace

void write_channels(const std::string& path, const Sample& sample, std::uint64_t seed) {
  if (!sample.calibration) return;
  const Layer& layer = sample.layers[sample.layers.size() / 2];
  const KVCache<float> plain = filled(sample, layer, false, seed);
  const KVCache<float> calibrated = filled(sample, layer, true, seed);
  const Index d = sample.shape.key_dim;
  const Index group = sample.shape.num_query_heads / sample.shape.num_kv_heads;
  const Index first = static_cast<Index>(plain.config().num_sink_tokens);
  const Index count = layer.keys.rows() - first;
  // Less the centres, behind the sinks.
  RowMatrix<float> rest = layer.keys.bottomRows(count).leftCols(d);
  for (Index i = 0; i < count; ++i) {
    const std::vector<float> center = plain.key_center(0, static_cast<std::size_t>(first + i));
    rest.row(i) -= Eigen::Map<const Eigen::RowVectorXf>(center.data(), d);
  }
  const auto error_of = [&](const KVCache<float>& cache) {
    return RowMatrix<float>(
        (cache.decode_keys(0) - layer.keys.leftCols(d)).bottomRows(count).cwiseAbs2());
  };
  const RowMatrix<float> error = error_of(plain), calibrated_error = error_of(calibrated);
  std::vector<std::vector<std::string>> cells = {
      {"layer", "channel", "query_energy", "key_energy", "scale", "error", "calibrated_error"}};
  for (Index i = 0; i < d; ++i) {
    double query_energy = 0.0;
    for (Index head = 0; head < group; ++head) {
      query_energy += static_cast<double>(layer.queries.col(head * d + i).cwiseAbs2().mean()) /
                      static_cast<double>(group);
    }
    const auto number = [](double value) { return formatted("%.6g", value); };
    cells.push_back({layer.name, std::to_string(i), number(query_energy),
                     number(static_cast<double>(rest.col(i).cwiseAbs2().mean())),
                     number(static_cast<double>(
                         calibrated.config().calibration.key_scales[static_cast<std::size_t>(i)])),
                     number(static_cast<double>(error.col(i).mean())),
                     number(static_cast<double>(calibrated_error.col(i).mean()))});
  }
  write_csv(path, cells);
}

}  // namespace polarquant_demo
