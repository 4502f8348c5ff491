// Memory and numbers to measure on.
#pragma once

#include <sys/mman.h>

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <polarquant/polarquant.hpp>
#include <random>
#include <stdexcept>
#include <vector>

namespace polarquant_bench {

using polarquant::RowMatrix;
using polarquant::Rows;

// A benchmark of rows that are not all encoded would measure less than it says. Result:
// EncodeResult or AppendResult.
template <typename Result>
void require_encoded(const Result& result) {
  if (result.failure == polarquant::EncodeFailure::kNone) return;
  throw std::logic_error("the rows of a benchmark cannot be encoded");
}

// Bytes in huge pages where the machine grants them, aligned to one.
class HugeArray {
 public:
  explicit HugeArray(std::size_t num_bytes) : mapped_bytes_(num_bytes + kPage) {
    mapping_ =
        ::mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping_ == MAP_FAILED) throw std::bad_alloc();
    const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(mapping_);
    data_ = static_cast<std::byte*>(mapping_) + (kPage - begin % kPage) % kPage;
#if defined(MADV_HUGEPAGE)
    ::madvise(data_, num_bytes, MADV_HUGEPAGE);
#endif
  }
  ~HugeArray() { ::munmap(mapping_, mapped_bytes_); }
  HugeArray(const HugeArray&) = delete;
  HugeArray& operator=(const HugeArray&) = delete;

  std::byte* data() { return data_; }

 private:
  static constexpr std::size_t kPage = std::size_t{2} << 20;

  std::size_t mapped_bytes_;
  void* mapping_;
  std::byte* data_;
};

// The same bytes as often as there are heads, each copy in memory of its own.
class CopiedHeads {
 public:
  // head(0) is to be filled, and then copy() called.
  CopiedHeads(std::size_t head_bytes, std::size_t num_heads)
      : head_bytes_((head_bytes + 63) / 64 * 64),
        num_heads_(num_heads),
        // Loops may read whole blocks of rows past the end, and fetch further ahead.
        bytes_(head_bytes_ * num_heads + (std::size_t{1} << 16)) {}

  void copy() {
    for (std::size_t i = 1; i < num_heads_; ++i) {
      std::memcpy(head<std::byte>(i), head<std::byte>(0), head_bytes_);
    }
  }

  std::size_t size() const { return num_heads_; }
  template <typename T>
  T* head(std::size_t i) {
    return reinterpret_cast<T*>(bytes_.data() + i * head_bytes_);
  }

 private:
  std::size_t head_bytes_;
  std::size_t num_heads_;
  HugeArray bytes_;
};

// Whose turn it is.
class Turn {
 public:
  explicit Turn(std::size_t size) : size_(size) {}
  std::size_t next() { return last_ = (last_ + 1) % size_; }

 private:
  std::size_t size_;
  std::size_t last_ = 0;
};

// Aligned memory for calls that want scratch.
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

// Standard normal entries; from row 32,768 on the rows repeat.
inline RowMatrix<float> gaussian(Eigen::Index rows, Eigen::Index columns, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  RowMatrix<float> matrix(rows, columns);
  const Eigen::Index fresh = std::min<Eigen::Index>(rows, 32768) * columns;
  for (Eigen::Index i = 0; i < fresh; ++i) matrix.data()[i] = normal(engine);
  for (Eigen::Index i = fresh; i < matrix.size(); ++i) matrix.data()[i] = matrix.data()[i - fresh];
  return matrix;
}

inline Rows<const float> rows_of(const RowMatrix<float>& matrix) {
  return {matrix.data(), static_cast<std::size_t>(matrix.rows()),
          static_cast<std::size_t>(matrix.cols())};
}
inline Rows<float> rows_of(RowMatrix<float>& matrix) {
  return {matrix.data(), static_cast<std::size_t>(matrix.rows()),
          static_cast<std::size_t>(matrix.cols())};
}

}  // namespace polarquant_bench
