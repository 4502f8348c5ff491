// What polarquant::compiled has of appending and attention, for each type of rows.
#pragma once

#include <Eigen/Core>
#include <cstddef>

#include "polarquant/attention/cache_tokens.hpp"
#include "polarquant/attention/options.hpp"
#include "polarquant/attention/query_group.hpp"
#include "polarquant/base/compiled.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/storage/kv_append.hpp"
#include "polarquant/storage/kv_storage.hpp"

POLARQUANT_BEGIN_NAMESPACE

#define POLARQUANT_INSTANTIATE_CACHE(T, A)                                              \
  POLARQUANT_INSTANTIATE(AppendResult detail::KVStorage<A>::append<T>(                  \
      Rows<const T>, Rows<const T>, std::byte*) noexcept);                              \
  POLARQUANT_INSTANTIATE(void detail::QueryGroup<A, detail::CacheTokens<A>>::attend<T>( \
      const detail::GroupQueries<T>&, const AttentionOptions<A>&, TokenRange,           \
      const detail::AttentionTarget<A>&) noexcept);                                     \
  POLARQUANT_INSTANTIATE(void detail::QueryGroup<A, detail::CacheTokens<A>>::scores<T>( \
      const detail::GroupQueries<T>&, TokenRange, Rows<A>, std::size_t) noexcept)

POLARQUANT_INSTANTIATE_CACHE(float, float);
POLARQUANT_INSTANTIATE_CACHE(double, double);
POLARQUANT_INSTANTIATE_CACHE(Eigen::half, float);
POLARQUANT_INSTANTIATE_CACHE(Eigen::bfloat16, float);
#undef POLARQUANT_INSTANTIATE_CACHE

POLARQUANT_END_NAMESPACE
