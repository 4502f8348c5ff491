#include "sides.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "baselines/block_codecs.hpp"
#include "baselines/block_kernels.hpp"
#include "baselines/units.hpp"

namespace polarquant_bench {
namespace {

using polarquant_baselines::Float16Work;
using polarquant_baselines::HeadShape;

float scale_of(const Row& row) { return 1.0f / std::sqrt(static_cast<float>(row.head_dim)); }

}  // namespace

Side side_of(const Row& row, const std::string& name, double bytes_per_token,
             Eigen::Index result_columns) {
  Side side;
  side.name = name;
  side.num_tokens = row.num_tokens;
  side.num_bytes = bytes_per_token * row.num_tokens;
  side.result = std::make_shared<RowMatrix<float>>(row.num_queries, result_columns);
  return side;
}

HeadShape shape_of(const Row& row) {
  return {1, row.num_query_heads(), row.head_dim, row.head_dim};
}

// ---- Eigen in fp32 ----

namespace {

struct Float32Heads {
  Float32Heads(const Inputs& inputs, std::size_t memory_bytes)
      : keys(bytes_of(inputs.keys), num_heads_for(bytes_of(inputs.keys), memory_bytes)),
        values(bytes_of(inputs.values), keys.size()),
        turn(keys.size()) {
    std::copy_n(inputs.keys.data(), inputs.keys.size(), keys.head<float>(0));
    std::copy_n(inputs.values.data(), inputs.values.size(), values.head<float>(0));
    keys.copy();
    values.copy();
  }
  static std::size_t bytes_of(const RowMatrix<float>& rows) {
    return static_cast<std::size_t>(rows.size()) * sizeof(float);
  }

