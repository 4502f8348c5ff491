// What the tests of the kernels on tiles share: whether the machine has them, the formats they
// cover, and caches that differ only in how they compute.
#pragma once

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cmath>
#include <string>
#include <vector>

#include "polarquant/kernels/avx512.hpp"
#include "polarquant/kv_cache.hpp"
#include "test_util.hpp"

namespace polarquant_test {

inline bool has_tile_kernels() {
#if POLARQUANT_X86
  return polarquant::isa_is_available(polarquant::Isa::kAvx512) &&
         polarquant::detail::has_avx512_tiles();
#else
  return false;
#endif
}

// Skips every test on a machine without the kernels; forces AVX-512 elsewhere.
class TileKernelsFixture : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_tile_kernels()) {
      GTEST_SKIP() << "this machine or build has no AVX-512 with VBMI2 and VNNI, which the kernels "
                      "on tiles need";
    }
  }
};

// Every width in use and every preset: 3 to 5 bits at level 1, with and without joins (one has 6
// bits), one radius and many, even and odd numbers of bytes.
inline std::vector<polarquant::PolarFormat> tile_formats() {
  using polarquant::PolarFormat;
  std::vector<PolarFormat> formats;
  for (const int d : {64, 80, 96, 128, 192, 256}) {
    formats.push_back(PolarFormat::paper(d));
    for (const double bits : {2.625, 3.25, 3.625, 4.25, 4.625}) {
      formats.push_back(PolarFormat::full_depth(d, bits));
    }
  }
  formats.push_back(PolarFormat::paper(16));
  formats.push_back(PolarFormat::full_depth(112, 3.25));
  formats.push_back(PolarFormat::full_depth(576, 3.25));
  formats.push_back(PolarFormat::full_depth(1024, 3.25));
  formats.push_back(PolarFormat::paper(1024));
  formats.push_back(format_of(48, {5, 5, 0, 1}));          // 2 b1 + b2 = 15, an angle without bits
  formats.push_back(format_of(32, {1, 1, 5, 5, 0}));       // windows far wider than their fields
  formats.push_back(format_of(48, {2, 0, 5, 0, 3}, {5}));  // a join of 5 bits
  return formats;
}

inline std::string name_of(const polarquant::PolarFormat& format) {
  return "width " + std::to_string(format.head_dim) + ", " + format.description();
}

// One KV head, one query head, keys and values of one format.
inline polarquant::KVCacheConfig tile_config(
    const polarquant::PolarFormat& keys, const polarquant::PolarFormat& values,
    polarquant::Arithmetic arithmetic = polarquant::Arithmetic::kExact) {
  polarquant::KVCacheConfig config;
  config.key_format = keys;
  config.value_format = values;
  config.rotation = polarquant::RotationKind::kHadamard;
  config.seed = 5;
  config.arithmetic = arithmetic;
  encode_all(config);
  return config;
}

template <typename T>
polarquant::KVCache<T> cache_with(polarquant::Isa isa, polarquant::KVCacheConfig config) {
  config.isa = isa;
  return polarquant::KVCache<T>(config);
}

// The same tokens in two caches on AVX-512, one exact and one in 16 bits.
struct CachePair {
  CachePair(const polarquant::KVCacheConfig& config, const polarquant::RowMatrix<float>& keys,
            const polarquant::RowMatrix<float>& values)
      : exact(cache_with<float>(polarquant::Isa::kAvx512, with(config, polarquant::Arithmetic::kExact))),
        fixed(cache_with<float>(polarquant::Isa::kAvx512, with(config, polarquant::Arithmetic::kFixedPoint))) {
    exact.append(keys, values);
    fixed.append(keys, values);
  }

  static polarquant::KVCacheConfig with(polarquant::KVCacheConfig config,
                                        polarquant::Arithmetic arithmetic) {
    config.arithmetic = arithmetic;
    return config;
  }

  polarquant::KVCache<float> exact;
  polarquant::KVCache<float> fixed;
};

}  // namespace polarquant_test
