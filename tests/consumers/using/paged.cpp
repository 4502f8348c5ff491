// 300 tokens in pages of 64: attention of three query heads.
#include "paged.hpp"

#include "check.hpp"

int main() {
  constexpr std::size_t d = 64, kNumTokens = 300, kPage = 2 * Codec::tile_tokens(), kHeads = 3;
  const polarquant::KVCodec<float> codec = make_codec(d);
  const std::vector<float> keys = gaussian(kNumTokens * d, 1), values = gaussian(kNumTokens * d, 2);
  const std::vector<float> queries = gaussian(kHeads * d, 3);
  const std::size_t value_offset = 2 * codec.keys().tile_bytes();
  Memory scratch(std::max(codec.keys().scratch_bytes(), codec.values().scratch_bytes()));
  std::vector<Memory> memory;
  std::vector<const std::byte*> pages;
  for (std::size_t token = 0; token < kNumTokens; ++token) {
    const std::size_t slot = token % kPage, tile = slot / Codec::tile_tokens();
    if (slot == 0) memory.emplace_back(value_offset + 2 * codec.values().tile_bytes());
    std::byte* const page = memory.back().bytes();
    if (slot == 0) pages.push_back(page);
    codec.keys().encode_tile({&keys[token * d], 1, d}, slot % Codec::tile_tokens(),
                           page + tile * codec.keys().tile_bytes(), scratch.bytes());
    codec.values().encode_tile({&values[token * d], 1, d}, slot % Codec::tile_tokens(),
                             page + value_offset + tile * codec.values().tile_bytes(),
                             scratch.bytes());
  }
  Memory tables(kHeads * codec.keys().prepared_size() * sizeof(float));
  Memory weights(kHeads * kPage * sizeof(float));
  Memory sums(kHeads * codec.values().tile_sum_size() * sizeof(float));
  const PagedWork work = {{tables.floats(), kHeads, codec.keys().prepared_size()},
                          {weights.floats(), kHeads, kPage},
                          {sums.floats(), kHeads, codec.values().tile_sum_size()},
                          scratch.bytes()};
  std::vector<float> output(kHeads * d);
  attend_pages(codec, pages, value_offset, kNumTokens, {queries.data(), kHeads, d}, work,
               {output.data(), kHeads, d});
  double largest = 0.0;
  for (std::size_t head = 0; head < kHeads; ++head) {
    largest = std::fmax(largest, attention_error(&queries[head * d], decoded(codec.keys, keys),
                                                 decoded(codec.values, values), d,
                                                 &output[head * d], [](double x) { return x; }));
  }
  return largest < 1e-2 ? 0 : 1;  // 16-bit arithmetic, the default: about 1e-3.
}
