// The key-value cache of one layer of one sequence, compressed, with attention on the codes.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "polarquant/attention.hpp"
#include "polarquant/cache_pages.hpp"
#include "polarquant/codec.hpp"
#include "polarquant/error.hpp"
#include "polarquant/format.hpp"
#include "polarquant/kv_cache_config.hpp"
#include "polarquant/rows.hpp"
#include "polarquant/tile_pages.hpp"
#include "polarquant/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// What an append could not encode.
struct AppendResult {
  EncodeFailure failure = EncodeFailure::kNone;
  std::size_t token = 0;  // row of the appended matrices
  std::size_t kv_head = 0;
  bool is_value = false;
};

// Keys and values of one layer of one sequence.
//
// T is the type of keys, values and queries: float, double, Eigen::half, Eigen::bfloat16. Results
// are Accumulator: double for T = double, else float. Matrices hold a token (or query) per row, the
// heads side by side; keys and queries as attention multiplies them, that is after RoPE. Const
// calls are safe from many threads at once, each with its own scratch; there are no hidden threads.
//
// append, attend, attention_scores and decode come twice: on Eigen matrices, checked, throwing; and
// on Rows, which is noexcept, allocates nothing, takes the caller's scratch (scratch_bytes() bytes
// aligned to 64) and has its preconditions checked only where NDEBUG is not defined. A cache that
// was moved from can only be assigned to or destroyed.
//
// Sums are float: ||q|| ||k||, and the norm of a value times the number of tokens, must stay below
// 1e38, or results are infinite or NaN.
template <typename T>
class KVCache {
 public:
  using Codec = KVCodec<T>;
  using Accumulator = typename PolarCodec<T>::Accumulator;

  // Throws std::invalid_argument for a config that breaks a rule.
  explicit KVCache(const KVCacheConfig& config)
      : KVCache(config, std::make_shared<const Codec>(config)) {}

  // With a codec that other caches share, such as codec() of the first; its codebooks are used,
  // whatever config names. Throws std::invalid_argument also if the codec was made for other
  // formats, another rotation, seed or arithmetic.
  KVCache(const KVCacheConfig& config, std::shared_ptr<const Codec> codec)
      : config_(config), codec_(std::move(codec)) {
    config_.validate();
    if (codec_ == nullptr) detail::throw_invalid_argument("a cache without a codec");
    if (codec_->keys.format() != config_.key_format ||
        codec_->values.format() != config_.value_format) {
      detail::throw_invalid_argument("the shared codec was made for other formats");
    }
    for (const PolarCodec<T>* side : {&codec_->keys, &codec_->values}) {
      if (!side->format().is_uncompressed() && (side->rotation().kind() != config_.rotation ||
                                                side->rotation().seed() != config_.seed)) {
        detail::throw_invalid_argument("the shared codec was made for another rotation or seed");
      }
      if (side->arithmetic() != config_.arithmetic) {
        detail::throw_invalid_argument("the shared codec was made for another arithmetic");
      }
    }
    const detail::CodeBytes bytes = {codec_->keys.bytes_per_vector(),
                                     codec_->values.bytes_per_vector()};
    pages_ = {static_cast<std::size_t>(config_.num_kv_heads), bytes, config_.allocator};
  }

  KVCache(KVCache&&) noexcept = default;
  KVCache& operator=(KVCache&&) noexcept = default;

  // The same tokens in pages that both share; one that appends to a page takes its own copy of it
  // first. Costs a count per page. The two may live in threads of their own. Before append on
  // Rows, reserve again: a last page that is not full is shared now.
  KVCache copy() const {
    KVCache result(config_, codec_);
    result.pages_ = pages_.share(num_tokens_);
    result.num_tokens_ = num_tokens_;
    return result;
  }

  const KVCacheConfig& config() const { return config_; }
  const std::shared_ptr<const Codec>& codec() const { return codec_; }
  std::size_t num_tokens() const { return num_tokens_; }

  // Bytes of everything this cache holds, pages that copies share in full; without the codec.
  std::size_t memory_bytes() const { return sizeof(*this) + pages_.memory_bytes(); }

  // Those of memory_bytes() that a copy holds too.
  std::size_t shared_bytes() const { return pages_.shared_bytes(); }

  // Bytes of code per token: all heads, keys and values.
  std::size_t bytes_per_token() const {
    return static_cast<std::size_t>(config_.num_kv_heads) *
           (codec_->keys.bytes_per_vector() + codec_->values.bytes_per_vector());
  }

  // The kernels that run on keys; those on values are codec()->values.kernel_name().
  const char* kernel_name() const { return codec_->keys.kernel_name(); }

  // ---- Changing ----

