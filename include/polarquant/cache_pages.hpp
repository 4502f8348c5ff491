// What one cache stores: the pages of all its KV heads, keys and values.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "polarquant/tile_pages.hpp"
#include "polarquant/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// What is inside a cache, for saving and loading (serialization.hpp).
template <typename T>
struct CacheAccess;

// Bytes of the code of one key and of one value.
struct CodeBytes {
  std::size_t key = 0;
  std::size_t value = 0;
};

// The calls of TilePages, on every head of both sides.
struct CachePages {
  CachePages() = default;
  CachePages(std::size_t num_heads, CodeBytes bytes, const PageAllocator& allocator) {
    keys.reserve(num_heads);
    values.reserve(num_heads);
    for (std::size_t head = 0; head < num_heads; ++head) {
      keys.emplace_back(bytes.key, allocator);
      values.emplace_back(bytes.value, allocator);
    }
  }

  std::size_t num_heads() const { return keys.size(); }

  // Tokens that every head has room for, shared or not.
  std::size_t capacity() const {
    return least([](const TilePages& pages) { return pages.capacity(); });
  }
  // Tokens num_held .. writable_end(num_held) - 1 can be written without an allocation.
  std::size_t writable_end(std::size_t num_held) const {
    return least([num_held](const TilePages& pages) { return pages.writable_end(num_held); });
  }
  std::size_t memory_bytes() const {
    return (keys.capacity() + values.capacity()) * sizeof(TilePages) +
           total([](const TilePages& pages) { return pages.memory_bytes(); });
  }
  std::size_t shared_bytes() const {
    return total([](const TilePages& pages) { return pages.shared_bytes(); });
  }

  void reserve(std::size_t num_tokens, std::size_t num_held) {
    for_each([=](TilePages& pages) { pages.reserve(num_tokens, num_held); });
  }
  void shrink(std::size_t num_tokens) {
    for_each([=](TilePages& pages) { pages.shrink(num_tokens); });
  }
  void drop_front(std::size_t num_pages) {
    for_each([=](TilePages& pages) { pages.drop_front(num_pages); });
  }
  CachePages share(std::size_t num_tokens) const {
    CachePages result;
    for (const TilePages& pages : keys) result.keys.push_back(pages.share(num_tokens));
    for (const TilePages& pages : values) result.values.push_back(pages.share(num_tokens));
    return result;
  }

  std::vector<TilePages> keys;    // [num_heads]
  std::vector<TilePages> values;  // [num_heads]

 private:
  template <typename Call>
  void for_each(const Call& call) {
    for (TilePages& pages : keys) call(pages);
    for (TilePages& pages : values) call(pages);
  }
  template <typename Call>
  std::size_t total(const Call& call) const {
    std::size_t sum = 0;
    for (const TilePages& pages : keys) sum += call(pages);
    for (const TilePages& pages : values) sum += call(pages);
    return sum;
  }
  template <typename Call>
  std::size_t least(const Call& call) const {
    std::size_t result = call(keys.front());
    for (const TilePages& pages : keys) result = std::min(result, call(pages));
    for (const TilePages& pages : values) result = std::min(result, call(pages));
    return result;
  }
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
