// A tensor type as ggml wants one: a size per row, from_float when a row is written to the cache,
// vec_dot for each row that attention visits, to_float to read a row back. The codec is the only
// state; ggml's own functions take none, so an engine keeps it in a global of its own.

#include <cmath>
#include <cstdio>
#include <memory>
#include <polarquant/polarquant.hpp>
#include <vector>

using polarquant::PolarFormat;
using polarquant::RotationKind;
using Codec = polarquant::PolarCodec<float>;

constexpr std::size_t kWidth = 128;  // of a row: one head of one token

// Memory aligned to 64 bytes; a thread of the engine has a buffer of its own.
struct alignas(64) Line {
  std::byte bytes[64];
};
using Buffer = std::vector<Line>;
Buffer make_buffer(std::size_t num_bytes) { return Buffer((num_bytes + 63) / 64); }

const Codec& codec() {
  static const Codec instance(PolarFormat::full_depth(kWidth, 4.25),
                              std::make_shared<const polarquant::Rotation>(
                                  RotationKind::kHadamard, static_cast<int>(kWidth), 42));
  return instance;
}

std::size_t row_size() { return codec().bytes_per_vector(); }

// ggml: from_float_t, for the rows of K and V. False where a number is not finite.
bool from_float(const float* x, void* y, std::byte* scratch) {
  return codec()
             .encode({x, 1, kWidth}, {static_cast<std::byte*>(y), 1, row_size()}, scratch)
             .failure == polarquant::EncodeFailure::kNone;
}

// ggml: to_float_t.
void to_float(const void* x, float* y, std::byte* scratch) {
  codec().decode({static_cast<const std::byte*>(x), 1, row_size()}, {y, 1, kWidth}, scratch);
}

// ggml: from_float of the vec_dot_type, once per query row: the query becomes a table.
std::size_t query_size() { return codec().prepared_size() * sizeof(float); }
void query_from_float(const float* q, void* y, std::byte* scratch) {
  codec().prepare_query(q, static_cast<float*>(y), scratch);
}

// ggml: vec_dot_t, once per row that is visited.
float vec_dot(const void* row, const void* query, std::byte* scratch) {
  return codec().dot(static_cast<const float*>(query), static_cast<const std::byte*>(row), scratch);
}

int main() {
  constexpr std::size_t kNumRows = 100;
  Buffer scratch = make_buffer(codec().scratch_bytes());
  std::byte* const work = scratch.data()->bytes;
  std::vector<std::byte> rows(kNumRows * row_size());  // as in a tensor, no alignment needed
  std::vector<float> given(kNumRows * kWidth), query(kWidth);
  polarquant::Random random(1);
  for (float& x : given) x = static_cast<float>(random.gaussian());
  for (float& x : query) x = static_cast<float>(random.gaussian());

  bool ok = true;
  for (std::size_t row = 0; row < kNumRows; ++row) {
    ok &= from_float(given.data() + row * kWidth, rows.data() + row * row_size(), work);
  }
  Buffer table = make_buffer(query_size());
  query_from_float(query.data(), table.data()->bytes, work);

  double error = 0.0, norm = 0.0, largest = 0.0;
  std::vector<float> decoded(kWidth);
  for (std::size_t row = 0; row < kNumRows; ++row) {
    to_float(rows.data() + row * row_size(), decoded.data(), work);
    double dot = 0.0;
    for (std::size_t i = 0; i < kWidth; ++i) {
      const double x = static_cast<double>(given[row * kWidth + i]);
      const double y = static_cast<double>(decoded[i]);
      error += (x - y) * (x - y);
      norm += x * x;
      dot += static_cast<double>(query[i]) * y;
    }
    const double score =
        static_cast<double>(vec_dot(rows.data() + row * row_size(), table.data()->bytes, work));
    largest = std::fmax(largest, std::fabs(score - dot));
  }

  // All rows at once are faster: the codec gathers them into tiles.
  std::vector<float> scores(kNumRows), sum(kWidth), output(kWidth);
  codec().dot_rows({reinterpret_cast<const float*>(table.data()), 1, codec().prepared_size()},
                   {rows.data(), kNumRows, row_size()}, {scores.data(), 1, kNumRows}, work);
  codec().accumulate_rows({scores.data(), 1, kNumRows}, {rows.data(), kNumRows, row_size()},
                          {sum.data(), 1, kWidth}, work);
  codec().finish(sum.data(), output.data());

  const double relative_mse = error / norm;
  const double expected = codec().format().expected_relative_mse();
  std::printf("%zu bytes per row of %zu, relative MSE %.5f, expected %.5f\n", row_size(), kWidth,
              relative_mse, expected);
  std::printf("vec_dot against to_float: %.1e at most\n", largest);
  return ok && largest < 1e-4 && std::fabs(relative_mse / expected - 1.0) < 0.1 ? 0 : 1;
}
