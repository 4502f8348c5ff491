// Runs tokens through llama.cpp with a cache of any format under comparison.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cache_formats.hpp"
#include "kv_replacer.hpp"
#include "llama_model.hpp"
#include "side_codec.hpp"

// By layer.
using Means = std::map<int, std::vector<float>>;

// One format: what it makes of keys and of values, or llama.cpp's own cache of its type.
class FormatRunner {
 public:
  // What the formats of a comparison share: the model, and an fp16 cache whose keys and values can
  // be replaced.
  struct Shared {
    const Model& model;
    ContextOptions options;
    KvReplacer replacer{model.num_layers(), model.num_kv_heads()};
    Context context{make_context(model, replacing(options, replacer))};

    Shared(const Model& a_model, const ContextOptions& some_options)
        : model(a_model), options(some_options) {}

    // The same with `change` in place of a format.
    const float* run(const KvReplacer::Change& change, const std::vector<llama_token>& tokens,
                     int first) {
      replacer.set_change(change);
      const float* const logits = evaluate(context.get(), tokens, first);
      replacer.check_and_reset(tokens.size());
      return logits;
    }

   private:
    static ContextOptions replacing(ContextOptions options, KvReplacer& replacer) {
      options.callback = KvReplacer::on_node;
      options.callback_data = &replacer;
      return options;
    }
  };

  // Throws for a format that is not known. key_means, value_means: of another text, if it is known.
  FormatRunner(Shared& shared, CacheFormat format, const Means& key_means = {},
               const Means& value_means = {})
      : shared_(&shared), format_(std::move(format)) {
    if (!format_.own_cache.empty()) {
      ContextOptions options = shared.options;
      options.type_k = options.type_v =
          format_.own_cache == "q8_0" ? GGML_TYPE_Q8_0 : GGML_TYPE_Q4_0;
      // llama.cpp reads it when it makes a context.
      setenv("LLAMA_ATTN_ROT_DISABLE", format_.own_cache == "q4_0 plain" ? "1" : "0", 1);
      own_context_ = make_context(shared.model, options);
      setenv("LLAMA_ATTN_ROT_DISABLE", "0", 1);
      return;
    }
    const int num_layers = shared.model.num_layers();
    if (!format_.layer_codecs.empty() &&
        format_.layer_codecs.size() != static_cast<std::size_t>(num_layers)) {
      fail("formats for " + std::to_string(format_.layer_codecs.size()) +
           " layers, the model has " + std::to_string(num_layers) + ".");
    }
    for (int layer = 0; layer < num_layers; ++layer) {
      for (const bool is_value : {false, true}) {
        sides_[is_value].push_back(side_of(layer, is_value, is_value ? value_means : key_means));
      }
    }
  }

  const CacheFormat& format() const { return format_; }

  // The logits of the positions from `first` on, as evaluate() returns them.
  const float* run(const std::vector<llama_token>& tokens, int first) {
    if (own_context_ != nullptr) return evaluate(own_context_.get(), tokens, first);
    for (const auto& side : sides_) {
      for (const std::shared_ptr<SideCodec>& codec : side) codec->start();
    }
    return shared_->run(
        [this](int layer, bool is_value, polarquant::RowMatrix<float>& rows) {
          change(layer, is_value, rows);
        },
        tokens, first);
  }

  // Stored bits per coordinate of keys and of values, all layers together, without what does not
  // grow with the tokens.
  std::pair<double, double> bits() const {
    if (own_context_ != nullptr) {
      const double bits = format_.own_cache == "q8_0" ? 8.5 : 4.5;
      return {bits, bits};
    }
    return {side_bits(false), side_bits(true)};
  }

  // Bytes of the first layer that do not grow with the tokens.
  std::size_t fixed_bytes() const {
    return own_context_ != nullptr ? 0 : sides_[0][0]->fixed_bytes() + sides_[1][0]->fixed_bytes();
  }

 private:
  // Layers of the same format share one.
  std::shared_ptr<SideCodec> side_of(int layer, bool is_value, const Means& means) const {
    SideFormat format = is_value ? format_.values : format_.keys;
    if (!format_.layer_codecs.empty()) {
      const auto& [keys, values] = format_.layer_codecs[static_cast<std::size_t>(layer)];
      format.codec = is_value ? values : keys;
    }
    for (const std::shared_ptr<SideCodec>& side : sides_[is_value]) {
      if (side->format().codec == format.codec) return side;
    }
    const SideShape shape = {shared_->model.num_kv_heads(), shared_->model.head_dim()};
    return std::make_shared<SideCodec>(format, shape, is_value, means);
  }

  double side_bits(bool is_value) const {
    const int num_layers = shared_->model.num_layers();
    double sum = 0.0;
    for (int layer = 0; layer < num_layers; ++layer) {
      sum += format_.changes(layer, num_layers)
                 ? sides_[is_value][static_cast<std::size_t>(layer)]->bits_per_coordinate()
                 : 16.0;
    }
    return sum / num_layers;
  }

  void change(int layer, bool is_value, polarquant::RowMatrix<float>& rows) {
    SideCodec& side = *sides_[is_value][static_cast<std::size_t>(layer)];
    if (side.format().is_exact() || !format_.changes(layer, shared_->model.num_layers())) return;
    if (format_.only_head < 0) {
      side.round_trip(layer, rows);
      return;
    }
    polarquant::RowMatrix<float> changed = rows;
    side.round_trip(layer, changed);
    const Eigen::Index width = shared_->model.head_dim();
    rows.middleCols(format_.only_head * width, width) =
        changed.middleCols(format_.only_head * width, width);
  }

  Shared* shared_;
  CacheFormat format_;
  std::vector<std::shared_ptr<SideCodec>> sides_[2];  // of keys, of values; by layer
  Context own_context_{nullptr, llama_free};
};
