// Two layers, 300 tokens one by one: the outputs are those of a cache that got them at once.
#include "llama2c.hpp"

#include "check.hpp"

int main() {
  polarquant::KVCacheConfig config;
  config.num_kv_heads = 2;
  config.num_query_heads = 4;
  config.key_format = polarquant::PolarFormat::full_depth(64, 4.25);
  config.value_format = polarquant::PolarFormat::full_depth(64, 3.25);
  config.rotation = polarquant::RotationKind::kHadamard;
  std::vector<KVCache<float>> caches = make_caches(2, config);
  if (caches.size() != 2 || caches[0].codec() != caches[1].codec()) return 1;
  const std::vector<float> k = gaussian(300 * 128, 1), v = gaussian(300 * 128, 2);
  const std::vector<float> q = gaussian(300 * 256, 3);
  std::vector<float> xb(256);
  for (std::size_t token = 0; token < 300; ++token) {
    attention(caches[0], &k[token * 128], &v[token * 128], &q[token * 256], xb.data());
  }
  caches[1].append(Eigen::Map<const RowMatrix<float>>(k.data(), 300, 128),
                   Eigen::Map<const RowMatrix<float>>(v.data(), 300, 128));
  const RowMatrix<float> expected =
      caches[1].attend(Eigen::Map<const RowMatrix<float>>(&q[299 * 256], 1, 256));
  return Eigen::Map<const RowMatrix<float>>(xb.data(), 1, 256) == expected ? 0 : 1;
}
