// Random preconditioning: y = x S with one random rotation S, so that the angles of y follow a law
// known in advance whatever x is.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "polarquant/base/error.hpp"
#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/random.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

enum class RotationKind : std::uint8_t {
  kNone = 0,      // S = I
  kHadamard = 1,  // three rounds of random signs and a Hadamard transform: d log d
                  // operations for a power of two
  kHaar = 2,      // uniform over all orthogonal matrices: the angle law is exact; d^2 operations
};

namespace detail {

// kHasFma: inlined into a function whose instruction set has the instruction.
template <bool kHasFma>
POLARQUANT_ALWAYS_INLINE double fused_in(double a, double b, double c) {
  return kHasFma ? fused(a, b, c) : exactly_fused(a, b, c);
}

// The columns of the row-major n x n matrix `a`, made orthonormal from left to right by modified
// Gram-Schmidt, in place. Gram-Schmidt divides by norms, which are positive: of all QR
// factorisations it gives the one with diag(R) > 0, and for a Gaussian matrix that Q is Haar. A
// second pass removes what rounding left of a badly conditioned first one.
template <bool kHasFma>
POLARQUANT_ALWAYS_INLINE void orthonormalize_columns(double* a, std::size_t n, double* products) {
  for (int pass = 0; pass < 2; ++pass) {
    for (std::size_t j = 0; j < n; ++j) {
      double norm2 = 0.0;
      for (std::size_t k = 0; k < n; ++k)
        norm2 = fused_in<kHasFma>(a[k * n + j], a[k * n + j], norm2);
      const double norm = square_root(norm2);
      for (std::size_t k = 0; k < n; ++k) a[k * n + j] /= norm;
      for (std::size_t i = j + 1; i < n; ++i) products[i] = 0.0;
      for (std::size_t k = 0; k < n; ++k) {
        const double q = a[k * n + j];
        for (std::size_t i = j + 1; i < n; ++i)
          products[i] = fused_in<kHasFma>(q, a[k * n + i], products[i]);
      }
      for (std::size_t k = 0; k < n; ++k) {
        const double q = -a[k * n + j];
        for (std::size_t i = j + 1; i < n; ++i)
          a[k * n + i] = fused_in<kHasFma>(q, products[i], a[k * n + i]);
      }
    }
  }
}

#if POLARQUANT_X86
POLARQUANT_TARGET_AVX2 inline void orthonormalize_columns_fma(double* a, std::size_t n,
                                                              double* products) {
  orthonormalize_columns<true>(a, n, products);
}
#endif

// A Haar-random orthogonal n x n matrix, row-major, the same bits everywhere.
POLARQUANT_NOINLINE inline std::vector<float> haar_matrix(std::size_t n, Random& random) {
  std::vector<double> a(n * n);
  std::vector<double> products(n);
  for (double& entry : a) entry = random.gaussian();
#if POLARQUANT_X86
  if (isa_is_available(Isa::kAvx2)) {  // The same operations, without a library call for each fma.
    orthonormalize_columns_fma(a.data(), n, products.data());
  } else {
    orthonormalize_columns<false>(a.data(), n, products.data());
  }
#else
  orthonormalize_columns<false>(a.data(), n, products.data());
#endif
  std::vector<float> result(n * n);
  for (std::size_t i = 0; i < n * n; ++i) result[i] = static_cast<float>(a[i]);
  return result;
}

POLARQUANT_NOINLINE inline std::vector<float> transpose(const std::vector<float>& matrix,
                                                        std::size_t n) {
  std::vector<float> result(n * n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) result[j * n + i] = matrix[i * n + j];
  }
  return result;
}

// y = x M for a row-major n x n matrix and kLanes vectors side by side, entry i of vector t at
// x[i * kLanes + t]: y_j sums x_i M_ij over i in increasing order by fma.
template <std::size_t kLanes, typename T>
POLARQUANT_ALWAYS_INLINE void multiply_lanes(const float* matrix, std::size_t n, const T* x, T* y) {
  constexpr std::size_t kColumns = 8;
  for (std::size_t first = 0; first < n; first += kColumns) {
    const std::size_t width = n - first < kColumns ? n - first : kColumns;
    T sums[kColumns][kLanes] = {};
    if (width == kColumns) {
      for (std::size_t i = 0; i < n; ++i) {
        const float* const row = matrix + i * n + first;
        for (std::size_t j = 0; j < kColumns; ++j) {
          const T entry = static_cast<T>(row[j]);
          for (std::size_t t = 0; t < kLanes; ++t) {
            sums[j][t] = fused(x[i * kLanes + t], entry, sums[j][t]);
          }
        }
      }
    } else {
      for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j < width; ++j) {
          const T entry = static_cast<T>(matrix[i * n + first + j]);
          for (std::size_t t = 0; t < kLanes; ++t) {
            sums[j][t] = fused(x[i * kLanes + t], entry, sums[j][t]);
          }
        }
      }
    }
    for (std::size_t j = 0; j < width; ++j) {
      for (std::size_t t = 0; t < kLanes; ++t) y[(first + j) * kLanes + t] = sums[j][t];
    }
  }
}

