// What the programs around the snippets of docs/ share: data, and attention in plain arithmetic.
#pragma once

#include <cmath>
#include <cstddef>
#include <functional>
#include <polarquant/polarquant.hpp>
#include <vector>

inline std::vector<float> gaussian(std::size_t count, std::uint64_t seed) {
  polarquant::Random random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.gaussian());
  return values;
}

inline polarquant::KVCodec<float> make_codec(int head_dim) {
  polarquant::KVCacheConfig config;
  config.key_format = polarquant::PolarFormat::full_depth(head_dim, 4.25);
  config.value_format = polarquant::PolarFormat::paper(head_dim);
  config.rotation = polarquant::RotationKind::kHadamard;
  return polarquant::KVCodec<float>(config);
}

// What `codec` makes of the rows.
inline std::vector<float> decoded(const polarquant::Codec<float>& codec,
                                  const std::vector<float>& rows) {
  const std::size_t d = codec.head_dim();
  const std::size_t count = rows.size() / d;
  std::vector<std::byte> codes(count * codec.bytes_per_vector());
  std::vector<float> result(rows.size());
  polarquant::AlignedBuffer scratch(codec.scratch_bytes());
  const polarquant::EncodeResult encoded = codec.encode(
      {rows.data(), count, d}, {codes.data(), count, codec.bytes_per_vector()}, scratch.data());
  if (encoded.num_encoded != count) return {};
  codec.decode({codes.data(), count, codec.bytes_per_vector()}, {result.data(), count, d},
               scratch.data());
  return result;
}

// ||output - attention|| / ||attention|| of one query over keys and values, [tokens, d] each.
inline double attention_error(const float* query, const std::vector<float>& keys,
                              const std::vector<float>& values, std::size_t d, const float* output,
                              const std::function<double(double)>& logit) {
  std::vector<double> sum(d);
  double total = 0.0;
  for (std::size_t token = 0; token < keys.size() / d; ++token) {
    double score = 0.0;
    for (std::size_t i = 0; i < d; ++i) {
      score += static_cast<double>(query[i]) * static_cast<double>(keys[token * d + i]);
    }
    const double weight = std::exp(logit(score / std::sqrt(static_cast<double>(d))));
    total += weight;
    for (std::size_t i = 0; i < d; ++i) {
      sum[i] += weight * static_cast<double>(values[token * d + i]);
    }
  }
  double error = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < d; ++i) {
    error += std::pow(static_cast<double>(output[i]) - sum[i] / total, 2);
    norm += std::pow(sum[i] / total, 2);
  }
  return std::sqrt(error / norm);
}
