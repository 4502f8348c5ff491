#include "heads.hpp"

#include <algorithm>
#include <stdexcept>
#include <thread>
#include <utility>

#include "baselines/float16.hpp"
#include "baselines/units.hpp"

namespace polarquant_bench {
namespace {

using polarquant::KVCodec;
using polarquant::PolarFormat;
using polarquant_baselines::UnitIsa;

// The last thing made, for those who ask for the same again.
template <typename T>
class LastMade {
 public:
  template <typename Make>
  std::shared_ptr<T> get(const std::string& key, const Make& make) {
    if (key != key_ || last_ == nullptr) {
      last_.reset();  // Room first.
      last_ = make();
      key_ = key;
    }
    return last_;
  }

 private:
  std::string key_;
  std::shared_ptr<T> last_;
};

std::string shape_key(const Row& row) {
  return std::to_string(row.head_dim) + "/" + std::to_string(row.num_tokens);
}

std::size_t float16_bytes(const RowMatrix<float>& rows, std::size_t stride) {
  return static_cast<std::size_t>(rows.rows()) * stride * sizeof(std::uint16_t);
}

void store_float16(const RowMatrix<float>& rows, std::size_t stride, std::uint16_t* halves) {
  for (Eigen::Index t = 0; t < rows.rows(); ++t, halves += stride) {
    for (Eigen::Index i = 0; i < rows.cols(); ++i) {
      halves[i] = polarquant_baselines::float_to_float16(rows(t, i));
    }
  }
}

}  // namespace

std::size_t num_heads_for(std::size_t head_bytes, std::size_t memory_bytes) {
  return std::max<std::size_t>(1, (memory_bytes + head_bytes - 1) / head_bytes);
}

PolarFormat format_of(const Row& row) {
  const std::string prefix = "full_depth_";
  if (row.format == "paper") return PolarFormat::paper(row.head_dim);
  if (row.format.rfind(prefix, 0) != 0) throw std::invalid_argument("no format " + row.format);
  return PolarFormat::full_depth(row.head_dim, std::stod(row.format.substr(prefix.size())));
}

KVCacheConfig config_of(const Row& row) {
  KVCacheConfig config;
  config.num_query_heads = row.num_query_heads();
  config.key_format = format_of(row);
  config.value_format = config.key_format;
  config.arithmetic =
      row.fixed_point ? polarquant::Arithmetic::kFixedPoint : polarquant::Arithmetic::kExact;
  // Every token is encoded.
  config.num_sink_tokens = 0;
  config.num_recent_tokens = 0;
  config.centering = polarquant::Centering::kNone;
  return config;
}

std::shared_ptr<const Inputs> inputs_of(const Row& row) {
  static LastMade<const Inputs> last;
  return last.get(shape_key(row) + "/" + std::to_string(row.num_queries), [&row] {
    return std::make_shared<const Inputs>(Inputs{gaussian(row.num_tokens, row.head_dim, 1),
                                                 gaussian(row.num_tokens, row.head_dim, 2),
                                                 gaussian(row.num_queries, row.head_dim, 3)});
  });
}

CompressedHeads::CompressedHeads(const KVCacheConfig& config, const RowMatrix<float>& keys,
                                 const RowMatrix<float>& values, std::size_t memory_bytes)
    : turn_(1), scratch_(0) {
  const auto codec = std::make_shared<const KVCodec<float>>(config);
  const std::size_t num_heads = num_heads_for(
      codec->keys().bytes_per_vector() * static_cast<std::size_t>(keys.rows()), memory_bytes);
  for (std::size_t head = 0; head < num_heads; ++head) {
    heads_.emplace_back(config, codec);
    heads_.back().reserve(static_cast<std::size_t>(keys.rows()));
  }
  turn_ = Turn(num_heads);
  scratch_ = Scratch(heads_.front().scratch_bytes());
  const std::size_t num_threads =
      std::min<std::size_t>(num_heads, std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::thread> threads;
  for (std::size_t thread = 0; thread < num_threads; ++thread) {
    threads.emplace_back([this, thread, num_threads, &keys, &values] {
      Scratch scratch(heads_.front().scratch_bytes());
      for (std::size_t head = thread; head < heads_.size(); head += num_threads) {
        require_encoded(heads_[head].append(rows_of(keys), rows_of(values), scratch.data()));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::shared_ptr<CompressedHeads> compressed_heads(const Row& row, const Inputs& inputs) {
  KVCacheConfig config = config_of(row);
  // Attention rows want the values of `paper`; of the others nobody does.
  const bool without_values = row.from_memory() && row.format != "paper";
  if (without_values) config.value_format = PolarFormat::uncompressed(2);
  const RowMatrix<float> two_columns = inputs.values.leftCols(2);
  const auto make = [&] {
    return std::make_shared<CompressedHeads>(
        config, inputs.keys, without_values ? two_columns : inputs.values, row.memory_bytes);
  };
  if (!row.from_memory()) return make();
  static LastMade<CompressedHeads> last;
  const std::string key =
      shape_key(row) + "/" + row.format + "/" + row.isa + (row.fixed_point ? "-16bit" : "");
  return last.get(key, make);
}

Float16Heads::Float16Heads(const Inputs& inputs, std::size_t memory_bytes)
    : num_tokens(static_cast<std::size_t>(inputs.keys.rows())),
      stride((static_cast<std::size_t>(inputs.keys.cols()) + 15) / 16 * 16),
      keys(float16_bytes(inputs.keys, stride),
           num_heads_for(float16_bytes(inputs.keys, stride), memory_bytes)),
      values(float16_bytes(inputs.values, stride), keys.size()),
      turn(keys.size()) {
  store_float16(inputs.keys, stride, keys.head<std::uint16_t>(0));
  store_float16(inputs.values, stride, values.head<std::uint16_t>(0));
  keys.copy();
  values.copy();
}

std::shared_ptr<Float16Heads> float16_heads(const Row& row, const Inputs& inputs) {
  static LastMade<Float16Heads> last;
  const std::string key = shape_key(row) + (row.from_memory() ? "/memory" : "/hot");
  return last.get(key, [&] { return std::make_shared<Float16Heads>(inputs, row.memory_bytes); });
}

std::vector<NamedKernels> float16_kernels(const std::string& isa) {
  const UnitIsa unit_isa = isa == "avx512" ? UnitIsa::kAvx512
                           : isa == "avx2" ? UnitIsa::kAvx2
                           : isa == "neon" ? UnitIsa::kNeon
                                           : UnitIsa::kScalar;
  std::vector<NamedKernels> result;
#if defined(POLARQUANT_BENCH_GCC)
  result.push_back({"fp16 by g++", {}});
  polarquant_float16_by_gcc(unit_isa, &result.back().kernels);
#endif
#if defined(POLARQUANT_BENCH_CLANG)
  result.push_back({"fp16 by clang++", {}});
  polarquant_float16_by_clang(unit_isa, &result.back().kernels);
#endif
  return result;
}

}  // namespace polarquant_bench
