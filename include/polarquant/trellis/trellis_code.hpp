// The trellis code: a sequence of numbers as codes of a few bits, each looked up in a table by a
// window on its own bits and on some of the codes before it.
//
// Coordinate i has a code c_i = (high_i, u_i) of b bits, u_i one bit, the lowest. With m bits of
// memory its value is
//
//   step * values[w_i],   w_i = high_i 2^(m+1) + u_i 2^m + u_(i-1) 2^(m-1) + .. + u_(i-m),
//
// where u is 0 before the first coordinate. Decoding looks at a few codes; encoding is a search for
// the path of least squared error through 2^m states, the last m bits u (Viterbi). A table's
// values begin as Ungerboeck's set partition (1982): of 2^(b+1) points in a row every fourth one
// belongs to the same pair of windows' bits; training then leaves every window its own values
// (Marcellin and Fischer, 1990).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// The table of a rate, for coordinates of variance 1.
struct TrellisTable {
  int bits;                   // b, of a code
  int memory;                 // m
  double step;                // of the values
  const std::int8_t* values;  // [2^(b + m)]; of one window's low bits they rise

  int num_states() const { return 1 << memory; }
  int num_high() const { return 1 << (bits - 1); }
  std::size_t num_values() const { return std::size_t{1} << (bits + memory); }

  double value(unsigned window) const { return step * static_cast<double>(values[window]); }
};

namespace detail {

// The most that any table has.
inline constexpr std::size_t kMaxTrellisStates = 16;
inline constexpr std::size_t kMaxTrellisValues = 128;

// The window of a code behind `state`, the last bits u, the newest the highest.
inline unsigned trellis_window(const TrellisTable& table, unsigned state, unsigned code) {
  return ((code >> 1) << (table.memory + 1)) | ((code & 1u) << table.memory) | state;
}

// The state behind a window.
inline unsigned next_trellis_state(const TrellisTable& table, unsigned window) {
  return (window & ((2u << table.memory) - 1)) >> 1;
}

}  // namespace detail

// The table of each coordinate. Where the memory becomes less, the oldest bit of the state is
// dropped.
using TrellisTables = std::vector<const TrellisTable*>;

// Decodes codes, one per coordinate, to windows: the definition.
inline std::vector<unsigned> plain_trellis_windows(const TrellisTables& tables,
                                                   const std::vector<std::uint8_t>& codes) {
  std::vector<unsigned> windows;
  unsigned state = 0;
  for (std::size_t i = 0; i < tables.size(); ++i) {
    if (i > 0) state >>= tables[i - 1]->memory - tables[i]->memory;
    windows.push_back(detail::trellis_window(*tables[i], state, codes[i]));
    state = detail::next_trellis_state(*tables[i], windows.back());
  }
  return windows;
}

// The codes of least squared error for a sequence of numbers, in double precision: what faster
// encoders are judged by. value(table, window): the value of a window.
template <typename Value>
std::vector<std::uint8_t> plain_trellis_encode(const TrellisTables& tables,
                                               const std::vector<double>& numbers,
                                               const Value& value) {
  struct Step {
    std::uint8_t code;
    std::uint8_t from;
  };
  constexpr std::size_t kMaxStates = detail::kMaxTrellisStates;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  std::vector<Step> steps(numbers.size() * kMaxStates);
  std::vector<double> costs(kMaxStates, kInfinity);
  costs[0] = 0.0;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const TrellisTable& table = *tables[i];
    const int memory = tables[i > 0 ? i - 1 : 0]->memory;
    std::vector<double> next(kMaxStates, kInfinity);
    for (unsigned from = 0; from < 1u << memory; ++from) {
      for (unsigned code = 0; code < 1u << table.bits; ++code) {
        const unsigned window =
            detail::trellis_window(table, from >> (memory - table.memory), code);
        const unsigned to = detail::next_trellis_state(table, window);
        const double error = numbers[i] - value(table, window);
        const double cost = costs[from] + error * error;
        if (!(cost < next[to])) continue;
        next[to] = cost;
        steps[i * kMaxStates + to] = {static_cast<std::uint8_t>(code),
                                      static_cast<std::uint8_t>(from)};
      }
    }
    costs.swap(next);
  }
  std::size_t state =
      static_cast<std::size_t>(std::min_element(costs.begin(), costs.end()) - costs.begin());
  std::vector<std::uint8_t> codes(numbers.size());
  for (std::size_t i = numbers.size(); i-- > 0;) {
    const Step& step = steps[i * kMaxStates + state];
    codes[i] = step.code;
    state = step.from;
  }
  return codes;
}

inline std::vector<std::uint8_t> plain_trellis_encode(const TrellisTables& tables,
                                                      const std::vector<double>& numbers) {
  return plain_trellis_encode(tables, numbers, [](const TrellisTable& table, unsigned window) {
    return table.value(window);
  });
}

POLARQUANT_END_NAMESPACE
