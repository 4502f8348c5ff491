// Matrices by which the keys of a layer are multiplied before they are encoded.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "polarquant/base/error.hpp"
#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/conditioning.hpp"

POLARQUANT_BEGIN_NAMESPACE

// A symmetric, positive definite matrix S for each KV head of a layer, with its inverse: see
// KeyTransform. Immutable; caches of all sequences share it. 8 head_dim^2 bytes per head.
class KeyMatrices {
 public:
  // Beyond it the inverse, as floats, is no inverse.
  static constexpr double kMaxCondition = 1e5;

  // Numbers of a head's triangle.
  static constexpr std::size_t triangle_size(std::size_t head_dim) {
    return head_dim * (head_dim + 1) / 2;
  }

  // triangles: [num_kv_heads, triangle_size(head_dim)], each the lower triangle of S, row by row.
  // Throws std::invalid_argument, naming the head, for a width below 2, a wrong number of entries,
  // a NaN or an infinity, or a matrix that is not positive definite or whose condition (the product
  // of the largest row sums of |S| and |S^-1|) is above kMaxCondition. Cost: head_dim^3 per head.
  KeyMatrices(std::size_t num_kv_heads, std::size_t head_dim, const std::vector<float>& triangles) {
    const std::string found = fill(num_kv_heads, head_dim, triangles);
    if (!found.empty()) detail::throw_invalid_argument(found);
  }

  // The same, but null and what is wrong, where the constructor throws that.
  static std::shared_ptr<const KeyMatrices> try_make(std::size_t num_kv_heads, std::size_t head_dim,
                                                     const std::vector<float>& triangles,
                                                     std::string& problem) {
    const std::shared_ptr<KeyMatrices> result(new KeyMatrices());
    problem = result->fill(num_kv_heads, head_dim, triangles);
    return problem.empty() ? result : nullptr;
  }

  std::size_t num_kv_heads() const { return heads_.size(); }
  std::size_t head_dim() const { return head_dim_; }

  template <typename A>
  KeyTransform<A> transform(std::size_t kv_head) const {
    POLARQUANT_DCHECK(kv_head < heads_.size());
    return {nullptr, heads_[kv_head].matrix.data(), heads_[kv_head].inverse.data()};
  }

  // At least the factor by which S makes a vector longer: its largest row sum of magnitudes.
  double largest_stretch(std::size_t kv_head) const { return heads_[kv_head].row_sum; }

  // What the constructor takes.
  std::vector<float> triangles() const {
    std::vector<float> result;
    result.reserve(heads_.size() * triangle_size(head_dim_));
    for (const Head& head : heads_) {
      for (std::size_t i = 0; i < head_dim_; ++i) {
        const auto row = head.matrix.begin() + static_cast<std::ptrdiff_t>(i * head_dim_);
        result.insert(result.end(), row, row + static_cast<std::ptrdiff_t>(i + 1));
      }
    }
    return result;
  }

  friend bool operator==(const KeyMatrices& x, const KeyMatrices& y) {
    return x.head_dim_ == y.head_dim_ && x.triangles() == y.triangles();
  }

 private:
  struct Head {
    std::vector<float> matrix;   // [head_dim, head_dim]
    std::vector<float> inverse;  // [head_dim, head_dim]
    double row_sum = 0.0;
  };

  KeyMatrices() = default;

  // Returns the first rule that is broken, or nothing.
  std::string fill(std::size_t num_kv_heads, std::size_t head_dim,
                   const std::vector<float>& triangles) {
    head_dim_ = head_dim;
    if (head_dim < 2) {
      return detail::message({"key matrices of width ", head_dim, ", must be at least 2"});
    }
    const std::size_t size = triangle_size(head_dim);
    if (num_kv_heads < 1 || triangles.size() != num_kv_heads * size) {
      return detail::message({triangles.size(), " entries of key matrices, must be ",
                              "num_kv_heads * head_dim (head_dim + 1) / 2 = ", num_kv_heads * size,
                              ", and not 0"});
    }
    heads_.resize(num_kv_heads);
    for (std::size_t head = 0; head < num_kv_heads; ++head) {
      const std::string found = fill_head(triangles.data() + head * size, heads_[head]);
      if (!found.empty()) {
        return detail::message({"the key matrix of KV head ", head, " ", found});
      }
    }
    return {};
  }

