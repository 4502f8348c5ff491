// What more cores and longer caches do to attention.
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "heads.hpp"
#include "rows.hpp"

namespace polarquant_bench {

Work threads_work(const Row& row) {
  constexpr int kNumThreads = 2;
  KVCacheConfig config = config_of(row);
  config.num_kv_heads = kNumThreads;
  config.num_query_heads = kNumThreads * row.num_queries;
  const auto cache = std::make_shared<KVCache<float>>(config);
  cache->append(gaussian(row.num_tokens, kNumThreads * row.head_dim, 1),
                gaussian(row.num_tokens, kNumThreads * row.head_dim, 2));
  const auto queries =
      std::make_shared<RowMatrix<float>>(gaussian(1, config.num_query_heads * row.head_dim, 3));
  const auto output = std::make_shared<RowMatrix<float>>(1, config.num_query_heads * row.head_dim);
  const auto attend = [cache, queries, output](const polarquant::Part& part, std::byte* scratch) {
    // So often that starting a thread does not count.
    for (int repeat = 0; repeat < 16; ++repeat) {
      cache->attend(rows_of(std::as_const(*queries)), rows_of(*output), scratch, {}, part);
    }
  };
  const double num_tokens = 16.0 * kNumThreads * row.num_tokens;
  const double num_bytes = 16.0 * static_cast<double>(cache->bytes_per_token()) * row.num_tokens;
  const auto scratch =
      std::make_shared<std::vector<Scratch>>(kNumThreads, Scratch(cache->scratch_bytes()));
  Work work;
  work.kernel = cache->kernel_name();
  work.bits = config.key_format.bits_per_coordinate();
  work.sides.push_back({"two threads", num_tokens, num_bytes, [attend, scratch] {
                          std::thread other(attend, polarquant::Part::heads(1, 1),
                                            (*scratch)[1].data());
                          attend(polarquant::Part::heads(0, 1), (*scratch)[0].data());
                          other.join();
                        }});
  work.sides.push_back({"one thread", num_tokens, num_bytes,
                        [attend, scratch] { attend({}, (*scratch)[0].data()); }});
  for (Side& side : work.sides) side.has_threads = true;
  return work;
}

Work growth_work(const Row& row) {
  Work work;
  for (const int num_tokens : {row.num_tokens, 16384}) {
    Row same = row;
    same.num_tokens = num_tokens;
    const auto inputs = inputs_of(same);
    const auto heads = compressed_heads(same, *inputs);
    const auto output = std::make_shared<RowMatrix<float>>(1, row.num_queries * row.head_dim);
    work.kernel = heads->front().kernel_name();
    work.bits = heads->front().config().key_format.bits_per_coordinate();
    const std::size_t width = static_cast<std::size_t>(row.num_queries * row.head_dim);
    work.sides.push_back(
        {num_tokens == row.num_tokens ? "ours" : std::to_string(num_tokens) + " tokens",
         static_cast<double>(num_tokens),
         static_cast<double>(heads->front().bytes_per_token()) * num_tokens, [=] {
           heads->next().attend({inputs->queries.data(), 1, width}, rows_of(*output),
                                heads->scratch());
         }});
  }
  return work;
}

}  // namespace polarquant_bench
