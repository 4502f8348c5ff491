// Included first in every test by the build: the kernels are compiled once, in extern_kernels.cpp,
// instead of once per test, which takes most of the time of a build.
#pragma once

#include "polarquant/kernels/dispatch.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

extern template VectorKernels<float> choose_vector_kernels<float>(Isa);
extern template VectorKernels<double> choose_vector_kernels<double>(Isa);
extern template PolarKernels<float> choose_polar_kernels<float>(Isa, const CodecTables&, Arithmetic);
extern template PolarKernels<double> choose_polar_kernels<double>(Isa, const CodecTables&, Arithmetic);

}  // namespace detail
POLARQUANT_END_NAMESPACE