// x H with H the unnormalised Hadamard matrix of order `size`, acting on entries `stride` apart,
// for each of the `stride` interleaved vectors; in place.
template <typename T>
POLARQUANT_ALWAYS_INLINE void hadamard_transform(T* x, std::size_t size, std::size_t stride) {
  for (std::size_t half = 1; half < size; half *= 2) {
    for (std::size_t begin = 0; begin < size; begin += 2 * half) {
      T* const low = x + begin * stride;
      T* const high = low + half * stride;
      for (std::size_t i = 0; i < half * stride; ++i) {
        const T sum = low[i] + high[i];
        const T difference = low[i] - high[i];
        low[i] = sum;
        high[i] = difference;
      }
    }
  }
}

}  // namespace detail

// One random rotation S of R^d, fixed by (kind, head_dim, seed). The same bits on every compiler,
// flag and platform. Immutable; safe to share among threads.
//
// kHadamard for d = 2^k m, m odd, is the product of three rounds
// x -> (x D) (H_{2^k} (x) Q_m) / 2^(k/2), D being random signs, H the Hadamard matrix and Q_m a
// Haar matrix of order m (1 for a power of two). Fewer would not do: after two, a vector with one
// or two large entries still lies on a coarse lattice, whose angles fall on the boundaries of cells
// (docs/design.md, "Dead ends").
class Rotation {
 public:
  // Throws std::invalid_argument unless head_dim is even, 2 .. 1024. Cost: head_dim^3 for kHaar,
  // m^3 for kHadamard.
  Rotation(RotationKind kind, int head_dim, std::uint64_t seed)
      : kind_(kind), head_dim_(head_dim), seed_(seed) {
    if (head_dim < 2 || head_dim > 1024 || head_dim % 2 != 0) {
      detail::throw_invalid_argument({"head_dim is ", head_dim, ", must be even, 2 .. 1024"});
    }
    if (kind != RotationKind::kNone && kind != RotationKind::kHadamard &&
        kind != RotationKind::kHaar) {
      detail::throw_invalid_argument(
          {"rotation kind is ", static_cast<int>(kind), ", must be kNone, kHadamard or kHaar"});
    }
    Random random(seed);
    const std::size_t d = static_cast<std::size_t>(head_dim);
    if (kind == RotationKind::kHaar) {
      order_ = d;
      rounds_.push_back(Round{{}, detail::haar_matrix(d, random), {}});
    } else if (kind == RotationKind::kHadamard) {
      while (d % (2 * hadamard_order_) == 0) hadamard_order_ *= 2;
      order_ = d / hadamard_order_;
      const double order = static_cast<double>(hadamard_order_);
      scale_ = 1.0 / (order * detail::square_root(order));
      for (int round = 0; round < kNumRounds; ++round) {
        std::vector<float> signs(d);
        for (float& sign : signs) sign = random.sign();
        rounds_.push_back(Round{signs, {}, {}});
        if (order_ > 1) rounds_.back().matrix = detail::haar_matrix(order_, random);
      }
    }
    for (Round& round : rounds_) {
      if (!round.matrix.empty()) round.transposed = detail::transpose(round.matrix, order_);
    }
  }

  RotationKind kind() const { return kind_; }
  int head_dim() const { return head_dim_; }
  std::uint64_t seed() const { return seed_; }

  // y = x S. x, y: [head_dim], of float or double, not overlapping.
  template <typename T>
  void apply(const T* x, T* y) const noexcept {
    apply_lanes<1>(x, y);
  }

  // x = y S^T, the inverse. Shapes as for apply.
  template <typename T>
  void apply_transpose(const T* y, T* x) const noexcept {
    apply_transpose_lanes<1>(y, x);
  }

