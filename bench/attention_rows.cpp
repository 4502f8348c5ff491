// Scores, weighted sums, attention and prefill.
#include <algorithm>
#include <memory>
#include <stdexcept>

#include "baselines/exact_attention.hpp"
#include "heads.hpp"
#include "rows.hpp"
#include "sides.hpp"

namespace polarquant_bench {
namespace {

using polarquant::kTileTokens;
using polarquant_baselines::exact_attention;
using polarquant_baselines::exact_scores;
using polarquant_baselines::HeadShape;

double relative_error(const RowMatrix<float>& result, const RowMatrix<double>& exact) {
  return (result.cast<double>() - exact).norm() / exact.norm();
}

// [num_tokens of queries, heads * head_dim], as the cache takes them.
Rows<const float> query_rows(const Row& row, const Inputs& inputs) {
  const std::size_t heads = size_of(shape_of(row).num_query_heads);
  return {inputs.queries.data(), size_of(row.num_queries) / heads, heads * size_of(row.head_dim)};
}

Eigen::Map<const RowMatrix<float>> query_matrix(const Row& row, const Inputs& inputs) {
  const Rows<const float> rows = query_rows(row, inputs);
  return {rows.data, static_cast<Eigen::Index>(rows.count), static_cast<Eigen::Index>(rows.stride)};
}

// Like softmax weights relative to the largest: [num_queries, num_tokens].
Weights make_weights(const Row& row) {
  const RowMatrix<float> logits = gaussian(row.num_queries, row.num_tokens, 4);
  return std::make_shared<const RowMatrix<float>>((logits.array() - logits.maxCoeff()).exp());
}

// Weighted sums on tiles in memory of our own.
class TileSums {
 public:
  TileSums(const Row& row, const RowMatrix<float>& values)
      : codec_(config_of(row)),
        num_tokens_(size_of(row.num_tokens)),
        tile_bytes_(codec().tile_bytes()),
        heads_(num_tiles() * tile_bytes_,
               num_heads_for(num_tiles() * tile_bytes_, row.memory_bytes)),
        turn_(heads_.size()),
        scratch_(codec().scratch_bytes()),
        sums_(size_of(row.num_queries) * codec().tile_sum_size() * sizeof(float)) {
    const std::size_t head_dim = codec().head_dim();
    for (std::size_t t = 0; t < num_tokens_; t += kTileTokens) {
      require_encoded(codec().encode_tile(
          {values.data() + t * head_dim, std::min(kTileTokens, num_tokens_ - t), head_dim}, 0,
          heads_.head<std::byte>(0) + t / kTileTokens * tile_bytes_, scratch_.data()));
    }
    heads_.copy();
  }

  const polarquant::Codec<float>& codec() const { return codec_.values(); }

  // output: [weights.rows(), head_dim].
  void run(const RowMatrix<float>& weights, RowMatrix<float>& output) {
    const std::byte* const tiles = heads_.head<std::byte>(turn_.next());
    const std::size_t count = static_cast<std::size_t>(weights.rows());
    float* const sums = reinterpret_cast<float*>(sums_.data());
    std::fill_n(sums, count * codec().tile_sum_size(), 0.0f);
    codec().accumulate_tiles({weights.data(), count, num_tokens_}, tiles, num_tiles(),
                             {sums, count, codec().tile_sum_size()}, scratch_.data());
    for (std::size_t i = 0; i < count; ++i) {
      codec().finish_tiles(sums + i * codec().tile_sum_size(), 1.0f,
                           output.data() + i * codec().head_dim(), scratch_.data());
    }
  }

  RowMatrix<float> decode() {
    const std::size_t head_dim = codec().head_dim();
    RowMatrix<float> rows(static_cast<Eigen::Index>(num_tokens_),
                          static_cast<Eigen::Index>(head_dim));
    for (std::size_t t = 0; t < num_tokens_; t += kTileTokens) {
      codec().decode_tile(
          heads_.head<std::byte>(0) + t / kTileTokens * tile_bytes_,
          {rows.data() + t * head_dim, std::min(kTileTokens, num_tokens_ - t), head_dim},
          scratch_.data());
    }
    return rows;
  }

 private:
  std::size_t num_tiles() const { return (num_tokens_ + kTileTokens - 1) / kTileTokens; }

