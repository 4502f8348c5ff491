// Block-GTQ (arXiv 2606.24033, "RoPE-Aware Bit Allocation for KV-Cache Quantization").
//
// Sources: the paper's abstract and its authors' code (github.com/JIA-Lab-research/blockgtq), whose
// comments repeat its formulas; the body of the paper was not at hand. Written from these, no line
// taken over.
//
// From them: a RoPE pair i has the score s_i = (E |q_i|^2 + E |k_i|^2) / 2 and gets b_i bits per
// channel, 1 .. 8, that minimise sum s_i 4^-b_i for a given sum of b_i: one bit at a time to the
// pair with the largest s_i 4^-b_i. The pairs of equal b_i form a group with a Haar rotation, a
// norm (a half) and the Lloyd-Max codebook of the normal law; the decoded direction is scaled to
// the stored norm. Values: one group, equal bits.
//
// Ours: the norms are paid for. The paper's budget counts indices alone; here indices and norms
// together stay within the budget, so the range of widths, whose number is that of the norms, is
// chosen by the same sum s_i 4^-b_i (1 .. 8 is among the candidates). A norm may be a byte (a
// logarithm, within 4.4 %), which at head_dim 64 buys more than it costs. Energies of centred keys,
// because that is what is encoded.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "baselines/fit_statistics.hpp"
#include "baselines/group_codec.hpp"
#include "baselines/scalar_codec.hpp"
#include "baselines/vector_codec.hpp"
#include "polarquant/attention/matrix.hpp"
#include "polarquant/method/rotation.hpp"

namespace polarquant_baselines {

struct WidthRange {
  int lowest = 1;
  int highest = 8;
};

// One more bit to the pair with the largest score * 4^-width; false if all are at `highest`.
inline bool widen_neediest(const std::vector<double>& scores, int highest,
                           std::vector<int>& widths) {
  std::size_t best = scores.size();
  double gain = -1.0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const double candidate = std::ldexp(scores[i], -2 * widths[i]);
    if (widths[i] < highest && candidate > gain) {
      gain = candidate;
      best = i;
    }
  }
  if (best == scores.size()) return false;
  ++widths[best];
  return true;
}

// The paper's allocation: bits per channel of each pair, adding up to `budget`. Throws
// std::invalid_argument if no widths in the range do.
inline std::vector<int> block_gtq_widths(const std::vector<double>& scores, int budget,
                                         WidthRange range = {}) {
  const int num_pairs = static_cast<int>(scores.size());
  if (budget < num_pairs * range.lowest || budget > num_pairs * range.highest) {
    throw std::invalid_argument("Block-GTQ: " + std::to_string(budget) + " bits for " +
                                std::to_string(num_pairs) + " pairs");
  }
  std::vector<int> widths(scores.size(), range.lowest);
  for (int spent = num_pairs * range.lowest; spent < budget; ++spent) {
    widen_neediest(scores, range.highest, widths);
  }
  return widths;
}

// Stored bits of a vector: two channels to a pair, a norm to a group.
inline std::size_t block_gtq_bits(const std::vector<int>& widths, std::size_t norm_bits) {
  std::size_t bits = norm_bits * std::set<int>(widths.begin(), widths.end()).size();
  for (const int width : widths) bits += 2 * static_cast<std::size_t>(width);
  return bits;
}

// Of all ranges of widths, and of the paper's allocations in them that fit into total_bits with
// their norms, the one of least sum of score * 4^-width. Throws std::invalid_argument if none fits.
inline std::vector<int> block_gtq_widths_with_norms(const std::vector<double>& scores,
                                                    std::size_t total_bits, std::size_t norm_bits) {
  std::vector<int> best;
  double least = std::numeric_limits<double>::infinity();
  for (int lowest = 1; lowest <= 8; ++lowest) {
    for (int highest = lowest; highest <= 8; ++highest) {
      std::vector<int> widths(scores.size(), lowest);
      do {
        if (block_gtq_bits(widths, 0) > total_bits) break;
        if (block_gtq_bits(widths, norm_bits) > total_bits) continue;
        double sum = 0.0;
        for (std::size_t i = 0; i < scores.size(); ++i) {
          sum += std::ldexp(scores[i], -2 * widths[i]);
        }
        if (sum < least) {
          least = sum;
          best = widths;
        }
      } while (widen_neediest(scores, highest, widths));
    }
  }
  if (best.empty()) {
    throw std::invalid_argument("Block-GTQ: " + std::to_string(total_bits) +
                                " bits are too few for a vector");
  }
  return best;
}

