// Rows of methods that are fitted to a model: what they need of a text, and their codecs.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "baselines/fitted_codecs.hpp"
#include "cache_formats.hpp"
#include "llama_model.hpp"
#include "polarquant/calibration.hpp"
#include "query_key_capture.hpp"

// What was seen of each layer's KV heads, sinks left out, keys and values less the centres of their
// spans: as a cache encodes them.
class FittedFormats {
 public:
  // Reads windows of the calibration's texts. Throws what Model and QueryKeyCapture throw.
  FittedFormats(const Model& model, const std::vector<std::vector<llama_token>>& windows)
      : num_kv_heads_(model.num_kv_heads()),
        statistics_(static_cast<std::size_t>(model.num_layers() * model.num_kv_heads()),
                    polarquant_baselines::FitStatistics(model.head_dim())) {
    QueryKeyCapture capture(
        model.num_layers(), model.num_query_heads(), model.num_kv_heads(),
        [&](int layer, const QueryKeyCapture::Tensors& seen) { add(layer, seen, model); });
    ContextOptions options;
    options.num_tokens = options.num_batch_tokens = static_cast<int>(windows.front().size());
    options.callback = QueryKeyCapture::on_node;
    options.callback_data = &capture;
    const Context context = make_context(model, options);
    for (const std::vector<llama_token>& window : windows) {
      evaluate(context.get(), window, static_cast<int>(window.size()) - 1);
      capture.check_and_reset();
    }
  }

  // Every method at 2.25 and 3.25 bits, with the same centres and sinks as the library's defaults.
  std::vector<CacheFormat> rows() const {
    const std::pair<const char*, const char*> methods[] = {
        {"oscar", "OSCAR"},
        {"block_gtq", "Block-GTQ"},
        {"block_gtq_byte_norms", "Block-GTQ, norms of 8 bits"},
        {"smooth_attention", "SmoothAttention"}};
    std::vector<CacheFormat> formats;
    for (const double bits : {2.25, 3.25}) {
      for (const auto& [method, name] : methods) {
        formats.push_back(row(method, name, bits, 0.0));
      }
      formats.push_back(row("smooth_attention", "SmoothAttention, clipped", bits, 0.92));
    }
    return formats;
  }

 private:
  // One row, its codecs made when they are asked for.
  CacheFormat row(const std::string& method, const std::string& name, double bits,
                  double clip_ratio) const {
    CacheFormat format;
    format.group = "fitted";
    format.name = name + " " + std::to_string(bits).substr(0, 4);
    for (const bool is_value : {false, true}) {
      SideFormat& side = is_value ? format.values : format.keys;
      side = with_defaults("fitted");
      side.codec_of_head = [=](int layer, int head) {
        polarquant_baselines::FittedFormat fitted;
        fitted.method = method;
        fitted.bits_per_coordinate = bits;
        fitted.is_value = is_value;
        fitted.clip_ratio = clip_ratio;
        return std::shared_ptr<const polarquant_baselines::VectorCodec>(
            polarquant_baselines::make_fitted_codec(
                fitted, statistics_[static_cast<std::size_t>(layer * num_kv_heads_ + head)]));
      };
    }
    return format;
  }

  void add(int layer, const QueryKeyCapture::Tensors& seen, const Model& model) {
    using Rows = polarquant::RowMatrix<float>;
    const Eigen::Index d = model.head_dim();
    const Eigen::Index group = model.num_query_heads() / num_kv_heads_;
    const auto num_sinks = static_cast<Eigen::Index>(polarquant::KVCacheConfig().num_sink_tokens);
    const Eigen::Index count = seen.keys.rows() - num_sinks;
    for (int head = 0; head < num_kv_heads_; ++head) {
      Rows queries(group * count, d);
      for (Eigen::Index i = 0; i < group; ++i) {
        queries.middleRows(i * count, count) =
            seen.queries.block(num_sinks, (head * group + i) * d, count, d);
      }
      const auto centered = [&](const Rows& all) {
        Rows rows = all.block(num_sinks, head * d, count, d);
        polarquant::detail::center_by_span(rows);
        return rows;
      };
      statistics_[static_cast<std::size_t>(layer * num_kv_heads_ + head)].add(
          {queries, centered(seen.keys), centered(seen.values)});
    }
  }

  int num_kv_heads_;
  std::vector<polarquant_baselines::FitStatistics> statistics_;  // layer by layer, head by head
};
