// Many threads on one cache, const calls only, and copies of it that grow in threads of their own.
// Built with ThreadSanitizer, which fails the program at the first race.
#include <cstddef>
#include <polarquant/polarquant.hpp>
#include <thread>
#include <vector>

#include "attend_once.hpp"

namespace {

using polarquant::KVCache;
using polarquant::RowMatrix;

constexpr std::size_t kNumThreads = 4;

// What every thread does with the shared cache: attention, decoding, saving, loading.
RowMatrix<float> read(const KVCache<float>& cache, const RowMatrix<float>& queries) {
  std::vector<std::byte> bytes(polarquant::saved_bytes(cache));
  polarquant::save(cache, bytes.data(), bytes.size());
  KVCache<float> loaded(cache.config(), cache.codec());
  polarquant::load(bytes.data(), bytes.size(), loaded);
  return cache.attend(queries) + loaded.attend(queries) +
         cache.attention_scores(queries).sum() * RowMatrix<float>::Ones(2, 4 * 64) +
         cache.decode_keys(1).sum() * RowMatrix<float>::Ones(2, 4 * 64);
}

}  // namespace

int main() {
  polarquant::KVCacheConfig config;
  config.num_kv_heads = 2;
  config.num_query_heads = 4;
  config.key_format = polarquant::PolarFormat::paper(64);
  config.value_format = polarquant::PolarFormat::full_depth(64, 3.25);
  config.rotation = polarquant::RotationKind::kHadamard;
  KVCache<float> cache(config);
  RowMatrix<float> keys(700, 2 * 64), values(700, 2 * 64), queries(2, 4 * 64);
  fill(keys, 1);
  fill(values, 2);
  fill(queries, 3);
  cache.append(keys, values);

  std::vector<RowMatrix<float>> outputs(kNumThreads);
  std::vector<RowMatrix<float>> grown(kNumThreads);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kNumThreads; ++t) {
    threads.emplace_back([&, t] {
      outputs[t] = read(cache, queries);
      // Copies share pages, and each thread writes into the last one.
      KVCache<float> copy = cache.copy();
      for (int step = 0; step < 3; ++step) {
        const KVCache<float> fork = copy.copy();
        copy.append(keys.topRows(40), values.topRows(40));
        copy.drop_front(40);
      }
      grown[t] = copy.attend(queries);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t t = 1; t < kNumThreads; ++t) {
    if (outputs[t] != outputs[0] || grown[t] != grown[0]) return 1;
  }
  return outputs[0] == read(cache, queries) ? 0 : 1;
}
