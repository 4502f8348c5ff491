// Trains the tables of the trellis codes and prints include/polarquant/trellis/trellis_tables.hpp.
//
//   train_trellis [ROUNDS] [VECTORS] > include/polarquant/trellis/trellis_tables.hpp; make format
//
// Vectors of 128 normal numbers, of norm sqrt(128), are encoded by the reference; each value
// becomes the mean of the numbers that chose it, and so on (Marcellin and Fischer, 1990). The start
// is Ungerboeck's set partition of 2^(b+1) points. At last the values are rounded to 8 bits, their
// largest to 127.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <polarquant/base/random.hpp>
#include <polarquant/trellis/trellis_code.hpp>
#include <vector>

namespace {

using polarquant::TrellisTable;
using polarquant::TrellisTables;
using Vectors = std::vector<std::vector<double>>;

Vectors random_vectors(std::size_t count, std::size_t width, std::uint64_t seed) {
  polarquant::Random random(seed);
  Vectors vectors(count, std::vector<double>(width));
  for (std::vector<double>& vector : vectors) {
    double norm2 = 0.0;
    for (double& number : vector) {
      number = random.gaussian();
      norm2 += number * number;
    }
    for (double& number : vector) {
      number *= std::sqrt(static_cast<double>(width) / norm2);
    }
  }
  return vectors;
}

struct Pass {
  std::vector<double> sums;
  std::vector<double> counts;
  double distortion = 0.0;  // the mean of 1 - <x, t>^2 / (||x||^2 ||t||^2)
};

template <typename Value>
Pass pass_over(const TrellisTables& tables, const Vectors& vectors, const Value& value) {
  Pass pass;
  pass.sums.resize(polarquant::detail::kMaxTrellisValues);
  pass.counts.resize(polarquant::detail::kMaxTrellisValues);
  for (const std::vector<double>& vector : vectors) {
    const std::vector<unsigned> windows = polarquant::plain_trellis_windows(
        tables, polarquant::plain_trellis_encode(tables, vector, value));
    double product = 0.0;
    double norm2 = 0.0;
    for (std::size_t i = 0; i < vector.size(); ++i) {
      const double t = value(*tables[i], windows[i]);
      pass.sums[windows[i]] += vector[i];
      pass.counts[windows[i]] += 1.0;
      product += vector[i] * t;
      norm2 += t * t;
    }
    pass.distortion += 1.0 - product * product / (norm2 * static_cast<double>(vector.size()));
  }
  pass.distortion /= static_cast<double>(vectors.size());
  return pass;
}

// Point j of n, where the law of variance 3 has its quantiles: as dense as the normal law's cube
// root, which is best for many points (Panter and Dite, 1951).
double companded_point(int j, int n) {
  const double share = (j + 0.5) / n;
  double low = -10.0;
  double high = 10.0;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < share ? low : high) = middle;
  }
  return std::sqrt(3.0) * low;
}

int parity(unsigned bits) {
  int result = 0;
  for (; bits != 0; bits &= bits - 1) result ^= 1;
  return result;
}

// Which bits of a window, u_i the lowest, choose between the halves of the points and between the
// halves of these: Ungerboeck's codes of 2, 4, 8 and 16 states.
constexpr unsigned kSecondBit[] = {0, 03, 05, 013, 023};
constexpr unsigned kFirstBit[] = {0, 02, 02, 04, 04};

std::vector<double> first_values(const TrellisTable& table) {
  const unsigned num_low = 2u << table.memory;
  std::vector<double> values(table.num_values());
  for (unsigned window = 0; window < values.size(); ++window) {
    unsigned low = 0;  // the other way round than in a window
    for (int i = 0; i <= table.memory; ++i) low |= (window >> (table.memory - i) & 1u) << i;
    const int subset =
        2 * parity(low & kSecondBit[table.memory]) + parity(low & kFirstBit[table.memory]);
    const int high = static_cast<int>(window / num_low);
    values[window] = companded_point(4 * high + subset, 4 * table.num_high());
  }
  return values;
}

