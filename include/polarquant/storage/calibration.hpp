// What was learned about a model from a text: transforms of keys, and bits, by layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "polarquant/base/checksum.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/storage/key_matrices.hpp"

POLARQUANT_BEGIN_NAMESPACE

// The model that a calibration belongs to, as far as it matters.
struct CalibrationShape {
  int num_layers = 0;
  int num_kv_heads = 0;
  int head_dim = 0;  // of keys

  // Sizes beyond which a number is a mistake or a damaged file, not a model.
  static constexpr int kMaxLayers = 1 << 14;
  static constexpr int kMaxHeads = 1 << 14;
  static constexpr int kMaxHeadDim = 1 << 14;

  std::size_t num_scales() const {
    return static_cast<std::size_t>(num_kv_heads) * static_cast<std::size_t>(head_dim);
  }

  // Of the triangles of a layer's KeyMatrices.
  std::size_t num_matrix_entries() const {
    return static_cast<std::size_t>(num_kv_heads) *
           KeyMatrices::triangle_size(static_cast<std::size_t>(head_dim));
  }

  // The first rule that is broken, with the value that breaks it; empty if all hold.
  std::string problem() const {
    const std::pair<const char*, std::pair<int, int>> rules[] = {
        {"num_layers", {num_layers, kMaxLayers}},
        {"num_kv_heads", {num_kv_heads, kMaxHeads}},
        {"head_dim", {head_dim, kMaxHeadDim}}};
    for (const auto& [name, rule] : rules) {
      if (rule.first >= 1 && rule.first <= rule.second) continue;
      return detail::message({name, " is ", rule.first, ", must be 1 .. ", rule.second});
    }
    return {};
  }

  // "30 layers of 3 KV heads of 64 channels"
  std::string text() const {
    return detail::message(
        {num_layers, " layers of ", num_kv_heads, " KV heads of ", head_dim, " channels"});
  }

  friend bool operator==(const CalibrationShape& x, const CalibrationShape& y) {
    return x.num_layers == y.num_layers && x.num_kv_heads == y.num_kv_heads &&
           x.head_dim == y.head_dim;
  }
  friend bool operator!=(const CalibrationShape& x, const CalibrationShape& y) { return !(x == y); }
};

// Of one layer; plain data, for the configuration of that layer's cache.
struct LayerCalibration {
  // [num_kv_heads * head_dim]; empty: none. Channel i of a key is multiplied by key_scales[i]
  // before it is rotated and encoded, and that of a query divided by it, so that scores stay what
  // they are.
  std::vector<float> key_scales;

  // In place of scales: a matrix per KV head, by whose inverse queries are multiplied. Null: none.
  std::shared_ptr<const KeyMatrices> key_matrices;

  // Bits per coordinate of this layer's codes; 0: not allocated.
  double key_bits = 0.0;
  double value_bits = 0.0;

  // Of the whole calibration that it is a part of; 0: none.
  std::uint64_t checksum = 0;

  // Whether keys are transformed.
  bool has_transform() const { return !key_scales.empty() || key_matrices != nullptr; }

  // The scales, or the triangles of the matrices.
  std::vector<float> transform_numbers() const {
    return key_matrices != nullptr ? key_matrices->triangles() : key_scales;
  }

  friend bool operator==(const LayerCalibration& x, const LayerCalibration& y) {
    const bool are_same = x.key_matrices == y.key_matrices ||
                          (x.key_matrices != nullptr && y.key_matrices != nullptr &&
                           *x.key_matrices == *y.key_matrices);
    return are_same && x.key_scales == y.key_scales && x.key_bits == y.key_bits &&
           x.value_bits == y.value_bits && x.checksum == y.checksum;
  }
  friend bool operator!=(const LayerCalibration& x, const LayerCalibration& y) { return !(x == y); }
};

// What a calibration saw of a layer.
struct CalibrationCounts {
  std::uint64_t num_windows = 0;
  std::uint64_t num_queries = 0;  // rows, whatever the number of heads

  friend bool operator==(const CalibrationCounts& x, const CalibrationCounts& y) {
    return x.num_windows == y.num_windows && x.num_queries == y.num_queries;
  }
};

// Of a whole model, layers counted from 0. A layer is there once it has scales, matrices or bits.
// Const calls are safe from many threads at once.
class Calibration {
 public:
  // More than any code has: that of an uncompressed side of float64.
  static constexpr double kMaxBits = 64.0;

  // Without any layer. Throws std::invalid_argument for a shape that breaks a rule.
  explicit Calibration(const CalibrationShape& shape) : shape_(shape) {
    const std::string found = shape.problem();
    if (!found.empty()) detail::throw_invalid_argument(found);
    layers_.resize(static_cast<std::size_t>(shape.num_layers));
    refresh();
  }

  const CalibrationShape& shape() const { return shape_; }
  int num_layers() const { return shape_.num_layers; }
  int num_kv_heads() const { return shape_.num_kv_heads; }
  int head_dim() const { return shape_.head_dim; }

  // Of everything that decides codes: shape, transforms and bits, not what was counted. The same on
  // every machine; never 0.
  std::uint64_t checksum() const { return checksum_; }

  bool has_layer(int index) const {
    return index >= 0 && index < num_layers() && layers_[static_cast<std::size_t>(index)].is_there;
  }

  // Throws std::invalid_argument for an index out of range, or a layer that is not there.
  const LayerCalibration& layer(int index) const& {
    const Layer& found = layers_[position_of(index)];
    if (!found.is_there) {
      detail::throw_invalid_argument(
          {"layer ", index, " is not in the calibration: it was never shown"});
    }
    return found.data;
  }

