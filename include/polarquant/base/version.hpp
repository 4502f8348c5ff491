// The library's version, and the inline namespace that keeps differently built units apart.
#pragma once

// Before anything that an older standard would trip over.
#if __cplusplus < 201703L && !(defined(_MSVC_LANG) && _MSVC_LANG >= 201703L)
#error "polarquant needs C++17: compile with -std=c++17 or newer"
#endif

// Float arithmetic in more precision than float rounds twice, and not in the same places in two
// builds: codes and codebooks would differ between machines, and the exponential would be wrong.
#if defined(__FLT_EVAL_METHOD__)
#if __FLT_EVAL_METHOD__ == 1 || __FLT_EVAL_METHOD__ == 2 || \
    (__FLT_EVAL_METHOD__ == -1 && !defined(__clang__))
#error \
    "polarquant needs float arithmetic in float, not in x87 registers: compile with -msse2 -mfpmath=sse, without -mfpmath=387"
#endif
#endif

#define POLARQUANT_VERSION_MAJOR 0
#define POLARQUANT_VERSION_MINOR 1
#define POLARQUANT_VERSION_PATCH 0
#define POLARQUANT_VERSION "0.1.0"

// Everything lives in polarquant::<inline namespace>, and that name carries what changes the code
// of an inline function: the instruction set a unit is compiled for, exceptions, debug checks, and
// flags of float arithmetic.
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

// Flags that let a compiler change the value of float arithmetic, as far as a macro tells of them.
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    defined(__NO_SIGNED_ZEROS__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#define POLARQUANT_DETAIL_FLOATS_ARE_FAST 1
#define POLARQUANT_DETAIL_FLOATS _fast
#elif defined(__ROUNDING_MATH__)
#define POLARQUANT_DETAIL_FLOATS_ARE_FAST 0
#define POLARQUANT_DETAIL_FLOATS _rounding
#else
#define POLARQUANT_DETAIL_FLOATS_ARE_FAST 0
#define POLARQUANT_DETAIL_FLOATS
#endif

#define POLARQUANT_DETAIL_JOIN(a, b, c, d, e) v0_1_##a##b##c##d##e
#define POLARQUANT_DETAIL_EXPAND(a, b, c, d, e) POLARQUANT_DETAIL_JOIN(a, b, c, d, e)
#define POLARQUANT_ABI_NAMESPACE                                                   \
  POLARQUANT_DETAIL_EXPAND(POLARQUANT_DETAIL_BASELINE, POLARQUANT_DETAIL_FMA,      \
                           POLARQUANT_DETAIL_EXCEPTIONS, POLARQUANT_DETAIL_CHECKS, \
                           POLARQUANT_DETAIL_FLOATS)

// Between these two macros float arithmetic is that of IEEE 754, whatever -ffast-math, -Ofast and
// their parts allow for the rest of the unit: codebooks, rotations and codes are the same bits in
// every build, and attention is as accurate. What is called in std:: stays as the user compiles
// it: NaN and infinities are found by their bits (float_types.hpp), roots are square_root().
#if defined(__clang__) && (defined(__x86_64__) || defined(__i386__)) && __clang_major__ >= 12
// Clang tells by a macro of -ffast-math, but not of all its parts.
#define POLARQUANT_DETAIL_BEGIN_PRECISE \
  _Pragma("float_control(push)") _Pragma("float_control(precise, on)")
#define POLARQUANT_DETAIL_END_PRECISE _Pragma("float_control(pop)")
#define POLARQUANT_DETAIL_SUMS_ARE_KEPT 1
#elif defined(__clang__) && defined(__FAST_MATH__)
// On other processors clang ignores float_control.
#define POLARQUANT_DETAIL_SUMS_ARE_KEPT 0
#if __clang_major__ >= 18
#define POLARQUANT_DETAIL_BEGIN_PRECISE _Pragma("clang fp reassociate(off) reciprocal(off)")
#define POLARQUANT_DETAIL_END_PRECISE _Pragma("clang fp reassociate(on) reciprocal(on)")
#else
#define POLARQUANT_DETAIL_BEGIN_PRECISE _Pragma("clang fp reassociate(off)")
#define POLARQUANT_DETAIL_END_PRECISE _Pragma("clang fp reassociate(on)")
#endif
#elif POLARQUANT_DETAIL_FLOATS_ARE_FAST && defined(__GNUC__) && !defined(__clang__)
#define POLARQUANT_DETAIL_BEGIN_PRECISE                                 \
  _Pragma("GCC push_options") _Pragma("GCC optimize(\"no-fast-math\")") \
      _Pragma("GCC optimize(\"no-unsafe-math-optimizations\")")         \
          _Pragma("GCC optimize(\"no-associative-math\")")              \
              _Pragma("GCC optimize(\"no-reciprocal-math\")")           \
                  _Pragma("GCC optimize(\"no-finite-math-only\")")      \
                      _Pragma("GCC optimize(\"signed-zeros\")")
#define POLARQUANT_DETAIL_END_PRECISE _Pragma("GCC pop_options")
#define POLARQUANT_DETAIL_SUMS_ARE_KEPT 1
#else
#define POLARQUANT_DETAIL_BEGIN_PRECISE
#define POLARQUANT_DETAIL_END_PRECISE
#if defined(__GNUC__) && !defined(__clang__)
#define POLARQUANT_DETAIL_SUMS_ARE_KEPT 1
#else  // -fassociative-math may be on without a macro.
#define POLARQUANT_DETAIL_SUMS_ARE_KEPT 0
#endif
#endif

#define POLARQUANT_BEGIN_NAMESPACE \
  POLARQUANT_DETAIL_BEGIN_PRECISE  \
  namespace polarquant {           \
  inline namespace POLARQUANT_ABI_NAMESPACE {
#define POLARQUANT_END_NAMESPACE \
  }                              \
  }                              \
  POLARQUANT_DETAIL_END_PRECISE