// s_i of each pair.
inline std::vector<double> block_gtq_scores(const FitStatistics& statistics, RopePairs pairs) {
  const Eigen::Index d = statistics.head_dim();
  const Eigen::VectorXd queries = statistics.query_moments().diagonal();
  const Eigen::VectorXd keys = statistics.key_moments().diagonal();
  std::vector<double> scores;
  for (Eigen::Index pair = 0; pair < d / 2; ++pair) {
    double energy = 0.0;
    for (Eigen::Index place = 0; place < 2; ++place) {
      const Eigen::Index channel = rope_channel(pairs, d, pair, place);
      energy += queries[channel] + keys[channel];
    }
    scores.push_back(0.5 * energy);
  }
  return scores;
}

// The Lloyd-Max centroids of the normal law, 1 .. 8 bits.
inline const std::vector<float>& gaussian_centroids(int bits) {
  // A coordinate of a direction in so many dimensions is normal to more digits than a float has.
  static constexpr int kManyDimensions = 10000000;
  static const std::array<std::vector<float>, 8> all = [] {
    std::array<std::vector<float>, 8> centroids;
    for (int b = 1; b <= 8; ++b) {
      centroids[static_cast<std::size_t>(b - 1)] = ScalarCodebook(kManyDimensions, b).centroids;
    }
    return centroids;
  }();
  return all[static_cast<std::size_t>(bits - 1)];
}

struct BlockGtqOptions {
  RopePairs pairs = RopePairs::kAdjacent;
  std::size_t norm_bits = 16;  // or 8
  std::uint64_t seed = 0;
};

// The norms of the groups, by ascending width, then their indices.
class BlockGtqCodec final : public VectorCodec {
 public:
  // widths: of each RoPE pair, 1 .. 8; head_dim is twice their number. Throws
  // std::invalid_argument for other widths or norms.
  BlockGtqCodec(const std::vector<int>& widths, BlockGtqOptions options)
      : bits_(block_gtq_bits(widths, options.norm_bits)), norm_bytes_(options.norm_bits / 8) {
    if (options.norm_bits != 8 && options.norm_bits != 16) {
      throw std::invalid_argument("Block-GTQ: a norm has 8 or 16 bits");
    }
    const Eigen::Index d = 2 * static_cast<Eigen::Index>(widths.size());
    rotation_ = polarquant::RowMatrix<float>::Zero(d, d);
    Eigen::Index begin = 0;
    for (const int width : std::set<int>(widths.begin(), widths.end())) {
      if (width < 1 || width > 8) throw std::invalid_argument("Block-GTQ: 1 .. 8 bits");
      std::vector<Eigen::Index> channels;
      for (std::size_t pair = 0; pair < widths.size(); ++pair) {
        for (Eigen::Index place = 0; place < 2 && widths[pair] == width; ++place) {
          channels.push_back(
              rope_channel(options.pairs, d, static_cast<Eigen::Index>(pair), place));
        }
      }
      const Eigen::Index size = static_cast<Eigen::Index>(channels.size());
      const polarquant::Rotation haar(polarquant::RotationKind::kHaar, static_cast<int>(size),
                                      options.seed + static_cast<std::uint64_t>(width));
      for (Eigen::Index i = 0; i < size; ++i) {
        rotation_.row(channels[static_cast<std::size_t>(i)]).segment(begin, size) =
            Eigen::Map<const Eigen::RowVectorXf>(haar.haar() + i * size, size);
      }
      groups_.push_back({width, size});
      begin += size;
    }
  }

  std::size_t num_groups() const { return groups_.size(); }

  // Channels gathered by group, each group rotated: the group's columns, [head_dim, head_dim].
  const polarquant::RowMatrix<float>& rotation() const { return rotation_; }