  // Encodes and adds tokens. keys: [num_tokens, num_kv_heads * key head_dim]; values:
  // [num_tokens, num_kv_heads * value head_dim]. Throws std::invalid_argument for a wrong shape, a
  // NaN or an infinity, or a radius beyond its type, naming token and head; the cache is then as
  // before.
  void append(const RowMatrixRef<T>& keys, const RowMatrixRef<T>& values) {
    check_columns("keys", keys.cols(), config_.num_kv_heads, config_.key_format.head_dim);
    check_columns("values", values.cols(), config_.num_kv_heads, config_.value_format.head_dim);
    if (keys.rows() != values.rows()) {
      detail::throw_invalid_argument("append of " + std::to_string(keys.rows()) + " keys and " +
                                     std::to_string(values.rows()) +
                                     " values: must be as many of each");
    }
    const std::size_t capacity_before = pages_.capacity();
    reserve(num_tokens_ + static_cast<std::size_t>(keys.rows()));
    detail::ScratchBuffer scratch(scratch_bytes());
    const AppendResult result = append(rows_of(keys), rows_of(values), scratch.data());
    if (result.failure != EncodeFailure::kNone) {
      pages_.shrink(capacity_before);
      throw_append_failure(result);
    }
  }

  // The same. Needs capacity() >= num_tokens() + keys.count.
  AppendResult append(Rows<const T> keys, Rows<const T> values, std::byte* scratch) noexcept {
    POLARQUANT_DCHECK(keys.count == values.count);
    POLARQUANT_DCHECK(num_tokens_ + keys.count <= capacity());
    if (keys.count == 0) return {};
    for (std::size_t head = 0; head < pages_.num_heads(); ++head) {
      for (const bool is_value : {false, true}) {
        const PolarCodec<T>& codec = is_value ? codec_->values : codec_->keys;
        detail::TilePages& pages = is_value ? pages_.values[head] : pages_.keys[head];
        const Rows<const T> rows = is_value ? values : keys;
        const Rows<const T> own = {rows.data + head * codec.head_dim(), rows.count, rows.stride};
        const EncodeResult result = append_rows(codec, own, pages, scratch);
        if (result.failure != EncodeFailure::kNone) {
          return {result.failure, result.num_encoded, head, is_value};
        }
      }
    }
    num_tokens_ += keys.count;
    return {};
  }

  // Allocates for num_tokens tokens in all. Throws std::invalid_argument beyond 2^40 tokens.
  void reserve(std::size_t num_tokens) {
    if (num_tokens > std::size_t{1} << 40) {
      detail::throw_invalid_argument("reserve for " + std::to_string(num_tokens) +
                                     " tokens: at most 2^40");
    }
    pages_.reserve(num_tokens, num_tokens_);
  }

  // Tokens that fit without an allocation, num_tokens() included.
  std::size_t capacity() const { return pages_.writable_end(num_tokens_); }

  // Forgets all but the first num_tokens tokens, exactly; keeps the memory. Throws
  // std::invalid_argument if the cache holds fewer.
  void truncate(std::size_t num_tokens) {
    if (num_tokens > num_tokens_) {
      detail::throw_invalid_argument("truncate to " + std::to_string(num_tokens) +
                                     " tokens: the cache holds " + std::to_string(num_tokens_));
    }
    num_tokens_ = num_tokens;
  }

  // Forgets the oldest tokens and gives their memory back: of num_tokens as many as are whole pages
  // of detail::kPageTokens. Returns their number; token i was token i + that number before.
  std::size_t drop_front(std::size_t num_tokens) {
    num_tokens = std::min(num_tokens, num_tokens_) / detail::kPageTokens * detail::kPageTokens;
    pages_.drop_front(num_tokens / detail::kPageTokens);
    num_tokens_ -= num_tokens;
    return num_tokens;
  }

  // Gives back the memory that num_tokens() tokens do not need.
  void shrink() { pages_.shrink(num_tokens_); }

  // ---- Attention ----

  // Causal attention, softmax(q . k / sqrt(key head_dim)) V, paper: section 2. queries:
  // [num_queries, num_query_heads * key head_dim], the last of which sees every token in the cache,
  // the one before it one less, and so on (so a slice of a prompt's queries sees other tokens than
  // in the whole); query head h reads KV head h / (num_query_heads / num_kv_heads). Returns
  // [num_queries, num_query_heads * value head_dim]; zeros for a query that sees no token. Equals
  // attention over decode_keys and decode_values to 1e-5 relative (float, kExact). Throws
  // std::invalid_argument for a wrong width, or a NaN or infinity in a query.
  RowMatrix<Accumulator> attend(const RowMatrixRef<T>& queries) const {
    check_columns("queries", queries.cols(), config_.num_query_heads, config_.key_format.head_dim);
    check_finite(queries);
    RowMatrix<Accumulator> output(
        queries.rows(),
        static_cast<Eigen::Index>(config_.num_query_heads) * config_.value_format.head_dim);
    detail::ScratchBuffer scratch(scratch_bytes());
    attend(rows_of(queries), rows_of(output), scratch.data());
    return output;
  }

