// A ring of 100 positions after 250: attention to the last 100, under a soft-cap.
#include "ring.hpp"

#include "check.hpp"

int main() {
  constexpr std::size_t d = 64, kNumTokens = 250, kSize = 100;
  const polarquant::KVCodec<float> codec = make_codec(d);
  const std::vector<float> keys = gaussian(kNumTokens * d, 1), values = gaussian(kNumTokens * d, 2);
  const std::vector<float> query = gaussian(d, 3);
  polarquant::AlignedBuffer scratch(
      std::max(codec.keys().scratch_bytes(), codec.values().scratch_bytes()));
  polarquant::AlignedBuffer table(codec.keys().prepared_size() * sizeof(float));
  std::vector<float> weights(kSize), sum(d), output(d);
  Ring ring(codec.keys(), codec.values(), kSize);
  double largest = 0.0;
  for (std::size_t pos = 0; pos < kNumTokens; ++pos) {
    if (!write(codec, ring, pos, &keys[pos * d], &values[pos * d], scratch.data())) return 1;
    if (pos % 83 != 0 && pos + 1 != kNumTokens) continue;
    attend_ring(codec, ring, pos, query.data(), 2.0f, table.as<float>(), weights.data(), sum.data(),
                output.data(), scratch.data());
    const std::size_t first = pos + 1 - std::min(pos + 1, kSize);
    const auto last = [&](const std::vector<float>& rows) {
      return std::vector<float>(rows.begin() + static_cast<std::ptrdiff_t>(first * d),
                                rows.begin() + static_cast<std::ptrdiff_t>((pos + 1) * d));
    };
    largest =
        std::fmax(largest, attention_error(query.data(), decoded(codec.keys(), last(keys)),
                                           decoded(codec.values(), last(values)), d, output.data(),
                                           [](double x) { return 2.0 * std::tanh(x / 2.0); }));
  }
  return largest < 1e-2 ? 0 : 1;  // 16-bit arithmetic, the default: about 1e-3.
}
