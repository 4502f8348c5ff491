// The kernels for x86-64 with AVX2 and FMA: the loops, vectorised by the compiler; in 16-bit fixed
// point kernels on tiles for the formats that TileTables covers.
#pragma once

#include "polarquant/kernels/fixed_kernels.hpp"
#include "polarquant/kernels/isa.hpp"
#include "polarquant/kernels/loops.hpp"
#include "polarquant/version.hpp"

#if POLARQUANT_X86
POLARQUANT_BEGIN_NAMESPACE
namespace detail {

POLARQUANT_DEFINE_KERNELS(Avx2Kernels, Isa::kAvx2, POLARQUANT_TARGET_AVX2);

inline Kernels<float> avx2_fixed_kernels() {
  return words::FixedKernels<Avx2Kernels<float>>::table("avx2 tiles, 16-bit");
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
#endif
