#include "rows.hpp"

#include <cstdlib>
#include <memory>
#include <stdexcept>

#include "baselines/units.hpp"
#include "heads.hpp"

namespace polarquant_bench {
namespace {

Work work_of(const Row& row) {
  ::setenv("POLARQUANT_ISA", row.isa.c_str(), 1);
  if (row.operation == "scores") return scores_work(row);
  if (row.operation == "values") return values_work(row);
  if (row.operation == "attention") return attention_work(row);
  if (row.operation == "prefill") return prefill_work(row);
  if (row.operation.rfind("dot", 0) == 0) return dot_work(row);
  if (row.operation.rfind("encode", 0) == 0) return encode_work(row);
  if (row.operation == "decode") return decode_work(row);
  if (row.operation == "append") return append_work(row);
  if (row.operation == "threads") return threads_work(row);
  if (row.operation == "growth") return growth_work(row);
  throw std::invalid_argument("no operation " + row.operation);
}

// Reads memory and adds it up, fetching num_ahead numbers ahead. A token is a byte.
Side stream_side(std::size_t memory_bytes, std::size_t num_ahead) {
  constexpr std::size_t kChunkBytes = std::size_t{8} << 20;
  static CopiedHeads chunks(kChunkBytes, num_heads_for(kChunkBytes, memory_bytes));
  static Turn turn(chunks.size());
  static bool filled = false;
  if (!filled) {
    std::memset(chunks.head<std::byte>(0), 0, kChunkBytes);
    chunks.copy();
    filled = true;
  }
  return {"stream", static_cast<double>(kChunkBytes), static_cast<double>(kChunkBytes),
          [num_ahead] {
            benchmark::DoNotOptimize(polarquant_stream_sum(chunks.head<float>(turn.next()),
                                                           kChunkBytes / sizeof(float), num_ahead));
          }};
}

}  // namespace

void run_row(benchmark::State& state, const Row& row) {
  Work work = work_of(row);
  const std::size_t num_sides = work.sides.size();
  if (row.from_memory()) {
    work.sides.push_back(stream_side(row.memory_bytes, 0));
    work.sides.push_back(stream_side(row.memory_bytes, 384));
  }
  Contest contest(work.sides, kTurnSeconds, !row.from_memory());
  for (auto _ : state) state.SetIterationTime(contest.play_round());

  const Side& first = contest.side(0);
  const double seconds = contest.median_seconds(0);
  const double bytes_per_second = first.num_bytes / first.num_tokens / seconds;
  state.counters["ns_per_token"] = seconds * 1e9;
  state.counters["code_bytes_per_second"] = bytes_per_second;
  state.counters["bits"] = work.bits;
  state.counters["error"] = work.error;
  state.counters["error_decoded"] = work.error_decoded;
  std::string label = work.kernel;
  if (num_sides > 1) {
    std::size_t best = 1;
    for (std::size_t i = 2; i < num_sides; ++i) {
      if (contest.median_ratio(i, best) < 1.0) best = i;
    }
    state.counters["baseline_ns_per_token"] = contest.median_seconds(best) * 1e9;
    state.counters["ratio"] = contest.median_ratio(0, best);
    label += "; " + contest.side(best).name;
  }
  if (row.from_memory()) {
    state.counters["stream_bytes_per_second"] = 1.0 / contest.median_seconds(num_sides);
    state.counters["fetched_bytes_per_second"] = 1.0 / contest.median_seconds(num_sides + 1);
    state.counters["share_of_stream"] =
        first.num_bytes / first.num_tokens / contest.median_ratio(0, num_sides);
  }
  state.SetLabel(label);
}

}  // namespace polarquant_bench
