// The kernels for aarch64, all of which has NEON: the loops, vectorised by the compiler; in 16-bit
// fixed point kernels on tiles for the formats that TileTables covers.
#pragma once

#include <cstddef>

#include "polarquant/base/isa.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/kernels/kernel_table.hpp"

#if POLARQUANT_NEON
#include <arm_neon.h>

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

struct NeonRoots {
  static void take(float* values, std::size_t count) {
    std::size_t t = 0;
    for (; t + 4 <= count; t += 4) vst1q_f32(values + t, vsqrtq_f32(vld1q_f32(values + t)));
    loops::PlainRoots::take(values + t, count - t);
  }
};

POLARQUANT_DEFINE_CALLS(NeonCall, );

}  // namespace detail
POLARQUANT_END_NAMESPACE
#endif
