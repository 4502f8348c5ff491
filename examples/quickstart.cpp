// The library in one page: fill a cache, attend to it, see what it cost.

#include <cstdio>
#include <polarquant/polarquant.hpp>

using polarquant::RowMatrix;

int main() {
  polarquant::KVCacheConfig config;
  config.num_kv_heads = 8;
  config.num_query_heads = 32;  // four query heads share a KV head
  config.key_format = polarquant::PolarFormat::paper(128);
  config.value_format = polarquant::PolarFormat::full_depth(128, 3.25);
  config.rotation = polarquant::RotationKind::kHaar;
  config.seed = 42;
  polarquant::KVCache<float> cache(config);  // one layer of one sequence

  // A row is a token, its heads side by side. An engine's own memory comes in as an Eigen::Map.
  const RowMatrix<float> keys = RowMatrix<float>::Random(1000, 8 * 128);
  const RowMatrix<float> values = RowMatrix<float>::Random(1000, 8 * 128);
  cache.append(keys, values);

  const RowMatrix<float> query = RowMatrix<float>::Random(1, 32 * 128);
  const RowMatrix<float> output = cache.attend(query);            // [1, 32 * 128]
  const RowMatrix<float> scores = cache.attention_scores(query);  // [32, 1000]: q . k

  const auto relative_mse = [](const RowMatrix<float>& exact, const RowMatrix<float>& decoded) {
    return (exact - decoded).squaredNorm() / exact.squaredNorm();
  };
  std::printf("keys:   %.3f bits per coordinate, relative MSE %.4f, expected %.4f\n",
              config.key_format.bits_per_coordinate(),
              relative_mse(keys.leftCols(128), cache.decode_keys(0)),
              config.key_format.expected_relative_mse());
  std::printf("values: %.3f bits per coordinate, relative MSE %.4f, expected %.4f\n",
              config.value_format.bits_per_coordinate(),
              relative_mse(values.leftCols(128), cache.decode_values(0)),
              config.value_format.expected_relative_mse());
  const RowMatrix<float> exact = query.leftCols(128) * keys.leftCols(128).transpose();
  std::printf("scores: relative MSE %.4f; output: %td numbers\n",
              relative_mse(exact, scores.topRows(1)), output.size());
  std::printf("cache:  %zu bytes for %zu tokens, %.2f times less than fp16\n", cache.memory_bytes(),
              cache.num_tokens(),
              2.0 * static_cast<double>(keys.size() + values.size()) /
                  static_cast<double>(cache.memory_bytes()));

  cache.truncate(997);  // forgets the last three tokens
  return cache.num_tokens() == 997 ? 0 : 1;
}
