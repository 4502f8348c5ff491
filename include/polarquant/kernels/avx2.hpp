// The kernels for x86-64 with AVX2 and FMA: the loops, vectorised by the compiler.
#pragma once

#include "polarquant/kernels/isa.hpp"
#include "polarquant/kernels/loops.hpp"
#include "polarquant/version.hpp"

#if POLARQUANT_X86
POLARQUANT_BEGIN_NAMESPACE
namespace detail {

POLARQUANT_DEFINE_KERNELS(Avx2Kernels, Isa::kAvx2, POLARQUANT_TARGET_AVX2);

}  // namespace detail
POLARQUANT_END_NAMESPACE
#endif
