// Which kernels run, and what does not depend on it.
#include "polarquant/kernels/dispatch.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "tile_kernels_test_util.hpp"

namespace {

using namespace polarquant;
using polarquant::detail::choose_polar_kernels;
using polarquant::detail::CodecTables;
using namespace polarquant_test;

TEST(KernelsDispatchTest, AMissingIsaIsAnErrorOfTheCodec) {
  const Isa missing = isa_is_available(Isa::kAvx2) ? Isa::kNeon : Isa::kAvx2;
  const ScopedIsa scoped(isa_name(missing));
  const std::string message = message_of<std::runtime_error>(
      [] { PolarCodec<float>(PolarFormat::paper(64), make_rotation(RotationKind::kNone, 64)); });
  EXPECT_NE(message.find("POLARQUANT_ISA is " + std::string(isa_name(missing)) +
                         ", which this machine or build does not have"),
            std::string::npos)
      << message;
}

TEST(KernelsDispatchTest, AnUnknownIsaIsAnErrorOfTheCache) {
  const ScopedIsa scoped("mmx");
  const std::string message = message_of<std::invalid_argument>(
      [] { KVCache<float>(tile_config(PolarFormat::paper(64), PolarFormat::paper(64))); });
  EXPECT_NE(message.find("POLARQUANT_ISA is mmx, must be scalar, avx2, avx512 or neon"),
            std::string::npos)
      << message;
}

// ---- The kernels on tiles ----

using TileKernelsDispatchTest = polarquant_test::FloatTilesFixture;

// Formats without kernels on tiles, one for each reason; see TileTables.
std::vector<PolarFormat> other_formats() {
  std::vector<PolarFormat> formats = {
      PolarFormat::uncompressed(64),    PolarFormat::full_depth(40, 3.25), format_of(64, {4, 2, 2}),
      format_of(64, {4, 2, 2, 2, 2}),   format_of(64, {6, 2, 2, 2}),       PolarFormat::paper(64),
      PolarFormat::full_depth(64, 3.25)};
  formats[5].radius_type = FloatType::kFloat16;
  formats[6].radius_type = FloatType::kFloat32;
  return formats;
}

// Of every format, from the tables alone: making a codec of each takes seconds.
TEST(KernelsDispatchTest, KernelsOnTilesRunWhereFormatAndMachineAllowThem) {
  for (const PolarFormat& format : tile_formats()) {
    const CodecTables tables(format, offline_codebooks(format));
    for (const Isa isa : polarquant_test::available_isas()) {
      const std::string name = isa_name(isa);
      const bool has_fixed = polarquant_test::has_fixed_tiles(isa);
      const bool has_float = isa == Isa::kAvx512 && polarquant_test::has_float_tiles();
      EXPECT_EQ(choose_polar_kernels<float>(isa, tables, Arithmetic::kExact).name,
                name + (has_float ? " tiles" : " loops"))
          << name_of(format);
      EXPECT_EQ(choose_polar_kernels<float>(isa, tables, Arithmetic::kFixedPoint).name,
                name + (has_fixed ? " tiles, 16-bit" : " loops"))
          << name_of(format);
      EXPECT_EQ(choose_polar_kernels<double>(isa, tables, Arithmetic::kFixedPoint).name,
                name + " loops")
          << name_of(format);
    }
  }
  for (const PolarFormat& format : other_formats()) {
    const CodecTables tables(format, offline_codebooks(format));
    for (const Isa isa : polarquant_test::available_isas()) {
      for (const Arithmetic arithmetic : {Arithmetic::kExact, Arithmetic::kFixedPoint}) {
        EXPECT_EQ(choose_polar_kernels<float>(isa, tables, arithmetic).name,
                  std::string(isa_name(isa)) + " loops")
            << name_of(format);
      }
    }
  }
}

TEST(KernelsDispatchTest, SixteenBitsAreTheDefaultAndExactnessAnOption) {
  KVCacheConfig config;
  EXPECT_EQ(config.arithmetic, Arithmetic::kFixedPoint);
  config.key_format = config.value_format = PolarFormat::paper(64);
  config.arithmetic = Arithmetic::kExact;
  const KVCache<float> cache(config);
  EXPECT_EQ(std::string(cache.kernel_name()).find("16-bit"), std::string::npos);
}

TEST(KernelsDispatchTest, SixteenBitsAreTakenByDefaultExactlyWhereTheMachineHasThem) {
  const ScopedIsa scoped(nullptr);
  const KVCache<float> cache(
      tile_config(PolarFormat::paper(64), PolarFormat::paper(64), Arithmetic::kFixedPoint));
  EXPECT_EQ(std::string(cache.kernel_name()).find("tiles, 16-bit") != std::string::npos,
            polarquant_test::has_fixed_tiles(polarquant::choose_isa()));
}

// ---- Where 16 bits are not possible they change nothing ----

template <typename T>
void expect_fixed_is_exact(const PolarFormat& format) {
  const int d = format.head_dim;
  KVCache<T> exact(tile_config(format, format, Arithmetic::kExact));
  KVCache<T> fixed(tile_config(format, format, Arithmetic::kFixedPoint));
  EXPECT_STREQ(exact.kernel_name(), fixed.kernel_name());
  for (KVCache<T>* cache : {&exact, &fixed}) {
    cache->append(gaussian_matrix<T>(70, d, 1), gaussian_matrix<T>(70, d, 2));
  }
  const RowMatrix<T> queries = gaussian_matrix<T>(3, d, 3);
  EXPECT_EQ(exact.attention_scores(queries), fixed.attention_scores(queries)) << name_of(format);
  EXPECT_EQ(exact.attend(queries), fixed.attend(queries)) << name_of(format);
}

TEST(KernelsDispatchTest, FixedPointOnDoublesIsExactBitForBit) {
  for (const PolarFormat& format : {PolarFormat::paper(64), PolarFormat::full_depth(80, 3.25)}) {
    expect_fixed_is_exact<double>(format);
  }
}

TEST(KernelsDispatchTest, FixedPointOnOtherFormatsIsExactBitForBit) {
  for (const PolarFormat& format : other_formats()) expect_fixed_is_exact<float>(format);
}

// ---- What is the same in both arithmetics ----

// T = half and bfloat16 compute in float, and so have the kernels of float.
TEST_F(TileKernelsDispatchTest, HalvesHaveTheKernelsOfFloats) {
  const KVCacheConfig config =
      tile_config(PolarFormat::paper(64), PolarFormat::paper(64), Arithmetic::kFixedPoint);
  EXPECT_STREQ(cache_with<Eigen::half>(Isa::kAvx512, config).kernel_name(), "avx512 tiles, 16-bit");
  EXPECT_STREQ(cache_with<Eigen::bfloat16>(Isa::kAvx512, config).kernel_name(),
               "avx512 tiles, 16-bit");
}

TEST_F(TileKernelsDispatchTest, CodesRowsAndDotsDoNotDependOnTheArithmetic) {
  for (const PolarFormat& format : tile_formats()) {
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const auto rotation = make_rotation(RotationKind::kHadamard, format.head_dim);
    const PolarCodec<float> exact(format, rotation, Arithmetic::kExact, Isa::kAvx512);
    const PolarCodec<float> fixed(format, rotation, Arithmetic::kFixedPoint, Isa::kAvx512);
    EXPECT_EQ(exact.arithmetic(), Arithmetic::kExact);
    EXPECT_EQ(fixed.arithmetic(), Arithmetic::kFixedPoint);
    ASSERT_EQ(exact.prepared_size(), fixed.prepared_size());
    const std::vector<float> rows = gaussian_vector<float>(40 * d, 1);
    const std::vector<std::byte> codes = encode_rows(exact, rows);
    ASSERT_FALSE(codes.empty());
    EXPECT_EQ(encode_rows(fixed, rows), codes) << name_of(format);
    EXPECT_EQ(decode_rows(fixed, codes), decode_rows(exact, codes)) << name_of(format);
    GuardedBytes scratch(exact.scratch_bytes());
    GuardedBytes prepared(exact.prepared_size() * sizeof(float));
    float* const query = reinterpret_cast<float*>(prepared.data());
    exact.prepare_query(rows.data(), query, scratch.data());
    const float expected = exact.dot(query, codes.data(), scratch.data());
    fixed.prepare_query(rows.data(), query, scratch.data());
    EXPECT_EQ(fixed.dot(query, codes.data(), scratch.data()), expected) << name_of(format);
  }
}

TEST_F(TileKernelsDispatchTest, CachesOfBothArithmeticsHoldTheSameCodes) {
  const PolarFormat format = PolarFormat::full_depth(80, 3.25);
  const CachePair caches(Isa::kAvx512, tile_config(format, format),
                         gaussian_matrix<float>(40, 80, 1), gaussian_matrix<float>(40, 80, 2));
  for (std::size_t token = 0; token < 40; ++token) {
    EXPECT_EQ(caches.exact.key_code(0, token), caches.fixed.key_code(0, token));
    EXPECT_EQ(caches.exact.value_code(0, token), caches.fixed.value_code(0, token));
  }
  EXPECT_EQ(caches.exact.decode_keys(0), caches.fixed.decode_keys(0));
  EXPECT_EQ(caches.exact.decode_values(0), caches.fixed.decode_values(0));
}

}  // namespace
