// Growing storage for tiles that never moves what it holds.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "polarquant/packed_codes.hpp"
#include "polarquant/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

inline constexpr std::size_t kPageTiles = 16;
inline constexpr std::size_t kPageTokens = kPageTiles * kTileTokens;

// Tiles of one kind, in pages of kPageTiles, each page aligned to a cache line and zeroed at first.
// Growing by pages, not by doubling, keeps the memory held within one page of the memory used.
class TilePages {
 public:
  explicit TilePages(std::size_t bytes_per_vector) : tile_bytes_(tile_bytes(bytes_per_vector)) {}

  std::size_t capacity() const { return pages_.size() * kPageTokens; }

  // The tile of tokens 32 index .. 32 index + 31; the rest of its page follows it.
  std::byte* tile(std::size_t index) {
    return pages_[index / kPageTiles].get() + index % kPageTiles * tile_bytes_;
  }
  const std::byte* tile(std::size_t index) const {
    return pages_[index / kPageTiles].get() + index % kPageTiles * tile_bytes_;
  }

  void reserve(std::size_t num_tokens) {
    const std::size_t num_pages = (num_tokens + kPageTokens - 1) / kPageTokens;
    while (pages_.size() < num_pages) {
      Page page(static_cast<std::byte*>(::operator new(page_bytes(), kAlignment)));
      std::memset(page.get(), 0, page_bytes());
      pages_.push_back(std::move(page));
    }
  }

  // Gives back the pages that num_tokens do not need.
  void shrink(std::size_t num_tokens) {
    const std::size_t num_pages = (num_tokens + kPageTokens - 1) / kPageTokens;
    if (num_pages >= pages_.size()) return;
    pages_.resize(num_pages);
    pages_.shrink_to_fit();
  }

  std::size_t memory_bytes() const {
    return pages_.size() * page_bytes() + pages_.capacity() * sizeof(Page);
  }

 private:
  static constexpr std::align_val_t kAlignment{64};

  struct Free {
    void operator()(std::byte* page) const { ::operator delete(page, kAlignment); }
  };
  using Page = std::unique_ptr<std::byte, Free>;

  std::size_t page_bytes() const { return kPageTiles * tile_bytes_; }

  std::size_t tile_bytes_;
  std::vector<Page> pages_;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
