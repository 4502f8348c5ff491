// A cache that holds the codes of any VectorCodec, for its quality: attention decodes everything
// and computes in double, so its speed says nothing about the format.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "baselines/exact_attention.hpp"
#include "baselines/vector_codec.hpp"
#include "polarquant/attention/matrix.hpp"

namespace polarquant_baselines {

// The calls of polarquant::KVCache<float>.
class CodecCache {
 public:
  // Throws std::invalid_argument unless the codecs are as wide as the shape says.
  CodecCache(const HeadShape& shape, std::shared_ptr<const VectorCodec> keys,
             std::shared_ptr<const VectorCodec> values)
      : shape_(shape), key_codec_(std::move(keys)), value_codec_(std::move(values)) {
    if (key_codec_->head_dim() != static_cast<std::size_t>(shape.key_dim) ||
        value_codec_->head_dim() != static_cast<std::size_t>(shape.value_dim)) {
      throw std::invalid_argument("the codecs are not as wide as the heads");
    }
  }

  std::size_t num_tokens() const { return num_tokens_; }
  std::size_t memory_bytes() const { return keys_.capacity() + values_.capacity(); }

  // keys, values: [num_tokens, num_kv_heads * width].
  void append(const polarquant::RowMatrixRef<float>& keys,
              const polarquant::RowMatrixRef<float>& values) {
    encode(*key_codec_, keys, keys_);
    encode(*value_codec_, values, values_);
    num_tokens_ += static_cast<std::size_t>(keys.rows());
  }

  // [num_tokens, width] of one KV head.
  polarquant::RowMatrix<float> decode_keys(int kv_head) const {
    return decode(*key_codec_, keys_, kv_head);
  }
  polarquant::RowMatrix<float> decode_values(int kv_head) const {
    return decode(*value_codec_, values_, kv_head);
  }

  polarquant::RowMatrix<float> attention_scores(
      const polarquant::RowMatrixRef<float>& queries) const {
    return exact_scores(shape_, queries, decode_all(*key_codec_, keys_)).cast<float>();
  }
  polarquant::RowMatrix<float> attend(const polarquant::RowMatrixRef<float>& queries) const {
    const auto scores = exact_scores(shape_, queries, decode_all(*key_codec_, keys_));
    return exact_attention(shape_, scores, decode_all(*value_codec_, values_)).cast<float>();
  }

 private:
  // Codes lie token by token, head by head.
  void encode(const VectorCodec& codec, const polarquant::RowMatrixRef<float>& rows,
              std::vector<std::byte>& codes) const {
    const std::size_t num_heads = static_cast<std::size_t>(shape_.num_kv_heads);
    std::size_t position = codes.size();
    codes.reserve(position +
                  static_cast<std::size_t>(rows.rows()) * num_heads * codec.bytes_per_vector());
    codes.resize(codes.capacity());
    for (Eigen::Index token = 0; token < rows.rows(); ++token) {
      const float* const row = rows.data() + token * rows.outerStride();
      for (std::size_t head = 0; head < num_heads; ++head) {
        codec.encode(row + head * codec.head_dim(), codes.data() + position);
        position += codec.bytes_per_vector();
      }
    }
  }

  polarquant::RowMatrix<float> decode(const VectorCodec& codec, const std::vector<std::byte>& codes,
                                      int kv_head) const {
    polarquant::RowMatrix<float> rows(static_cast<Eigen::Index>(num_tokens_),
                                      static_cast<Eigen::Index>(codec.head_dim()));
    const std::size_t num_heads = static_cast<std::size_t>(shape_.num_kv_heads);
    for (std::size_t token = 0; token < num_tokens_; ++token) {
      const std::size_t vector = token * num_heads + static_cast<std::size_t>(kv_head);
      codec.decode(codes.data() + vector * codec.bytes_per_vector(),
                   rows.data() + token * codec.head_dim());
    }
    return rows;
  }

  polarquant::RowMatrix<float> decode_all(const VectorCodec& codec,
                                          const std::vector<std::byte>& codes) const {
    const Eigen::Index width = static_cast<Eigen::Index>(codec.head_dim());
    polarquant::RowMatrix<float> rows(static_cast<Eigen::Index>(num_tokens_),
                                      width * shape_.num_kv_heads);
    for (int head = 0; head < shape_.num_kv_heads; ++head) {
      rows.middleCols(head * width, width) = decode(codec, codes, head);
    }
    return rows;
  }

  HeadShape shape_;
  std::shared_ptr<const VectorCodec> key_codec_;
  std::shared_ptr<const VectorCodec> value_codec_;
  std::vector<std::byte> keys_;
  std::vector<std::byte> values_;
  std::size_t num_tokens_ = 0;
};

}  // namespace polarquant_baselines
