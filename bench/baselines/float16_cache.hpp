// The cache that the others compete with: keys and values as they are, in fp16, with attention as
// fast as we can make it.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "baselines/exact_attention.hpp"
#include "baselines/float16.hpp"
#include "baselines/float16_attention.hpp"
#include "baselines/float16_avx2.hpp"
#include "baselines/float16_avx512.hpp"
#include "baselines/float16_kernels.hpp"
#include "baselines/float16_neon.hpp"
#include "polarquant/attention/matrix.hpp"
#include "polarquant/base/isa.hpp"

namespace polarquant_baselines {

// The loops of an instruction set that this machine has.
inline Float16Kernels float16_kernels(polarquant::Isa isa) {
#if defined(__GNUC__) && defined(__x86_64__)
  if (isa == polarquant::Isa::kAvx512) {
    return {avx512::score, avx512::accumulate, avx512::dot, avx512::maximum, avx512::exponentiate};
  }
  if (isa == polarquant::Isa::kAvx2)
    return {avx2::score, avx2::accumulate, avx2::dot, avx2::maximum, avx2::exponentiate};
#elif defined(__aarch64__)
  if (isa == polarquant::Isa::kNeon) {
    return {neon::score, neon::accumulate, neon::dot, neon::maximum, neon::exponentiate};
  }
#endif
  static_cast<void>(isa);
  return {portable::score, portable::accumulate, portable::dot, portable::maximum,
          portable::exponentiate};
}

// fp16 rows of one KV head, aligned to a cache line; rows are `stride` halves, zero beyond the
// width, and the tokens are padded to sixteen, so that the loops need no remainder.
class Float16Rows {
 public:
  explicit Float16Rows(int width) : width_(width), stride_((width + 15) / 16 * 16) {}

  std::size_t stride() const { return static_cast<std::size_t>(stride_); }
  const std::uint16_t* row(std::size_t token) const {
    return lines_.data()->halves.data() + token * stride();
  }

  void reserve(std::size_t num_tokens) { lines_.reserve(num_lines(num_tokens)); }

  // Writes columns first_column .. of `rows` as tokens first_token ..
  void append(const polarquant::RowMatrixRef<float>& rows, Eigen::Index first_column,
              std::size_t first_token) {
    lines_.resize(num_lines(first_token + static_cast<std::size_t>(rows.rows())));
    std::uint16_t* row = lines_.data()->halves.data() + first_token * stride();
    for (Eigen::Index token = 0; token < rows.rows(); ++token, row += stride_) {
      for (int i = 0; i < width_; ++i) row[i] = float_to_float16(rows(token, first_column + i));
    }
  }

  polarquant::RowMatrix<float> decode(std::size_t num_tokens) const {
    polarquant::RowMatrix<float> rows(static_cast<Eigen::Index>(num_tokens), width_);
    for (std::size_t token = 0; token < num_tokens; ++token) {
      for (int i = 0; i < width_; ++i) {
        rows(static_cast<Eigen::Index>(token), i) = float16_to_float(row(token)[i]);
      }
    }
    return rows;
  }

  std::size_t memory_bytes() const { return lines_.capacity() * sizeof(Line); }

 private:
  struct alignas(64) Line {
    std::array<std::uint16_t, 32> halves{};
  };

  std::size_t num_lines(std::size_t num_tokens) const {
    return ((num_tokens + 15) / 16 * 16 * stride() + 31) / 32;
  }

  int width_;
  int stride_;
  std::vector<Line> lines_;
};

// The calls of polarquant::KVCache<float>.
class Float16Cache {
 public:
  explicit Float16Cache(const HeadShape& shape)
      : Float16Cache(shape, float16_kernels(polarquant::choose_isa())) {}
  Float16Cache(const HeadShape& shape, const Float16Kernels& kernels)
      : shape_(shape),
        kernels_(kernels),
        keys_(static_cast<std::size_t>(shape.num_kv_heads), Float16Rows(shape.key_dim)),
        values_(static_cast<std::size_t>(shape.num_kv_heads), Float16Rows(shape.value_dim)) {}

  std::size_t num_tokens() const { return num_tokens_; }
  std::size_t memory_bytes() const {
    std::size_t bytes = 0;
    for (const auto* side : {&keys_, &values_}) {
      for (const Float16Rows& rows : *side) bytes += rows.memory_bytes();
    }
    return bytes;
  }

  void reserve(std::size_t num_tokens) {
    for (auto* side : {&keys_, &values_}) {
      for (Float16Rows& rows : *side) rows.reserve(num_tokens);
    }
  }

  // keys, values: [num_tokens, num_kv_heads * width].
  void append(const polarquant::RowMatrixRef<float>& keys,
              const polarquant::RowMatrixRef<float>& values) {
    for (int head = 0; head < shape_.num_kv_heads; ++head) {
      const std::size_t h = static_cast<std::size_t>(head);
      keys_[h].append(keys, Eigen::Index{head} * shape_.key_dim, num_tokens_);
      values_[h].append(values, Eigen::Index{head} * shape_.value_dim, num_tokens_);
    }
    num_tokens_ += static_cast<std::size_t>(keys.rows());
  }

