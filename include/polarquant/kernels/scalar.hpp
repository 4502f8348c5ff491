// The kernels for any machine: the loops, compiled for whatever the unit is compiled for.
#pragma once

#include "polarquant/base/isa.hpp"
#include "polarquant/kernels/kernel_table.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

POLARQUANT_DEFINE_KERNELS(ScalarKernels, Isa::kScalar, , loops::PlainRoots);

}  // namespace detail
POLARQUANT_END_NAMESPACE
