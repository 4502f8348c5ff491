// The kernels for aarch64, all of which has NEON: the loops, vectorised by the compiler; in 16-bit
// fixed point kernels on tiles for the formats that TileTables covers.
#pragma once

#include "polarquant/kernels/fixed_kernels.hpp"
#include "polarquant/kernels/isa.hpp"
#include "polarquant/kernels/loops.hpp"
#include "polarquant/version.hpp"

#if POLARQUANT_NEON
POLARQUANT_BEGIN_NAMESPACE
namespace detail {

POLARQUANT_DEFINE_KERNELS(NeonKernels, Isa::kNeon, );

inline Kernels<float> neon_fixed_kernels() {
  return words::FixedKernels<NeonKernels<float>>::table("neon tiles, 16-bit");
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
#endif