  CopiedHeads keys;
  CopiedHeads values;
  Turn turn;
};

}  // namespace

Side eigen_side(const Row& row, const std::shared_ptr<const Inputs>& inputs,
                const Weights& weights) {
  const bool is_scores = row.operation == "scores";
  const bool is_values = row.operation == "values";
  Side side = side_of(row, "Eigen fp32", (is_scores || is_values ? 4.0 : 8.0) * row.head_dim,
                      is_scores ? row.num_tokens : row.head_dim);
  const auto heads = std::make_shared<Float32Heads>(*inputs, row.memory_bytes);
  const HeadShape shape = shape_of(row);
  const std::size_t num_heads = size_of(shape.num_query_heads);
  side.run = [=, result = side.result.get()] {
    const std::size_t head = heads->turn.next();
    const std::size_t num_tokens = size_of(row.num_tokens);
    const std::size_t head_dim = size_of(row.head_dim);
    const std::size_t num_queries = size_of(row.num_queries);
    if (is_scores) {
      polarquant_eigen_scores(heads->keys.head<float>(head), num_tokens, head_dim,
                              inputs->queries.data(), num_queries, result->data());
    } else if (is_values) {
      polarquant_eigen_sums(heads->values.head<float>(head), num_tokens, head_dim, weights->data(),
                            num_queries, result->data());
    } else {
      polarquant_eigen_attend(heads->keys.head<float>(head), heads->values.head<float>(head),
                              num_tokens, head_dim, inputs->queries.data(), num_queries / num_heads,
                              num_heads, scale_of(row), result->data());
    }
  };
  return side;
}

// ---- fp16 and blocks, by hand ----

namespace {

// The side of one operation on rows that Kernels know; span_of(is_value, head) finds them.
template <typename Kernels, typename SpanOf>
void run_by_hand(Side& side, const Row& row, const std::shared_ptr<const Inputs>& inputs,
                 const Weights& weights, const Kernels& kernels, const SpanOf& span_of,
                 const std::shared_ptr<Turn>& turn) {
  const std::size_t num_tokens = size_of(row.num_tokens);
  const std::size_t num_queries = size_of(row.num_queries);
  const std::size_t head_dim = size_of(row.head_dim);
  RowMatrix<float>* const result = side.result.get();
  if (row.operation == "scores") {
    side.run = [=] {
      const auto keys = span_of(false, turn->next());
      kernels.score(keys.row(0), num_tokens, keys.stride, inputs->queries.data(), num_queries,
                    result->data(), num_tokens);
    };
  } else if (row.operation == "values") {
    side.run = [=] {
      const auto values = span_of(true, turn->next());
      result->setZero();
      kernels.accumulate(values.row(0), num_tokens, values.stride, weights->data(), num_tokens,
                         num_queries, result->data());
    };
  } else {
    const auto work = std::make_shared<Float16Work>(head_dim, head_dim);
    std::copy_n(inputs->queries.data(), inputs->queries.size(), work->queries.data());
    side.run = [=] {
      const std::size_t head = turn->next();
      attend_group(kernels, span_of(false, head), span_of(true, head), num_tokens, num_queries,
                   scale_of(row), *work);
      for (std::size_t h = 0; h < num_queries; ++h) {
        const float inverse = 1.0f / work->totals[h];
        for (std::size_t i = h * head_dim; i < (h + 1) * head_dim; ++i) {
          result->data()[i] = inverse * work->sums[i];
        }
      }
    };
  }
}

}  // namespace

std::vector<Side> float16_sides(const Row& row, const std::shared_ptr<const Inputs>& inputs,
                                const Weights& weights) {
  const bool both = row.operation == "attention";
  const auto heads = float16_heads(row, *inputs);
  const auto turn = std::make_shared<Turn>(heads->keys.size());
  const auto span_of = [heads](bool is_value, std::size_t head) {
    return is_value ? heads->values_of(head) : heads->keys_of(head);
  };
  std::vector<Side> sides;
  for (const NamedKernels& built : float16_kernels(row.isa)) {
    sides.push_back(side_of(row, built.name, (both ? 4.0 : 2.0) * row.head_dim,
                            row.operation == "scores" ? row.num_tokens : row.head_dim));
    run_by_hand(sides.back(), row, inputs, weights, built.kernels, span_of, turn);
  }
  return sides;
}

#if defined(__GNUC__) && defined(__x86_64__)
namespace {

// Codes of one head, copied to as many as are asked for.
std::shared_ptr<CopiedHeads> encode_blocks(const polarquant_baselines::VectorCodec& codec,
                                           const RowMatrix<float>& rows, std::size_t memory_bytes) {
  const std::size_t row_bytes = codec.bytes_per_vector();
  const std::size_t head_bytes = row_bytes * static_cast<std::size_t>(rows.rows());
  const auto heads =
      std::make_shared<CopiedHeads>(head_bytes, num_heads_for(head_bytes, memory_bytes));
  std::byte* code = heads->head<std::byte>(0);
  for (Eigen::Index t = 0; t < rows.rows(); ++t, code += row_bytes) {
    codec.encode(rows.data() + t * rows.cols(), code);
  }
  heads->copy();
  return heads;
}

template <typename Codec, typename Block>
Side block_side(const Row& row, const std::shared_ptr<const Inputs>& inputs,
                const Weights& weights) {
  const Codec codec(size_of(row.head_dim));
  const bool both = row.operation == "attention";
  Side side =
      side_of(row, row.format, (both ? 2.0 : 1.0) * static_cast<double>(codec.bytes_per_vector()),
              row.operation == "scores" ? row.num_tokens : row.head_dim);
  const auto keys = encode_blocks(codec, inputs->keys, row.memory_bytes);
  const auto values = encode_blocks(codec, inputs->values, row.memory_bytes);
  const auto span_of = [keys, values, row, bytes = codec.bytes_per_vector()](bool is_value,
                                                                             std::size_t head) {
    CopiedHeads& heads = is_value ? *values : *keys;
    return polarquant_baselines::BlockSpan{heads.head<std::byte>(head), size_of(row.head_dim),
                                           bytes};
  };
  run_by_hand(side, row, inputs, weights, polarquant_baselines::blocks::kernels<Block>(), span_of,
              std::make_shared<Turn>(keys->size()));
  return side;
}

}  // namespace
#endif

Side peer_side(const Row& row, const std::shared_ptr<const Inputs>& inputs,
               const Weights& weights) {
  if (row.format == "eigen_fp32") return eigen_side(row, inputs, weights);
#if defined(__GNUC__) && defined(__x86_64__)
  using namespace polarquant_baselines;
  if (row.format == "q8_0-like") return block_side<Q8Codec, blocks::Q8Block>(row, inputs, weights);
  if (row.format == "q4_0-like") return block_side<Q4Codec, blocks::Q4Block>(row, inputs, weights);
#endif
  throw std::invalid_argument("no peer " + row.format);
}

}  // namespace polarquant_bench
