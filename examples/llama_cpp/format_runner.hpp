// Runs tokens through llama.cpp with a cache of any format under comparison.
#pragma once

#include <cstdlib>
#include <map>
#include <memory>
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
    const SideShape shape = {shared.model.num_kv_heads(), shared.model.head_dim()};
    keys_ = std::make_unique<SideCodec>(format_.keys, shape, false, key_means);
    values_ = std::make_unique<SideCodec>(format_.values, shape, true, value_means);
  }

  const CacheFormat& format() const { return format_; }

  // The logits of the positions from `first` on, as evaluate() returns them.
  const float* run(const std::vector<llama_token>& tokens, int first) {
    if (own_context_ != nullptr) return evaluate(own_context_.get(), tokens, first);
    keys_->start();
    values_->start();
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
    const int num_layers = shared_->model.num_layers();
    double share = 0.0;
    for (int layer = 0; layer < num_layers; ++layer) {
      share += format_.changes(layer, num_layers) ? 1.0 / num_layers : 0.0;
    }
    return {share * keys_->bits_per_coordinate() + (1.0 - share) * 16.0,
            share * values_->bits_per_coordinate() + (1.0 - share) * 16.0};
  }

  // Bytes per layer that do not grow with the tokens.
  std::size_t fixed_bytes() const {
    return own_context_ != nullptr ? 0 : keys_->fixed_bytes() + values_->fixed_bytes();
  }

 private:
  void change(int layer, bool is_value, polarquant::RowMatrix<float>& rows) {
    SideCodec& side = is_value ? *values_ : *keys_;
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
  std::unique_ptr<SideCodec> keys_, values_;  // null: llama.cpp's own cache
  Context own_context_{nullptr, llama_free};
};
