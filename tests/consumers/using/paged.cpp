// 300 tokens in pages of 64: attention of three query heads, plain and under a soft-cap.
#include "paged.hpp"

#include "check.hpp"

int main() {
  constexpr std::size_t d = 64, kNumTokens = 300, kHeads = 3;
  constexpr std::size_t kTile = polarquant::kTileTokens, kPage = 2 * kTile;
  const polarquant::KVCodec<float> codec = make_codec(d);
  const std::vector<float> keys = gaussian(kNumTokens * d, 1), values = gaussian(kNumTokens * d, 2);
  const std::vector<float> queries = gaussian(kHeads * d, 3);
  const std::size_t value_offset = 2 * codec.keys().tile_bytes();
  polarquant::AlignedBuffer scratch(polarquant::attend_tiles_scratch_bytes(codec));
  std::vector<polarquant::AlignedBuffer> memory;
  std::vector<const std::byte*> pages;
  bool all_encoded = true;
  for (std::size_t token = 0; token < kNumTokens; ++token) {
    const std::size_t slot = token % kPage, tile = slot / kTile;
    if (slot == 0) {
      memory.emplace_back(value_offset + 2 * codec.values().tile_bytes());
      pages.push_back(memory.back().data());
    }
    std::byte* const page = memory.back().data();
    all_encoded &= codec.keys()
                           .encode_tile({&keys[token * d], 1, d}, slot % kTile,
                                        page + tile * codec.keys().tile_bytes(), scratch.data())
                           .num_encoded == 1 &&
                   codec.values()
                           .encode_tile({&values[token * d], 1, d}, slot % kTile,
                                        page + value_offset + tile * codec.values().tile_bytes(),
                                        scratch.data())
                           .num_encoded == 1;
  }
  double largest = 0.0;
  for (const float cap : {0.0f, 2.0f}) {
    polarquant::AttentionOptions<float> options;
    options.soft_cap = cap;
    std::vector<float> output(kHeads * d);
    attend_pages(codec, pages, kPage, value_offset, kNumTokens, {queries.data(), 1, kHeads * d},
                 kHeads, {output.data(), 1, kHeads * d}, scratch.data(), options);
    for (std::size_t head = 0; head < kHeads; ++head) {
      const auto logit = [cap](double x) { return cap == 0.0f ? x : cap * std::tanh(x / cap); };
      largest = std::fmax(
          largest, attention_error(&queries[head * d], decoded(codec.keys(), keys),
                                   decoded(codec.values(), values), d, &output[head * d], logit));
    }
  }
  return all_encoded && largest < 1e-2 ? 0 : 1;  // 16-bit arithmetic, the default: about 1e-3.
}
