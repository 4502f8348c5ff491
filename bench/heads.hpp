// KV heads to attend to: one, again and again (hot), or so many in rotation that none is still in a
// cache when its turn comes (memory).
#pragma once

#include <sys/mman.h>

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <polarquant/polarquant.hpp>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "baselines/float16.hpp"
#include "baselines/float16_attention.hpp"

namespace polarquant_bench {

using polarquant::KVCache;
using polarquant::KVCacheConfig;
using polarquant::RowMatrix;
using polarquant::Rows;

// Memory in huge pages, aligned to one.
template <typename T>
class HugeArray {
 public:
  explicit HugeArray(std::size_t count) : size_(count), bytes_(count * sizeof(T) + 2 * kPage) {
    mapping_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping_ == MAP_FAILED) throw std::bad_alloc();
    const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(mapping_);
    data_ = reinterpret_cast<T*>((begin + kPage - 1) / kPage * kPage);
#if defined(MADV_HUGEPAGE)
    ::madvise(data_, count * sizeof(T), MADV_HUGEPAGE);
#endif
  }
  ~HugeArray() { ::munmap(mapping_, bytes_); }
  HugeArray(const HugeArray&) = delete;
  HugeArray& operator=(const HugeArray&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  static constexpr std::size_t kPage = std::size_t{2} << 20;

  std::size_t size_;
  std::size_t bytes_;
  void* mapping_;
  T* data_;
};

inline RowMatrix<float> gaussian(Eigen::Index rows, Eigen::Index columns, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  RowMatrix<float> matrix(rows, columns);
  for (Eigen::Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = normal(engine);
  return matrix;
}

// A matrix's rows as the library's calls on pointers take them.
inline Rows<const float> rows_of(const RowMatrix<float>& matrix) {
  return {matrix.data(), static_cast<std::size_t>(matrix.rows()),
          static_cast<std::size_t>(matrix.cols())};
}
inline Rows<float> rows_of(RowMatrix<float>& matrix) {
  return {matrix.data(), static_cast<std::size_t>(matrix.rows()),
          static_cast<std::size_t>(matrix.cols())};
}

// Memory for calls that want scratch.
class Scratch {
 public:
  explicit Scratch(std::size_t num_bytes) : lines_(num_bytes / sizeof(Line) + 1) {}
  std::byte* data() { return lines_.data()->bytes; }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<Line> lines_;
};

// Compressed caches of one KV head each. Their codes are copies of one head's in memory of their
// own.
class CompressedHeads {
 public:
  CompressedHeads(const KVCacheConfig& config, const RowMatrix<float>& keys,
                  const RowMatrix<float>& values, std::size_t num_heads) {
    const auto codec = std::make_shared<const polarquant::KVCodec<float>>(config);
    for (std::size_t head = 0; head < num_heads; ++head) {
      heads_.emplace_back(config, codec);
      heads_.back().reserve(static_cast<std::size_t>(keys.rows()));
    }
    const std::size_t num_threads =
        std::min<std::size_t>(num_heads, std::max(1u, std::thread::hardware_concurrency()));
    std::vector<std::thread> threads;
    for (std::size_t thread = 0; thread < num_threads; ++thread) {
      threads.emplace_back([this, thread, num_threads, &keys, &values] {
        Scratch scratch(heads_.front().scratch_bytes());
        for (std::size_t head = thread; head < heads_.size(); head += num_threads) {
          heads_[head].append(rows_of(keys), rows_of(values), scratch.data());
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  const KVCache<float>& front() const { return heads_.front(); }
  std::size_t size() const { return heads_.size(); }

  // The head whose turn it is.
  const KVCache<float>& next() {
    next_ = (next_ + 1) % heads_.size();
    return heads_[next_];
  }

 private:
  std::vector<KVCache<float>> heads_;
  std::size_t next_ = 0;
};

// fp16 rows of many heads, keys or values.
class Float16Heads {
 public:
  Float16Heads(const RowMatrix<float>& rows, std::size_t num_heads)
      : num_tokens_(static_cast<std::size_t>(rows.rows())),
        stride_((static_cast<std::size_t>(rows.cols()) + 15) / 16 * 16),
        num_heads_(num_heads),
        // Past the end: sixteen rows, which the loops may read.
        halves_((num_heads * num_tokens_ + 16) * stride_) {
    for (std::size_t t = 0; t < num_tokens_; ++t) {
      for (std::size_t i = 0; i < static_cast<std::size_t>(rows.cols()); ++i) {
        halves_.data()[t * stride_ + i] = polarquant_baselines::float_to_float16(
            rows(static_cast<Eigen::Index>(t), static_cast<Eigen::Index>(i)));
      }
    }
    const std::size_t size = num_tokens_ * stride_;
    for (std::size_t head = 1; head < num_heads; ++head) {
      std::memcpy(halves_.data() + head * size, halves_.data(), size * sizeof(std::uint16_t));
    }
  }

  std::size_t num_tokens() const { return num_tokens_; }
  std::size_t size() const { return num_heads_; }
  polarquant_baselines::Float16Span head(std::size_t i) const {
    return {halves_.data() + i * num_tokens_ * stride_, stride_};
  }

 private:
  std::size_t num_tokens_;
  std::size_t stride_;
  std::size_t num_heads_;
  HugeArray<std::uint16_t> halves_;
};

}  // namespace polarquant_bench
