// The kernels for any machine: the loops, compiled for whatever the unit is compiled for.
#pragma once

#include "polarquant/kernels/isa.hpp"
#include "polarquant/kernels/loops.hpp"
#include "polarquant/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

POLARQUANT_DEFINE_KERNELS(ScalarKernels, Isa::kScalar, , loops::PlainRoots);

}  // namespace detail
POLARQUANT_END_NAMESPACE
