// The kernels for x86-64 with AVX2 and FMA: the loops, vectorised by the compiler; in 16-bit fixed
// point kernels on tiles for the formats that TileTables covers.
#pragma once

#include <cstddef>

#include "polarquant/base/isa.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/kernels/kernel_table.hpp"

#if POLARQUANT_X86
#include <immintrin.h>

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

struct Avx2Roots {
  POLARQUANT_TARGET_AVX2 static void take(float* values, std::size_t count) {
    std::size_t t = 0;
    for (; t + 8 <= count; t += 8) {
      _mm256_storeu_ps(values + t, _mm256_sqrt_ps(_mm256_loadu_ps(values + t)));
    }
    loops::PlainRoots::take(values + t, count - t);
  }
};

POLARQUANT_DEFINE_CALLS(Avx2Call, POLARQUANT_TARGET_AVX2);

}  // namespace detail
POLARQUANT_END_NAMESPACE
#endif
