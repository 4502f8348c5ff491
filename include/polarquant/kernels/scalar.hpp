// The kernels for any machine: the loops, compiled for whatever the unit is compiled for.
#pragma once

#include "polarquant/base/version.hpp"
#include "polarquant/kernels/kernel_table.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

POLARQUANT_DEFINE_CALLS(ScalarCall, );

}  // namespace detail
POLARQUANT_END_NAMESPACE
