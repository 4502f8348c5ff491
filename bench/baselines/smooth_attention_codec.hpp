// SmoothAttention of QServe (arXiv 2405.04532, section "SmoothAttention").
//
// From the paper (by a published summary that repeats its formulas) and its authors' calibration
// code (github.com/mit-han-lab/lmquant): Z = (Q L)(K L^-1)^T, L = diag(l), l_i = max |K_i|^a,
// a = 0.5, the channels of a RoPE pair sharing the larger maximum so that L commutes with RoPE and
// is folded into the projections; integers with a scale and a zero point (halves) per token and
// head, nothing clipped. Values are not smoothed: they have a GroupCodec.
//
// Ours: 2 and 3 bits (the paper has 4); maxima of centred keys, because that is what is encoded;
// bytes for scale and zero point at head_dim 64. The queries' multiplication is undone in decode:
// decoded keys are those of the engine.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>

#include "baselines/fit_statistics.hpp"
#include "baselines/group_codec.hpp"
#include "baselines/vector_codec.hpp"

namespace polarquant_baselines {

// l: [head_dim]. A channel that was always 0 keeps its scale. head_dim is even.
inline Eigen::VectorXd smooth_attention_scales(const FitStatistics& statistics, RopePairs pairs,
                                               double power = 0.5) {
  const Eigen::Index d = statistics.head_dim();
  Eigen::VectorXd scales(d);
  for (Eigen::Index pair = 0; pair < d / 2; ++pair) {
    const Eigen::Index first = rope_channel(pairs, d, pair, 0);
    const Eigen::Index second = rope_channel(pairs, d, pair, 1);
    const double largest =
        std::max(statistics.key_maxima()[first], statistics.key_maxima()[second]);
    scales[first] = scales[second] = largest > 0.0 ? std::pow(largest, power) : 1.0;
  }
  return scales;
}

// Keys: encoded over l, multiplied by l after decoding.
inline std::unique_ptr<VectorCodec> make_smooth_attention_codec(const Eigen::VectorXd& scales,
                                                                GroupFormat format,
                                                                double clip_ratio = 1.0) {
  return std::make_unique<LinearCodec>(
      std::make_unique<GroupCodec>(static_cast<std::size_t>(scales.size()), format, clip_ratio),
      Eigen::MatrixXd(scales.cwiseInverse().asDiagonal()), Eigen::MatrixXd(scales.asDiagonal()));
}

}  // namespace polarquant_baselines