  // The same for all KV heads, or some: the columns of their query heads are written. output.count
  // = queries.count. A query head with a NaN or infinity gets an output of NaN.
  void attend(Rows<const T> queries, Rows<Accumulator> output, std::byte* scratch) const noexcept {
    attend(queries, output, scratch, {0, pages_.num_heads()});
  }
  void attend(Rows<const T> queries, Rows<Accumulator> output, std::byte* scratch,
              HeadRange kv_heads) const noexcept {
    POLARQUANT_DCHECK(queries.count == output.count);
    POLARQUANT_DCHECK(kv_heads.first + kv_heads.count <= pages_.num_heads());
    const Scratch work(*codec_, scratch);
    for (std::size_t head = kv_heads.first; head < kv_heads.first + kv_heads.count; ++head) {
      attention_of(head).attend(queries, output, work);
    }
  }

  // Raw scores q . k, unscaled and unmasked. queries as for attend. Returns
  // [num_queries * num_query_heads, num_tokens()], query by query. Throws std::invalid_argument for
  // a wrong width, or a NaN or infinity in a query.
  RowMatrix<Accumulator> attention_scores(const RowMatrixRef<T>& queries) const {
    check_columns("queries", queries.cols(), config_.num_query_heads, config_.key_format.head_dim);
    check_finite(queries);
    RowMatrix<Accumulator> scores(queries.rows() * config_.num_query_heads,
                                  static_cast<Eigen::Index>(num_tokens_));
    detail::ScratchBuffer scratch(scratch_bytes());
    attention_scores(rows_of(queries), rows_of(scores), scratch.data());
    return scores;
  }

  // The same; scores.count = queries.count * num_query_heads.
  void attention_scores(Rows<const T> queries, Rows<Accumulator> scores,
                        std::byte* scratch) const noexcept {
    POLARQUANT_DCHECK(scores.count ==
                      queries.count * static_cast<std::size_t>(config_.num_query_heads));
    const Scratch work(*codec_, scratch);
    for (std::size_t head = 0; head < pages_.num_heads(); ++head) {
      attention_of(head).scores(queries, scores, work);
    }
  }

  // ---- Decoding ----

  // The keys (values) of one KV head as the codes hold them, [num_tokens(), head_dim]. Throws
  // std::invalid_argument if there is no such head.
  RowMatrix<Accumulator> decode_keys(int kv_head) const {
    check_head(kv_head);
    return decode(codec_->keys, pages_.keys[static_cast<std::size_t>(kv_head)]);
  }
  RowMatrix<Accumulator> decode_values(int kv_head) const {
    check_head(kv_head);
    return decode(codec_->values, pages_.values[static_cast<std::size_t>(kv_head)]);
  }

  // The same; rows.count = num_tokens().
  void decode_keys(int kv_head, Rows<Accumulator> rows, std::byte* scratch) const noexcept {
    POLARQUANT_DCHECK(kv_head >= 0 && kv_head < config_.num_kv_heads);
    decode(codec_->keys, pages_.keys[static_cast<std::size_t>(kv_head)], rows, scratch);
  }
  void decode_values(int kv_head, Rows<Accumulator> rows, std::byte* scratch) const noexcept {
    POLARQUANT_DCHECK(kv_head >= 0 && kv_head < config_.num_kv_heads);
    decode(codec_->values, pages_.values[static_cast<std::size_t>(kv_head)], rows, scratch);
  }

  // The code of one key or value, bytes_per_vector() bytes as in docs/format.md. Throws
  // std::invalid_argument if there is no such head or token.
  std::vector<std::byte> key_code(int kv_head, std::size_t token) const {
    return code(codec_->keys, pages_.keys, kv_head, token);
  }
  std::vector<std::byte> value_code(int kv_head, std::size_t token) const {
    return code(codec_->values, pages_.values, kv_head, token);
  }

  // Bytes of scratch that any one call on Rows needs.
  std::size_t scratch_bytes() const { return Scratch(*codec_, nullptr).num_bytes; }

 private:
  friend struct detail::CacheAccess<T>;
  using Scratch = detail::AttentionScratch<T>;

  detail::HeadAttention<T> attention_of(std::size_t head) const {
    const auto group_size =
        static_cast<std::size_t>(config_.num_query_heads / config_.num_kv_heads);
    return {*codec_, pages_.keys[head], pages_.values[head], num_tokens_, head, group_size};
  }

  static Rows<const T> rows_of(const RowMatrixRef<T>& matrix) {
    return {matrix.data(), static_cast<std::size_t>(matrix.rows()),
            static_cast<std::size_t>(matrix.outerStride())};
  }
  static Rows<Accumulator> rows_of(RowMatrix<Accumulator>& matrix) {
    return {matrix.data(), static_cast<std::size_t>(matrix.rows()),
            static_cast<std::size_t>(matrix.cols())};
  }

