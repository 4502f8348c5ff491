// The fp16 loops behind a plain C entry, so that the benchmarks can link them as built by two
// compilers and measure against the faster.
#include "baselines/float16_avx2.hpp"
#include "baselines/float16_avx512.hpp"
#include "baselines/float16_kernels.hpp"
#include "baselines/float16_neon.hpp"
#include "baselines/units.hpp"

#if defined(__clang__)
#define POLARQUANT_BASELINES_ENTRY polarquant_float16_by_clang
#else
#define POLARQUANT_BASELINES_ENTRY polarquant_float16_by_gcc
#endif

extern "C" void POLARQUANT_BASELINES_ENTRY(polarquant_baselines::UnitIsa isa,
                                           polarquant_baselines::Float16Kernels* kernels) {
  using namespace polarquant_baselines;
#if defined(__GNUC__) && defined(__x86_64__)
  if (isa == UnitIsa::kAvx512) {
    *kernels = {avx512::score, avx512::accumulate, avx512::dot, avx512::maximum,
                avx512::exponentiate};
    return;
  }
  if (isa == UnitIsa::kAvx2) {
    *kernels = {avx2::score, avx2::accumulate, avx2::dot, avx2::maximum, avx2::exponentiate};
    return;
  }
#elif defined(__aarch64__)
  if (isa == UnitIsa::kNeon) {
    *kernels = {neon::score, neon::accumulate, neon::dot, neon::maximum, neon::exponentiate};
    return;
  }
#endif
  static_cast<void>(isa);
  *kernels = {portable::score, portable::accumulate, portable::dot, portable::maximum,
              portable::exponentiate};
}
