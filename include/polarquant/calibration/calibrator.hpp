// Shown queries and keys of a text, gives the scales of a model's key channels.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "polarquant/attention/matrix.hpp"
#include "polarquant/attention/options.hpp"
#include "polarquant/attention/query_row.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/calibration/channel_scales.hpp"
#include "polarquant/codes/center_code.hpp"
#include "polarquant/kernels/dispatch.hpp"
#include "polarquant/kernels/kernel_table.hpp"
#include "polarquant/storage/calibration.hpp"
#include "polarquant/storage/removed_tokens.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// Subtracts from rows [num_slots, d] what a cache will: from those of span s, slots 64 s to
// 64 s + 63, the mean of the rows 64 before the span's first to 63 behind it, as far as there
// are.
template <typename A>
void center_by_span(RowMatrix<A>& rows) {
  using Eigen::Index;
  const RowMatrix<A> exact = rows;
  const std::size_t num_slots = static_cast<std::size_t>(rows.rows());
  for (std::size_t begin = 0; begin < num_slots; begin += kSpanTokens) {
    const std::size_t first = begin - (std::min)(begin, kCenterReach);
    const std::size_t end = (std::min)(begin + kCenterReach, num_slots);
    const std::size_t count = (std::min)(kSpanTokens, num_slots - begin);
    for (Index column = 0; column < rows.cols(); ++column) {
      double sum = 0.0;
      for (std::size_t slot = first; slot < end; ++slot) {
        sum += static_cast<double>(exact(static_cast<Index>(slot), column));
      }
      const A center = static_cast<A>(sum / static_cast<double>(end - first));
      for (std::size_t slot = begin; slot < begin + count; ++slot) {
        rows(static_cast<Index>(slot), column) -= center;
      }
    }
  }
}

}  // namespace detail

struct CalibratorShape {
  int num_layers = 0;
  int num_kv_heads = 0;
  int num_query_heads = 0;  // a multiple of num_kv_heads
  int head_dim = 0;         // of keys

  // Of the caches that will be calibrated: tokens that stay exact and so have no errors to avoid.
  std::size_t num_sink_tokens = 4;

  CalibrationShape calibration() const { return {num_layers, num_kv_heads, head_dim}; }

  // The first rule that is broken, with the value that breaks it; empty if all hold.
  std::string problem() const {
    const std::string found = calibration().problem();
    if (!found.empty()) return found;
    if (num_query_heads < 1 || num_query_heads % num_kv_heads != 0) {
      return detail::message({"num_query_heads is ", num_query_heads,
                              ", must be a multiple of num_kv_heads = ", num_kv_heads});
    }
    return {};
  }

  friend bool operator==(const CalibratorShape& x, const CalibratorShape& y) {
    return x.calibration() == y.calibration() && x.num_query_heads == y.num_query_heads &&
           x.num_sink_tokens == y.num_sink_tokens;
  }
};

// Sums up, for each layer and KV head, the moments M of channel_scales over the windows that it is
// shown. An engine runs its model over a few texts of other kinds than one, each a window of as
// many tokens as will be cached, and shows every layer's queries and keys:
//
//   Calibrator calibrator({num_layers, num_kv_heads, num_query_heads, head_dim});
//   for each window and layer: calibrator.add_window<float>(layer, queries, keys);
//   const Calibration calibration = calibrator.finish();
//
// Memory: 8 num_kv_heads head_dim^2 bytes for each layer shown, and while a window is added its
// keys twice and kBlockQueries rows of weights. Windows in another order, or by several calibrators
// merged, give the same sums but for rounding. Const calls are safe from many threads at once;
// threads that add have a calibrator each.
class Calibrator {
 public:
  static constexpr std::size_t kBlockQueries = 128;

  // Throws std::invalid_argument for a shape that breaks a rule.
  explicit Calibrator(const CalibratorShape& shape) : shape_(shape) {
    const std::string found = shape.problem();
    if (!found.empty()) detail::throw_invalid_argument(found);
    layers_.resize(static_cast<std::size_t>(shape.num_layers));
  }

  const CalibratorShape& shape() const { return shape_; }

