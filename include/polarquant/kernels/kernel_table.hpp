// The kernels as plain loops: the specification of every faster one.
//
// Each loop is written once and compiled once per instruction set, by POLARQUANT_DEFINE_KERNELS.
#pragma once

#include <cstddef>

#include "polarquant/codes/codec_tables.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/kernels/loops/decode.hpp"
#include "polarquant/kernels/loops/encode.hpp"
#include "polarquant/kernels/loops/exact.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/kernels/loops/rotate.hpp"
#include "polarquant/kernels/loops/softmax.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/method/rotation.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// The entry points of one instruction set, for accumulators of type T (float or double).
template <typename T>
struct Kernels {
  const char* name;
  void (*rotate)(const Rotation&, const T*, T*);
  void (*rotate_back)(const Rotation&, const T*, T*);
  bool (*encode_tile)(const CodecTables&, const Rotation&, const double*,
                      const loops::EncodeScratch&, std::byte*);
  bool (*encode_row)(const CodecTables&, const Rotation&, const double*,
                     const loops::EncodeScratch&, std::byte*);
  void (*prepare_query)(const CodecTables&, const T*, T*);
  void (*score_tiles)(const CodecTables&, const std::byte*, std::size_t, Rows<const T>,
                      const loops::TileScratch<T>&, Rows<T>);
  void (*accumulate_tiles)(const CodecTables&, const std::byte*, std::size_t, Rows<const T>,
                           const loops::TileScratch<T>&, Rows<T>);
  void (*reduce_lanes)(const T*, std::size_t, T, T*);
  void (*decode_tile)(const CodecTables&, const Rotation&, const std::byte*,
                      const loops::TileScratch<T>&, Rows<T>);
  T (*dot_row)(const CodecTables&, const std::byte*, const T*, const loops::TileScratch<T>&);
  void (*expand_row)(const CodecTables&, const std::byte*, const loops::TileScratch<T>&);
  T (*maximum)(const T*, std::size_t);
  T (*exponentiate)(T*, std::size_t, T);
  void (*expand)(FloatType, const std::byte*, std::size_t, T*);
  void (*dot_rows)(const T*, Rows<const T>, std::size_t, T*);
  void (*add_rows)(const T*, Rows<const T>, std::size_t, T*);
  void (*cap_logits)(T*, std::size_t, T, T);
};

}  // namespace detail
POLARQUANT_END_NAMESPACE

// Defines a struct template `name`<T> whose static functions are the loops above, compiled with the
// function attribute `target` and with the square roots of `roots` (see loops::PlainRoots), and
// whose table() lists them.
#define POLARQUANT_DEFINE_KERNELS(name, isa_value, target, roots)                                \
  template <typename T>                                                                          \
  struct name {                                                                                  \
    target static void rotate(const Rotation& rotation, const T* x, T* y) {                      \
      loops::rotate(rotation, x, y);                                                             \
    }                                                                                            \
    target static void rotate_back(const Rotation& rotation, const T* y, T* x) {                 \
      loops::rotate_back(rotation, y, x);                                                        \
    }                                                                                            \
    target static bool encode_tile(const CodecTables& tables, const Rotation& rotation,          \
                                   const double* scales, const loops::EncodeScratch& scratch,    \
                                   std::byte* tile) {                                            \
      return loops::encode<kTileTokens, roots>(tables, rotation, scales, scratch, tile);         \
    }                                                                                            \
    target static bool encode_row(const CodecTables& tables, const Rotation& rotation,           \
                                  const double* scales, const loops::EncodeScratch& scratch,     \
                                  std::byte* code) {                                             \
      return loops::encode<1, roots>(tables, rotation, scales, scratch, code);                   \
    }                                                                                            \
    target static void prepare_query(const CodecTables& tables, const T* query, T* prepared) {   \
      loops::prepare_query(tables, query, prepared);                                             \
    }                                                                                            \
    target static void score_tiles(const CodecTables& tables, const std::byte* tiles,            \
                                   std::size_t num_tiles, Rows<const T> prepared,                \
                                   const loops::TileScratch<T>& scratch, Rows<T> scores) {       \
      loops::score_tiles(tables, tiles, num_tiles, prepared, scratch, scores);                   \
    }                                                                                            \
    target static void accumulate_tiles(const CodecTables& tables, const std::byte* tiles,       \
                                        std::size_t num_tiles, Rows<const T> weights,            \
                                        const loops::TileScratch<T>& scratch, Rows<T> sums) {    \
      loops::accumulate_tiles(tables, tiles, num_tiles, weights, scratch, sums);                 \
    }                                                                                            \
    target static void reduce_lanes(const T* sums, std::size_t count, T factor, T* out) {        \
      loops::reduce_lanes(sums, count, factor, out);                                             \
    }                                                                                            \
    target static void decode_tile(const CodecTables& tables, const Rotation& rotation,          \
                                   const std::byte* tile, const loops::TileScratch<T>& scratch,  \
                                   Rows<T> rows) {                                               \
      loops::decode_tile(tables, rotation, tile, scratch, rows);                                 \
    }                                                                                            \
    target static T dot_row(const CodecTables& tables, const std::byte* code, const T* prepared, \
                            const loops::TileScratch<T>& scratch) {                              \
      return loops::dot_row(tables, code, prepared, scratch);                                    \
    }                                                                                            \
    target static void expand_row(const CodecTables& tables, const std::byte* code,              \
                                  const loops::TileScratch<T>& scratch) {                        \
      loops::expand_row(tables, code, scratch);                                                  \
    }                                                                                            \
    target static T maximum(const T* values, std::size_t count) {                                \
      return loops::maximum(values, count);                                                      \
    }                                                                                            \
    target static T exponentiate(T* values, std::size_t count, T largest) {                      \
      return loops::exponentiate(values, count, largest);                                        \
    }                                                                                            \
    target static void expand(FloatType type, const std::byte* stored, std::size_t count,        \
                              T* out) {                                                          \
      loops::expand(type, stored, count, out);                                                   \
    }                                                                                            \
    target static void dot_rows(const T* query, Rows<const T> rows, std::size_t width,           \
                                T* scores) {                                                     \
      loops::dot_rows(query, rows, width, scores);                                               \
    }                                                                                            \
    target static void add_rows(const T* weights, Rows<const T> rows, std::size_t n, T* sum) {   \
      loops::add_rows(weights, rows, n, sum);                                                    \
    }                                                                                            \
    target static void cap_logits(T* logits, std::size_t count, T cap, T shift) {                \
      loops::cap_logits(logits, count, cap, shift);                                              \
    }                                                                                            \
    static Kernels<T> table() {                                                                  \
      return {isa_name(isa_value),                                                               \
              rotate,                                                                            \
              rotate_back,                                                                       \
              encode_tile,                                                                       \
              encode_row,                                                                        \
              prepare_query,                                                                     \
              score_tiles,                                                                       \
              accumulate_tiles,                                                                  \
              reduce_lanes,                                                                      \
              decode_tile,                                                                       \
              dot_row,                                                                           \
              expand_row,                                                                        \
              maximum,                                                                           \
              exponentiate,                                                                      \
              expand,                                                                            \
              dot_rows,                                                                          \
              add_rows,                                                                          \
              cap_logits};                                                                       \
    }                                                                                            \
  }
