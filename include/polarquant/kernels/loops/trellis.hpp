// Trellis codes, in plain loops: encode, decode, scores, weighted sums. The specification.
//
// The order of the operations of encoding is fixed, so that every instruction set and batch writes
// the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/codes/trellis_runs.hpp"
#include "polarquant/kernels/loops/decode.hpp"
#include "polarquant/kernels/loops/encode.hpp"
#include "polarquant/method/rotation.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {
namespace loops {

// Working memory for one tile. Entry i of vector t stands at [i * kLanes + t].
template <typename A>
struct TrellisScratch {
  double* scales;           // [kTileTokens]
  float* given;             // [head_dim, kTileTokens]: the vectors, then coordinates of variance 1
  float* rotated;           // [head_dim, kTileTokens]
  std::uint8_t* codes;      // [head_dim, kTileTokens]
  std::uint8_t* decisions;  // [head_dim, kMaxTrellisStates, kTileTokens]
  A* values;                // [head_dim, kTileTokens]
  std::byte* code;          // of one vector
};

// Costs of paths to the states of a table, of kLanes vectors.
template <std::size_t kLanes>
using TrellisCosts = float[kMaxTrellisStates][kLanes];

// Extends the paths by one coordinate: `after` are the least squared errors of paths to each state
// and decided[state] is the code that led there, with the lowest bit of its window in place of u.
// Of equal errors the lower code and the lower state before it win.
template <std::size_t kLanes>
POLARQUANT_ALWAYS_INLINE void extend_paths(const TrellisRun& run, const float* numbers,
                                           const TrellisCosts<kLanes>& before,
                                           TrellisCosts<kLanes>& after, std::uint8_t* decided) {
  const std::size_t num_states = static_cast<std::size_t>(run.table->num_states());
  const std::size_t num_high = static_cast<std::size_t>(run.table->num_high());
  const std::size_t num_low = 2 * num_states;
  const float step2 = run.step * run.step;
  float given[kLanes];  // the number, in steps
  for (std::size_t t = 0; t < kLanes; ++t) given[t] = numbers[t] / run.step;
  for (std::size_t low = 0; low < num_low; ++low) {
    float best[kLanes];
    std::uint32_t choice[kLanes];
    const float first = run.values[low];
    for (std::size_t t = 0; t < kLanes; ++t) {
      best[t] = (given[t] - first) * (given[t] - first);
      choice[t] = static_cast<std::uint32_t>(low & 1u);
    }
    for (std::size_t high = 1; high < num_high; ++high) {
      const float value = run.values[high * num_low + low];
      const std::uint32_t own = static_cast<std::uint32_t>(2 * high | (low & 1u));
      for (std::size_t t = 0; t < kLanes; ++t) {
        const float error = (given[t] - value) * (given[t] - value);
        const bool is_less = error < best[t];
        choice[t] = select_bits(is_less, own, choice[t]);
        best[t] = float_from_bits(select_bits(is_less, float_bits(error), float_bits(best[t])));
      }
    }
    // Windows 2 s and 2 s + 1 lead to state s.
    const float* const from = before[low % num_states];
    float* const to = after[low / 2];
    std::uint8_t* const kept = decided + low / 2 * kLanes;
    for (std::size_t t = 0; t < kLanes; ++t) {
      const float cost = fused(step2, best[t], from[t]);
      const bool is_less = low % 2 == 0 || cost < to[t];
      to[t] = float_from_bits(select_bits(is_less, float_bits(cost), float_bits(to[t])));
      kept[t] = static_cast<std::uint8_t>(select_bits(is_less, choice[t], kept[t]));
    }
  }
}

// The codes of least squared error for numbers [head_dim, kLanes], by Viterbi's algorithm.
template <std::size_t kLanes>
POLARQUANT_ALWAYS_INLINE void search_trellis(const TrellisRuns& runs, const float* numbers,
                                             std::uint8_t* decisions, std::uint8_t* codes) {
  TrellisCosts<kLanes> costs[2];
  std::uint8_t merged[kMaxTrellisStates][kLanes];  // where a state loses its oldest bit, that bit
  for (std::size_t s = 0; s < kMaxTrellisStates; ++s) {
    for (std::size_t t = 0; t < kLanes; ++t) {
      costs[0][s][t] = s == 0 ? 0.0f : (std::numeric_limits<float>::max)();
    }
  }
  const TrellisTable* table = runs.runs.front().table;
  for (const TrellisRun& run : runs.runs) {
    TrellisCosts<kLanes>& first = costs[run.begin % 2];
    if (run.table->memory < table->memory) {
      for (std::size_t s = 0; s < static_cast<std::size_t>(run.table->num_states()); ++s) {
        for (std::size_t t = 0; t < kLanes; ++t) {
          const bool is_less = first[2 * s + 1][t] < first[2 * s][t];
          merged[s][t] = is_less ? 1 : 0;
          first[s][t] = is_less ? first[2 * s + 1][t] : first[2 * s][t];
        }
      }
    }
    table = run.table;
    for (std::size_t i = run.begin; i < run.end; ++i) {
      extend_paths<kLanes>(run, numbers + i * kLanes, costs[i % 2], costs[(i + 1) % 2],
                           decisions + i * kMaxTrellisStates * kLanes);
    }
  }
  const TrellisCosts<kLanes>& last = costs[runs.head_dim() % 2];
  for (std::size_t t = 0; t < kLanes; ++t) {
    std::size_t state = 0;
    for (std::size_t s = 1; s < static_cast<std::size_t>(table->num_states()); ++s) {
      if (last[s][t] < last[state][t]) state = s;
    }
    for (std::size_t r = runs.runs.size(); r-- > 0;) {
      const TrellisRun& run = runs.runs[r];
      const std::size_t num_states = static_cast<std::size_t>(run.table->num_states());
      for (std::size_t i = run.end; i-- > run.begin;) {
        const std::size_t kept = decisions[(i * kMaxTrellisStates + state) * kLanes + t];
        const std::size_t low = 2 * state + (kept & 1u);
        codes[i * kLanes + t] =
            static_cast<std::uint8_t>((kept & ~std::size_t{1}) | low / num_states);
        state = low % num_states;
      }
      if (r > 0 && run.table->memory < runs.runs[r - 1].table->memory) {
        state = 2 * state + merged[state][t];
      }
    }
  }
}

// Codes of 8 bits: numbers in 127ths of the largest, rounded, ties away from zero.
template <std::size_t kLanes>
POLARQUANT_ALWAYS_INLINE void round_numbers(std::size_t d, const float* numbers,
                                            std::uint8_t* codes) {
  for (std::size_t t = 0; t < kLanes; ++t) {
    float largest = 0.0f;
    for (std::size_t i = 0; i < d; ++i) {
      const float magnitude = float_from_bits(float_bits(numbers[i * kLanes + t]) & 0x7fffffffu);
      largest = magnitude > largest ? magnitude : largest;
    }
    const float factor = largest > 0.0f ? 127.0f / largest : 0.0f;
    for (std::size_t i = 0; i < d; ++i) {
      const float number = numbers[i * kLanes + t] * factor;
      const int code = static_cast<int>(number + (number < 0.0f ? -0.5f : 0.5f));
      codes[i * kLanes + t] = static_cast<std::uint8_t>(code);
    }
  }
}

// Calls visit(coordinate, step, its value in steps) for one vector's codes, the first of which is
// codes[0] and the next is `stride` on.
template <typename Visit>
POLARQUANT_ALWAYS_INLINE void visit_values(const TrellisRuns& runs, const std::uint8_t* codes,
                                           std::size_t stride, const Visit& visit) {
  unsigned state = 0;
  int memory = 0;
  for (const TrellisRun& run : runs.runs) {
    if (run.table == nullptr) {
      for (std::size_t i = run.begin; i < run.end; ++i) {
        visit(i, run.step, static_cast<float>(static_cast<std::int8_t>(codes[i * stride])));
      }
      continue;
    }
    if (run.table->memory < memory) state >>= 1;
    memory = run.table->memory;
    for (std::size_t i = run.begin; i < run.end; ++i) {
      const unsigned window = trellis_window(*run.table, state, codes[i * stride]);
      state = next_trellis_state(*run.table, window);
      visit(i, run.step, run.values[window]);
    }
  }
}

// Rotates and encodes kLanes vectors, scratch.given, of magnitude about 1, into slots first_slot
// and on of a tile; vector t is scratch.scales[t] * given. Returns false if a norm overflows its
// type; no code is then written.
template <std::size_t kLanes, typename A>
POLARQUANT_ALWAYS_INLINE bool encode_trellis(const TrellisRuns& runs, const Rotation& rotation,
                                             const TrellisScratch<A>& scratch,
                                             std::size_t first_slot, std::byte* tile) {
  const std::size_t d = runs.head_dim();
  rotation.apply_lanes<kLanes>(scratch.given, scratch.rotated);
  float norms2[kLanes] = {};
  for (std::size_t i = 0; i < d; ++i) {
    for (std::size_t t = 0; t < kLanes; ++t) {
      norms2[t] =
          fused(scratch.rotated[i * kLanes + t], scratch.rotated[i * kLanes + t], norms2[t]);
    }
  }
  float factors[kLanes];
  for (std::size_t t = 0; t < kLanes; ++t) {
    factors[t] = norms2[t] > 0.0f ? square_root(static_cast<float>(d) / norms2[t]) : 0.0f;
  }
  for (std::size_t i = 0; i < d; ++i) {
    for (std::size_t t = 0; t < kLanes; ++t) {
      scratch.given[i * kLanes + t] = scratch.rotated[i * kLanes + t] * factors[t];
    }
  }
  if (runs.runs.front().table == nullptr) {
    round_numbers<kLanes>(d, scratch.given, scratch.codes);
  } else {
    search_trellis<kLanes>(runs, scratch.given, scratch.decisions, scratch.codes);
  }
  std::uint16_t norms[kLanes];
  for (std::size_t t = 0; t < kLanes; ++t) {
    float product = 0.0f;  // <x, t>
    visit_values(runs, scratch.codes + t, kLanes, [&](std::size_t i, float step, float value) {
      product = fused(scratch.rotated[i * kLanes + t], step * value, product);
    });
    // At most twice what it is for t of norm sqrt(d).
    const float least = 0.5f * square_root(norms2[t] * static_cast<float>(d));
    product = product < least ? least : product;
    const double norm =
        norms2[t] > 0.0f ? static_cast<double>(norms2[t] / product) * scratch.scales[t] : 0.0;
    std::byte bytes[8];
    if (!store_radius(FloatType::kBFloat16, norm, bytes)) return false;
    std::memcpy(&norms[t], bytes, sizeof norms[t]);
  }
  for (std::size_t t = 0; t < kLanes; ++t) {
    std::memcpy(scratch.code, &norms[t], sizeof norms[t]);
    if (norms2[t] > 0.0f) {
      runs.layout.pack(scratch.codes + t, kLanes, scratch.code);
    } else {
      std::memset(scratch.code, 0, runs.layout.num_bytes());
    }
    write_tile_slot(tile, runs.layout.num_bytes(), first_slot + t, scratch.code);
  }
  return true;
}

// rotated[i * stride] = the vector of a code, in the rotated basis.
template <typename A>
POLARQUANT_ALWAYS_INLINE void expand_trellis(const TrellisRuns& runs, const std::byte* code,
                                             const TrellisScratch<A>& scratch, A* rotated,
                                             std::size_t stride) {
  std::uint16_t bits;
  std::memcpy(&bits, code, sizeof bits);
  const A norm = static_cast<A>(bfloat16_to_float(bits));
  runs.layout.unpack(code, scratch.codes);
  visit_values(runs, scratch.codes, 1, [&](std::size_t i, float step, float value) {
    rotated[i * stride] = norm * static_cast<A>(step * value);
  });
}

// scratch.values = the vectors of a tile, side by side.
template <typename A>
POLARQUANT_ALWAYS_INLINE void expand_tile(const TrellisRuns& runs, const std::byte* tile,
                                          const TrellisScratch<A>& scratch) {
  for (std::size_t t = 0; t < kTileTokens; ++t) {
    read_tile_slot(tile, runs.layout.num_bytes(), t, scratch.code);
    expand_trellis(runs, scratch.code, scratch, scratch.values + t, kTileTokens);
  }
}

template <typename A>
POLARQUANT_ALWAYS_INLINE void score_trellis(const TrellisRuns& runs, const std::byte* tiles,
                                            std::size_t num_tiles, Rows<const A> prepared,
                                            const TrellisScratch<A>& scratch, Rows<A> scores) {
  const std::size_t d = runs.head_dim();
  for (std::size_t tile = 0; tile < num_tiles; ++tile) {
    expand_tile(runs, tiles + tile * tile_bytes(runs.layout.num_bytes()), scratch);
    for (std::size_t row = 0; row < prepared.count; ++row) {
      const A* const query = prepared.row(row);
      A sums[kTileTokens] = {};
      for (std::size_t i = 0; i < d; ++i) {
        for (std::size_t t = 0; t < kTileTokens; ++t) {
          sums[t] = fused(query[i], scratch.values[i * kTileTokens + t], sums[t]);
        }
      }
      std::memcpy(scores.row(row) + tile * kTileTokens, sums, sizeof sums);
    }
  }
}

// sums: rows of [head_dim, kTileTokens], a sum per slot.
template <typename A>
POLARQUANT_ALWAYS_INLINE void accumulate_trellis(const TrellisRuns& runs, const std::byte* tiles,
                                                 std::size_t num_tiles, Rows<const A> weights,
                                                 const TrellisScratch<A>& scratch, Rows<A> sums) {
  for (std::size_t tile = 0; tile < num_tiles; ++tile) {
    expand_tile(runs, tiles + tile * tile_bytes(runs.layout.num_bytes()), scratch);
    for (std::size_t row = 0; row < weights.count; ++row) {
      add_lanes(weights.row(row) + tile * kTileTokens, scratch.values, runs.head_dim(),
                sums.row(row));
    }
  }
}

}  // namespace loops
}  // namespace detail
POLARQUANT_END_NAMESPACE