  // Adds a window of `layer`. keys: [num_tokens, num_kv_heads * head_dim], queries: [num_queries,
  // num_query_heads * head_dim], of the last num_queries tokens, both after RoPE, as attention
  // multiplies them. Which tokens a query sees, and with what weight, the options say as for
  // KVCache::attend: logits are those of the model, of keys as they are; A is double for T =
  // double, else float, in which weights are computed. Sums are double.
  //
  // Sinks of the cache, the first num_sink_tokens tokens, take their share of the softmax and add
  // nothing themselves. The other keys are centred in the sums as a cache centres them.
  //
  // Values are not asked for. The error of a score moves the output by (value - output), whose size
  // weights tokens, not channels; weighting tokens by it gained nothing where it was measured.
  //
  // Throws std::invalid_argument, and adds nothing, for a layer out of range, a wrong width, more
  // queries than keys or none, no token behind the sinks, a NaN or an infinity, wrong options, or
  // numbers so large that scores, or sums of squares, overflow. Cost: 2 num_query_heads num_queries
  // num_tokens head_dim products, half of that where attention is causal.
  template <typename T, typename A = std::conditional_t<std::is_same_v<T, double>, double, float>>
  void add_window(int layer, const RowMatrixRef<T>& queries, const RowMatrixRef<T>& keys,
                  const AttentionOptions<A>& options = {}) {
    check_window<T>(layer, queries, keys);
    options.validate(static_cast<std::size_t>(queries.rows()),
                     static_cast<std::size_t>(shape_.num_query_heads),
                     static_cast<std::size_t>(keys.rows()));
    const detail::VectorKernels<A> kernels = detail::choose_vector_kernels<A>(choose_isa());
    RowMatrix<double> moments = RowMatrix<double>::Zero(columns(shape_.num_kv_heads), columns(1));
    for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
      add_head<T, A>(kv_head, queries, keys, options, kernels, moments);
    }
    for (Eigen::Index i = 0; i < moments.size(); ++i) {
      if (detail::is_finite(moments.data()[i])) continue;
      detail::throw_invalid_argument({"window of layer ", layer,
                                      ": queries or keys are so large that products of their "
                                      "squares are infinite; nothing was added"});
    }
    add(layers_[static_cast<std::size_t>(layer)], moments,
        {1, static_cast<std::uint64_t>(queries.rows())});
  }

  // Adds what another calibrator was shown. Throws std::invalid_argument if it has another shape;
  // nothing is added then.
  void merge(const Calibrator& other) {
    if (!(shape_ == other.shape_)) {
      detail::throw_invalid_argument(
          {"merge of a calibrator for ", text_of(other.shape_), " into one for ", text_of(shape_)});
    }
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (other.layers_[i].counts.num_windows == 0) continue;
      add(layers_[i], other.layers_[i].moments, other.layers_[i].counts);
    }
  }

  CalibrationCounts counts(int layer) const { return layers_[position_of(layer)].counts; }

  // M of channel_scales, [head_dim, head_dim], zeros for a layer that was not shown. Throws
  // std::invalid_argument for a layer or head out of range.
  RowMatrix<double> moments(int layer, int kv_head) const {
    const Layer& found = layers_[position_of(layer)];
    if (kv_head < 0 || kv_head >= shape_.num_kv_heads) {
      detail::throw_invalid_argument(
          {"KV head ", kv_head, ": the calibrator has ", shape_.num_kv_heads});
    }
    const Eigen::Index d = columns(1);
    if (found.counts.num_windows == 0) return RowMatrix<double>::Zero(d, d);
    return found.moments.middleRows(kv_head * d, d);
  }

  // The scales by what was shown so far. May be asked at any time, and adding may go on. Layers
  // that were never shown are not in it. Throws what channel_scales throws.
  Calibration finish(const ChannelScaleOptions& options = {}) const {
    Calibration result(shape_.calibration());
    for (int layer = 0; layer < shape_.num_layers; ++layer) {
      if (counts(layer).num_windows == 0) continue;
      std::vector<float> scales;
      for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
        for (const double scale : channel_scales(moments(layer, kv_head), options)) {
          scales.push_back(static_cast<float>(scale));
        }
      }
      result.set_key_scales(layer, std::move(scales), counts(layer));
    }
    return result;
  }

 private:
  struct Layer {
    RowMatrix<double> moments;  // [num_kv_heads * head_dim, head_dim], M of each head
    CalibrationCounts counts;
  };

  Eigen::Index columns(int num_heads) const {
    return static_cast<Eigen::Index>(num_heads) * shape_.head_dim;
  }

  std::size_t position_of(int layer) const {
    if (layer < 0 || layer >= shape_.num_layers) {
      detail::throw_invalid_argument(
          {"layer ", layer, ": the calibrator has ", shape_.num_layers, " layers"});
    }
    return static_cast<std::size_t>(layer);
  }

  static std::string text_of(const CalibratorShape& shape) {
    return detail::message({shape.calibration().text(), " with ", shape.num_query_heads,
                            " query heads and ", shape.num_sink_tokens, " sinks"});
  }

  static void add(Layer& layer, const RowMatrix<double>& moments, const CalibrationCounts& counts) {
    if (layer.counts.num_windows == 0) {
      layer.moments = moments;
    } else {
      for (Eigen::Index i = 0; i < moments.size(); ++i) {
        layer.moments.data()[i] += moments.data()[i];
      }
    }
    layer.counts.num_windows += counts.num_windows;
    layer.counts.num_queries += counts.num_queries;
  }

  template <typename T>
  void check_window(int layer, const RowMatrixRef<T>& queries, const RowMatrixRef<T>& keys) const {
    position_of(layer);
    check_matrix<T>("queries", queries, "num_query_heads", shape_.num_query_heads);
    check_matrix<T>("keys", keys, "num_kv_heads", shape_.num_kv_heads);
    if (queries.rows() < 1 || queries.rows() > keys.rows()) {
      detail::throw_invalid_argument({"window of ", queries.rows(), " queries and ", keys.rows(),
                                      " keys: must have at least 1 query, and no more than keys"});
    }
    if (static_cast<std::size_t>(keys.rows()) <= shape_.num_sink_tokens) {
      detail::throw_invalid_argument(
          {"window of ", keys.rows(),
           " keys: must have more than num_sink_tokens = ", shape_.num_sink_tokens});
    }
  }

  template <typename T>
  void check_matrix(const char* what, const RowMatrixRef<T>& matrix, const char* heads,
                    int num_heads) const {
    using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;
    if (matrix.cols() != columns(num_heads)) {
      detail::throw_invalid_argument({what, " are ", matrix.rows(), " x ", matrix.cols(),
                                      ", must be [rows, ", heads, " * head_dim = ", num_heads,
                                      " * ", shape_.head_dim, " = ", columns(num_heads), "]"});
    }
    for (Eigen::Index row = 0; row < matrix.rows(); ++row) {
      for (Eigen::Index column = 0; column < matrix.cols(); ++column) {
        if (detail::is_finite(static_cast<Wide>(matrix(row, column)))) continue;
        detail::throw_invalid_argument(
            {what, " have a NaN or an infinity in row ", row, ", column ", column});
      }
    }
  }

  // What is at work on one KV head of a window.
  template <typename A>
  struct Head {
    const AttentionOptions<A>& options;
    const detail::VectorKernels<A>& kernels;
    Eigen::Index num_queries;  // of the window
    RowMatrix<A> keys;         // [num_tokens, head_dim], as they are
    RowMatrix<A> squares;      // [num_tokens - sinks, head_dim], of the centred keys
    RowMatrix<A> weights;      // [kBlockQueries, num_tokens]: p^2
  };

  // Adds M of one KV head, all its query heads, to its rows of `moments`.
  template <typename T, typename A>
  void add_head(int kv_head, const RowMatrixRef<T>& queries, const RowMatrixRef<T>& keys,
                const AttentionOptions<A>& options, const detail::VectorKernels<A>& kernels,
                RowMatrix<double>& moments) const {
    using Eigen::Index;
    const Index d = columns(1);
    const Index num_sinks = static_cast<Index>(shape_.num_sink_tokens);
    const Index block = (std::min)(static_cast<Index>(kBlockQueries), queries.rows());
    Head<A> work{
        options, kernels, queries.rows(), keys.middleCols(kv_head * d, d).template cast<A>(),
        {},      {}};
    work.squares = work.keys.bottomRows(keys.rows() - num_sinks);
    detail::center_by_span(work.squares);
    work.squares = work.squares.cwiseAbs2().eval();
    work.weights.resize(block, keys.rows());

    const int group = shape_.num_query_heads / shape_.num_kv_heads;
    for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (Index first = 0; first < queries.rows(); first += block) {
        const Index count = (std::min)(block, queries.rows() - first);
        const RowMatrix<A> rows = queries.block(first, head * d, count, d).template cast<A>();
        const detail::TokenSpan seen = weigh(head, first, rows, work);
        // Those of the sinks are in the sum of the softmax, and in nothing else.
        const Index begin = (std::max)(static_cast<Index>(seen.begin), num_sinks);
        const Index num_seen = static_cast<Index>(seen.end) - begin;
        if (num_seen <= 0) continue;
        const RowMatrix<A> sums = work.weights.block(0, begin, count, num_seen) *
                                  work.squares.middleRows(begin - num_sinks, num_seen);
        moments.middleRows(kv_head * d, d).noalias() +=
            rows.template cast<double>().cwiseAbs2().transpose() * sums.template cast<double>();
      }
    }
  }

  // Squares of the softmax weights of a block of one head's queries, `rows`, of which the first is
  // query `first` of the window. Returns the tokens that any of them sees; weights of others are
  // not set. A query whose scores overflow gets NaN.
  template <typename A>
  detail::TokenSpan weigh(int head, Eigen::Index first, const RowMatrix<A>& rows,
                          Head<A>& work) const {
    using Eigen::Index;
    const AttentionOptions<A>& options = work.options;
    const std::size_t num_tokens = static_cast<std::size_t>(work.keys.rows());
    const std::ptrdiff_t first_position =
        options.first_position.value_or(work.keys.rows() - work.num_queries);
    std::vector<detail::QueryRow<A>> states(static_cast<std::size_t>(rows.rows()));
    detail::TokenSpan seen{num_tokens, 0};
    for (std::size_t i = 0; i < states.size(); ++i) {
      detail::QueryRow<A>& state = states[i];
      state.query = static_cast<std::size_t>(first) + i;
      state.head = static_cast<std::size_t>(head);
      state.position = detail::position_of(first_position, state.query);
      state.look(options, TokenRange{}, num_tokens);
      if (state.visible.is_empty()) continue;
      seen.begin = (std::min)(seen.begin, state.visible.begin);
      seen.end = (std::max)(seen.end, state.visible.end);
    }
    if (seen.is_empty()) return {};
    const Index begin = static_cast<Index>(seen.begin);
    const std::size_t num_slots = seen.end - seen.begin;
    const A scale =
        options.scale.value_or(A(1) / detail::square_root(static_cast<A>(shape_.head_dim)));
    work.weights.block(0, begin, rows.rows(), static_cast<Index>(num_slots)).noalias() =
        (scale * rows) * work.keys.middleRows(begin, static_cast<Index>(num_slots)).transpose();

    const detail::RemovedTokens none;
    for (std::size_t i = 0; i < states.size(); ++i) {
      detail::QueryRow<A>& state = states[i];
      A* const weights = &work.weights(static_cast<Index>(i), begin);
      const detail::TokenSpan span = state.seen(seen.begin, num_slots);
      if (!are_finite(weights + span.begin, span.end - span.begin)) {
        std::fill_n(weights, num_slots, std::numeric_limits<A>::quiet_NaN());
        continue;
      }
      state.finish_logits(work.kernels, options, none, static_cast<std::size_t>(work.num_queries),
                          seen.begin, span, {}, weights);
      A all_weights(0);
      state.weigh(work.kernels, span, num_slots, {}, false, weights, &all_weights);
      A factor = A(1);
      if (options.sink_logits != nullptr) {
        factor = state.softmax.add_logit(options.sink_logits[head]);
      }
      factor *= state.softmax.normalizer();
      for (std::size_t t = 0; t < num_slots; ++t) {
        const A weight = factor * weights[t];
        weights[t] = weight * weight;
      }
    }
    return seen;
  }

  template <typename A>
  static bool are_finite(const A* values, std::size_t count) {
    bool result = true;
    for (std::size_t i = 0; i < count; ++i) result &= detail::is_finite(values[i]);
    return result;
  }

  CalibratorShape shape_;
  std::vector<Layer> layers_;
};

POLARQUANT_END_NAMESPACE
