#include "polarquant/kernels/dispatch.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

template Kernels<float> choose_kernels<float>(const CodecTables&, Arithmetic);
template Kernels<double> choose_kernels<double>(const CodecTables&, Arithmetic);

}  // namespace detail
POLARQUANT_END_NAMESPACE
