// Shown queries and keys of a text, gives the scales of a model's key channels, or matrices.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "polarquant/attention/matrix.hpp"
#include "polarquant/attention/options.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/calibration/channel_scales.hpp"
#include "polarquant/calibration/key_matrix.hpp"
#include "polarquant/calibration/window_weights.hpp"
#include "polarquant/kernels/dispatch.hpp"
#include "polarquant/kernels/kernel_table.hpp"
#include "polarquant/storage/calibration.hpp"
#include "polarquant/storage/key_matrices.hpp"

POLARQUANT_BEGIN_NAMESPACE

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

// What a calibration has for the keys of each KV head: a scale per channel (channel_scales), or a
// whole matrix (key_matrix), which errs less, and costs a product with it for each key that is
// appended and each query.
enum class CalibrationKind { kScales, kMatrices };

// Sums up, for each layer and KV head, the moments of channel_scales or of key_matrix over the
// windows that it is shown. An engine runs its model over a few texts of other kinds than one, each
// a window of as many tokens as will be cached, and shows every layer's queries and keys:
//
//   Calibrator calibrator({num_layers, num_kv_heads, num_query_heads, head_dim});
//   for each window and layer: calibrator.add_window<float>(layer, queries, keys);
//   const Calibration calibration = calibrator.finish();
//
// Memory: 8 num_kv_heads head_dim^2 bytes for each layer shown, twice that for matrices, and while
// a window is added its keys twice and kBlockQueries rows of weights. Windows in another order, or
// by several calibrators merged, give the same sums but for rounding. Const calls are safe from
// many threads at once; threads that add have a calibrator each.
class Calibrator {
 public:
  static constexpr std::size_t kBlockQueries = 128;

  // Throws std::invalid_argument for a shape or a kind that breaks a rule.
  explicit Calibrator(const CalibratorShape& shape, CalibrationKind kind = CalibrationKind::kScales)
      : shape_(shape), kind_(kind) {
    const std::string found = shape.problem();
    if (!found.empty()) detail::throw_invalid_argument(found);
    if (kind != CalibrationKind::kScales && kind != CalibrationKind::kMatrices) {
      detail::throw_invalid_argument(
          {"calibration kind is ", static_cast<int>(kind), ", must be kScales or kMatrices"});
    }
    if (kind == CalibrationKind::kMatrices && shape.head_dim < 2) {
      detail::throw_invalid_argument(
          {"key matrices of head_dim ", shape.head_dim, ", must be at least 2"});
    }
    layers_.resize(static_cast<std::size_t>(shape.num_layers));
  }

