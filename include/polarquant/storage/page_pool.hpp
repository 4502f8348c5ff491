// Growing storage for tiles that never moves what it holds, and that copies share until they write.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/codes/tile.hpp"

POLARQUANT_BEGIN_NAMESPACE

// Where a cache's pages come from: both functions, or neither for operator new.
//
// allocate returns num_bytes bytes aligned to kAlignment, of any content, or null if there are
// none; deallocate gets back what allocate gave, with the same num_bytes. Neither may throw.
// `context` is handed to both; it and what it stands for belong to the caller and must outlive
// every cache made with it and every copy of one. A page that copies share is freed by the last of
// them, so caches that live in several threads need functions that are safe in several threads.
struct PageAllocator {
  void* (*allocate)(void* context, std::size_t num_bytes) = nullptr;
  void (*deallocate)(void* context, void* memory, std::size_t num_bytes) = nullptr;
  void* context = nullptr;

  // What is wrong with it; empty if nothing is.
  std::string problem() const {
    if ((allocate == nullptr) == (deallocate == nullptr)) return {};
    return std::string("the page allocator has no ") +
           (allocate == nullptr ? "allocate" : "deallocate") + ": set both functions or neither";
  }
};

namespace detail {

inline constexpr std::size_t kPageTiles = kRunTiles;
inline constexpr std::size_t kPageTokens = kPageTiles * kTileTokens;
inline constexpr std::size_t kPageSpans = kPageTokens / kSpanTokens;
inline constexpr std::size_t kHalfPageTokens = kPageTokens / 2;

// Tiles of one kind, in pages of kPageTiles, each page aligned to a cache line and zeroed at first.
// In front of its tiles a page has the codes of its spans' centres, if there are any. A pool for so
// few tokens has half a page, which moves when it grows: short sequences take little memory.
// Growing by pages, not by doubling, keeps the memory held within one page of the memory used.
// Tokens are numbered from 0 on, and keep their numbers when pages before them are given back.
//
// A page counts its owners. share() makes one more owner of every page; reserve() replaces a shared
// page by one's own before it may be written. Owners may live in different threads.
class PagePool {
 public:
  // center_bytes: of the code of a centre; 0: there are none.
  explicit PagePool(std::size_t bytes_per_vector, const PageAllocator& allocator = {},
                    std::size_t center_bytes = 0)
      : tile_bytes_(tile_bytes(bytes_per_vector)),
        center_bytes_(center_bytes),
        allocator_(allocator) {}

  PagePool(PagePool&& other) noexcept
      : tile_bytes_(other.tile_bytes_),
        center_bytes_(other.center_bytes_),
        allocator_(other.allocator_),
        first_page_(std::exchange(other.first_page_, 0)),
        pages_(std::exchange(other.pages_, {})) {}
  PagePool& operator=(PagePool&& other) noexcept {
    PagePool taken(std::move(other));
    std::swap(tile_bytes_, taken.tile_bytes_);
    std::swap(center_bytes_, taken.center_bytes_);
    std::swap(allocator_, taken.allocator_);
    std::swap(first_page_, taken.first_page_);
    std::swap(pages_, taken.pages_);
    return *this;
  }
  ~PagePool() {
    for (std::byte* const page : pages_) release(page);
  }

  // The pages end with token capacity() - 1, shared or not.
  std::size_t capacity() const {
    if (pages_.empty()) return end_page() * kPageTokens;
    return (end_page() - 1) * kPageTokens + num_tiles(pages_.back()) * kTileTokens;
  }

  // Tokens num_held .. writable_end(num_held) - 1 can be written without an allocation.
  std::size_t writable_end(std::size_t num_held) const {
    std::size_t page = num_held / kPageTokens;
    while (page < end_page() && !is_shared(pages_[page - first_page_])) ++page;
    return (std::max)(num_held, (std::min)(page * kPageTokens, capacity()));
  }

  // Whether tokens first .. end - 1 can be written: their pages are there and nobody else's.
  bool is_writable(std::size_t first, std::size_t end) const {
    if (end > capacity()) return false;
    for (std::size_t page = first / kPageTokens; page < num_pages_of(end); ++page) {
      if (page >= end_page() || is_shared(pages_[page - first_page_])) return false;
    }
    return true;
  }