  // For kernels, whose instruction set they take on: the same for kLanes vectors side by side,
  // [head_dim, kLanes].
  template <std::size_t kLanes, typename T>
  POLARQUANT_ALWAYS_INLINE void apply_lanes(const T* x, T* y) const noexcept {
    const std::size_t d = static_cast<std::size_t>(head_dim_);
    if (kind_ == RotationKind::kHaar) {
      detail::multiply_lanes<kLanes>(rounds_[0].matrix.data(), d, x, y);
      return;
    }
    for (std::size_t i = 0; i < d * kLanes; ++i) y[i] = x[i];
    for (const Round& round : rounds_) {
      flip_signs<kLanes>(round, y);
      multiply_blocks<kLanes>(round.matrix, y);
      detail::hadamard_transform(y, hadamard_order_, order_ * kLanes);
    }
    scale<kLanes>(y);
  }

  template <std::size_t kLanes, typename T>
  POLARQUANT_ALWAYS_INLINE void apply_transpose_lanes(const T* y, T* x) const noexcept {
    const std::size_t d = static_cast<std::size_t>(head_dim_);
    if (kind_ == RotationKind::kHaar) {
      detail::multiply_lanes<kLanes>(rounds_[0].transposed.data(), d, y, x);
      return;
    }
    for (std::size_t i = 0; i < d * kLanes; ++i) x[i] = y[i];
    for (std::size_t r = rounds_.size(); r-- > 0;) {
      detail::hadamard_transform(x, hadamard_order_, order_ * kLanes);
      multiply_blocks<kLanes>(rounds_[r].transposed, x);
      flip_signs<kLanes>(rounds_[r], x);
    }
    scale<kLanes>(x);
  }

  // The matrix S (or S^T) of kHaar, row-major, for the kernels that rotate many rows at once. Only
  // for kHaar.
  const float* haar() const { return rounds_[0].matrix.data(); }
  const float* haar_transposed() const { return rounds_[0].transposed.data(); }

  // FNV-1a over every stored number: equal on every platform for equal (kind, head_dim, seed).
  std::uint64_t checksum() const {
    std::uint64_t hash = 14695981039346656037ULL;
    const auto add = [&hash](const std::vector<float>& values) {
      for (const float value : values) {
        std::uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        for (int byte = 0; byte < 4; ++byte) {
          hash = (hash ^ ((bits >> (8 * byte)) & 0xffu)) * 1099511628211ULL;
        }
      }
    };
    for (const Round& round : rounds_) {
      add(round.signs);
      add(round.matrix);
    }
    return hash;
  }

  std::size_t memory_bytes() const {
    std::size_t bytes = 0;
    for (const Round& round : rounds_) {
      bytes += (round.signs.capacity() + round.matrix.capacity() + round.transposed.capacity()) *
               sizeof(float);
    }
    return bytes;
  }

 private:
  struct Round {
    std::vector<float> signs;       // [head_dim], +1 or -1; empty for kHaar
    std::vector<float> matrix;      // [order, order], row-major; empty where the order is 1
    std::vector<float> transposed;  // its transpose
  };

  template <std::size_t kLanes, typename T>
  POLARQUANT_ALWAYS_INLINE void flip_signs(const Round& round, T* x) const {
    for (std::size_t i = 0; i < static_cast<std::size_t>(head_dim_); ++i) {
      const T sign = static_cast<T>(round.signs[i]);
      for (std::size_t t = 0; t < kLanes; ++t) x[i * kLanes + t] *= sign;
    }
  }

  // x (I (x) M): every run of `order_` entries times the small matrix.
  template <std::size_t kLanes, typename T>
  POLARQUANT_ALWAYS_INLINE void multiply_blocks(const std::vector<float>& matrix, T* x) const {
    if (matrix.empty()) return;
    constexpr std::size_t kMaxOrder = 512;  // An even d has m <= 511.
    T result[kMaxOrder * kLanes];
    for (std::size_t block = 0; block < hadamard_order_; ++block) {
      T* const entries = x + block * order_ * kLanes;
      detail::multiply_lanes<kLanes>(matrix.data(), order_, entries, result);
      for (std::size_t i = 0; i < order_ * kLanes; ++i) entries[i] = result[i];
    }
  }

  // kNumRounds rounds of the unnormalised transform scale by 2^(kNumRounds k / 2).
  template <std::size_t kLanes, typename T>
  POLARQUANT_ALWAYS_INLINE void scale(T* x) const {
    const T factor = static_cast<T>(scale_);
    for (std::size_t i = 0; i < static_cast<std::size_t>(head_dim_) * kLanes; ++i) x[i] *= factor;
  }

  static constexpr int kNumRounds = 3;

  RotationKind kind_;
  int head_dim_;
  std::uint64_t seed_;
  double scale_ = 1.0;
  std::size_t hadamard_order_ = 1;  // 2^k
  std::size_t order_ = 1;           // m, or head_dim for kHaar
  std::vector<Round> rounds_;
};

POLARQUANT_END_NAMESPACE
