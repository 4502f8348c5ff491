// The choice of an instruction set at run time.
#pragma once

#include "polarquant/kernels/avx2.hpp"
#include "polarquant/kernels/avx512.hpp"
#include "polarquant/kernels/isa.hpp"
#include "polarquant/kernels/loops.hpp"
#include "polarquant/kernels/scalar.hpp"
#include "polarquant/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// The kernels of choose_isa(). Throws what it throws.
template <typename T>
Kernels<T> choose_kernels() {
  switch (choose_isa()) {
#if POLARQUANT_X86
    case Isa::kAvx512:
      return avx512_kernels<T>();
    case Isa::kAvx2:
      return Avx2Kernels<T>::table();
#endif
    default:
      return ScalarKernels<T>::table();
  }
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