  polarquant::RowMatrix<float> decode_keys(int kv_head) const {
    return keys_[static_cast<std::size_t>(kv_head)].decode(num_tokens_);
  }
  polarquant::RowMatrix<float> decode_values(int kv_head) const {
    return values_[static_cast<std::size_t>(kv_head)].decode(num_tokens_);
  }

  polarquant::RowMatrix<float> attention_scores(
      const polarquant::RowMatrixRef<float>& queries) const {
    polarquant::RowMatrix<float> scores(queries.rows() * shape_.num_query_heads,
                                        static_cast<Eigen::Index>(num_tokens_));
    Float16Work work(keys_[0].stride(), values_[0].stride());
    for_each_group([&](int head, std::size_t group) {
      const Float16Rows& keys = keys_[static_cast<std::size_t>(shape_.kv_head_of(head))];
      for (Eigen::Index i = 0; i < queries.rows(); ++i) {
        load_queries(queries, i, head, group, work);
        for (std::size_t token = 0; token < num_tokens_; token += kTokenBlock) {
          const std::size_t count = std::min(kTokenBlock, num_tokens_ - token);
          kernels_.score(keys.row(token), count, keys.stride(), work.queries.data(), group,
                         work.weights.data(), kTokenBlock);
          for (std::size_t h = 0; h < group; ++h) {
            std::copy_n(work.weights.data() + h * kTokenBlock, count,
                        scores.data() +
                            (i * shape_.num_query_heads + head + static_cast<Eigen::Index>(h)) *
                                scores.cols() +
                            static_cast<Eigen::Index>(token));
          }
        }
      }
    });
    return scores;
  }

  // Causal, like KVCache::attend.
  polarquant::RowMatrix<float> attend(const polarquant::RowMatrixRef<float>& queries) const {
    polarquant::RowMatrix<float> output(queries.rows(),
                                        Eigen::Index{shape_.num_query_heads} * shape_.value_dim);
    Float16Work work(keys_[0].stride(), values_[0].stride());
    for_each_group([&](int head, std::size_t group) {
      for (Eigen::Index i = 0; i < queries.rows(); ++i) {
        load_queries(queries, i, head, group, work);
        attend_group(head, group,
                     static_cast<std::size_t>(
                         num_visible(static_cast<Eigen::Index>(num_tokens_), i, queries.rows())),
                     work);
        for (std::size_t h = 0; h < group; ++h) {
          const float inverse = work.totals[h] > 0.0f ? 1.0f / work.totals[h] : 0.0f;
          const Eigen::Index first =
              (Eigen::Index{head} + static_cast<Eigen::Index>(h)) * shape_.value_dim;
          for (int j = 0; j < shape_.value_dim; ++j) {
            output(i, first + j) =
                inverse * work.sums[h * values_[0].stride() + static_cast<std::size_t>(j)];
          }
        }
      }
    });
    return output;
  }

 private:
  // Calls visit(first query head, number of query heads) for groups that share a KV head.
  template <typename Visit>
  void for_each_group(const Visit& visit) const {
    const int group_size = shape_.num_query_heads / shape_.num_kv_heads;
    for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
      for (int done = 0; done < group_size; done += static_cast<int>(kMaxGroup)) {
        visit(kv_head * group_size + done,
              std::min(kMaxGroup, static_cast<std::size_t>(group_size - done)));
      }
    }
  }

  void load_queries(const polarquant::RowMatrixRef<float>& queries, Eigen::Index i, int head,
                    std::size_t group, Float16Work& work) const {
    for (std::size_t h = 0; h < group; ++h) {
      const Eigen::Index first =
          (Eigen::Index{head} + static_cast<Eigen::Index>(h)) * shape_.key_dim;
      for (int j = 0; j < shape_.key_dim; ++j) {
        work.queries[h * keys_[0].stride() + static_cast<std::size_t>(j)] = queries(i, first + j);
      }
    }
  }

  void attend_group(int head, std::size_t group, std::size_t visible, Float16Work& work) const {
    const Float16Rows& keys = keys_[static_cast<std::size_t>(shape_.kv_head_of(head))];
    const Float16Rows& values = values_[static_cast<std::size_t>(shape_.kv_head_of(head))];
    polarquant_baselines::attend_group(kernels_, Float16Span{keys.row(0), keys.stride()},
                                       Float16Span{values.row(0), values.stride()}, visible, group,
                                       1.0f / std::sqrt(static_cast<float>(shape_.key_dim)), work);
  }

  HeadShape shape_;
  Float16Kernels kernels_;
  std::vector<Float16Rows> keys_;    // [num_kv_heads]
  std::vector<Float16Rows> values_;  // [num_kv_heads]
  std::size_t num_tokens_ = 0;
};

}  // namespace polarquant_baselines