  // The tile of tokens 32 index .. 32 index + 31; the rest of its page follows it. To be written
  // only where reserve() allows it.
  std::byte* tile(std::size_t index) {
    std::byte* const page = pages_[index / kPageTiles - first_page_];
    POLARQUANT_DCHECK(!is_shared(page));
    return page + index % kPageTiles * tile_bytes_;
  }
  const std::byte* tile(std::size_t index) const {
    return pages_[index / kPageTiles - first_page_] + index % kPageTiles * tile_bytes_;
  }

  // The code of the centre of tokens kSpanTokens index .. kSpanTokens (index + 1) - 1; those of the
  // rest of its page follow it. As for tile().
  std::byte* center(std::size_t index) {
    return const_cast<std::byte*>(static_cast<const PagePool*>(this)->center(index));
  }
  const std::byte* center(std::size_t index) const {
    return pages_[index / kPageSpans - first_page_] - centers_bytes() +
           index % kPageSpans * center_bytes_;
  }
  std::size_t center_bytes() const { return center_bytes_; }

  // Room for tokens up to num_tokens - 1, those from num_held on to be written: no page of theirs
  // is shared afterwards, and only tokens before num_held keep their codes. Throws
  // std::runtime_error (or what operator new throws) if there is no memory; what was held stays
  // held.
  void reserve(std::size_t num_tokens, std::size_t num_held = 0) {
    const std::size_t end = num_pages_of(num_tokens);
    for (std::size_t page = (std::max)(num_held / kPageTokens, first_page_);
         page < (std::min)(end, end_page()); ++page) {
      std::byte*& place = pages_[page - first_page_];
      if (is_shared(place)) {
        replace(place, num_held - (std::min)(num_held, page * kPageTokens), num_tiles(place));
      }
    }
    if (num_tokens <= capacity()) return;
    if (!pages_.empty() && num_tiles(pages_.back()) < kPageTiles) {
      replace(pages_.back(), (std::min)(num_held, kHalfPageTokens), kPageTiles);
    }
    const std::size_t num_pages = end - first_page_;
    if (num_pages > pages_.capacity()) pages_.reserve((std::max)(num_pages, 2 * pages_.size()));
    const bool is_half = end_page() == 0 && num_tokens <= kHalfPageTokens;
    while (pages_.size() < num_pages) {
      pages_.push_back(allocate(0, is_half ? kPageTiles / 2 : kPageTiles));
    }
  }

  // Another owner of the pages of tokens up to num_tokens - 1, as far as there are any.
  PagePool share(std::size_t num_tokens) const {
    PagePool result(0, allocator_, center_bytes_);
    result.tile_bytes_ = tile_bytes_;
    result.first_page_ = first_page_;
    const std::size_t end =
        (std::min)((std::max)(num_pages_of(num_tokens), first_page_), end_page());
    result.pages_.assign(pages_.begin(), iterator_of(end));
    for (std::byte* const page : result.pages_) {
      owners(page).fetch_add(1, std::memory_order_relaxed);
    }
    return result;
  }

  // Gives back the pages that hold no token before num_tokens, and half of the first if it alone is
  // left and holds so few. Throws as reserve() does; what was held stays held.
  void shrink(std::size_t num_tokens) {
    const std::size_t end = (std::max)(num_pages_of(num_tokens), first_page_);
    if (end < end_page()) {
      std::for_each(iterator_of(end), pages_.cend(), [this](std::byte* page) { release(page); });
      pages_.erase(iterator_of(end), pages_.cend());
      pages_.shrink_to_fit();
    }
    const bool is_half = end_page() == 1 && num_tokens <= kHalfPageTokens;
    if (is_half && pages_.size() == 1 && num_tiles(pages_[0]) == kPageTiles &&
        !is_shared(pages_[0])) {
      replace(pages_[0], num_tokens, kPageTiles / 2);
    }
  }

  // Gives back the pages that hold no token from num_tokens on.
  void drop_front(std::size_t num_tokens) {
    const std::size_t first = (std::min)(num_tokens / kPageTokens, end_page());
    if (first <= first_page_) return;
    std::for_each(pages_.cbegin(), iterator_of(first), [this](std::byte* page) { release(page); });
    pages_.erase(pages_.cbegin(), iterator_of(first));
    first_page_ = first;
  }

  // Numbers the tokens from 0 again; what the pages hold is of no use any more.
  void restart() { first_page_ = 0; }