void sort_windows(const TrellisTable& table, std::vector<double>& values) {
  const std::size_t num_low = std::size_t{2} << table.memory;
  for (std::size_t low = 0; low < num_low; ++low) {
    std::vector<double> own;
    for (std::size_t w = low; w < values.size(); w += num_low) own.push_back(values[w]);
    std::sort(own.begin(), own.end());
    for (std::size_t i = 0; i < own.size(); ++i) values[i * num_low + low] = own[i];
  }
}

// A table and its values.
struct Trained {
  TrellisTable table;
  std::vector<std::int8_t> values;
};

Trained train(int bits, int memory, int rounds, std::size_t num_vectors) {
  Trained trained = {{bits, memory, 1.0, nullptr}, {}};
  const TrellisTables tables(128, &trained.table);
  const Vectors vectors = random_vectors(num_vectors, 128, 1);
  std::vector<double> values = first_values(trained.table);
  for (int round = 0; round < rounds; ++round) {
    const Pass pass = pass_over(tables, vectors, [&values](const TrellisTable&, unsigned window) {
      return values[window];
    });
    for (std::size_t w = 0; w < values.size(); ++w) {
      if (pass.counts[w] > 0.0) values[w] = pass.sums[w] / pass.counts[w];
    }
    if (round % 20 == 19) {
      std::fprintf(stderr, "%d bits, round %d: %.6f\n", bits, round + 1, pass.distortion);
    }
  }
  sort_windows(trained.table, values);
  double largest = 0.0;
  for (const double value : values) largest = std::max(largest, std::fabs(value));
  trained.table.step = largest / 127;
  std::printf("inline constexpr std::int8_t kTrellisValues%d[] = {", bits);
  for (std::size_t w = 0; w < values.size(); ++w) {
    const int rounded = static_cast<int>(std::nearbyint(values[w] / trained.table.step));
    trained.values.push_back(static_cast<std::int8_t>(rounded));
    std::printf("%s%d", w == 0 ? "\n    " : w % 16 == 0 ? ",\n    " : ", ", rounded);
  }
  std::printf(
      "};\ninline constexpr TrellisTable kTrellisTable%d = {%d, %d, %.9g, "
      "kTrellisValues%d};\n\n",
      bits, bits, memory, trained.table.step, bits);
  std::fflush(stdout);
  return trained;
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 400;
  const std::size_t num_vectors = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 4096;
  std::printf(
      "// The tables of the trellis codes, as bench/train_trellis.cpp prints them.\n"
      "#pragma once\n\n#include <cstdint>\n\n"
      "#include \"polarquant/base/version.hpp\"\n"
      "#include \"polarquant/trellis/trellis_code.hpp\"\n\n"
      "POLARQUANT_BEGIN_NAMESPACE\nnamespace detail {\n\n");
  std::vector<Trained> all;
  constexpr int kMemories[] = {4, 3, 2, 2, 1};
  for (int bits = 2; bits <= 6; ++bits) {
    all.push_back(train(bits, kMemories[bits - 2], rounds, num_vectors));
  }
  for (Trained& trained : all) trained.table.values = trained.values.data();
  std::printf(
      "// Least-squares errors of vectors of norm 1, of widths 32 and 128: of 2, 2.5, .. 6 bits.\n"
      "inline constexpr double kTrellisDistortions[][2] = {\n");
  for (std::size_t half = 0; half <= 8; ++half) {
    std::printf("    {");
    for (const std::size_t width : {std::size_t{32}, std::size_t{128}}) {
      TrellisTables tables(width, &all[half / 2].table);
      if (half % 2 != 0) {
        std::fill(tables.begin() + static_cast<std::ptrdiff_t>(width / 2), tables.end(),
                  &all[half / 2 + 1].table);
      }
      const Pass pass =
          pass_over(tables, random_vectors(8 * num_vectors, width, 2),
                    [](const TrellisTable& table, unsigned window) { return table.value(window); });
      std::printf("%.5g%s", pass.distortion, width == 32 ? ", " : "");
    }
    std::printf("},\n");
  }
  std::printf("};\n\n}  // namespace detail\nPOLARQUANT_END_NAMESPACE\n");
}
