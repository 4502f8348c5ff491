// A paged cache on the codec alone: the engine owns the memory, the library encodes into it and
// attends to it. A page holds a fixed number of tokens of all heads, a sequence is a block table,
// and sequences with a common prefix share its pages.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <polarquant/polarquant.hpp>
#include <utility>
#include <vector>

using Codec = polarquant::PolarCodec<float>;

constexpr std::size_t kTile = Codec::tile_tokens();
constexpr std::size_t kPageTiles = 8;
constexpr std::size_t kPageTokens = kPageTiles * kTile;

// Memory aligned to 64 bytes, as tiles, tables and scratch want it.
struct Memory {
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  explicit Memory(std::size_t num_bytes) : lines((num_bytes + 63) / 64) {}
  std::byte* bytes() { return lines.data()->bytes; }
  float* floats() { return reinterpret_cast<float*>(bytes()); }
  std::vector<Line> lines;
};

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
        value_offset_(kPageTiles * keys_.tile_bytes()),
        head_bytes_(value_offset_ + kPageTiles * values_.tile_bytes()),
        pool_(num_pages * num_heads_ * head_bytes_),
        num_owners_(num_pages, 0),
        scratch_(std::max(keys_.scratch_bytes(), values_.scratch_bytes())),
        tables_(group_ * keys_.prepared_size() * sizeof(float)),
        weights_(group_ * kPageTokens * sizeof(float)),
        sums_(group_ * values_.tile_sum_size() * sizeof(float)) {}

  // Adds one token, keys and values of all heads side by side. False if there is no free page, or a
  // number is not finite.
  bool append(Sequence& sequence, const float* keys, const float* values) {
    if (!own_last_page(sequence)) return false;
    const std::size_t slot = sequence.num_tokens % kPageTokens;
    for (std::size_t head = 0; head < num_heads_; ++head) {
      std::byte* const page = page_of(sequence.block_table.back(), head);
      if (!store(keys_, keys, head, slot, page)) return false;
      if (!store(values_, values, head, slot, page + value_offset_)) return false;
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
  void attend(const Sequence& sequence, const float* queries, float* output) {
    const std::size_t d = keys_.head_dim();
    const polarquant::Rows<float> tables = {tables_.floats(), group_, keys_.prepared_size()};
    const polarquant::Rows<float> weights = {weights_.floats(), group_, kPageTokens};
    const polarquant::Rows<float> sums = {sums_.floats(), group_, values_.tile_sum_size()};
    for (std::size_t head = 0; head < num_heads_; ++head) {
      std::vector<polarquant::OnlineSoftmax<float>> softmax(group_);
      std::fill_n(sums.data, sums.count * sums.stride, 0.0f);
      for (std::size_t row = 0; row < group_; ++row) {
        keys_.prepare_query(queries + (head * group_ + row) * d, tables.row(row), scratch_.bytes(),
                            1.0f / std::sqrt(static_cast<float>(d)));
      }
      for (std::size_t first = 0; first < sequence.num_tokens; first += kPageTokens) {
        const std::byte* const page = page_of(sequence.block_table[first / kPageTokens], head);
        const std::size_t count = std::min(kPageTokens, sequence.num_tokens - first);
        const std::size_t num_tiles = (count + kTile - 1) / kTile;
        keys_.score_tiles(tables, page, num_tiles, weights, scratch_.bytes());
        for (std::size_t row = 0; row < group_; ++row) {
          float* const own = weights.row(row);
          std::fill(own + count, own + num_tiles * kTile, 0.0f);  // Slots without a token.
          const float shrink = softmax[row].raise_maximum(keys_.largest_logit(own, count));
          for (std::size_t i = 0; shrink != 1.0f && i < sums.stride; ++i) {
            sums.row(row)[i] *= shrink;
          }
          softmax[row].sum += keys_.exponentiate(own, count, softmax[row].maximum);
        }
        values_.accumulate_tiles(weights, page + value_offset_, num_tiles, sums, scratch_.bytes());
      }
      for (std::size_t row = 0; row < group_; ++row) {
        values_.finish_tiles(sums.row(row), softmax[row].normalizer(),
                             output + (head * group_ + row) * values_.head_dim(), scratch_.bytes());
      }
    }
  }

 private:
  // The key tiles of one head in one page; its value tiles follow.
  std::byte* page_of(std::size_t page, std::size_t head) {
    return pool_.bytes() + (page * num_heads_ + head) * head_bytes_;
  }

  bool store(const Codec& codec, const float* rows, std::size_t head, std::size_t slot,
             std::byte* tiles) {
    std::byte* const tile = tiles + slot / kTile * codec.tile_bytes();
    const std::size_t d = codec.head_dim();
    return codec.encode_tile({rows + head * d, 1, d}, slot % kTile, tile, scratch_.bytes())
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
  const Codec &keys_ = codec_.keys, &values_ = codec_.values;
  std::size_t value_offset_, head_bytes_;  // of a head in a page
  Memory pool_;
  std::vector<std::size_t> num_owners_;  // of each page; 0: free
  Memory scratch_, tables_, weights_, sums_;
};
