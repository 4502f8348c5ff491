// Speed beside error and bits, every row in turns with its baseline on the same machine in the same
// seconds. Rows are operation/format/isa/head_dim/num_tokens/num_queries/regime; `make bench` makes
// tables of them (bench/report.py).
//
//   --quick                the rows of the table of goals alone
//   --benchmark_filter=... and every other option of Google Benchmark

#include <benchmark/benchmark.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include "rows.hpp"

namespace {

using polarquant_bench::Row;

// Rows, each once, in the order in which they were added.
class Rows {
 public:
  void add(const Row& row) {
    if (!polarquant::isa_is_available(row.isa == "avx512" ? polarquant::Isa::kAvx512
                                      : row.isa == "avx2" ? polarquant::Isa::kAvx2
                                                          : polarquant::Isa::kNeon)) {
      return;
    }
    if (!names_.insert(row.name()).second) return;
    benchmark::RegisterBenchmark(row.name().c_str(), polarquant_bench::run_row, row)
        ->UseManualTime()
        ->Iterations(polarquant_bench::kNumRounds)
        ->Unit(benchmark::kNanosecond);
  }

  // Rows that differ in operation and group alone.
  void add(Row row, const std::vector<std::string>& operations, const std::vector<int>& groups) {
    for (const int num_queries : groups) {
      for (const std::string& operation : operations) {
        row.operation = operation;
        row.num_queries = num_queries;
        add(row);
      }
    }
  }

