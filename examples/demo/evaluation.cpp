#include "evaluation.hpp"

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "baselines/block_codecs.hpp"
#include "baselines/cached_codec.hpp"
#include "baselines/float16_cache.hpp"
#include "baselines/hadamard_codec.hpp"
#include "baselines/scalar_codec.hpp"
#include "polarquant/kv_cache.hpp"

namespace polarquant_demo {
namespace {

using polarquant::KVCache;
using polarquant::PolarFormat;
using polarquant_baselines::Float16Cache;
using polarquant_baselines::VectorCodec;

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

polarquant::KVCacheConfig cache_config(const HeadShape& shape, const SideFormats& formats,
                                       std::uint64_t seed) {
  polarquant::KVCacheConfig config;
  config.arithmetic = polarquant::Arithmetic::kExact;
  config.num_kv_heads = shape.num_kv_heads;
  config.num_query_heads = shape.num_query_heads;
  config.key_format = formats.keys;
  config.value_format = formats.values;
  config.seed = seed;
  // The formats are compared as they are: every token as the code of what came in.
  config.num_sink_tokens = config.num_recent_tokens = 0;
  config.centering = polarquant::Centering::kNone;
  return config;
}

// Every token a code, whatever the window, and no memory beyond what they need.
void encode_all(KVCache<float>& cache) {
  cache.encode_recent();
  cache.shrink();
}
void encode_all(const Float16Cache&) {}

// The errors of caches that `make_cache` makes, one for each layer.
template <typename MakeCache>
std::vector<Quality> evaluate_layers(const Sample& sample, const std::vector<Reference>& references,
                                     const MakeCache& make_cache) {
  std::vector<Quality> layers;
  for (std::size_t i = 0; i < sample.layers.size(); ++i) {
    auto cache = make_cache(sample.layers[i]);
    cache.append(sample.layers[i].keys, sample.layers[i].values);
    encode_all(cache);
    layers.push_back(measure_quality(cache, sample.shape, sample.layers[i], references[i]));
  }
  return layers;
}

// Bits per coordinate of keys and values together.
double mean_bits(const HeadShape& shape, double key_bits, double value_bits) {
  return (key_bits * shape.key_dim + value_bits * shape.value_dim) /
         (shape.key_dim + shape.value_dim);
}

class Evaluator {
 public:
  Evaluator(const Sample& sample, const std::vector<Reference>& references, const Options& options)
      : sample_(sample),
        references_(references),
        options_(options),
        timed_layer_(sample.layers[sample.layers.size() / 2]),
        timed_float16_(sample.shape) {
    fill_for_timing(timed_float16_, timed_layer_, options.num_timing_tokens);
  }

  // Adds the row that `make_row` makes, or the reason why the sample's widths forbid it.
  void add(const std::string& name, const std::function<Row()>& make_row) {
    try {
      Row row = make_row();
      row.name = name;
      row.mean = average(row.layers);
      result_.rows.push_back(std::move(row));
    } catch (const std::invalid_argument& error) {
      result_.skipped.push_back(name + ": " + error.what());
    }
  }

  Row float16() {
    const auto make = [this](const Layer&) {
      Float16Cache cache(shape());
      cache.reserve(static_cast<std::size_t>(sample_.layers[0].keys.rows()));
      return cache;
    };
    Row row;
    row.bits_per_coordinate = 16.0;
    row.expected_key_mse = kNone;
    row.expected_value_mse = kNone;
    row.layers = evaluate_layers(sample_, references_, make);
    row.time = time_attend(timed_float16_, timed_float16_, timed_float16_, shape(), timed_layer_);
    row.time.exact = kNone;  // It has one arithmetic.
    return row;
  }

  // A baseline by the codec of a given width. Its attention decodes, so it is not timed.
  Row baseline(const std::function<std::shared_ptr<const VectorCodec>(int)>& make_codec) {
    const auto keys = make_codec(shape().key_dim);
    const auto values = shape().value_dim == shape().key_dim ? keys : make_codec(shape().value_dim);
    Row row;
    row.bits_per_coordinate =
        mean_bits(shape(), keys->bits_per_coordinate(), values->bits_per_coordinate());
    row.expected_key_mse = keys->expected_relative_mse();
    row.expected_value_mse = values->expected_relative_mse();
    row.layers = evaluate_formats(
        sample_, references_,
        {polarquant_baselines::format_of(keys), polarquant_baselines::format_of(values)},
        options_.seed);
    row.time = {kNone, kNone, kNone};
    return row;
  }

  Row polar(const std::function<PolarFormat(int)>& make_format) {
    PolarFormats formats = {make_format(shape().key_dim), make_format(shape().value_dim)};
    if (options_.radius_meaning.has_value()) {
      formats.keys.radius_meaning = *options_.radius_meaning;
      formats.values.radius_meaning = *options_.radius_meaning;
    }
    Row row;
    row.bits_per_coordinate = mean_bits(shape(), formats.keys.bits_per_coordinate(),
                                        formats.values.bits_per_coordinate());
    row.expected_key_mse = formats.keys.expected_relative_mse();
    row.expected_value_mse = formats.values.expected_relative_mse();
    const SideFormats sides = {formats.keys, formats.values};
    row.layers = evaluate_formats(sample_, references_, sides, options_.seed);
    polarquant::KVCacheConfig config = cache_config(shape(), sides, options_.seed);
    KVCache<float> exact(config);
    config.arithmetic = polarquant::Arithmetic::kFixedPoint;
    KVCache<float> fixed_point(config);
    fill_for_timing(exact, timed_layer_, options_.num_timing_tokens);
    fill_for_timing(fixed_point, timed_layer_, options_.num_timing_tokens);
    row.time = time_attend(exact, fixed_point, timed_float16_, shape(), timed_layer_);
    result_.exact_kernel = exact.kernel_name();
    result_.fixed_point_kernel = fixed_point.kernel_name();
    return row;
  }