  // Bytes of the pages held, shared ones in full.
  std::size_t memory_bytes() const {
    std::size_t bytes = pages_.capacity() * sizeof(std::byte*);
    for (std::byte* const page : pages_) bytes += page_bytes(num_tiles(page));
    return bytes;
  }

  // Those of them that another owner holds too.
  std::size_t shared_bytes() const {
    std::size_t bytes = 0;
    for (std::byte* const page : pages_) bytes += is_shared(page) ? page_bytes(num_tiles(page)) : 0;
    return bytes;
  }

 private:
  // What stands in front of a page and its centres: one cache line.
  struct alignas(kAlignment) Header {
    std::atomic<std::size_t> num_owners;
    std::size_t num_tiles;
  };
  static constexpr std::size_t kHeaderBytes = sizeof(Header);
  static_assert(kHeaderBytes == kAlignment, "a header is one cache line");

  // Of a page's centres, rounded up so that the tiles keep their alignment.
  std::size_t centers_bytes() const {
    return (kPageSpans * center_bytes_ + kAlignment - 1) / kAlignment * kAlignment;
  }
  std::byte* memory_of(std::byte* page) const { return page - centers_bytes() - kHeaderBytes; }
  Header& header(std::byte* page) const { return *reinterpret_cast<Header*>(memory_of(page)); }
  std::atomic<std::size_t>& owners(std::byte* page) const { return header(page).num_owners; }
  std::size_t num_tiles(std::byte* page) const { return header(page).num_tiles; }

  // Acquire: who finds himself alone may write what others have read until now.
  bool is_shared(std::byte* page) const { return owners(page).load(std::memory_order_acquire) > 1; }
  static std::size_t num_pages_of(std::size_t num_tokens) {
    return (num_tokens + kPageTokens - 1) / kPageTokens;
  }

  // Behind the last page.
  std::size_t end_page() const { return first_page_ + pages_.size(); }
  std::vector<std::byte*>::const_iterator iterator_of(std::size_t page) const {
    return pages_.cbegin() + static_cast<std::ptrdiff_t>(page - first_page_);
  }

  std::size_t page_bytes(std::size_t num_tiles) const {
    return kHeaderBytes + centers_bytes() + num_tiles * tile_bytes_;
  }

  // A page of one owner, its centres and its tiles from byte `first_zero` on zero.
  std::byte* allocate(std::size_t first_zero, std::size_t num_tiles) {
    const std::size_t num_bytes = page_bytes(num_tiles);
    void* const memory = allocator_.allocate == nullptr
                             ? ::operator new (num_bytes, std::align_val_t{kAlignment})
                             : allocator_.allocate(allocator_.context, num_bytes);
    if (memory == nullptr) {
      throw_runtime_error("the page allocator has no " + std::to_string(num_bytes) +
                          " bytes for a page");
    }
    new (memory) Header{{1}, num_tiles};
    std::byte* const centers = static_cast<std::byte*>(memory) + kHeaderBytes;
    std::memset(centers, 0, centers_bytes());
    std::byte* const page = centers + centers_bytes();
    std::memset(page + first_zero, 0, num_tiles * tile_bytes_ - first_zero);
    return page;
  }

  void release(std::byte* page) noexcept {
    if (owners(page).fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    const std::size_t num_bytes = page_bytes(num_tiles(page));
    void* const memory = memory_of(page);
    if (allocator_.deallocate == nullptr) {
      ::operator delete (memory, std::align_val_t{kAlignment});
    } else {
      allocator_.deallocate(allocator_.context, memory, num_bytes);
    }
  }

  // Replaces a page by one of its own with its first num_tokens tokens and its centres.
  void replace(std::byte*& place, std::size_t num_tokens, std::size_t num_tiles) {
    const std::size_t num_bytes = (num_tokens + kTileTokens - 1) / kTileTokens * tile_bytes_;
    std::byte* const page = allocate(num_bytes, num_tiles);
    std::memcpy(page, place, num_bytes);
    std::memcpy(page - centers_bytes(), place - centers_bytes(), centers_bytes());
    release(std::exchange(place, page));
  }

  std::size_t tile_bytes_;
  std::size_t center_bytes_;
  PageAllocator allocator_;
  std::size_t first_page_ = 0;     // pages before it were given back
  std::vector<std::byte*> pages_;  // each kHeaderBytes into its allocation
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