 private:
  std::set<std::string> names_;
};

Row row_of(const std::string& isa, const std::string& format, std::size_t memory_bytes = 0) {
  Row row;
  row.isa = isa;
  row.format = format;
  row.memory_bytes = memory_bytes;
  return row;
}

// Hot rows first, then memory's, those of one set of heads together: to make them takes longest.
void add_goals(Rows& rows, const std::string& isa, std::size_t memory_bytes) {
  for (const std::size_t bytes : {std::size_t{0}, memory_bytes}) {
    const Row paper = row_of(isa, "paper", bytes);
    rows.add(paper, {"attention", "scores"}, {1, 4});
    rows.add(paper, {"values", "dot_rows"}, {1});
    for (const char* format : {"full_depth_3.25", "full_depth_4.25"}) {
      rows.add(row_of(isa, format, bytes), {"scores"}, {1});
    }
    Row narrow = paper;
    narrow.head_dim = 64;
    rows.add(narrow, {"attention"}, {1});
  }
  const Row paper = row_of(isa, "paper");
  rows.add(paper, {"prefill"}, {128});
  rows.add(paper, {"dot", "encode_hadamard", "encode_haar", "threads"}, {1});
  Row append = paper;
  append.num_tokens = 2048;
  rows.add(append, {"append"}, {1});
  Row growth = paper;
  growth.num_tokens = 1 << 20;
  rows.add(growth, {"growth"}, {1});
}

void add_avx2_goals(Rows& rows, std::size_t memory_bytes) {
  for (const std::size_t bytes : {std::size_t{0}, memory_bytes}) {
    rows.add(row_of("avx2", "paper", bytes), {"attention", "scores"}, {1});
  }
}

void add_exact(Rows& rows, const std::string& isa) {
  Row row = row_of(isa, "paper");
  row.fixed_point = false;
  rows.add(row, {"scores", "values", "attention"}, {1, 4});
  rows.add(row, {"dot_rows"}, {1});
  rows.add(row, {"prefill"}, {128});
}

// What a format without kernels on tiles takes: the loops.
void add_loops(Rows& rows) {
  Row row = row_of("avx2", "paper");
  row.fixed_point = false;
  rows.add(row, {"scores", "attention", "dot", "dot_rows"}, {1});
}

void add_operations(Rows& rows, const std::string& isa) {
  const Row paper = row_of(isa, "paper");
  rows.add(paper, {"scores", "values", "attention"}, {1, 2, 3, 4, 7, 8});
  rows.add(paper, {"prefill"}, {128, 512});
  rows.add(paper, {"decode"}, {1});
  for (const char* format : {"paper", "full_depth_3.25", "full_depth_4.25"}) {
    rows.add(row_of(isa, format), {"encode_hadamard", "encode_haar", "decode", "dot_rows"}, {1});
  }
}

void add_peers(Rows& rows, const std::string& isa, std::size_t memory_bytes) {
  for (const std::size_t bytes : {std::size_t{0}, memory_bytes}) {
    for (const char* format : {"eigen_fp32", "q8_0-like", "q4_0-like"}) {
      rows.add(row_of(isa, format, bytes), {"scores", "values", "attention"}, {1, 4});
    }
  }
}

void add_widths(Rows& rows, const std::string& isa) {
  for (const int head_dim : {64, 80, 96, 128, 192, 256}) {
    for (const char* format : {"paper", "full_depth_2.625", "full_depth_3.25", "full_depth_3.625",
                               "full_depth_4.25", "full_depth_4.625"}) {
      Row row = row_of(isa, format);
      row.head_dim = head_dim;
      rows.add(row, {"scores", "attention"}, {1, 4});
    }
  }
}

void add_lengths(Rows& rows, const std::string& isa) {
  for (int num_tokens = 1 << 10; num_tokens <= 1 << 20; num_tokens *= 2) {
    for (const char* format : {"paper", "full_depth_4.25"}) {
      Row row = row_of(isa, format);
      row.num_tokens = num_tokens;
      rows.add(row, {"attention"}, {1});
    }
  }
}

// Half again what the last-level cache holds, 300 MB at least; 750 MB at most, for it takes time to
// fill.
std::size_t bytes_beyond_caches() {
  int level = 0;
  std::size_t bytes = 0;
  for (const auto& cache : benchmark::CPUInfo::Get().caches) {
    if (cache.level < level) continue;
    level = cache.level;
    bytes = static_cast<std::size_t>(cache.size);
  }
  return std::clamp<std::size_t>(bytes * 3 / 2, 300000000, 750000000);
}

// True if `option` was given, which is then taken out.
bool take_option(int& argc, char** argv, const std::string& option) {
  for (int i = 1; i < argc; ++i) {
    if (argv[i] != option) continue;
    for (; i < argc; ++i) argv[i] = argv[i + 1];
    --argc;
    return true;
  }
  return false;
}

// All of malloc's memory in huge pages, where the C library offers it: the library leaves that to
// its caller, and the caller is this program.
void ask_for_huge_pages(char** argv) {
#if defined(__GLIBC__)
  if (std::getenv("GLIBC_TUNABLES") != nullptr) return;
  ::setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1", 1);
  ::execv("/proc/self/exe", argv);
#endif
  static_cast<void>(argv);
}

}  // namespace

int main(int argc, char** argv) {
  ask_for_huge_pages(argv);
  const std::string best = polarquant::isa_name(polarquant::choose_isa());
  const bool quick = take_option(argc, argv, "--quick");
  // A quick run takes the least that is beyond most caches, and does not wait long.
  const std::size_t memory_bytes = quick ? 300000000 : bytes_beyond_caches();
  Rows rows;
  add_goals(rows, best, memory_bytes);
  if (best == "avx512") add_avx2_goals(rows, memory_bytes);
  if (!quick) {
    add_exact(rows, best);
    add_loops(rows);
    add_operations(rows, best);
    add_peers(rows, best, memory_bytes);
    add_widths(rows, best);
    add_lengths(rows, best);
  }
  benchmark::AddCustomContext("compiler", POLARQUANT_BENCH_COMPILER);
  benchmark::AddCustomContext("memory_bytes", std::to_string(memory_bytes));
  benchmark::AddCustomContext("isa", best);
  benchmark::AddCustomContext("flags", POLARQUANT_BENCH_FLAGS);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
