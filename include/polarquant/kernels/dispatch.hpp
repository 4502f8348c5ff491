// The choice of an instruction set at run time.
#pragma once

#include <type_traits>

#include "polarquant/codec_tables.hpp"
#include "polarquant/kernels/avx2.hpp"
#include "polarquant/kernels/avx512.hpp"
#include "polarquant/kernels/isa.hpp"
#include "polarquant/kernels/loops.hpp"
#include "polarquant/kernels/scalar.hpp"
#include "polarquant/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// The kernels of choose_isa() for codes with these tables. Throws what choose_isa throws.
template <typename T>
Kernels<T> choose_kernels(const CodecTables& tables, Arithmetic arithmetic) {
  switch (choose_isa()) {
#if POLARQUANT_X86
    case Isa::kAvx512:
      if constexpr (std::is_same_v<T, float>) {
        if (tables.tile_tables.usable && avx512::has_tile_kernels()) {
          return arithmetic == Arithmetic::kFixedPoint
                     ? avx512::TileKernels<Arithmetic::kFixedPoint>::table()
                     : avx512::TileKernels<Arithmetic::kExact>::table();
        }
      }
      return Avx512Kernels<T>::table();
    case Isa::kAvx2:
      return Avx2Kernels<T>::table();
#endif
    default:
      static_cast<void>(tables);
      static_cast<void>(arithmetic);
      return ScalarKernels<T>::table();
  }
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
