// Tokens in the middle of a cache that attention is to skip.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// Tokens first .. first + count - 1 of a cache, as far as it has them.
struct TokenRange {
  std::size_t first = 0;
  std::size_t count = (std::numeric_limits<std::size_t>::max)();

  std::size_t end_within(std::size_t num_tokens) const {
    return first >= num_tokens ? num_tokens : first + (std::min)(count, num_tokens - first);
  }
  friend bool operator==(const TokenRange& x, const TokenRange& y) {
    return x.first == y.first && x.count == y.count;
  }
};

namespace detail {

// Ranges of tokens, apart from each other and in order.
class RemovedTokens {
 public:
  bool empty() const { return ranges_.empty(); }
  const std::vector<TokenRange>& ranges() const { return ranges_; }

  void add(TokenRange added) {
    if (added.count == 0) return;
    std::size_t end = added.first + added.count;
    std::vector<TokenRange> merged;
    for (const TokenRange& range : ranges_) {
      if (range.first + range.count < added.first || range.first > end) {
        merged.push_back(range);
        continue;
      }
      end = (std::max)(end, range.first + range.count);
      added.first = (std::min)(added.first, range.first);
    }
    added.count = end - added.first;
    merged.insert(std::find_if(merged.begin(), merged.end(),
                               [&](const TokenRange& range) { return range.first > added.first; }),
                  added);
    ranges_.swap(merged);
  }

  // The tokens from `first` on, `count` of them, are no more: those behind them move up.
  void forget(std::size_t first, std::size_t count) noexcept {
    const auto moved = [first, count](std::size_t token) {
      return token <= first ? token : token - (std::min)(count, token - first);
    };
    std::vector<TokenRange>::iterator kept = ranges_.begin();
    for (const TokenRange& range : ranges_) {
      const std::size_t begin = moved(range.first);
      const std::size_t end = moved(range.first + range.count);
      if (begin >= end) continue;
      if (kept != ranges_.begin() && (kept - 1)->first + (kept - 1)->count == begin) {
        (kept - 1)->count += end - begin;
      } else {
        *kept++ = {begin, end - begin};
      }
    }
    ranges_.erase(kept, ranges_.end());
  }

  // Forgets all but the first num_tokens tokens.
  void truncate(std::size_t num_tokens) noexcept {
    forget(num_tokens, (std::numeric_limits<std::size_t>::max)() - num_tokens);
  }

  // Calls visit(first, count) for what is removed of `count` tokens from `first` on, counted from
  // `first`.
  template <typename Visit>
  void for_each_within(std::size_t first, std::size_t count, const Visit& visit) const noexcept {
    for (const TokenRange& range : ranges_) {
      const std::size_t begin = (std::max)(range.first, first);
      const std::size_t end = (std::min)(range.first + range.count, first + count);
      if (begin < end) visit(begin - first, end - begin);
    }
  }

  std::size_t memory_bytes() const { return ranges_.capacity() * sizeof(TokenRange); }

 private:
  std::vector<TokenRange> ranges_;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