  static void check_columns(const char* what, Eigen::Index columns, int num_heads, int head_dim) {
    if (columns == static_cast<Eigen::Index>(num_heads) * head_dim) return;
    detail::throw_invalid_argument(std::string(what) + " have " + std::to_string(columns) +
                                   " columns, must have " + std::to_string(num_heads) +
                                   " heads * head_dim " + std::to_string(head_dim) + " = " +
                                   std::to_string(static_cast<long long>(num_heads) * head_dim));
  }

  static void check_finite(const RowMatrixRef<T>& queries) {
    for (Eigen::Index row = 0; row < queries.rows(); ++row) {
      for (Eigen::Index column = 0; column < queries.cols(); ++column) {
        if (!std::isfinite(static_cast<Accumulator>(queries(row, column)))) {
          detail::throw_invalid_argument("query " + std::to_string(row) +
                                         " has a NaN or an infinity in column " +
                                         std::to_string(column));
        }
      }
    }
  }

  void check_head(int kv_head) const {
    if (kv_head < 0 || kv_head >= config_.num_kv_heads) {
      detail::throw_invalid_argument("KV head " + std::to_string(kv_head) + ": the cache has " +
                                     std::to_string(config_.num_kv_heads));
    }
  }

  [[noreturn]] POLARQUANT_COLD void throw_append_failure(const AppendResult& result) const {
    const PolarFormat& format = result.is_value ? config_.value_format : config_.key_format;
    const std::string where = std::string(result.is_value ? "value" : "key") + " of token " +
                              std::to_string(num_tokens_ + result.token) + ", KV head " +
                              std::to_string(result.kv_head);
    if (result.failure == EncodeFailure::kNotFinite) {
      detail::throw_invalid_argument("the " + where +
                                     " has a NaN or an infinity; nothing was appended");
    }
    detail::throw_invalid_argument("the " + where + " is beyond the range of " +
                                   float_type_name(format.radius_type) + "; nothing was appended");
  }

  EncodeResult append_rows(const PolarCodec<T>& codec, Rows<const T> rows, detail::TilePages& pages,
                           std::byte* scratch) const noexcept {
    const Scratch work(*codec_, scratch);
    for (std::size_t row = 0; row < rows.count;) {
      const std::size_t slot = (num_tokens_ + row) % kTileTokens;
      const std::size_t count = std::min(kTileTokens - slot, rows.count - row);
      const EncodeResult result =
          codec.encode_tile({rows.row(row), count, rows.stride}, slot,
                            pages.tile((num_tokens_ + row) / kTileTokens), work.codec_scratch);
      row += result.num_encoded;
      if (result.failure != EncodeFailure::kNone) return {row, result.failure};
    }
    return {rows.count, EncodeFailure::kNone};
  }

  RowMatrix<Accumulator> decode(const PolarCodec<T>& codec, const detail::TilePages& pages) const {
    RowMatrix<Accumulator> matrix(static_cast<Eigen::Index>(num_tokens_),
                                  static_cast<Eigen::Index>(codec.head_dim()));
    detail::ScratchBuffer scratch(scratch_bytes());
    decode(codec, pages, rows_of(matrix), scratch.data());
    return matrix;
  }

  void decode(const PolarCodec<T>& codec, const detail::TilePages& pages, Rows<Accumulator> rows,
              std::byte* scratch) const noexcept {
    POLARQUANT_DCHECK(rows.count == num_tokens_);
    const Scratch work(*codec_, scratch);
    for (std::size_t token = 0; token < rows.count; token += kTileTokens) {
      const std::size_t count = std::min(kTileTokens, rows.count - token);
      codec.decode_tile(pages.tile(token / kTileTokens), {rows.row(token), count, rows.stride},
                        work.codec_scratch);
    }
  }

  std::vector<std::byte> code(const PolarCodec<T>& codec,
                              const std::vector<detail::TilePages>& side, int kv_head,
                              std::size_t token) const {
    check_head(kv_head);
    if (token >= num_tokens_) {
      detail::throw_invalid_argument("token " + std::to_string(token) + ": the cache holds " +
                                     std::to_string(num_tokens_));
    }
    std::vector<std::byte> result(codec.bytes_per_vector());
    read_tile_slot(side[static_cast<std::size_t>(kv_head)].tile(token / kTileTokens),
                   codec.bytes_per_vector(), token % kTileTokens, result.data());
    return result;
  }

  KVCacheConfig config_;
  std::shared_ptr<const Codec> codec_;
  detail::CachePages pages_;
  std::size_t num_tokens_ = 0;
};

POLARQUANT_END_NAMESPACE
