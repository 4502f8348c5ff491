// A paged cache on the codec alone: the engine owns the memory, the library encodes into it and
// attends to it. A page holds a fixed number of tokens of all heads, a sequence is a block table,
// and sequences with a common prefix share its pages.
#pragma once

#include <algorithm>
#include <cstring>
#include <polarquant/polarquant.hpp>
#include <utility>
#include <vector>

using polarquant::AlignedBuffer;
using polarquant::Rows;

constexpr std::size_t kTile = polarquant::kTileTokens;
constexpr std::size_t kPageTiles = 8;
constexpr std::size_t kPageTokens = kPageTiles * kTile;

struct Sequence {
  std::vector<std::size_t> block_table;  // its pages, in the order of the tokens
  std::size_t num_tokens = 0;
};

class PagedCache {
 public:
  PagedCache(const polarquant::KVCacheConfig& config, std::size_t num_pages)
      : num_heads_(static_cast<std::size_t>(config.num_kv_heads)),
        group_(static_cast<std::size_t>(config.num_query_heads / config.num_kv_heads)),
        codec_(config),
        value_offset_(kPageTiles * codec_.keys().tile_bytes()),
        head_bytes_(value_offset_ + kPageTiles * codec_.values().tile_bytes()),
        pool_(num_pages * num_heads_ * head_bytes_),
        num_owners_(num_pages, 0),
        scratch_(polarquant::attend_tiles_scratch_bytes(codec_)) {}

  // Adds one token, keys and values of all heads side by side. False if there is no free page, or a
  // number is not finite.
  bool append(Sequence& sequence, const float* keys, const float* values) {
    if (!own_last_page(sequence)) return false;
    const std::size_t slot = sequence.num_tokens % kPageTokens;
    for (std::size_t head = 0; head < num_heads_; ++head) {
      std::byte* const page = page_of(sequence.block_table.back(), head);
      if (!store(codec_.keys(), keys, head, slot, page)) return false;
      if (!store(codec_.values(), values, head, slot, page + value_offset_)) return false;
    }
    ++sequence.num_tokens;
    return true;
  }

  // Another sequence with the same tokens, in the same pages.
  Sequence fork(const Sequence& sequence) {
    for (const std::size_t page : sequence.block_table) ++num_owners_[page];
    return sequence;
  }

  // Attention of one token's queries, [num_query_heads * head_dim], to the whole sequence.
  void attend(const Sequence& sequence, const float* queries, float* output,
              const polarquant::AttentionOptions<float>& options = {}) {
    const std::size_t key_width = group_ * codec_.keys().head_dim();
    const std::size_t value_width = group_ * codec_.values().head_dim();
    std::vector<polarquant::TileRun> runs(sequence.block_table.size());
    for (std::size_t head = 0; head < num_heads_; ++head) {
      for (std::size_t i = 0; i < runs.size(); ++i) {
        const std::byte* const page = page_of(sequence.block_table[i], head);
        runs[i] = {page, page + value_offset_,
                   std::min(kPageTokens, sequence.num_tokens - i * kPageTokens)};
      }
      polarquant::attend_tiles(codec_, {runs.data(), runs.size()},
                               Rows<const float>{queries + head * key_width, 1, key_width}, group_,
                               {output + head * value_width, 1, value_width}, scratch_.data(),
                               options);
    }
  }

 private:
  // The key tiles of one head in one page; its value tiles follow.
  std::byte* page_of(std::size_t page, std::size_t head) {
    return pool_.data() + (page * num_heads_ + head) * head_bytes_;
  }

  bool store(const polarquant::Codec<float>& codec, const float* rows, std::size_t head,
             std::size_t slot, std::byte* tiles) {
    std::byte* const tile = tiles + slot / kTile * codec.tile_bytes();
    const std::size_t d = codec.head_dim();
    return codec.encode_tile({rows + head * d, 1, d}, slot % kTile, tile, scratch_.data())
               .failure == polarquant::EncodeFailure::kNone;
  }

  // Makes the last page one that the sequence may write: a new one, or its own copy of a shared
  // one.
  bool own_last_page(Sequence& sequence) {
    std::vector<std::size_t>& table = sequence.block_table;
    const bool is_full = table.size() * kPageTokens == sequence.num_tokens;
    if (!is_full && num_owners_[table.back()] == 1) return true;
    const auto free = std::find(num_owners_.begin(), num_owners_.end(), 0u);
    if (free == num_owners_.end()) return false;
    const std::size_t page = static_cast<std::size_t>(free - num_owners_.begin());
    *free = 1;
    if (is_full) {
      table.push_back(page);
      std::memset(page_of(page, 0), 0, num_heads_ * head_bytes_);
    } else {
      std::memcpy(page_of(page, 0), page_of(table.back(), 0), num_heads_ * head_bytes_);
      --num_owners_[std::exchange(table.back(), page)];
    }
    return true;
  }

  std::size_t num_heads_, group_;
  polarquant::KVCodec<float> codec_;
  std::size_t value_offset_, head_bytes_;  // of a head in a page
  AlignedBuffer pool_;
  std::vector<std::size_t> num_owners_;  // of each page; 0: free
  AlignedBuffer scratch_;
};
