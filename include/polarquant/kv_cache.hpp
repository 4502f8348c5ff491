// The key-value cache of one layer of one sequence, compressed, with attention on the codes.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "polarquant/attention/head_attention.hpp"
#include "polarquant/attention/options.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/storage/kv_storage.hpp"
#include "polarquant/attention/matrix_checks.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/attention/partial.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// Keys and values of one layer of one sequence.
//
// T is the type of keys, values and queries: float, double, Eigen::half, Eigen::bfloat16. Results
// are Accumulator: double for T = double, else float. Matrices hold a token (or query) per row, the
// heads side by side; keys and queries as attention multiplies them, that is after RoPE. Const
// calls are safe from many threads at once, each with its own scratch; there are no hidden threads.
//
// Tokens are counted from 0, the oldest. Which of them are codes and which are exact, and what is
// subtracted before encoding, is the configuration's say; every call answers for all of them alike.
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
  using Options = AttentionOptions<Accumulator>;
  using Partial = PartialAttention<Accumulator>;

  // Throws std::invalid_argument for a config that breaks a rule; is_supported tells beforehand.
  explicit KVCache(const KVCacheConfig& config)
      : KVCache(config, std::make_shared<const Codec>(config)) {}

  // With a codec that other caches share, such as codec() of the first; its codebooks are used,
  // whatever config names. Throws std::invalid_argument also if the codec was made for other
  // formats, another rotation, seed or arithmetic.
  KVCache(const KVCacheConfig& config, std::shared_ptr<const Codec> codec)
      : storage_(config, check_codec(config, std::move(codec))) {}

  KVCache(KVCache&&) noexcept = default;
  KVCache& operator=(KVCache&&) noexcept = default;

  // The same tokens. Codes are in pages that both share; one that appends to a page takes its own
  // copy of it first. Costs a count per page and a copy of the exact tokens. The two may live in
  // threads of their own. Before append on Rows, reserve again: a page that is not full is shared.
  KVCache copy() const { return KVCache(storage_.copy()); }

  const KVCacheConfig& config() const { return storage_.config(); }
  const std::shared_ptr<const Codec>& codec() const { return storage_.codec(); }
  std::size_t num_tokens() const { return storage_.segments().num_tokens; }

  // Tokens that are codes; the others are exact.
  std::size_t num_encoded_tokens() const { return storage_.segments().num_encoded; }

  // Bytes of everything this cache holds, pages that copies share in full; without the codec.
  std::size_t memory_bytes() const {
    return sizeof(*this) - sizeof(storage_) + storage_.memory_bytes();
  }

  // Those of memory_bytes() that a copy holds too.
  std::size_t shared_bytes() const { return storage_.shared_bytes(); }

  // Bytes of code per token: all heads, keys and values.
  std::size_t bytes_per_token() const {
    return storage_.num_heads() *
           (codec()->keys.bytes_per_vector() + codec()->values.bytes_per_vector());
  }

  // The kernels that run on keys; those on values are codec()->values.kernel_name().
  const char* kernel_name() const { return codec()->keys.kernel_name(); }

  // Whether the positions of tokens can be changed in place (the context shift of some engines):
  // no. Keys are encoded after RoPE.
  static constexpr bool can_shift() { return false; }

  // ---- Changing ----

  // Adds tokens. keys: [num_tokens, num_kv_heads * key head_dim]; values:
  // [num_tokens, num_kv_heads * value head_dim]. Many tokens at once or one by one makes the same
  // cache. Throws std::invalid_argument for a wrong shape, a NaN or an infinity, or a number beyond
  // the type that is to hold it, naming token and head; the cache is then as before. The norm of a
  // vector that is exact first and encoded later must be at most an eighth of the radius type's
  // largest number, so that nothing can fail later.
  void append(const RowMatrixRef<T>& keys, const RowMatrixRef<T>& values) {
    detail::check_columns("keys", keys.cols(), config().num_kv_heads, config().key_format);
    detail::check_columns("values", values.cols(), config().num_kv_heads, config().value_format);
    if (keys.rows() != values.rows()) {
      detail::throw_invalid_argument("append of " + std::to_string(keys.rows()) + " keys and " +
                                     std::to_string(values.rows()) +
                                     " values: must be as many of each");
    }
    const std::size_t capacity_before = capacity();
    reserve(num_tokens() + static_cast<std::size_t>(keys.rows()));
    detail::ScratchBuffer scratch(scratch_bytes());
    const AppendResult result =
        append(detail::rows_of<T>(keys), detail::rows_of<T>(values), scratch.data());
    if (result.failure != EncodeFailure::kNone) {
      if (capacity() != capacity_before) {
        shrink();
        reserve(capacity_before);
      }
      throw_append_failure(result);
    }
  }

  // The same. Needs capacity() >= num_tokens() + keys.count.
  AppendResult append(Rows<const T> keys, Rows<const T> values, std::byte* scratch) noexcept {
    return storage_.append(keys, values, scratch);
  }

  // Encodes now all exact tokens behind the sinks but the last num_kept, partial tiles too; with
  // num_recent_tokens = kAllTokens, after a prompt, this is the paper's setting, in which generated
  // tokens stay exact. Does nothing while the centring vectors are still to be estimated.
  void encode_recent(std::size_t num_kept = 0) { storage_.encode_recent(num_kept); }

  // Allocates for num_tokens tokens in all. Throws std::invalid_argument beyond 2^40 tokens.
  void reserve(std::size_t num_tokens) {
    if (num_tokens > KVCacheConfig::kAllTokens) {
      detail::throw_invalid_argument("reserve for " + std::to_string(num_tokens) +
                                     " tokens: at most 2^40");
    }
    storage_.reserve(num_tokens);
  }

  // Tokens that fit without an allocation.
  std::size_t capacity() const { return storage_.capacity(); }

  // Forgets all but the first num_tokens tokens, exactly. A token that is a code stays one, even if
  // it comes to be among the most recent; the window fills again with what is appended. Centring
  // vectors stay. Throws std::invalid_argument if the cache holds fewer tokens. Memory stays
  // allocated for what comes next. Cost: none.
  void truncate(std::size_t num_tokens_kept) {
    if (num_tokens_kept > num_tokens()) {
      detail::throw_invalid_argument("truncate to " + std::to_string(num_tokens_kept) +
                                     " tokens: the cache holds " + std::to_string(num_tokens()));
    }
    storage_.truncate(num_tokens_kept);
  }

  // Forgets the oldest encoded tokens, in whole tiles of kTileTokens: as many as num_tokens holds.
  // Sinks stay. Returns how many were forgotten: token i, behind the sinks, was token i + that
  // number before. Pages that hold no other tokens are given back.
  std::size_t drop_front(std::size_t num_tokens) { return storage_.drop_front(num_tokens); }

  // Forgets all tokens, and centring vectors that were estimated. Memory stays allocated.
  void clear() { storage_.clear(); }

  // Gives back memory that the tokens held do not need.
  void shrink() { storage_.shrink(); }

  // ---- Attention ----

  // Causal attention, softmax(q . k / sqrt(key head_dim)) V, paper: section 2, or as options say.
  // queries: [num_queries, num_query_heads * key head_dim], the last of which sees every token in
  // the cache, the one before it one less, and so on (so a slice of a prompt's queries sees other
  // tokens than in the whole); query head h reads KV head h / (num_query_heads / num_kv_heads).
  // Returns [num_queries, num_query_heads * value head_dim]; zeros for a query that sees no token.
  // Equals attention over decode_keys and decode_values to 1e-5 relative (float, kExact). Throws
  // std::invalid_argument for a wrong width, a NaN or infinity in a query, or wrong options.
  RowMatrix<Accumulator> attend(const RowMatrixRef<T>& queries, const Options& options = {}) const {
    check(queries, options);
    RowMatrix<Accumulator> output(
        queries.rows(),
        static_cast<Eigen::Index>(config().num_query_heads) * config().value_format.head_dim);
    detail::ScratchBuffer scratch(scratch_bytes());
    attend(detail::rows_of<T>(queries), detail::rows_of(output), scratch.data(), {}, options);
    return output;
  }

  // The same for all KV heads, or some: the columns of their query heads are written. output.count
  // = queries.count. A query head with a NaN or infinity gets an output of NaN.
  void attend(Rows<const T> queries, Rows<Accumulator> output, std::byte* scratch,
              HeadRange kv_heads = {}, const Options& options = {}) const noexcept {
    POLARQUANT_DCHECK(queries.count == output.count);
    const AttentionScratch work(*codec(), scratch);
    for (std::size_t head = kv_heads.first; head < end_of(kv_heads); ++head) {
      HeadAttention(storage_, head).attend(queries, options, output, work);
    }
  }

  // Attention over some of the tokens only, to be merged with that over others: of this cache (so
  // that threads share the tokens) or of another. Positions are those of the whole cache. The
  // options' sink logits are left to output() or finish(), which take them in once. Throws what
  // attend throws; a range that the cache does not fill is cut.
  Partial attend_partial(const RowMatrixRef<T>& queries, TokenRange tokens = {},
                         const Options& options = {}) const {
    check(queries, options);
    Partial part(queries.rows(), config());
    detail::ScratchBuffer scratch(scratch_bytes());
    attend_partial(detail::rows_of<T>(queries), part.rows(), scratch.data(), tokens, {}, options);
    return part;
  }

  // The same, for some KV heads.
  void attend_partial(Rows<const T> queries, const PartialRows<Accumulator>& part,
                      std::byte* scratch, TokenRange tokens = {}, HeadRange kv_heads = {},
                      const Options& options = {}) const noexcept {
    POLARQUANT_DCHECK(queries.count == part.output.count);
    const AttentionScratch work(*codec(), scratch);
    for (std::size_t head = kv_heads.first; head < end_of(kv_heads); ++head) {
      HeadAttention(storage_, head).attend_partial(queries, options, tokens, part, work);
    }
  }

  // Raw scores q . k, unscaled and unmasked. queries as for attend. Returns
  // [num_queries * num_query_heads, num_tokens()], query by query. Throws std::invalid_argument for
  // a wrong width, or a NaN or infinity in a query.
  RowMatrix<Accumulator> attention_scores(const RowMatrixRef<T>& queries) const {
    detail::check_queries<T>(queries, config());
    RowMatrix<Accumulator> scores(queries.rows() * config().num_query_heads,
                                  static_cast<Eigen::Index>(num_tokens()));
    detail::ScratchBuffer scratch(scratch_bytes());
    attention_scores(detail::rows_of<T>(queries), detail::rows_of(scores), scratch.data());
    return scores;
  }

  // The same; scores.count = queries.count * num_query_heads.
  void attention_scores(Rows<const T> queries, Rows<Accumulator> scores,
                        std::byte* scratch) const noexcept {
    POLARQUANT_DCHECK(scores.count ==
                      queries.count * static_cast<std::size_t>(config().num_query_heads));
    const AttentionScratch work(*codec(), scratch);
    for (std::size_t head = 0; head < storage_.num_heads(); ++head) {
      HeadAttention(storage_, head).scores(queries, scores, work);
    }
  }

  // ---- Decoding ----

  // The keys (values) of one KV head as the cache holds them, [num_tokens(), head_dim]: codes
  // decoded, centring vectors added, exact tokens as they are. Throws std::invalid_argument if
  // there is no such head.
  RowMatrix<Accumulator> decode_keys(int kv_head) const {
    detail::check_head(kv_head, config());
    return decode(codec()->keys, storage_.keys(static_cast<std::size_t>(kv_head)));
  }
  RowMatrix<Accumulator> decode_values(int kv_head) const {
    detail::check_head(kv_head, config());
    return decode(codec()->values, storage_.values(static_cast<std::size_t>(kv_head)));
  }

  // The same; rows.count = num_tokens().
  void decode_keys(int kv_head, Rows<Accumulator> rows, std::byte* scratch) const noexcept {
    POLARQUANT_DCHECK(kv_head >= 0 && kv_head < config().num_kv_heads);
    decode(codec()->keys, storage_.keys(static_cast<std::size_t>(kv_head)), rows, scratch);
  }
  void decode_values(int kv_head, Rows<Accumulator> rows, std::byte* scratch) const noexcept {
    POLARQUANT_DCHECK(kv_head >= 0 && kv_head < config().num_kv_heads);
    decode(codec()->values, storage_.values(static_cast<std::size_t>(kv_head)), rows, scratch);
  }

  // The code of one key or value (less the centring vector), bytes_per_vector() bytes as in
  // docs/format.md. Throws std::invalid_argument if there is no such head or token, or the token is
  // exact.
  std::vector<std::byte> key_code(int kv_head, std::size_t token) const {
    detail::check_head(kv_head, config());
    return code(codec()->keys, storage_.keys(static_cast<std::size_t>(kv_head)), token);
  }
  std::vector<std::byte> value_code(int kv_head, std::size_t token) const {
    detail::check_head(kv_head, config());
    return code(codec()->values, storage_.values(static_cast<std::size_t>(kv_head)), token);
  }

  // The centring vector of one KV head's keys (values), [head_dim]; empty: none, or not yet known.
  // Throws std::invalid_argument if there is no such head.
  std::vector<Accumulator> key_mean(int kv_head) const {
    detail::check_head(kv_head, config());
    return mean(storage_.keys(static_cast<std::size_t>(kv_head)));
  }
  std::vector<Accumulator> value_mean(int kv_head) const {
    detail::check_head(kv_head, config());
    return mean(storage_.values(static_cast<std::size_t>(kv_head)));
  }

  // Bytes of scratch that any one call on Rows needs.
  std::size_t scratch_bytes() const {
    return std::max(AttentionScratch(*codec(), nullptr).num_bytes,
                    SideScratch(*codec(), nullptr).num_bytes);
  }

 private:
  friend struct detail::CacheAccess<T>;
  using Side = detail::HeadSide<T>;
  using SideScratch = detail::SideScratch<T>;
  using AttentionScratch = detail::AttentionScratch<T>;
  using HeadAttention = detail::HeadAttention<T>;

  explicit KVCache(detail::KVStorage<T> storage) : storage_(std::move(storage)) {}

  // Returns the codec, if it fits the configuration.
  static std::shared_ptr<const Codec> check_codec(const KVCacheConfig& config,
                                                  std::shared_ptr<const Codec> codec) {
    config.validate();
    if (codec == nullptr) detail::throw_invalid_argument("a cache without a codec");
    if (codec->keys.format() != config.key_format ||
        codec->values.format() != config.value_format) {
      detail::throw_invalid_argument("the shared codec was made for other formats");
    }
    for (const PolarCodec<T>* side : {&codec->keys, &codec->values}) {
      if (!side->format().is_uncompressed() &&
          (side->rotation().kind() != config.rotation || side->rotation().seed() != config.seed)) {
        detail::throw_invalid_argument("the shared codec was made for another rotation or seed");
      }
      if (side->arithmetic() != config.arithmetic) {
        detail::throw_invalid_argument("the shared codec was made for another arithmetic");
      }
    }
    return codec;
  }

  std::size_t end_of(HeadRange kv_heads) const {
    const std::size_t num_heads = storage_.num_heads();
    POLARQUANT_DCHECK(kv_heads.first <= num_heads);
    return kv_heads.first + std::min(kv_heads.count, num_heads - kv_heads.first);
  }

  void check(const RowMatrixRef<T>& queries, const Options& options) const {
    detail::check_queries<T>(queries, config());
    options.validate(static_cast<std::size_t>(queries.rows()),
                     static_cast<std::size_t>(config().num_query_heads), num_tokens());
  }

  [[noreturn]] POLARQUANT_COLD void throw_append_failure(const AppendResult& result) const {
    const std::string where = std::string(result.is_value ? "value" : "key") + " of token " +
                              std::to_string(num_tokens() + result.token) + ", KV head " +
                              std::to_string(result.kv_head);
    if (result.failure == EncodeFailure::kNotFinite) {
      detail::throw_invalid_argument("the " + where +
                                     " has a NaN or an infinity; nothing was appended");
    }
    detail::throw_invalid_argument("the " + where + " is beyond the range of " +
                                   float_type_name(result.type) + "; nothing was appended");
  }

  RowMatrix<Accumulator> decode(const PolarCodec<T>& side_codec, const Side& side) const {
    RowMatrix<Accumulator> matrix(static_cast<Eigen::Index>(num_tokens()),
                                  static_cast<Eigen::Index>(side_codec.head_dim()));
    detail::ScratchBuffer scratch(scratch_bytes());
    decode(side_codec, side, detail::rows_of(matrix), scratch.data());
    return matrix;
  }

  void decode(const PolarCodec<T>& side_codec, const Side& side, Rows<Accumulator> rows,
              std::byte* scratch) const noexcept {
    POLARQUANT_DCHECK(rows.count == num_tokens());
    side.decode(side_codec, storage_.segments(), storage_.mean_of(side), rows,
                SideScratch(*codec(), scratch));
  }

  std::vector<std::byte> code(const PolarCodec<T>& side_codec, const Side& side,
                              std::size_t token) const {
    const detail::TokenSegments& segments = storage_.segments();
    if (token >= num_tokens()) {
      detail::throw_invalid_argument("token " + std::to_string(token) + ": the cache holds " +
                                     std::to_string(num_tokens()));
    }
    if (!segments.is_encoded(token)) {
      detail::throw_invalid_argument("token " + std::to_string(token) +
                                     " is kept exact and has no code");
    }
    const std::size_t slot = segments.slot(token);
    std::vector<std::byte> result(side_codec.bytes_per_vector());
    read_tile_slot(side.pages.tile(slot / kTileTokens), side_codec.bytes_per_vector(),
                   slot % kTileTokens, result.data());
    return result;
  }

  std::vector<Accumulator> mean(const Side& side) const {
    const Accumulator* const first = storage_.mean_of(side);
    return first == nullptr ? std::vector<Accumulator>() : side.mean;
  }

  detail::KVStorage<T> storage_;
};

POLARQUANT_END_NAMESPACE
