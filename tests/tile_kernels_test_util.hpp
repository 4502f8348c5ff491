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

// Whether this machine and build have kernels on tiles in 16 bits for an instruction set.
inline bool has_fixed_tiles(polarquant::Isa isa) {
  if (!polarquant::isa_is_available(isa)) return false;
#if POLARQUANT_X86
  if (isa == polarquant::Isa::kAvx512) return polarquant::detail::has_avx512_tiles();
#endif
  return isa != polarquant::Isa::kScalar;
}

// AVX-512 alone has kernels on tiles in float too.
inline bool has_float_tiles() { return has_fixed_tiles(polarquant::Isa::kAvx512); }

// Runs for every instruction set with kernels on tiles in 16 bits; skips those that are missing.
class FixedTilesFixture : public testing::TestWithParam<polarquant::Isa> {
 protected:
  void SetUp() override {
    if (!has_fixed_tiles(GetParam())) {
      GTEST_SKIP() << "this machine or build has no kernels on tiles for "
                   << polarquant::isa_name(GetParam());
    }
  }
};

// What such a test is instantiated with, and how its cases are called.
inline auto fixed_tiles_isas() {
  return testing::Values(polarquant::Isa::kAvx512, polarquant::Isa::kAvx2, polarquant::Isa::kNeon);
}
inline std::string isa_case_name(const testing::TestParamInfo<polarquant::Isa>& tested) {
  return polarquant::isa_name(tested.param);
}

// Skips every test on a machine without the kernels on tiles in float.
class FloatTilesFixture : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_float_tiles()) {
      GTEST_SKIP() << "this machine or build has no AVX-512 with VBMI2 and VNNI";
    }
  }
};

namespace internal {
inline std::vector<polarquant::PolarFormat> make_tile_formats() {
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
}  // namespace internal

// Every width in use and every preset: 3 to 5 bits at level 1, with and without joins (one has 6
// bits), one radius and many, even and odd numbers of bytes.
// Made once: each full_depth takes 20 ms.
inline const std::vector<polarquant::PolarFormat>& tile_formats() {
  static const std::vector<polarquant::PolarFormat> formats = internal::make_tile_formats();
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

// The same tokens in two caches, one in 16 bits on an instruction set and one exact, on whatever is
// fastest for that.
struct CachePair {
  CachePair(polarquant::Isa isa, const polarquant::KVCacheConfig& config,
            const polarquant::RowMatrix<float>& keys, const polarquant::RowMatrix<float>& values)
      : exact(cache_with<float>(polarquant::choose_isa(),
                                with(config, polarquant::Arithmetic::kExact))),
        fixed(cache_with<float>(isa, with(config, polarquant::Arithmetic::kFixedPoint))) {
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
