// 32 vectors side by side on the instruction set that a unit is compiled for; empty where there is
// none.
#pragma once

#include "polarquant/kernels/words/avx2.hpp"
#include "polarquant/kernels/words/neon.hpp"

#if POLARQUANT_X86 || POLARQUANT_NEON
#define POLARQUANT_HAS_WORDS 1
#else
#define POLARQUANT_HAS_WORDS 0
#endif
