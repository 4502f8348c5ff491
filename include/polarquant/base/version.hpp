// The library's version, and the inline namespace that keeps differently built units apart.
#pragma once

#define POLARQUANT_VERSION_MAJOR 0
#define POLARQUANT_VERSION_MINOR 1
#define POLARQUANT_VERSION_PATCH 0
#define POLARQUANT_VERSION "0.1.0"

// Everything lives in polarquant::<inline namespace>, and that name carries what changes the code
// of an inline function: the instruction set a unit is compiled for, exceptions, and debug checks.
// Without it the linker would keep one copy of each inline function for the whole program, and the
// AVX code of a unit built with -march=native could run on a machine that has no AVX.
#if defined(__AVX512F__)
#define POLARQUANT_DETAIL_BASELINE avx512
#elif defined(__AVX2__)
#define POLARQUANT_DETAIL_BASELINE avx2
#elif defined(__AVX__)
#define POLARQUANT_DETAIL_BASELINE avx
#elif defined(__SSE4_1__)
#define POLARQUANT_DETAIL_BASELINE sse4
#else
#define POLARQUANT_DETAIL_BASELINE base
#endif

#if defined(__FMA__)
#define POLARQUANT_DETAIL_FMA _fma
#else
#define POLARQUANT_DETAIL_FMA
#endif

#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
#define POLARQUANT_HAS_EXCEPTIONS 1
#define POLARQUANT_DETAIL_EXCEPTIONS
#else
#define POLARQUANT_HAS_EXCEPTIONS 0
#define POLARQUANT_DETAIL_EXCEPTIONS _noexcept
#endif

#if defined(NDEBUG)
#define POLARQUANT_DETAIL_CHECKS
#else
#define POLARQUANT_DETAIL_CHECKS _checked
#endif

#define POLARQUANT_DETAIL_JOIN(a, b, c, d) v0_1_##a##b##c##d
#define POLARQUANT_DETAIL_EXPAND(a, b, c, d) POLARQUANT_DETAIL_JOIN(a, b, c, d)
#define POLARQUANT_ABI_NAMESPACE                                              \
  POLARQUANT_DETAIL_EXPAND(POLARQUANT_DETAIL_BASELINE, POLARQUANT_DETAIL_FMA, \
                           POLARQUANT_DETAIL_EXCEPTIONS, POLARQUANT_DETAIL_CHECKS)

#define POLARQUANT_BEGIN_NAMESPACE \
  namespace polarquant {           \
  inline namespace POLARQUANT_ABI_NAMESPACE {
#define POLARQUANT_END_NAMESPACE \
  }                              \
  }
