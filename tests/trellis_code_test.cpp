#include "polarquant/trellis/trellis_code.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <polarquant/base/random.hpp>
#include <polarquant/trellis/trellis_format.hpp>
#include <vector>

namespace {

using namespace polarquant;
using polarquant::detail::trellis_table;

std::vector<double> random_numbers(std::size_t count, Random& random) {
  std::vector<double> numbers(count);
  double norm2 = 0.0;
  for (double& number : numbers) {
    number = random.gaussian();
    norm2 += number * number;
  }
  for (double& number : numbers) number *= std::sqrt(static_cast<double>(count) / norm2);
  return numbers;
}

double error_of(const TrellisTables& tables, const std::vector<double>& numbers,
                const std::vector<std::uint8_t>& codes) {
  const std::vector<unsigned> windows = plain_trellis_windows(tables, codes);
  double error = 0.0;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const double difference = numbers[i] - tables[i]->value(windows[i]);
    error += difference * difference;
  }
  return error;
}

// Codes (high, u) of 3 bits with 3 bits of memory: 5 = (2, 1), 3 = (1, 1), 0 = (0, 0), 7 = (3, 1).
TEST(TrellisCodeTest, AWindowIsACodeAndTheLowBitsBeforeIt) {
  const TrellisTables tables(4, &trellis_table(3));
  EXPECT_EQ(
      plain_trellis_windows(tables, {5, 3, 0, 7}),
      (std::vector<unsigned>{2 * 16 + 8 * 1, 1 * 16 + 8 * 1 + 4 * 1, 0 * 16 + 8 * 0 + 4 * 1 + 2 * 1,
                             3 * 16 + 8 * 1 + 4 * 0 + 2 * 1 + 1}));
}

// From 4 bits of memory to 3: the oldest of the bits is dropped.
TEST(TrellisCodeTest, AMemoryThatBecomesLessKeepsTheNewestBits) {
  TrellisTables tables(5, &trellis_table(2));
  tables.push_back(&trellis_table(3));
  EXPECT_EQ(plain_trellis_windows(tables, {0, 1, 0, 1, 1, 4}).back(), 2u * 16 + 4 + 2);
}

TEST(TrellisCodeTest, TheEncoderFindsTheLeastErrorOfAllCodes) {
  Random random(5);
  for (int trial = 0; trial < 12; ++trial) {
    TrellisTables tables(5, &trellis_table(2));
    if (trial % 3 == 1) tables[3] = tables[4] = &trellis_table(3);
    if (trial % 3 == 2) tables.assign(4, &trellis_table(3));
    const std::vector<double> numbers = random_numbers(tables.size(), random);
    int num_bits = 0;
    for (const TrellisTable* const table : tables) num_bits += table->bits;
    double least = 1e300;
    for (unsigned all = 0; all < 1u << num_bits; ++all) {
      std::vector<std::uint8_t> codes;
      unsigned rest = all;
      for (const TrellisTable* const table : tables) {
        codes.push_back(static_cast<std::uint8_t>(rest & ((1u << table->bits) - 1)));
        rest >>= table->bits;
      }
      least = std::fmin(least, error_of(tables, numbers, codes));
    }
    EXPECT_NEAR(error_of(tables, numbers, plain_trellis_encode(tables, numbers)), least,
                1e-12 * (1.0 + least))
        << trial;
  }
}

TEST(TrellisCodeTest, ValuesRiseWithTheHighBitsAndTheLargestIs127) {
  for (int bits = 2; bits <= 6; ++bits) {
    const TrellisTable& table = trellis_table(bits);
    ASSERT_EQ(table.bits, bits);
    const std::size_t num_low = std::size_t{2} << table.memory;
    int largest = 0;
    for (std::size_t w = 0; w < table.num_values(); ++w) {
      largest = std::max(largest, std::abs(static_cast<int>(table.values[w])));
      if (w < num_low) continue;
      EXPECT_GT(table.values[w], table.values[w - num_low]) << bits << " bits, window " << w;
    }
    EXPECT_EQ(largest, 127) << bits;
  }
}

// Means of the numbers that chose each window, of other vectors than the tables were trained on,
// rounded like a table's values, tried on others again.
TEST(TrellisCodeTest, AnotherRoundOfTrainingGainsNothing) {
  constexpr std::size_t kNumVectors = 1536;
  for (int bits = 2; bits <= 6; ++bits) {
    Random random(100 + static_cast<std::uint64_t>(bits));
    const TrellisTable& table = trellis_table(bits);
    const TrellisTables tables(128, &table);
    std::vector<double> sums(table.num_values());
    std::vector<double> counts(table.num_values());
    for (std::size_t v = 0; v < kNumVectors; ++v) {
      const std::vector<double> numbers = random_numbers(128, random);
      const std::vector<unsigned> windows =
          plain_trellis_windows(tables, plain_trellis_encode(tables, numbers));
      for (std::size_t i = 0; i < 128; ++i) {
        sums[windows[i]] += numbers[i];
        counts[windows[i]] += 1.0;
      }
    }
    std::vector<double> means(table.num_values());
    for (unsigned w = 0; w < table.num_values(); ++w) {
      means[w] = counts[w] > 0.0 ? table.step * std::nearbyint(sums[w] / counts[w] / table.step)
                                 : table.value(w);
    }
    double now = 0.0;
    double then = 0.0;
    for (std::size_t v = 0; v < kNumVectors; ++v) {
      const std::vector<double> numbers = random_numbers(128, random);
      now += error_of(tables, numbers, plain_trellis_encode(tables, numbers));
      const auto mean = [&means](const TrellisTable&, unsigned window) { return means[window]; };
      const std::vector<unsigned> windows =
          plain_trellis_windows(tables, plain_trellis_encode(tables, numbers, mean));
      for (std::size_t i = 0; i < 128; ++i) {
        then += (numbers[i] - means[windows[i]]) * (numbers[i] - means[windows[i]]);
      }
    }
    EXPECT_GT(then, 0.998 * now) << bits;
  }
}

}  // namespace
