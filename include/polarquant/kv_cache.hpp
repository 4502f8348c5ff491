// The key-value cache of one layer of one sequence, compressed, with attention on the codes.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "polarquant/attention/cache_tokens.hpp"
#include "polarquant/attention/compiled_calls.hpp"
#include "polarquant/attention/matrix.hpp"
#include "polarquant/attention/options.hpp"
#include "polarquant/attention/partial_attention.hpp"
#include "polarquant/attention/partial_rows.hpp"
#include "polarquant/attention/query_group.hpp"
#include "polarquant/attention/scratch.hpp"
#include "polarquant/base/aligned_memory.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codes/tile.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/storage/head_side.hpp"
#include "polarquant/storage/kv_append.hpp"
#include "polarquant/storage/kv_codec.hpp"
#include "polarquant/storage/kv_storage.hpp"
#include "polarquant/storage/removed_tokens.hpp"

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
// aligned to kAlignment) and has its preconditions checked only where NDEBUG is not defined. A
// cache that was moved from can only be assigned to or destroyed.
//
// Sums are float: ||q|| ||k||, and the norm of a value times the number of tokens, must stay below
// 1e38, or results are infinite or NaN.
template <typename T>
class KVCache {
 public:
  using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;
  using Codec = KVCodec<Accumulator>;
  using Options = AttentionOptions<Accumulator>;
  using Partial = PartialAttention<Accumulator>;

  static_assert(!std::is_integral_v<T> &&
                    (std::is_same_v<T, double> || std::is_convertible_v<T, float>),
                "T must be float, double, or a 16-bit floating type that converts to float");

  // Throws std::invalid_argument for a config that breaks a rule; is_supported tells beforehand.
  explicit KVCache(const KVCacheConfig& config)
      : KVCache(config, std::make_shared<const Codec>(config)) {}

  // With a codec that other caches share, such as codec() of the first. Throws
  // std::invalid_argument also if the codec was made for other formats, another rotation, seed,
  // arithmetic or instruction set.
  KVCache(const KVCacheConfig& config, std::shared_ptr<const Codec> codec)
      : storage_(config, config.exact_type.value_or(detail::own_float_type<T>()),
                 detail::fitting_codec(config, std::move(codec))) {}

  KVCache(KVCache&&) noexcept = default;
  KVCache& operator=(KVCache&&) noexcept = default;

  // The same tokens. Codes are in pages that both share; one that appends to a page takes its own
  // copy of it first. Costs a count per page and a copy of the exact tokens. The two may live in
  // threads of their own. Before append on Rows both reserve again: a page that is not full is
  // shared.
  [[nodiscard]] KVCache copy() const { return KVCache(storage_.copy()); }

  const KVCacheConfig& config() const { return storage_.config(); }
  const std::shared_ptr<const Codec>& codec() const { return storage_.codec(); }

  // Removed tokens count too: they keep their positions.
  std::size_t num_tokens() const { return storage_.segments().num_tokens; }

  // Tokens that are codes; the others are exact.
  std::size_t num_encoded_tokens() const { return storage_.segments().num_encoded; }

  // What remove() removed: ranges apart from each other, in order.
  const std::vector<TokenRange>& removed_tokens() const { return storage_.removed().ranges(); }

  // Bytes of everything this cache holds, pages that copies share in full; without the codec and a
  // calibration's matrices.
  std::size_t memory_bytes() const {
    return sizeof(*this) - sizeof(storage_) + storage_.memory_bytes();
  }

  // Those of memory_bytes() that a copy holds too.
  std::size_t shared_bytes() const { return storage_.shared_bytes(); }

  // Bytes of code per token: all heads, keys and values.
  std::size_t bytes_per_token() const {
    return storage_.num_heads() *
           (codec()->keys().bytes_per_vector() + codec()->values().bytes_per_vector());
  }

  // The kernels that run on keys; those on values are codec()->values().kernel_name().
  const char* kernel_name() const { return codec()->keys().kernel_name(); }

  // Whether the positions of tokens can be changed in place (the context shift of some engines):
  // no. Keys are encoded after RoPE.
  static constexpr bool can_shift() { return false; }

  // ---- Changing ----

