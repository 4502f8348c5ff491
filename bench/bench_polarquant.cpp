// Speed beside error and bits, every row in turns with hand-written fp16 on the same machine in the
// same seconds. Rows are operation/format/isa/head_dim/num_tokens/num_queries/regime; `make bench`
// makes tables of them (bench/report.py).
//
//   --quick                the rows of the table of goals alone
//   --benchmark_filter=... and every other option of Google Benchmark

#include <benchmark/benchmark.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "rows.hpp"

namespace {

using polarquant_bench::Row;

void add(const Row& row) {
  benchmark::RegisterBenchmark(row.name().c_str(), polarquant_bench::run_row, row)
      ->UseManualTime()
      ->Iterations(polarquant_bench::kNumRounds)
      ->Unit(benchmark::kNanosecond);
}

void add_quick_rows() {
  for (const bool fixed_point : {true, false}) {
    Row row;
    row.isa = "avx512";
    row.fixed_point = fixed_point;
    for (const int num_queries : {1, 4}) {
      row.num_queries = num_queries;
      row.operation = "scores";
      add(row);
      if (num_queries == 1) {
        row.operation = "values";
        add(row);
      }
      row.operation = "attention";
      add(row);
    }
  }
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

}  // namespace

int main(int argc, char** argv) {
  ask_for_huge_pages(argv);
  const bool quick = take_option(argc, argv, "--quick");
  add_quick_rows();
  static_cast<void>(quick);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
