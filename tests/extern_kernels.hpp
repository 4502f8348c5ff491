// Included first in every test by the build: the kernels are compiled once, in extern_kernels.cpp,
// instead of once per test, which takes most of the time of a build.
#pragma once

#include "polarquant/kernels/dispatch.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

extern template Kernels<float> choose_kernels<float>(const CodecTables&, Arithmetic);
extern template Kernels<double> choose_kernels<double>(const CodecTables&, Arithmetic);

}  // namespace detail
POLARQUANT_END_NAMESPACE