  std::string fill_head(const float* triangle, Head& head) const {
    const std::size_t d = head_dim_;
    std::vector<double> matrix(d * d), inverse(d * d);
    for (std::size_t i = 0; i < d; ++i) {
      for (std::size_t j = 0; j <= i; ++j, ++triangle) {
        if (!detail::is_finite(*triangle)) {
          return detail::message({"has a NaN or an infinity in row ", i, ", column ", j});
        }
        matrix[i * d + j] = matrix[j * d + i] = static_cast<double>(*triangle);
      }
    }
    if (!invert(matrix, inverse)) return "is not positive definite";
    head.row_sum = largest_row_sum(matrix);
    const double condition = head.row_sum * largest_row_sum(inverse);
    if (!(condition <= kMaxCondition)) {
      return detail::message(
          {"has a condition of ", condition, ", must be at most ", kMaxCondition});
    }
    head.matrix.assign(d * d, 0.0f);
    head.inverse.assign(d * d, 0.0f);
    for (std::size_t i = 0; i < d * d; ++i) {
      head.matrix[i] = static_cast<float>(matrix[i]);
      head.inverse[i] = static_cast<float>(inverse[i]);
    }
    return {};
  }

  // By its Cholesky factor L, S = L L^T; false if there is none. Plain loops: Eigen's
  // decompositions would cost every file that includes this one seconds of compilation.
  bool invert(const std::vector<double>& matrix, std::vector<double>& inverse) const {
    const std::size_t d = head_dim_;
    std::vector<double> factor(d * d, 0.0), column(d);
    for (std::size_t i = 0; i < d; ++i) {
      for (std::size_t j = 0; j <= i; ++j) {
        double rest = matrix[i * d + j];
        for (std::size_t k = 0; k < j; ++k) rest -= factor[i * d + k] * factor[j * d + k];
        if (i == j && !(rest > 0.0)) return false;
        factor[i * d + j] = i == j ? detail::square_root(rest) : rest / factor[j * d + j];
      }
    }
    for (std::size_t unit = 0; unit < d; ++unit) {
      for (std::size_t i = 0; i < d; ++i) {
        double rest = i == unit ? 1.0 : 0.0;
        for (std::size_t k = 0; k < i; ++k) rest -= factor[i * d + k] * column[k];
        column[i] = rest / factor[i * d + i];
      }
      for (std::size_t i = d; i-- > unit;) {
        for (std::size_t k = i + 1; k < d; ++k) column[i] -= factor[k * d + i] * column[k];
        column[i] /= factor[i * d + i];
        inverse[i * d + unit] = inverse[unit * d + i] = column[i];
      }
    }
    return true;
  }

  double largest_row_sum(const std::vector<double>& matrix) const {
    double largest = 0.0;
    for (std::size_t i = 0; i < head_dim_; ++i) {
      double sum = 0.0;
      for (std::size_t j = 0; j < head_dim_; ++j) sum += std::fabs(matrix[i * head_dim_ + j]);
      largest = (std::max)(largest, sum);
    }
    return largest;
  }

  std::size_t head_dim_ = 0;
  std::vector<Head> heads_;
};

namespace detail {

// The transform of one KV head's keys, with what it points to.
template <typename A>
class HeadTransform {
 public:
  HeadTransform() = default;

  // scales: [head_dim].
  explicit HeadTransform(std::vector<A> scales) : scales_(std::move(scales)), largest_stretch_(0) {
    for (const A scale : scales_) {
      largest_stretch_ = (std::max)(largest_stretch_, static_cast<double>(scale));
    }
  }

  // matrices: of the layer.
  HeadTransform(std::shared_ptr<const KeyMatrices> matrices, std::size_t kv_head)
      : matrices_(std::move(matrices)),
        kv_head_(kv_head),
        largest_stretch_(matrices_->largest_stretch(kv_head)) {}

  KeyTransform<A> get() const {
    if (matrices_ != nullptr) return matrices_->template transform<A>(kv_head_);
    return {scales_.empty() ? nullptr : scales_.data(), nullptr, nullptr};
  }

  // At least the factor by which it makes a vector longer.
  double largest_stretch() const { return largest_stretch_; }

  // Matrices are shared, and are not in it.
  std::size_t memory_bytes() const { return scales_.capacity() * sizeof(A); }

 private:
  std::vector<A> scales_;
  std::shared_ptr<const KeyMatrices> matrices_;
  std::size_t kv_head_ = 0;
  double largest_stretch_ = 1.0;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