  const CalibratorShape& shape() const { return shape_; }
  CalibrationKind kind() const { return kind_; }

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
    RowMatrix<double> sums =
        RowMatrix<double>::Zero(shape_.num_kv_heads * rows_per_head(), columns(1));
    for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
      add_head<T, A>(kv_head, queries, keys, options, kernels, sums);
    }
    for (Eigen::Index i = 0; i < sums.size(); ++i) {
      if (detail::is_finite(sums.data()[i])) continue;
      detail::throw_invalid_argument({"window of layer ", layer,
                                      ": queries or keys are so large that products of their "
                                      "squares are infinite; nothing was added"});
    }
    add(layers_[static_cast<std::size_t>(layer)], sums,
        {1, static_cast<std::uint64_t>(queries.rows())});
  }

  // Adds what another calibrator was shown. Throws std::invalid_argument if it has another shape or
  // kind; nothing is added then.
  void merge(const Calibrator& other) {
    if (kind_ != other.kind_) {
      detail::throw_invalid_argument("merge of calibrators for scales and for matrices");
    }
    if (!(shape_ == other.shape_)) {
      detail::throw_invalid_argument(
          {"merge of a calibrator for ", text_of(other.shape_), " into one for ", text_of(shape_)});
    }
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (other.layers_[i].counts.num_windows == 0) continue;
      add(layers_[i], other.layers_[i].sums, other.layers_[i].counts);
    }
  }

  CalibrationCounts counts(int layer) const { return layers_[position_of(layer)].counts; }

  // M of channel_scales, [head_dim, head_dim], zeros for a layer that was not shown. Throws
  // std::invalid_argument for a layer or head out of range, or if the kind is not kScales.
  RowMatrix<double> moments(int layer, int kv_head) const {
    return sums_of(layer, kv_head, CalibrationKind::kScales);
  }

  // The same for key_matrix and kMatrices.
  KeyMatrixMoments matrix_moments(int layer, int kv_head) const {
    const RowMatrix<double> sums = sums_of(layer, kv_head, CalibrationKind::kMatrices);
    return {sums.topRows(columns(1)), sums.bottomRows(columns(1))};
  }

  // The scales or matrices by what was shown so far; the options are those of the kind. May be
  // asked at any time, and adding may go on. Layers that were never shown are not in it. Number:
  // see key_matrix. Throws what channel_scales or key_matrix throws.
  template <typename Number = double>
  Calibration finish(const ChannelScaleOptions& scale_options = {},
                     const KeyMatrixOptions& matrix_options = {}) const {
    Calibration result(shape_.calibration());
    for (int layer = 0; layer < shape_.num_layers; ++layer) {
      if (counts(layer).num_windows == 0) continue;
      std::vector<float> numbers;
      for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
        if (kind_ == CalibrationKind::kScales) {
          for (const double scale : channel_scales(moments(layer, kv_head), scale_options)) {
            numbers.push_back(static_cast<float>(scale));
          }
          continue;
        }
        const RowMatrix<Number> matrix =
            key_matrix<Number>(matrix_moments(layer, kv_head), matrix_options);
        for (Eigen::Index row = 0; row < matrix.rows(); ++row) {
          for (Eigen::Index column = 0; column <= row; ++column) {
            numbers.push_back(static_cast<float>(matrix(row, column)));
          }
        }
      }
      if (kind_ == CalibrationKind::kScales) {
        result.set_key_scales(layer, std::move(numbers), counts(layer));
      } else {
        result.set_key_matrices(
            layer,
            std::make_shared<const KeyMatrices>(static_cast<std::size_t>(shape_.num_kv_heads),
                                                static_cast<std::size_t>(shape_.head_dim), numbers),
            counts(layer));
      }
    }
    return result;
  }

 private:
  struct Layer {
    RowMatrix<double> sums;  // [num_kv_heads * rows_per_head(), head_dim]: M of each head, or C_q
                             // and C_k
    CalibrationCounts counts;
  };

  Eigen::Index rows_per_head() const {
    return columns(1) * (kind_ == CalibrationKind::kScales ? 1 : 2);
  }

  RowMatrix<double> sums_of(int layer, int kv_head, CalibrationKind kind) const {
    const Layer& found = layers_[position_of(layer)];
    if (kind != kind_) {
      detail::throw_invalid_argument("the calibrator sums up the moments of the other kind");
    }
    if (kv_head < 0 || kv_head >= shape_.num_kv_heads) {
      detail::throw_invalid_argument(
          {"KV head ", kv_head, ": the calibrator has ", shape_.num_kv_heads});
    }
    if (found.counts.num_windows == 0) {
      return RowMatrix<double>::Zero(rows_per_head(), columns(1));
    }
    return found.sums.middleRows(kv_head * rows_per_head(), rows_per_head());
  }

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

  static void add(Layer& layer, const RowMatrix<double>& sums, const CalibrationCounts& counts) {
    if (layer.counts.num_windows == 0) {
      layer.sums = sums;
    } else {
      layer.sums += sums;
    }
    layer.counts.num_windows += counts.num_windows;
    layer.counts.num_queries += counts.num_queries;
  }

  template <typename A>
  using Vector = Eigen::Matrix<A, Eigen::Dynamic, 1>;

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

  // Adds the sums of one KV head, all its query heads, to its rows of `sums`.
  template <typename T, typename A>
  void add_head(int kv_head, const RowMatrixRef<T>& queries, const RowMatrixRef<T>& keys,
                const AttentionOptions<A>& options, const detail::VectorKernels<A>& kernels,
                RowMatrix<double>& sums) const {
    using Eigen::Index;
    const Index d = columns(1);
    const Index num_sinks = static_cast<Index>(shape_.num_sink_tokens);
    const Index block = (std::min)(static_cast<Index>(kBlockQueries), queries.rows());
    detail::WindowWeights<A> window(options, kernels, queries.rows(), block,
                                    keys.middleCols(kv_head * d, d).template cast<A>());
    RowMatrix<A> encoded = window.keys().bottomRows(keys.rows() - num_sinks);
    detail::center_by_span(encoded);
    const RowMatrix<A> squares = encoded.cwiseAbs2();
    const Vector<A> key_energy = squares.rowwise().sum();
    Vector<A> key_weights = Vector<A>::Zero(key_energy.size());  // a_t
    auto own = sums.middleRows(kv_head * rows_per_head(), rows_per_head());

    const int group = shape_.num_query_heads / shape_.num_kv_heads;
    for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (Index first = 0; first < queries.rows(); first += block) {
        const Index count = (std::min)(block, queries.rows() - first);
        const RowMatrix<A> rows = queries.block(first, head * d, count, d).template cast<A>();
        const detail::TokenSpan seen = window.weigh(head, first, rows);
        // Those of the sinks are in the sum of the softmax, and in nothing else.
        const Index begin = (std::max)(static_cast<Index>(seen.begin), num_sinks);
        const Index num_seen = static_cast<Index>(seen.end) - begin;
        if (num_seen <= 0) continue;
        const auto weights = window.weights().block(0, begin, count, num_seen);
        const RowMatrix<double> wide = rows.template cast<double>();
        if (kind_ == CalibrationKind::kScales) {
          const RowMatrix<A> seen_squares =
              weights * squares.middleRows(begin - num_sinks, num_seen);
          own.noalias() += wide.cwiseAbs2().transpose() * seen_squares.template cast<double>();
          continue;
        }
        const Vector<A> query_energy = rows.rowwise().squaredNorm();
        const Vector<A> query_weights =
            weights * key_energy.segment(begin - num_sinks, num_seen);  // b_q
        key_weights.segment(begin - num_sinks, num_seen).noalias() +=
            weights.transpose() * query_energy;
        own.topRows(d).noalias() +=
            wide.transpose() * query_weights.template cast<double>().asDiagonal() * wide;
      }
    }
    if (kind_ == CalibrationKind::kScales) return;
    const RowMatrix<double> wide = encoded.template cast<double>();
    own.bottomRows(d).noalias() +=
        wide.transpose() * key_weights.template cast<double>().asDiagonal() * wide;
  }

  CalibratorShape shape_;
  CalibrationKind kind_;
  std::vector<Layer> layers_;
};

POLARQUANT_END_NAMESPACE
