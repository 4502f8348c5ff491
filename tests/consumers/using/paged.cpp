// 300 tokens in pages of 64: attention of three query heads.
#include "paged.hpp"

#include "check.hpp"

int main() {
  using polarquant::kTileTokens;
  constexpr std::size_t d = 64, kNumTokens = 300, kPage = 2 * kTileTokens, kHeads = 3;
  const polarquant::KVCodec<float> codec = make_codec(d);
  const std::vector<float> keys = gaussian(kNumTokens * d, 1), values = gaussian(kNumTokens * d, 2);
  const std::vector<float> queries = gaussian(kHeads * d, 3);
  const std::size_t value_offset = (2 * codec.keys().tile_bytes() + 63) / 64 * 64;
  Memory scratch(std::max({codec.keys().scratch_bytes(), codec.values().scratch_bytes(),
                           polarquant::attend_tiles_scratch_bytes(codec)}));
  std::vector<Memory> memory;
  std::vector<const std::byte*> pages;
  for (std::size_t token = 0; token < kNumTokens; ++token) {
    const std::size_t slot = token % kPage, tile = slot / kTileTokens;
    if (slot == 0) memory.emplace_back(value_offset + 2 * codec.values().tile_bytes());
    std::byte* const page = memory.back().data();
    if (slot == 0) pages.push_back(page);
    const polarquant::EncodeResult results[] = {
        codec.keys().encode_tile({&keys[token * d], 1, d}, slot % kTileTokens,
                                 page + tile * codec.keys().tile_bytes(), scratch.data()),
        codec.values().encode_tile({&values[token * d], 1, d}, slot % kTileTokens,
                                   page + value_offset + tile * codec.values().tile_bytes(),
                                   scratch.data())};
    if (results[0].num_encoded + results[1].num_encoded != 2) return 1;
  }
  std::vector<float> output(kHeads * d);
  attend_pages(codec, pages, value_offset, kPage, kNumTokens, queries.data(), kHeads, output.data(),
               scratch.data());
  double largest = 0.0;
  for (std::size_t head = 0; head < kHeads; ++head) {
    largest = std::fmax(largest, attention_error(&queries[head * d], decoded(codec.keys(), keys),
                                                 decoded(codec.values(), values), d,
                                                 &output[head * d], [](double x) { return x; }));
  }
  return largest < 1e-2 ? 0 : 1;  // 16-bit arithmetic, the default: about 1e-3.
}
