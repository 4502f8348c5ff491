// The choice of an instruction set at run time.
#pragma once

#include <type_traits>

#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/kernels/avx2.hpp"
#include "polarquant/kernels/avx512.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/kernels/kernel_table.hpp"
#include "polarquant/kernels/neon.hpp"
#include "polarquant/kernels/scalar.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// The kernels of choose_isa() for codes with these tables. Throws what choose_isa throws.
template <typename T>
Kernels<T> choose_kernels(const CodecTables& tables, Arithmetic arithmetic) {
  const Isa isa = choose_isa();
  // Of T = float.
  const bool tiles = tables.tile_tables.usable;
  const bool fixed_tiles = tiles && arithmetic == Arithmetic::kFixedPoint;
  static_cast<void>(fixed_tiles);
  switch (isa) {
#if POLARQUANT_X86
    case Isa::kAvx512:
      if constexpr (std::is_same_v<T, float>) {
        if (tiles && avx512::has_tile_kernels()) {
          return fixed_tiles ? avx512::TileKernels<Arithmetic::kFixedPoint>::table()
                             : avx512::TileKernels<Arithmetic::kExact>::table();
        }
      }
      return Avx512Kernels<T>::table();
    case Isa::kAvx2:
      if constexpr (std::is_same_v<T, float>) {
        if (fixed_tiles) return avx2_fixed_kernels();
      }
      return Avx2Kernels<T>::table();
#elif POLARQUANT_NEON
    case Isa::kNeon:
      if constexpr (std::is_same_v<T, float>) {
        if (fixed_tiles) return neon_fixed_kernels();
      }
      return NeonKernels<T>::table();
#endif
    default:
      return ScalarKernels<T>::table();
  }
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
