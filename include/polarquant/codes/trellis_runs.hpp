// What kernels read of a trellis format: its runs of coordinates with one table, as floats.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "polarquant/base/version.hpp"
#include "polarquant/trellis/trellis_format.hpp"
#include "polarquant/trellis/trellis_tables.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// Coordinates begin .. end - 1. The first run starts at state 0, the next, of one bit more and at
// most one bit of memory less, with the newest bits of the state before it.
struct TrellisRun {
  std::size_t begin = 0;
  std::size_t end = 0;
  const TrellisTable* table = nullptr;          // null: 8 bits, a code is its value
  float step = 1.0f;                            // a coordinate of variance 1 is step * value
  std::array<float, kMaxTrellisValues> values;  // as in the table, whole numbers
};

// Immutable.
struct TrellisRuns {
  explicit TrellisRuns(const TrellisFormat& given) : format(given), layout(given) {
    const TrellisTables tables =
        format.bits == 8.0 ? TrellisTables(head_dim(), nullptr) : trellis_tables(format);
    for (std::size_t i = 0; i < tables.size(); ++i) {
      const TrellisTable* const table = tables[i];
      if (i == 0 || table != runs.back().table) {
        TrellisRun run;
        run.begin = i;
        run.table = table;
        run.values.fill(0.0f);
        for (std::size_t w = 0; table != nullptr && w < table->num_values(); ++w) {
          run.values[w] = static_cast<float>(table->values[w]);
        }
        if (table != nullptr) run.step = static_cast<float>(table->step);
        runs.push_back(run);
      }
      runs.back().end = i + 1;
    }
  }

  std::size_t head_dim() const { return static_cast<std::size_t>(format.head_dim); }
  std::size_t memory_bytes() const {
    return layout.memory_bytes() + runs.size() * sizeof(TrellisRun);
  }

  const TrellisFormat format;
  const TrellisLayout layout;
  std::vector<TrellisRun> runs;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