  // Of a temporary, such as load_calibration(path).layer(0), it is the caller's own.
  LayerCalibration layer(int index) && {
    const Calibration& self = *this;
    return self.layer(index);
  }

  // Zeros for a layer that was not shown. Throws std::invalid_argument for an index out of range.
  CalibrationCounts counts(int index) const { return layers_[position_of(index)].counts; }

  // scales: [num_kv_heads * head_dim], finite and above 0. Replaces scales or matrices that there
  // were, and the counts; bits stay. Throws std::invalid_argument for an index out of range, a
  // wrong number of scales or a scale that breaks the rule; nothing is changed then.
  void set_key_scales(int index, std::vector<float> scales, const CalibrationCounts& counts = {}) {
    Layer& target = layers_[position_of(index)];
    if (scales.size() != shape_.num_scales()) {
      detail::throw_invalid_argument(
          {scales.size(), " scales, must be num_kv_heads * head_dim = ", shape_.num_scales()});
    }
    for (std::size_t i = 0; i < scales.size(); ++i) {
      if (is_scale(scales[i])) continue;
      detail::throw_invalid_argument(
          {"scale ", i, " of layer ", index, " is ", scales[i], ", must be finite and above 0"});
    }
    target.data.key_scales = std::move(scales);
    target.data.key_matrices = nullptr;
    target.counts = counts;
    update(target);
  }

  // The same with matrices, not null. Throws std::invalid_argument for an index out of range, or
  // matrices of other heads than the shape's; nothing is changed then.
  void set_key_matrices(int index, std::shared_ptr<const KeyMatrices> matrices,
                        const CalibrationCounts& counts = {}) {
    Layer& target = layers_[position_of(index)];
    POLARQUANT_DCHECK(matrices != nullptr);
    if (matrices->num_kv_heads() != static_cast<std::size_t>(num_kv_heads()) ||
        matrices->head_dim() != static_cast<std::size_t>(head_dim())) {
      detail::throw_invalid_argument({"key matrices of ", matrices->num_kv_heads(),
                                      " KV heads of width ", matrices->head_dim(), ", must be of ",
                                      num_kv_heads(), " of width ", head_dim()});
    }
    target.data.key_matrices = std::move(matrices);
    target.data.key_scales.clear();
    target.counts = counts;
    update(target);
  }

  // Bits per coordinate, above 0 and at most kMaxBits, or 0: not allocated. Throws
  // std::invalid_argument for an index out of range or another number; nothing is changed then.
  void set_bits(int index, double key_bits, double value_bits) {
    Layer& target = layers_[position_of(index)];
    for (const double bits : {key_bits, value_bits}) {
      if (are_bits(bits)) continue;
      detail::throw_invalid_argument(
          {"bits of layer ", index, " are ", bits, ", must be 0 .. ", kMaxBits});
    }
    target.data.key_bits = key_bits + 0.0;  // -0 becomes 0
    target.data.value_bits = value_bits + 0.0;
    update(target);
  }

  static bool is_scale(float scale) { return detail::is_finite(scale) && scale > 0.0f; }
  static bool are_bits(double bits) {
    return detail::is_finite(bits) && bits >= 0.0 && bits <= kMaxBits;
  }

  friend bool operator==(const Calibration& x, const Calibration& y) {
    if (x.shape_ != y.shape_) return false;
    for (std::size_t i = 0; i < x.layers_.size(); ++i) {
      const Layer& a = x.layers_[i];
      const Layer& b = y.layers_[i];
      if (a.is_there != b.is_there || a.data != b.data || !(a.counts == b.counts)) return false;
    }
    return true;
  }
  friend bool operator!=(const Calibration& x, const Calibration& y) { return !(x == y); }

 private:
  struct Layer {
    LayerCalibration data;
    CalibrationCounts counts;
    bool is_there = false;
    std::uint64_t sum = 0;  // checksum of `data`, less the field of that name
  };

  std::size_t position_of(int index) const {
    if (index < 0 || index >= num_layers()) {
      detail::throw_invalid_argument(
          {"layer ", index, ": the calibration has ", num_layers(), " layers"});
    }
    return static_cast<std::size_t>(index);
  }

  void update(Layer& layer) {
    const LayerCalibration& data = layer.data;
    layer.is_there = data.has_transform() || data.key_bits > 0.0 || data.value_bits > 0.0;
    layer.sum = 0;
    if (layer.is_there) {
      detail::Checksum sum;
      sum.add(&data.key_bits, sizeof data.key_bits);
      sum.add(&data.value_bits, sizeof data.value_bits);
      const std::vector<float> numbers = data.transform_numbers();
      if (!numbers.empty()) sum.add(numbers.data(), numbers.size() * sizeof(float));
      layer.sum = sum.value();
    }
    refresh();
  }

  // A sum of the layers' sums: setting all layers one by one hashes each layer's scales once.
  void refresh() {
    detail::Checksum sum;
    const std::int64_t sizes[] = {shape_.num_layers, shape_.num_kv_heads, shape_.head_dim};
    sum.add(sizes, sizeof sizes);
    for (const Layer& layer : layers_) sum.add(&layer.sum, sizeof layer.sum);
    checksum_ = sum.value() == 0 ? 1 : sum.value();
    for (Layer& layer : layers_) layer.data.checksum = layer.is_there ? checksum_ : 0;
  }

  CalibrationShape shape_;
  std::vector<Layer> layers_;
  std::uint64_t checksum_ = 0;
};

POLARQUANT_END_NAMESPACE
