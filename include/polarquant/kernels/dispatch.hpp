// The choice of kernels for an instruction set, at run time.
#pragma once

#include <type_traits>

#include "polarquant/base/compiled.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/kernels/kernel_table.hpp"
#if !POLARQUANT_USES_COMPILED
#include "polarquant/kernels/avx2.hpp"
#include "polarquant/kernels/avx512.hpp"
#include "polarquant/kernels/fixed_tiles.hpp"
#include "polarquant/kernels/neon.hpp"
#include "polarquant/kernels/scalar.hpp"
#include "polarquant/kernels/tile_kernels.hpp"
#endif

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// A: float or double.
template <typename A>
VectorKernels<A> choose_vector_kernels(Isa isa);

// The kernels for codes with these tables.
template <typename A>
PolarKernels<A> choose_polar_kernels(Isa isa, const CodecTables& tables, Arithmetic arithmetic);

// The kernels for trellis codes.
template <typename A>
TrellisKernels<A> choose_trellis_kernels(Isa isa);

#if !POLARQUANT_USES_COMPILED
template <typename A>
VectorKernels<A> choose_vector_kernels(Isa isa) {
  switch (isa) {
#if POLARQUANT_X86
    case Isa::kAvx512:
      return avx512_vector_kernels<A>();
    case Isa::kAvx2:
      return VectorKernels<A>::template compiled<Avx2Call>();
#elif POLARQUANT_NEON
    case Isa::kNeon:
      return VectorKernels<A>::template compiled<NeonCall>();
#endif
    default:
      return VectorKernels<A>::template compiled<ScalarCall>();
  }
}

// The loops for double, which has no kernels on tiles.
template <typename A>
PolarKernels<A> choose_polar_loops(Isa isa) {
  switch (isa) {
#if POLARQUANT_X86
    case Isa::kAvx512:
      return PolarKernels<A>::template compiled<Avx512Call, Avx512Roots>("avx512 loops");
    case Isa::kAvx2:
      return PolarKernels<A>::template compiled<Avx2Call, Avx2Roots>("avx2 loops");
#elif POLARQUANT_NEON
    case Isa::kNeon:
      return PolarKernels<A>::template compiled<NeonCall, NeonRoots>("neon loops");
#endif
    default:
      return PolarKernels<A>::template compiled<ScalarCall, loops::PlainRoots>("scalar loops");
  }
}

template <typename A>
PolarKernels<A> choose_polar_kernels(Isa isa, const CodecTables& tables, Arithmetic arithmetic) {
  const bool is_fixed = arithmetic == Arithmetic::kFixedPoint;
  static_cast<void>(is_fixed);
  if constexpr (std::is_same_v<A, float>) {
    if (tables.tile_tables.usable) {
      switch (isa) {
#if POLARQUANT_X86
        case Isa::kAvx512:
          if (!has_avx512_tiles()) break;
          return is_fixed ? TileKernels<Avx512FixedTiles, Avx512Call, Avx512Roots>::table(
                                "avx512 tiles, 16-bit")
                          : TileKernels<Avx512FloatTiles, Avx512Call, Avx512Roots>::table(
                                "avx512 tiles");
        case Isa::kAvx2:
          if (!is_fixed) break;
          return TileKernels<FixedTiles, Avx2Call, Avx2Roots>::table("avx2 tiles, 16-bit");
#elif POLARQUANT_NEON
        case Isa::kNeon:
          if (!is_fixed) break;
          return TileKernels<FixedTiles, NeonCall, NeonRoots>::table("neon tiles, 16-bit");
#endif
        default:
          break;
      }
    }
  }
  return choose_polar_loops<A>(isa);
}

template <typename A>
TrellisKernels<A> choose_trellis_kernels(Isa isa) {
  switch (isa) {
#if POLARQUANT_X86
    case Isa::kAvx512:
      return TrellisKernels<A>::template compiled<Avx512Call>("avx512 loops");
    case Isa::kAvx2:
      return TrellisKernels<A>::template compiled<Avx2Call>("avx2 loops");
#elif POLARQUANT_NEON
    case Isa::kNeon:
      return TrellisKernels<A>::template compiled<NeonCall>("neon loops");
#endif
    default:
      return TrellisKernels<A>::template compiled<ScalarCall>("scalar loops");
  }
}
#endif

POLARQUANT_INSTANTIATE(VectorKernels<float> choose_vector_kernels<float>(Isa));
POLARQUANT_INSTANTIATE(VectorKernels<double> choose_vector_kernels<double>(Isa));
POLARQUANT_INSTANTIATE(PolarKernels<float> choose_polar_kernels<float>(Isa, const CodecTables&,
                                                                       Arithmetic));
POLARQUANT_INSTANTIATE(PolarKernels<double> choose_polar_kernels<double>(Isa, const CodecTables&,
                                                                         Arithmetic));
POLARQUANT_INSTANTIATE(TrellisKernels<float> choose_trellis_kernels<float>(Isa));
POLARQUANT_INSTANTIATE(TrellisKernels<double> choose_trellis_kernels<double>(Isa));

}  // namespace detail
POLARQUANT_END_NAMESPACE
