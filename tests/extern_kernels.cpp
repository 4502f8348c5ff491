#include "polarquant/kernels/dispatch.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

template VectorKernels<float> choose_vector_kernels<float>(Isa);
template VectorKernels<double> choose_vector_kernels<double>(Isa);
template PolarKernels<float> choose_polar_kernels<float>(Isa, const CodecTables&, Arithmetic);
template PolarKernels<double> choose_polar_kernels<double>(Isa, const CodecTables&, Arithmetic);

}  // namespace detail
POLARQUANT_END_NAMESPACE
