// The kernels as plain loops, the specification of every faster one, and their tables.
//
// Each loop is written once and compiled once per instruction set: POLARQUANT_DEFINE_CALLS makes a
// template whose call() is a loop inlined into a function with that set's target attribute.
#pragma once

#include <cstddef>

#include "polarquant/base/isa.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/kernels/loops/center.hpp"
#include "polarquant/kernels/loops/condition.hpp"
#include "polarquant/kernels/loops/decode.hpp"
#include "polarquant/kernels/loops/encode.hpp"
#include "polarquant/kernels/loops/exact.hpp"
#include "polarquant/kernels/loops/rotate.hpp"
#include "polarquant/kernels/loops/softmax.hpp"
#include "polarquant/kernels/loops/trellis.hpp"

#define POLARQUANT_DEFINE_CALLS(Name, target)                                         \
  template <auto kLoop>                                                               \
  struct Name;                                                                        \
  template <typename Result, typename... Arguments, Result (*kLoop)(Arguments...)>    \
  struct Name<kLoop> {                                                                \
    target static Result call(Arguments... arguments) { return kLoop(arguments...); } \
  }

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// What rotations, centres, exact rows and softmax need, whatever the codes are. A: float or double.
template <typename A>
struct VectorKernels {
  decltype(&loops::rotate<A>) rotate;
  decltype(&loops::rotate_back<A>) rotate_back;
  decltype(&loops::reduce_lanes<A>) reduce_lanes;
  decltype(&loops::maximum<A>) maximum;
  decltype(&loops::exponentiate<A>) exponentiate;
  decltype(&loops::cap_logits<A>) cap_logits;
  decltype(&loops::expand<A>) expand;
  decltype(&loops::dot_rows<A>) dot_rows;
  decltype(&loops::add_rows<A>) add_rows;
  decltype(&loops::expand_center<A>) expand_center;
  decltype(&loops::dot_centers<A>) dot_centers;
  decltype(&loops::add_centers<A>) add_centers;
  decltype(&loops::condition<A>) condition;
  decltype(&loops::uncondition<A>) uncondition;

  // The loops compiled by Call, which POLARQUANT_DEFINE_CALLS made.
  template <template <auto> class Call>
  static VectorKernels compiled() {
    return {Call<&loops::rotate<A>>::call,       Call<&loops::rotate_back<A>>::call,
            Call<&loops::reduce_lanes<A>>::call, Call<&loops::maximum<A>>::call,
            Call<&loops::exponentiate<A>>::call, Call<&loops::cap_logits<A>>::call,
            Call<&loops::expand<A>>::call,       Call<&loops::dot_rows<A>>::call,
            Call<&loops::add_rows<A>>::call,     Call<&loops::expand_center<A>>::call,
            Call<&loops::dot_centers<A>>::call,  Call<&loops::add_centers<A>>::call,
            Call<&loops::condition<A>>::call,    Call<&loops::uncondition<A>>::call};
  }
};

// What polar codes need.
template <typename A>
struct PolarKernels {
  const char* name;
  decltype(&loops::encode<kTileTokens, loops::PlainRoots>) encode_tile;
  decltype(&loops::encode<1, loops::PlainRoots>) encode_row;
  decltype(&loops::decode_tile<A>) decode_tile;
  decltype(&loops::expand_row<A>) expand_row;
  decltype(&loops::dot_row<A>) dot_row;
  decltype(&loops::prepare_query<A>) prepare_query;
  decltype(&loops::score_tiles<A>) score_tiles;
  decltype(&loops::accumulate_tiles<A>) accumulate_tiles;

  // Roots: see loops::PlainRoots.
  template <template <auto> class Call, typename Roots>
  static PolarKernels compiled(const char* name) {
    return {name,
            Call<&loops::encode<kTileTokens, Roots>>::call,
            Call<&loops::encode<1, Roots>>::call,
            Call<&loops::decode_tile<A>>::call,
            Call<&loops::expand_row<A>>::call,
            Call<&loops::dot_row<A>>::call,
            Call<&loops::prepare_query<A>>::call,
            Call<&loops::score_tiles<A>>::call,
            Call<&loops::accumulate_tiles<A>>::call};
  }
};

// What trellis codes need.
template <typename A>
struct TrellisKernels {
  const char* name;
  decltype(&loops::encode_trellis<kTileTokens, A>) encode_tile;
  decltype(&loops::encode_trellis<1, A>) encode_row;
  decltype(&loops::expand_trellis<A>) expand_row;
  decltype(&loops::score_trellis<A>) score_tiles;
  decltype(&loops::accumulate_trellis<A>) accumulate_tiles;

  template <template <auto> class Call>
  static TrellisKernels compiled(const char* name) {
    return {name,
            Call<&loops::encode_trellis<kTileTokens, A>>::call,
            Call<&loops::encode_trellis<1, A>>::call,
            Call<&loops::expand_trellis<A>>::call,
            Call<&loops::score_trellis<A>>::call,
            Call<&loops::accumulate_trellis<A>>::call};
  }
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