  std::size_t head_dim() const override { return static_cast<std::size_t>(rotation_.rows()); }
  std::size_t bytes_per_vector() const override { return (bits_ + 7) / 8; }
  double expected_relative_mse() const override { return std::numeric_limits<double>::quiet_NaN(); }

  void encode(const float* vector, std::byte* code) const override {
    std::fill(code, code + bytes_per_vector(), std::byte{0});
    const Eigen::RowVectorXf rotated =
        Eigen::Map<const Eigen::RowVectorXf>(vector, rotation_.rows()) * rotation_;
    std::byte* norm_code = code;
    std::size_t position = 8 * norm_bytes_ * groups_.size();
    Eigen::Index begin = 0;
    for (const Group& group : groups_) {
      const float norm = rotated.segment(begin, group.size).norm();
      norm_bytes_ == 2 ? put_half(norm, norm_code) : put_log_byte(norm, norm_code);
      norm_code += norm_bytes_;
      const float inverse = norm > 0.0f ? std::sqrt(static_cast<float>(group.size)) / norm : 0.0f;
      for (const Eigen::Index end = begin + group.size; begin < end; ++begin) {
        put_bits(code, position, group.width, nearest(group.width, rotated[begin] * inverse));
        position += static_cast<std::size_t>(group.width);
      }
    }
  }

  void decode(const std::byte* code, float* vector) const override {
    const std::byte* norm_code = code;
    std::size_t position = 8 * norm_bytes_ * groups_.size();
    Eigen::RowVectorXf rotated(rotation_.rows());
    Eigen::Index begin = 0;
    for (const Group& group : groups_) {
      const std::vector<float>& centroids = gaussian_centroids(group.width);
      for (Eigen::Index i = begin; i < begin + group.size; ++i) {
        rotated[i] = centroids[get_bits(code, position, group.width)];
        position += static_cast<std::size_t>(group.width);
      }
      const float norm = norm_bytes_ == 2 ? get_half(norm_code) : get_log_byte(norm_code);
      norm_code += norm_bytes_;
      auto segment = rotated.segment(begin, group.size);
      segment *= norm / segment.norm();  // No centroid is 0.
      begin += group.size;
    }
    Eigen::Map<Eigen::RowVectorXf>(vector, rotation_.rows()) = rotated * rotation_.transpose();
  }

 private:
  struct Group {
    int width = 0;
    Eigen::Index size = 0;  // channels
  };

  static unsigned nearest(int width, float x) {
    const std::vector<float>& centroids = gaussian_centroids(width);
    const std::size_t above = static_cast<std::size_t>(
        std::lower_bound(centroids.begin(), centroids.end(), x) - centroids.begin());
    if (above == 0) return 0;
    if (above == centroids.size()) return static_cast<unsigned>(above - 1);
    const bool is_below = x - centroids[above - 1] < centroids[above] - x;
    return static_cast<unsigned>(is_below ? above - 1 : above);
  }

  std::size_t bits_;
  std::size_t norm_bytes_;
  polarquant::RowMatrix<float> rotation_;
  std::vector<Group> groups_;
};

// At most bits_per_coordinate are stored, norms included.
inline std::unique_ptr<VectorCodec> fit_block_gtq_keys(const FitStatistics& statistics,
                                                       double bits_per_coordinate,
                                                       BlockGtqOptions options) {
  const std::size_t total_bits = static_cast<std::size_t>(
      std::floor(bits_per_coordinate * static_cast<double>(statistics.head_dim()) / 8.0) * 8.0);
  return std::make_unique<BlockGtqCodec>(
      block_gtq_widths_with_norms(block_gtq_scores(statistics, options.pairs), total_bits,
                                  options.norm_bits),
      options);
}

// width + norm_bits / head_dim bits per coordinate.
inline std::unique_ptr<VectorCodec> make_block_gtq_values(std::size_t head_dim, int width,
                                                          BlockGtqOptions options) {
  return std::make_unique<BlockGtqCodec>(std::vector<int>(head_dim / 2, width), options);
}

}  // namespace polarquant_baselines
