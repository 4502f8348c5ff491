// The kernels for x86-64 with AVX-512.
//
// Scores and weighted sums on whole tiles have kernels of their own, in float and in 16-bit fixed
// point, where the format (TileTables) and the machine (VBMI2, VNNI) allow it, and centres of spans
// have theirs; everything else is the loops, vectorised by the compiler.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "polarquant/base/isa.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/kernels/kernel_table.hpp"
#include "polarquant/kernels/tiles/avx512_centers.hpp"
#include "polarquant/kernels/tiles/avx512_fixed_scores.hpp"
#include "polarquant/kernels/tiles/avx512_fixed_sums.hpp"
#include "polarquant/kernels/tiles/avx512_float.hpp"
#include "polarquant/kernels/words/avx512.hpp"

#if POLARQUANT_X86
#include <immintrin.h>

POLARQUANT_AVX512_BEGIN
POLARQUANT_BEGIN_NAMESPACE
namespace detail {

struct Avx512Roots {
  POLARQUANT_TARGET_AVX512 static void take(float* values, std::size_t count) {
    std::size_t t = 0;
    for (; t + 16 <= count; t += 16) {
      _mm512_storeu_ps(values + t, _mm512_sqrt_ps(_mm512_loadu_ps(values + t)));
    }
    loops::PlainRoots::take(values + t, count - t);
  }
};

POLARQUANT_DEFINE_CALLS(Avx512Call, POLARQUANT_TARGET_AVX512);

template <typename A>
VectorKernels<A> avx512_vector_kernels() {
  VectorKernels<A> kernels = VectorKernels<A>::template compiled<Avx512Call>();
  if constexpr (std::is_same_v<A, float>) {
    kernels.dot_centers = avx512::dot_centers;
    kernels.add_centers = avx512::add_centers;
  }
  return kernels;
}

// The kernels on tiles, as TileKernels takes them.
struct Avx512FixedTiles {
  static void prepare(const CodecTables& tables, const float* query, float* prepared) {
    avx512::prepare_query_fixed(tables, query, prepared);
  }
  static void score(const CodecTables& tables, const std::byte* tiles, std::size_t num_tiles,
                    Rows<const float> prepared, const loops::TileScratch<float>& scratch,
                    Rows<float> scores) {
    avx512::score_tiles_fixed(tables, tiles, num_tiles, prepared, scratch, scores);
  }
  static void accumulate(const CodecTables& tables, const std::byte* tiles, std::size_t num_tiles,
                         Rows<const float> weights, const loops::TileScratch<float>& scratch,
                         Rows<float> sums) {
    avx512::accumulate_tiles_fixed(tables, tiles, num_tiles, weights, scratch, sums);
  }
};

struct Avx512FloatTiles {
  static void prepare(const CodecTables& tables, const float* query, float* prepared) {
    std::copy_n(query, tables.head_dim(), prepared);
  }
  static void score(const CodecTables& tables, const std::byte* tiles, std::size_t num_tiles,
                    Rows<const float> prepared, const loops::TileScratch<float>& scratch,
                    Rows<float> scores) {
    const auto kernel = avx512::needs_wide_tables(tables) ? avx512::score_tiles_float<true>
                                                          : avx512::score_tiles_float<false>;
    kernel(tables, tiles, num_tiles, prepared, scratch.kernel, scores);
  }
  static void accumulate(const CodecTables& tables, const std::byte* tiles, std::size_t num_tiles,
                         Rows<const float> weights, const loops::TileScratch<float>& scratch,
                         Rows<float> sums) {
    const auto kernel = avx512::needs_wide_tables(tables) ? avx512::accumulate_tiles_float<true>
                                                          : avx512::accumulate_tiles_float<false>;
    kernel(tables, tiles, num_tiles, weights, scratch.kernel, sums);
  }
};

inline bool has_avx512_tiles() {
  return __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vnni");
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
POLARQUANT_AVX512_END
#endif