  polarquant::KVCodec<float> codec_;
  std::size_t num_tokens_;
  std::size_t tile_bytes_;
  CopiedHeads heads_;
  Turn turn_;
  Scratch scratch_;
  Scratch sums_;
};

// The head that ours, or a peer, is measured on; fp16 or Eigen as its baseline.
void check(const Side& baseline, double error) {
  if (!(error < 1e-3)) throw std::logic_error(baseline.name + " is wrong");
}

void run_all(const Work& work) {
  for (const Side& side : work.sides) side.run();
}

// The last few queries' rows are enough of a check.
constexpr Eigen::Index kMaxChecked = 8;

// exact: of (queries, keys, values), the result of the last kMaxChecked of them.
template <typename Exact>
void judge(Work& work, const Inputs& inputs, const Exact& exact, const RowMatrix<float>* keys,
           const RowMatrix<float>* values) {
  run_all(work);
  const RowMatrix<double> truth = exact(inputs.keys, inputs.values);
  const auto last_of = [&truth](const Side& side) -> RowMatrix<float> {
    return side.result->bottomRows(truth.rows());
  };
  work.error = relative_error(last_of(work.sides.front()), truth);
  work.error_decoded =
      keys == nullptr ? 0.0 : relative_error(last_of(work.sides.front()), exact(*keys, *values));
  for (std::size_t i = 1; i < work.sides.size(); ++i) {
    check(work.sides[i], relative_error(last_of(work.sides[i]), truth));
  }
}

Work attend_work(const Row& row) {
  const auto inputs = inputs_of(row);
  const bool is_scores = row.operation == "scores";
  Work work;
  std::shared_ptr<CompressedHeads> heads;
  if (row.is_peer()) {
    work.sides.push_back(peer_side(row, inputs, nullptr));
    work.kernel = row.format;
    work.bits = work.sides.front().num_bytes * 8.0 /
                (work.sides.front().num_tokens * row.head_dim * (is_scores ? 1.0 : 2.0));
  } else {
    heads = compressed_heads(row, *inputs);
    work.kernel = heads->front().kernel_name();
    work.bits = heads->front().config().key_format.bits_per_coordinate();
    const double key_bytes = static_cast<double>(heads->front().codec()->keys().bytes_per_vector());
    work.sides.push_back(side_of(row, "ours", is_scores ? key_bytes : 2.0 * key_bytes,
                                 is_scores ? row.num_tokens : row.head_dim));
    RowMatrix<float>* const result = work.sides.front().result.get();
    const Rows<const float> queries = query_rows(row, *inputs);
    if (is_scores) {
      work.sides.front().run = [heads, inputs, queries, result] {
        heads->next().attention_scores(queries, rows_of(*result), heads->scratch());
      };
    } else {
      const Rows<float> output = {result->data(), queries.count, queries.stride};
      work.sides.front().run = [heads, inputs, queries, output] {
        heads->next().attend(queries, output, heads->scratch());
      };
    }
  }
  if (row.operation == "prefill") {
    work.sides.push_back(eigen_side(row, inputs, nullptr));
  } else {
    for (Side& side : float16_sides(row, inputs, nullptr)) work.sides.push_back(std::move(side));
  }
  const HeadShape shape = shape_of(row);
  const auto exact = [&](const RowMatrix<float>& keys, const RowMatrix<float>& values) {
    const auto queries = query_matrix(row, *inputs);
    const RowMatrix<float> last = queries.bottomRows(std::min(kMaxChecked, queries.rows()));
    const RowMatrix<double> scores = exact_scores(shape, last, keys);
    if (is_scores) return scores;
    RowMatrix<double> output = exact_attention(shape, scores, values);
    output.resize(last.rows() * shape.num_query_heads, row.head_dim);  // the same numbers in order
    return output;
  };
  if (row.from_memory() && row.num_queries > 1 && !is_scores) {
    // fp16's queries are heads that all see every token, ours see one token less each: the hot row
    // has the errors.
    run_all(work);
    return work;
  }
  if (heads == nullptr) {
    judge(work, *inputs, exact, nullptr, nullptr);
  } else {
    const RowMatrix<float> keys = heads->front().decode_keys(0);
    const RowMatrix<float> values = heads->front().decode_values(0);
    judge(work, *inputs, exact, &keys, &values);
  }
  return work;
}

}  // namespace

Work scores_work(const Row& row) { return attend_work(row); }
Work attention_work(const Row& row) { return attend_work(row); }
Work prefill_work(const Row& row) { return attend_work(row); }

Work values_work(const Row& row) {
  const auto inputs = inputs_of(row);
  const auto weights = make_weights(row);
  Work work;
  std::shared_ptr<TileSums> sums;
  if (row.is_peer()) {
    work.sides.push_back(peer_side(row, inputs, weights));
    work.kernel = row.format;
    work.bits = work.sides.front().num_bytes * 8.0 / (row.num_tokens * row.head_dim);
  } else {
    sums = std::make_shared<TileSums>(row, inputs->values);
    work.kernel = sums->codec().kernel_name();
    work.bits = sums->codec().format().bits_per_coordinate();
    work.sides.push_back(
        side_of(row, "ours", static_cast<double>(sums->codec().bytes_per_vector()), row.head_dim));
    work.sides.front().run = [sums, weights, result = work.sides.front().result.get()] {
      sums->run(*weights, *result);
    };
  }
  for (Side& side : float16_sides(row, inputs, weights)) work.sides.push_back(std::move(side));
  const auto exact = [&weights](const RowMatrix<float>&, const RowMatrix<float>& values) {
    return RowMatrix<double>(weights->cast<double>() * values.cast<double>());
  };
  if (sums == nullptr) {
    judge(work, *inputs, exact, nullptr, nullptr);
  } else {
    const RowMatrix<float> values = sums->decode();
    judge(work, *inputs, exact, &values, &values);
  }
  return work;
}

}  // namespace polarquant_bench
