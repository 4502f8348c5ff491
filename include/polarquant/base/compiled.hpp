// What a unit compiles itself, and what it takes from the library polarquant::compiled.
//
// As a header-only library, everything is compiled where it is used. A unit that is compiled with
// POLARQUANT_COMPILED, which the CMake target polarquant::compiled sets, finds the usual types in
// that library. The library itself is compiled with POLARQUANT_COMPILE. Units whose flags put them
// in another inline namespace (version.hpp) than the library's compile all themselves.
#pragma once

#include "polarquant/base/version.hpp"

#if defined(POLARQUANT_COMPILED) && !defined(POLARQUANT_COMPILE) && POLARQUANT_HAS_EXCEPTIONS && \
    !defined(__SSE4_1__) && !POLARQUANT_DETAIL_FLOATS_ARE_FAST && !defined(__ROUNDING_MATH__)
#define POLARQUANT_USES_COMPILED 1
#else
#define POLARQUANT_USES_COMPILED 0
#endif

// POLARQUANT_INSTANTIATE(class X<float>) stands behind the definition of X.
#if POLARQUANT_USES_COMPILED
#define POLARQUANT_INSTANTIATE(...) extern template __VA_ARGS__
#elif defined(POLARQUANT_COMPILE)
#define POLARQUANT_INSTANTIATE(...) template __VA_ARGS__
#else
#define POLARQUANT_INSTANTIATE(...) static_assert(true)
#endif

// Functions that are no templates are defined with it, where POLARQUANT_USES_COMPILED is 0.
#if defined(POLARQUANT_COMPILE)
#define POLARQUANT_INLINE
#else
#define POLARQUANT_INLINE inline
#endif
