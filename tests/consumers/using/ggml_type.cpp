// Rows one by one: what vec_dot and vec_mad give is arithmetic on what to_float gives.
#include "ggml_type.hpp"

#include "check.hpp"

int main() {
  constexpr std::size_t kWidth = 64, kNumRows = 50;
  const polarquant::KVCodec<float> both = make_codec(kWidth);
  const PolarType type{both.keys()};
  const std::vector<float> rows = gaussian(kNumRows * kWidth, 1), query = gaussian(kWidth, 2);
  std::vector<std::byte> tensor(kNumRows * type.row_size());
  polarquant::AlignedBuffer scratch(both.keys().scratch_bytes()), table(type.query_size());
  type.query_from_float(query.data(), table.data(), scratch.data());
  std::vector<float> sum(kWidth), output(kWidth), x(kWidth);
  std::vector<double> expected(kWidth);
  double largest = 0.0;
  for (std::size_t row = 0; row < kNumRows; ++row) {
    std::byte* const place = tensor.data() + row * type.row_size();
    if (!type.from_float(&rows[row * kWidth], place, scratch.data())) return 1;
    type.to_float(place, x.data(), scratch.data());
    const float score = type.vec_dot(place, table.data(), scratch.data());
    type.vec_mad(score, place, sum.data(), scratch.data());
    double dot = 0.0;
    for (std::size_t i = 0; i < kWidth; ++i) {
      dot += static_cast<double>(query[i]) * static_cast<double>(x[i]);
      expected[i] += static_cast<double>(score) * static_cast<double>(x[i]);
    }
    largest = std::fmax(largest, std::fabs(dot - static_cast<double>(score)));
  }
  type.finish(sum.data(), output.data());
  for (std::size_t i = 0; i < kWidth; ++i) {
    largest = std::fmax(largest, std::fabs(expected[i] - static_cast<double>(output[i])));
  }
  x[3] = std::nanf("");
  return largest < 1e-3 && !type.from_float(x.data(), tensor.data(), scratch.data()) ? 0 : 1;
}
