// Attention over a part of the tokens, with memory of its own.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <string>
#include <vector>

#include "polarquant/attention/matrix.hpp"
#include "polarquant/attention/online_softmax.hpp"
#include "polarquant/attention/partial_rows.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/storage/config.hpp"

POLARQUANT_BEGIN_NAMESPACE

// A partial result with memory of its own; at first that over no tokens.
template <typename A>
class PartialAttention {
 public:
  // For queries to a cache of this configuration.
  PartialAttention(Eigen::Index num_queries, const KVCacheConfig& config)
      : num_heads_(static_cast<std::size_t>(config.num_query_heads)),
        value_dim_(static_cast<std::size_t>(config.value_format.head_dim())),
        output_(
            RowMatrix<A>::Zero(num_queries, static_cast<Eigen::Index>(config.output_columns()))),
        softmax_(static_cast<std::size_t>(num_queries) * num_heads_) {}

  // The largest logit, and the sum of exp(logit - maximum).
  const OnlineSoftmax<A>& softmax(std::size_t query, std::size_t head) const {
    return softmax_[query * num_heads_ + head];
  }

  // [num_queries, num_heads * value_dim].
  const RowMatrix<A>& unnormalised() const { return output_; }

  // Takes in the tokens of `other`. Throws std::invalid_argument if it has another shape.
  void merge(const PartialAttention& other) {
    if (other.output_.rows() != output_.rows() || other.num_heads_ != num_heads_ ||
        other.value_dim_ != value_dim_) {
      detail::throw_invalid_argument({"merge of ", shape(), " with ", other.shape()});
    }
    for (std::size_t i = 0; i < softmax_.size(); ++i) {
      detail::merge_head(softmax_[i], output_.data() + i * value_dim_, other.softmax_[i],
                         other.output_.data() + i * value_dim_, value_dim_);
    }
  }

  // [num_queries, num_heads * value_dim]. sink_logits: [num_heads] or null.
  RowMatrix<A> output(const A* sink_logits = nullptr) const {
    RowMatrix<A> result(output_.rows(), output_.cols());
    for (std::size_t i = 0; i < softmax_.size(); ++i) {
      detail::finish_head(softmax_[i], output_.data() + i * value_dim_,
                          sink_logits == nullptr ? nullptr : sink_logits + i % num_heads_,
                          result.data() + i * value_dim_, value_dim_);
    }
    return result;
  }

  PartialRows<A> rows() {
    const std::size_t num_queries = static_cast<std::size_t>(output_.rows());
    return {{output_.data(), num_queries, num_heads_ * value_dim_},
            {softmax_.data(), num_queries, num_heads_},
            num_heads_,
            value_dim_};
  }

 private:
  std::string shape() const {
    return detail::message({output_.rows(), " queries, ", num_heads_, " heads of ", value_dim_});
  }

  std::size_t num_heads_;
  std::size_t value_dim_;
  RowMatrix<A> output_;                    // [num_queries, num_heads * value_dim]
  std::vector<OnlineSoftmax<A>> softmax_;  // [num_queries * num_heads]
};

POLARQUANT_END_NAMESPACE
