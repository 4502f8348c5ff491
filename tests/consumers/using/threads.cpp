// Steps shared by two threads: what one thread gives, and a failure where there is no room.
#include "threads.hpp"

#include "check.hpp"

int main() {
  polarquant::KVCacheConfig config;
  config.num_kv_heads = 3;
  config.num_query_heads = 6;
  config.key_format = polarquant::PolarFormat::full_depth(64, 4.25);
  config.value_format = polarquant::PolarFormat::paper(64);
  polarquant::KVCache<float> cache(config), other(config);
  constexpr std::size_t kNumTokens = 300;
  std::vector<polarquant::AlignedBuffer> scratch;
  for (int i = 0; i < 2; ++i) scratch.emplace_back(cache.scratch_bytes());
  const std::vector<float> keys = gaussian(kNumTokens * 3 * 64, 1);
  const std::vector<float> queries = gaussian(6 * 64, 2);
  std::vector<float> output(6 * 64);
  if (step(cache, keys.data(), keys.data(), queries.data(), output.data(), scratch)) return 1;
  cache.reserve(kNumTokens);
  bool are_equal = true;
  for (std::size_t token = 0; token < kNumTokens; ++token) {
    const float* const row = &keys[token * 3 * 64];
    if (!step(cache, row, row, queries.data(), output.data(), scratch)) return 1;
    const Eigen::Map<const polarquant::RowMatrix<float>> matrix(row, 1, 3 * 64);
    other.append(matrix, matrix);
    const polarquant::RowMatrix<float> expected =
        other.attend(Eigen::Map<const polarquant::RowMatrix<float>>(queries.data(), 1, 6 * 64));
    are_equal &= std::equal(output.begin(), output.end(), expected.data());
  }
  return are_equal ? 0 : 1;
}