  // Adds tokens. keys: [num_tokens, num_kv_heads * key head_dim]; values:
  // [num_tokens, num_kv_heads * value head_dim]. Many tokens at once or one by one makes the same
  // cache, and so do equal values of another T. Throws std::invalid_argument for a wrong shape, a
  // NaN or an infinity, or a number beyond the type that is to hold it, naming token and head; the
  // cache is then as before. The norm of a vector that is exact first and encoded later, less a
  // mean that is given, must be at most an eighth of the largest number of the format's type, so
  // that nothing can fail later.
  void append(const RowMatrixRef<T>& keys, const RowMatrixRef<T>& values) {
    check_columns("keys", keys, config().key_format);
    check_columns("values", values, config().value_format);
    if (keys.rows() != values.rows()) {
      detail::throw_invalid_argument({"append of ", keys.rows(), " keys and ", values.rows(),
                                      " values: must be as many of each"});
    }
    const std::size_t capacity_before = capacity();
    reserve(num_tokens() + static_cast<std::size_t>(keys.rows()));
    AlignedBuffer scratch(scratch_bytes());
    const AppendResult result =
        append(detail::rows_of<T>(keys), detail::rows_of<T>(values), scratch.data());
    if (result.failure == EncodeFailure::kNone) return;
    if (capacity() != capacity_before) {
      shrink();
      reserve(capacity_before);
    }
    detail::throw_append_failure(result, num_tokens());
  }

  // The same. Fails with kNoCapacity and changes nothing where there is no room for the tokens in
  // memory of this cache alone: reserve() first, and again after copy() and load().
  AppendResult append(Rows<const T> keys, Rows<const T> values, std::byte* scratch) noexcept {
    return storage_.append(keys, values, scratch);
  }

  // Encodes now all exact tokens behind the sinks but the last num_kept, partial tiles too; with
  // num_recent_tokens = kAllTokens, after a prompt, this is the paper's setting, in which generated
  // tokens stay exact. A span that begins among them has a centre of as many tokens as there are.
  void encode_recent(std::size_t num_kept = 0) { storage_.encode_recent(num_kept); }

  // Allocates for num_tokens tokens in all. Throws std::invalid_argument beyond kAllTokens.
  void reserve(std::size_t num_tokens) {
    if (num_tokens > KVCacheConfig::kAllTokens) {
      detail::throw_invalid_argument({"reserve for ", num_tokens, " tokens",
                                      detail::maybe_negative(num_tokens), ": at most ",
                                      KVCacheConfig::kAllTokens});
    }
    storage_.reserve(num_tokens);
  }

  // Tokens that fit without an allocation.
  std::size_t capacity() const { return storage_.capacity(); }

  // Forgets all but the first num_tokens tokens, exactly. A token that is a code stays one, even if
  // it comes to be among the most recent; the window fills again with what is appended. A span that
  // keeps a code keeps its centre, and one that keeps none gets another. Throws
  // std::invalid_argument if the cache holds fewer tokens. Memory stays allocated for what comes
  // next. Cost: none.
  void truncate(std::size_t num_tokens_kept) {
    if (num_tokens_kept > num_tokens()) {
      detail::throw_invalid_argument({"truncate to ", num_tokens_kept, " tokens",
                                      detail::maybe_negative(num_tokens_kept), ": the cache holds ",
                                      num_tokens()});
    }
    storage_.truncate(num_tokens_kept);
  }

  // Takes tokens out of the middle: attention skips them from now on, and all others keep their
  // positions. Their memory stays (truncate takes the end back, drop_front the beginning). Throws
  // std::invalid_argument for tokens that the cache does not hold. Cost: none.
  void remove(TokenRange tokens) {
    if (tokens.first > num_tokens() || tokens.count > num_tokens() - tokens.first) {
      detail::throw_invalid_argument({"remove of ", tokens.count, " tokens from token ",
                                      tokens.first, " on: the cache holds ", num_tokens()});
    }
    storage_.remove(tokens);
  }

  // Forgets the oldest encoded tokens, in whole tiles of kTileTokens: as many as num_tokens holds.
  // Sinks stay. Returns how many were forgotten: token i, behind the sinks, was token i + that
  // number before. Pages that hold no other tokens are given back. It is about memory; what a
  // sliding window hides is AttentionOptions::window's say.
  std::size_t drop_front(std::size_t num_tokens) { return storage_.drop_front(num_tokens); }