  // With the library's defaults but that recent tokens are codes too, as in the other rows: a
  // centre per span and exact sinks; and, if there is one, with the calibration of the sample's
  // model.
  Row with_defaults(double bits, bool is_calibrated) {
    if (is_calibrated && !sample_.calibration) {
      throw std::invalid_argument("the sample has no model.calibration");
    }
    polarquant::KVCacheConfig config;
    config.num_kv_heads = shape().num_kv_heads;
    config.num_query_heads = shape().num_query_heads;
    config.key_format = PolarFormat::full_depth(shape().key_dim, bits);
    config.value_format = PolarFormat::full_depth(shape().value_dim, bits);
    config.exact_type = polarquant::FloatType::kFloat16;
    config.seed = options_.seed;
    const auto codec = std::make_shared<const KVCache<float>::Codec>(config);
    const auto make = [&](const Layer& layer) {
      if (is_calibrated) config.calibration = sample_.calibration->layer(layer.index());
      return KVCache<float>(config, codec);
    };
    Row row;
    const auto side_bits = [&codec](polarquant::Side side) {
      const auto& own = codec->side(side);
      const double centers = 8.0 * static_cast<double>(own.center_bytes()) /
                             static_cast<double>(polarquant::kSpanTokens * own.head_dim());
      return own.format().bits_per_coordinate() + centers;
    };
    row.bits_per_coordinate = mean_bits(shape(), side_bits(polarquant::Side::kKeys),
                                        side_bits(polarquant::Side::kValues));
    row.expected_key_mse = row.expected_value_mse = kNone;  // Of what is left less the centre.
    row.layers = evaluate_layers(sample_, references_, make);
    KVCache<float> timed = make(timed_layer_);
    fill_for_timing(timed, timed_layer_, options_.num_timing_tokens);
    config.arithmetic = polarquant::Arithmetic::kExact;
    KVCache<float> exact(config);
    fill_for_timing(exact, timed_layer_, options_.num_timing_tokens);
    row.time = time_attend(exact, timed, timed_float16_, shape(), timed_layer_);
    return row;
  }

  Row full_depth(double bits) {
    Row row = polar([bits](int width) { return PolarFormat::full_depth(width, bits); });
    row.is_full_depth = true;
    return row;
  }

  Evaluation take_result() { return std::move(result_); }

 private:
  const HeadShape& shape() const { return sample_.shape; }

  const Sample& sample_;
  const std::vector<Reference>& references_;
  const Options& options_;
  const Layer& timed_layer_;
  Float16Cache timed_float16_;
  Evaluation result_;
};

template <typename BlockCodec>
std::shared_ptr<const VectorCodec> hadamard_blocks(int width) {
  return std::make_shared<polarquant_baselines::HadamardCodec>(
      std::make_unique<BlockCodec>(static_cast<std::size_t>(width)));
}

}  // namespace

std::vector<Quality> evaluate_formats(const Sample& sample,
                                      const std::vector<Reference>& references,
                                      const SideFormats& formats, std::uint64_t seed) {
  const polarquant::KVCacheConfig config = cache_config(sample.shape, formats, seed);
  const auto codec = std::make_shared<const KVCache<float>::Codec>(config);
  return evaluate_layers(sample, references,
                         [&](const Layer&) { return KVCache<float>(config, codec); });
}

Evaluation evaluate_all(const Sample& sample, const std::vector<Reference>& references,
                        const Options& options) {
  Evaluator evaluator(sample, references, options);
  evaluator.add("fp16, hand-written", [&] { return evaluator.float16(); });
  evaluator.add("q8_0-like + Hadamard",
                [&] { return evaluator.baseline(hadamard_blocks<polarquant_baselines::Q8Codec>); });
  evaluator.add("q4_0-like + Hadamard",
                [&] { return evaluator.baseline(hadamard_blocks<polarquant_baselines::Q4Codec>); });
  for (const int bits : {3, 4}) {
    evaluator.add("scalar Lloyd-Max, " + std::to_string(bits) + " bits", [&, bits] {
      return evaluator.baseline([&, bits](int width) -> std::shared_ptr<const VectorCodec> {
        return std::make_shared<polarquant_baselines::ScalarCodec>(
            std::make_shared<const polarquant::Rotation>(polarquant::RotationKind::kHaar, width,
                                                         options.seed),
            bits);
      });
    });
  }
  evaluator.add("paper", [&] { return evaluator.polar(PolarFormat::paper); });
  for (const char* const bits : {"3.25", "3.625", "4.25", "4.625"}) {
    evaluator.add(std::string("full_depth ") + bits,
                  [&, bits] { return evaluator.full_depth(std::stod(bits)); });
  }
  for (const bool is_calibrated : {false, true}) {
    for (const char* const bits : {"3.25", "4.25"}) {
      evaluator.add(std::string("full_depth ") + bits +
                        (is_calibrated ? ", defaults, calibrated" : ", defaults"),
                    [&, bits, is_calibrated] {
                      return evaluator.with_defaults(std::stod(bits), is_calibrated);
                    });
    }
  }
  return evaluator.take_result();
}

}  // namespace polarquant_demo
