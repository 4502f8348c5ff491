// The sides that ours competes with, and peers that compete with fp16, on scores, values, attention
// and prefill.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "baselines/exact_attention.hpp"
#include "heads.hpp"
#include "rows.hpp"

namespace polarquant_bench {

inline std::size_t size_of(int count) { return static_cast<std::size_t>(count); }

// Nothing but names and sizes, and room for [num_queries, result_columns].
Side side_of(const Row& row, const std::string& name, double bytes_per_token,
             Eigen::Index result_columns);

polarquant_baselines::HeadShape shape_of(const Row& row);

// weights: [num_queries, num_tokens], for values alone.
using Weights = std::shared_ptr<const RowMatrix<float>>;

Side eigen_side(const Row& row, const std::shared_ptr<const Inputs>& inputs,
                const Weights& weights);

// fp16 by hand, as each compiler built it.
std::vector<Side> float16_sides(const Row& row, const std::shared_ptr<const Inputs>& inputs,
                                const Weights& weights);

// What row.format names. Throws std::invalid_argument if that is no peer.
Side peer_side(const Row& row, const std::shared_ptr<const Inputs>& inputs, const Weights& weights);

}  // namespace polarquant_bench