  // Forgets all tokens. Memory stays allocated.
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
    detail::check_call<T>(queries, options, config(), num_tokens());
    RowMatrix<Accumulator> output(queries.rows(),
                                  static_cast<Eigen::Index>(config().output_columns()));
    AlignedBuffer scratch(scratch_bytes());
    attend(detail::rows_of<T>(queries), detail::rows_of(output), scratch.data(), options);
    return output;
  }

  // The same. output.count = queries.count; with a part, the columns of its heads are written. A
  // query head with a NaN or infinity gets an output of NaN.
  void attend(Rows<const T> queries, Rows<Accumulator> output, std::byte* scratch,
              const Options& options = {}, const Part& part = {}) const noexcept {
    POLARQUANT_DCHECK(queries.count == output.count);
    attend_to(queries, {output, {}}, scratch, options, part);
  }

  // Attention over some of the tokens only, to be merged with that over others: of this cache (so
  // that threads share the tokens) or of another. Positions are those of the whole cache. The
  // options' sink logits are left to output() or finish(), which take them in once. Throws what
  // attend throws; a range that the cache does not fill is cut.
  Partial attend_partial(const RowMatrixRef<T>& queries, const Options& options = {},
                         const Part& part = {}) const {
    detail::check_call<T>(queries, options, config(), num_tokens());
    Partial result(queries.rows(), config());
    AlignedBuffer scratch(scratch_bytes());
    attend_partial(detail::rows_of<T>(queries), result.rows(), scratch.data(), options, part);
    return result;
  }

  // The same.
  void attend_partial(Rows<const T> queries, const PartialRows<Accumulator>& result,
                      std::byte* scratch, const Options& options = {},
                      const Part& part = {}) const noexcept {
    POLARQUANT_DCHECK(queries.count == result.output.count);
    attend_to(queries, {result.output, result.softmax}, scratch, options, part);
  }

  // Raw scores q . k, unscaled and unmasked; -infinity for tokens that were removed. queries as for
  // attend. Returns [num_queries * num_query_heads, num_tokens()], query by query. Throws
  // std::invalid_argument for a wrong width, or a NaN or infinity in a query.
  RowMatrix<Accumulator> attention_scores(const RowMatrixRef<T>& queries) const {
    detail::check_queries<T>(queries, config());
    RowMatrix<Accumulator> scores(queries.rows() * config().num_query_heads,
                                  static_cast<Eigen::Index>(num_tokens()));
    AlignedBuffer scratch(scratch_bytes());
    attention_scores(detail::rows_of<T>(queries), detail::rows_of(scores), scratch.data());
    return scores;
  }

  // The same; scores.count = queries.count * num_query_heads. With a part, what is not its is left
  // as it is.
  void attention_scores(Rows<const T> queries, Rows<Accumulator> scores, std::byte* scratch,
                        const Part& part = {}) const noexcept {
    const std::size_t num_query_heads = static_cast<std::size_t>(config().num_query_heads);
    POLARQUANT_DCHECK(scores.count == queries.count * num_query_heads);
    for_each_head(queries, scratch, part, [&](Group& group, const auto& of_head) {
      group.scores(of_head, part.token_range, scores, num_query_heads);
    });
  }

  // ---- Decoding ----

  // The keys (values) of one KV head as the cache holds them, [num_tokens(), head_dim]: codes
  // decoded, centres added, exact and removed tokens as they are. Throws
  // std::invalid_argument if there is no such head.
  RowMatrix<Accumulator> decode_keys(int kv_head) const { return decode(Side::kKeys, kv_head); }
  RowMatrix<Accumulator> decode_values(int kv_head) const { return decode(Side::kValues, kv_head); }

  // The same; rows.count = num_tokens().
  void decode_keys(int kv_head, Rows<Accumulator> rows, std::byte* scratch) const noexcept {
    decode(Side::kKeys, kv_head, rows, scratch);
  }
  void decode_values(int kv_head, Rows<Accumulator> rows, std::byte* scratch) const noexcept {
    decode(Side::kValues, kv_head, rows, scratch);
  }

  // The code of one key or value (less its centre), bytes_per_vector() bytes as in
  // docs/format.md. Throws std::invalid_argument if there is no such head or token, or the token is
  // exact.
  std::vector<std::byte> key_code(int kv_head, std::size_t token) const {
    return code(Side::kKeys, kv_head, token);
  }
  std::vector<std::byte> value_code(int kv_head, std::size_t token) const {
    return code(Side::kValues, kv_head, token);
  }

  // What was subtracted from one key or value before it was encoded, [head_dim]; empty: nothing.
  // Throws what key_code throws.
  std::vector<Accumulator> key_center(int kv_head, std::size_t token) const {
    return center(Side::kKeys, kv_head, token);
  }
  std::vector<Accumulator> value_center(int kv_head, std::size_t token) const {
    return center(Side::kValues, kv_head, token);
  }

  // Bytes of scratch that any one call on Rows needs.
  std::size_t scratch_bytes() const {
    return (std::max)(detail::AttentionScratch<Accumulator>(*codec(), nullptr).num_bytes,
                      detail::SideScratch<Accumulator>(*codec(), nullptr).num_bytes);
  }

 private:
  friend struct detail::CacheAccess<T>;
  using Storage = detail::KVStorage<Accumulator>;
  using Tokens = detail::CacheTokens<Accumulator>;
  using Group = detail::QueryGroup<Accumulator, Tokens>;

  explicit KVCache(Storage storage) : storage_(std::move(storage)) {}

  void check_columns(const char* what, const RowMatrixRef<T>& matrix,
                     const CodecFormat& format) const {
    detail::check_columns(what, matrix.rows(), matrix.cols(), "num_kv_heads", config().num_kv_heads,
                          format);
  }

  // Calls visit(group, its queries) for each KV head of a part.
  template <typename Visit>
  void for_each_head(Rows<const T> queries, std::byte* scratch, const Part& part,
                     const Visit& visit) const noexcept {
    const int num_heads = config().num_kv_heads;
    POLARQUANT_DCHECK(part.first_kv_head >= 0 && part.first_kv_head <= num_heads);
    const int end =
        part.first_kv_head + (std::min)(part.num_kv_heads, num_heads - part.first_kv_head);
    const std::size_t group_size = static_cast<std::size_t>(config().num_query_heads / num_heads);
    const detail::AttentionScratch<Accumulator> work(*codec(), scratch);
    for (int head = part.first_kv_head; head < end; ++head) {
      const std::size_t index = static_cast<std::size_t>(head);
      const Tokens tokens(storage_, index);
      Group group(*codec(), tokens, work);
      visit(group, detail::GroupQueries<T>{queries, index * group_size, group_size});
    }
  }

  void attend_to(Rows<const T> queries, const detail::AttentionTarget<Accumulator>& target,
                 std::byte* scratch, const Options& options, const Part& part) const noexcept {
    for_each_head(queries, scratch, part, [&](Group& group, const auto& of_head) {
      group.attend(of_head, options, part.token_range, target);
    });
  }

  const detail::HeadSide<Accumulator>& head_of(Side side, int kv_head) const {
    detail::check_head(kv_head, config());
    return storage_.head(side, static_cast<std::size_t>(kv_head));
  }

  RowMatrix<Accumulator> decode(Side side, int kv_head) const {
    detail::check_head(kv_head, config());
    RowMatrix<Accumulator> matrix(static_cast<Eigen::Index>(num_tokens()),
                                  static_cast<Eigen::Index>(codec()->side(side).head_dim()));
    AlignedBuffer scratch(scratch_bytes());
    decode(side, kv_head, detail::rows_of(matrix), scratch.data());
    return matrix;
  }

  void decode(Side side, int kv_head, Rows<Accumulator> rows, std::byte* scratch) const noexcept {
    POLARQUANT_DCHECK(kv_head >= 0 && kv_head < config().num_kv_heads);
    POLARQUANT_DCHECK(rows.count == num_tokens());
    const auto& head = storage_.head(side, static_cast<std::size_t>(kv_head));
    head.decode(codec()->side(side), storage_.segments(), rows,
                detail::SideScratch<Accumulator>(*codec(), scratch));
  }

  std::vector<std::byte> code(Side side, int kv_head, std::size_t token) const {
    return head_of(side, kv_head).code(codec()->side(side), storage_.encoded_slot(token));
  }

  std::vector<Accumulator> center(Side side, int kv_head, std::size_t token) const {
    const detail::HeadSide<Accumulator>& head = head_of(side, kv_head);
    AlignedBuffer scratch(scratch_bytes());
    const detail::SideScratch<Accumulator> work(*codec(), scratch.data());
    const Accumulator* const found =
        head.conditioning_of(codec()->side(side), storage_.encoded_slot(token), work).center;
    if (found == nullptr) return {};
    return std::vector<Accumulator>(found, found + codec()->side(side).head_dim());
  }

  Storage storage_;
};

POLARQUANT_END_NAMESPACE
