// Every instruction set of this machine against the scalar kernels, which are the specification.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "polarquant/kernels/dispatch.hpp"
#include "polarquant/kv_cache.hpp"
#include "test_util.hpp"
#include "tile_kernels_test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

template <typename A>
PolarCodec<A> codec_of(Isa isa, const PolarFormat& format, RotationKind kind) {
  return {format, make_rotation(kind, format.head_dim, 3), Arithmetic::kFixedPoint, isa};
}

template <typename T>
KVCache<T> cache_of(Isa isa, KVCacheConfig config) {
  config.isa = isa;
  return KVCache<T>(config);
}

// Rounding of one inner product or weighted sum of up to 1024 terms, relative to norms.
template <typename Accumulator>
constexpr double tolerance() {
  return std::is_same_v<Accumulator, double> ? 1e-14 : 3e-6;
}

// The presets at several widths, and formats that no fast kernel would be made for.
std::vector<PolarFormat> many_formats() {
  std::vector<PolarFormat> formats = {
      PolarFormat::paper(64),
      PolarFormat::paper(128),
      PolarFormat::paper(256),
      PolarFormat::full_depth(64, 3.25),
      PolarFormat::full_depth(128, 4.625),
      PolarFormat::full_depth(80, 3.25),
      PolarFormat::full_depth(576, 2.25),
      PolarFormat::uncompressed(72, polarquant::FloatType::kFloat16),
      PolarFormat::uncompressed(72, polarquant::FloatType::kBFloat16),
      PolarFormat::uncompressed(72, polarquant::FloatType::kFloat32),
      PolarFormat::uncompressed(72, polarquant::FloatType::kFloat64)};
  Random random(101);
  for (int i = 0; i < 25; ++i) formats.push_back(random_format(random, 384));
  return formats;
}

RotationKind rotation_for(const PolarFormat& format, std::size_t index) {
  const RotationKind kind = kRotations[index % 3];
  return kind == RotationKind::kHaar && format.head_dim > 256 ? RotationKind::kHadamard : kind;
}

class KernelsTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!isa_is_available(GetParam())) {
      GTEST_SKIP() << isa_name(GetParam()) << " is not on this machine";
    }
  }

  template <typename T>
  void expect_equal_codes() const {
    const std::vector<PolarFormat> formats = many_formats();
    for (std::size_t i = 0; i < formats.size(); ++i) {
      const PolarFormat& format = formats[i];
      const RotationKind kind = rotation_for(format, i);
      const PolarCodec<AccumulatorOf<T>> scalar =
          codec_of<AccumulatorOf<T>>(Isa::kScalar, format, kind);
      const PolarCodec<AccumulatorOf<T>> fast =
          codec_of<AccumulatorOf<T>>(GetParam(), format, kind);
      const std::vector<T> rows =
          gaussian_vector<T>(67 * static_cast<std::size_t>(format.head_dim), 1000 + i);
      const std::vector<std::byte> codes = encode_rows(scalar, rows);
      ASSERT_FALSE(codes.empty());
      EXPECT_EQ(encode_rows(fast, rows), codes) << format.description();
    }
  }

  template <typename T>
  void expect_equal_rows() const {
    using Accumulator = AccumulatorOf<T>;
    const std::vector<PolarFormat> formats = many_formats();
    for (std::size_t i = 0; i < formats.size(); ++i) {
      const PolarFormat& format = formats[i];
      const std::size_t d = static_cast<std::size_t>(format.head_dim);
      const PolarCodec<AccumulatorOf<T>> scalar =
          codec_of<AccumulatorOf<T>>(Isa::kScalar, format, rotation_for(format, i));
      const PolarCodec<AccumulatorOf<T>> fast =
          codec_of<AccumulatorOf<T>>(GetParam(), format, rotation_for(format, i));
      const std::vector<std::byte> codes =
          encode_rows(scalar, gaussian_vector<T>(33 * d, 2000 + i));
      const std::vector<Accumulator> expected = decode_rows(scalar, codes);
      const std::vector<Accumulator> decoded = decode_rows(fast, codes);
      for (std::size_t k = 0; k < expected.size(); ++k) {
        ASSERT_NEAR(decoded[k], expected[k],
                    tolerance<Accumulator>() * norm_of(expected.data() + k / d * d, d))
            << format.description();
      }
    }
  }

  template <typename T>
  void expect_equal_dots() const {
    using Accumulator = AccumulatorOf<T>;
    const std::vector<PolarFormat> formats = many_formats();
    for (std::size_t i = 0; i < formats.size(); ++i) {
      const PolarFormat& format = formats[i];
      const std::size_t d = static_cast<std::size_t>(format.head_dim);
      const PolarCodec<AccumulatorOf<T>> scalar =
          codec_of<AccumulatorOf<T>>(Isa::kScalar, format, rotation_for(format, i));
      const PolarCodec<AccumulatorOf<T>> fast =
          codec_of<AccumulatorOf<T>>(GetParam(), format, rotation_for(format, i));
      const std::vector<T> rows = gaussian_vector<T>(9 * d, 3000 + i);
      const std::vector<T> query = gaussian_vector<T>(d, 4000 + i);
      const std::vector<std::byte> codes = encode_rows(scalar, rows);
      GuardedBytes memory(std::max(scalar.prepared_size(), fast.prepared_size()) *
                          sizeof(Accumulator));
      Accumulator* const prepared = reinterpret_cast<Accumulator*>(memory.data());
      GuardedBytes scratch(std::max(scalar.scratch_bytes(), fast.scratch_bytes()));
      for (std::size_t row = 0; row < 9; ++row) {
        const std::byte* const code = codes.data() + row * scalar.bytes_per_vector();
        scalar.prepare_query(query.data(), prepared, scratch.data());
        const Accumulator expected = scalar.dot(prepared, code, scratch.data());
        fast.prepare_query(query.data(), prepared, scratch.data());
        EXPECT_NEAR(fast.dot(prepared, code, scratch.data()), expected,
                    tolerance<Accumulator>() * 1.5 * norm_of(query.data(), d) *
                        norm_of(rows.data() + row * d, d))
            << format.description();
      }
    }
  }

  // A cache of `num_tokens` tokens with `group_size` query heads to each of two KV heads.
  template <typename T>
  void expect_equal_attention(const PolarFormat& key_format, const PolarFormat& value_format,
                              RotationKind kind, int num_tokens, int group_size,
                              int num_queries) const {
    using Accumulator = AccumulatorOf<T>;
    KVCacheConfig config;
    config.num_kv_heads = 2;
    config.num_query_heads = 2 * group_size;
    config.key_format = key_format;
    config.value_format = value_format;
    config.rotation = kind;
    config.arithmetic = Arithmetic::kExact;
    polarquant_test::encode_all(config);
    KVCache<T> scalar = cache_of<T>(Isa::kScalar, config);
    KVCache<T> fast = cache_of<T>(GetParam(), config);
    const RowMatrix<T> keys = gaussian_matrix<T>(num_tokens, 2 * key_format.head_dim, 1);
    const RowMatrix<T> values = gaussian_matrix<T>(num_tokens, 2 * value_format.head_dim, 2);
    const RowMatrix<T> queries =
        gaussian_matrix<T>(num_queries, config.num_query_heads * key_format.head_dim, 3);
    scalar.append(keys, values);
    fast.append(keys, values);
    const RowMatrix<Accumulator> scores = scalar.attention_scores(queries);
    const RowMatrix<Accumulator> output = scalar.attend(queries);
    const double head_dim = key_format.head_dim;
    // |q||k| is about head_dim; a value's coordinate at most some 5, and the softmax turns an
    // error of a logit into a relative one of a weight.
    EXPECT_LE((fast.attention_scores(queries) - scores).cwiseAbs().maxCoeff(),
              tolerance<Accumulator>() * 2.0 * head_dim)
        << key_format.description();
    EXPECT_LE((fast.attend(queries) - output).cwiseAbs().maxCoeff(),
              tolerance<Accumulator>() * 2.0 * std::sqrt(head_dim) * 5.0)
        << num_tokens << " tokens, groups of " << group_size;
    EXPECT_GT(output.cwiseAbs().maxCoeff(), 0.01);
  }

  template <typename T>
  void expect_equal_attention_of_tails() const {
    for (int num_tokens = 1; num_tokens <= 33; ++num_tokens) {
      expect_equal_attention<T>(PolarFormat::paper(32), PolarFormat::full_depth(48, 3.25),
                                RotationKind::kHaar, num_tokens, 2, 1 + num_tokens % 3);
    }
  }

  template <typename T>
  void expect_equal_attention_of_groups() const {
    for (const int group_size : {1, 2, 3, 4, 7, 8}) {
      for (const int num_queries : {1, 3}) {
        expect_equal_attention<T>(PolarFormat::paper(64), PolarFormat::paper(64),
                                  RotationKind::kHadamard, 300, group_size, num_queries);
      }
    }
  }

  template <typename T>
  void expect_equal_attention_of_formats() const {
    const std::vector<PolarFormat> formats = many_formats();
    for (std::size_t i = 0; i < formats.size(); ++i) {
      expect_equal_attention<T>(formats[i], formats[(i + 1) % formats.size()],
                                RotationKind::kHadamard, 40, 3, 2);
    }
  }
};

// scalar against itself would prove nothing, but it shows that the test's own scaffolding holds.
INSTANTIATE_TEST_SUITE_P(Isas, KernelsTest, testing::ValuesIn(polarquant_test::kIsas),
                         [](const auto& tested) { return std::string(isa_name(tested.param)); });

// A name begins with the instruction set; what follows are the kernels on tiles, for floats alone.
TEST_P(KernelsTest, KernelNameTellsTheIsaThatWasForced) {
  const PolarFormat paper = PolarFormat::paper(64);
  const std::string name = isa_name(GetParam());
  EXPECT_EQ(codec_of<double>(GetParam(), paper, RotationKind::kNone).kernel_name(),
            name + " loops");
  KVCacheConfig config;
  config.key_format = config.value_format = PolarFormat::uncompressed(64);
  EXPECT_EQ(cache_of<float>(GetParam(), config).kernel_name(), name + " loops");
  const std::string of_floats =
      codec_of<float>(GetParam(), paper, RotationKind::kNone).kernel_name();
  // AVX-512 falls back to its loops where it has no VBMI2 or VNNI.
  const bool has_tiles = polarquant_test::has_fixed_tiles(GetParam());
  EXPECT_EQ(of_floats, name + (has_tiles ? " tiles, 16-bit" : " loops"));
}

// The choice is made once: what the variable says later is not asked.
TEST_P(KernelsTest, TheChoiceIsMadeAtConstruction) {
  const auto codec_of_variable = [] {
    return PolarCodec<double>(PolarFormat::paper(64), make_rotation(RotationKind::kNone, 64));
  };
  const ScopedIsa first(isa_name(GetParam()));
  const PolarCodec<double> codec = codec_of_variable();
  const ScopedIsa later("scalar");
  EXPECT_EQ(codec.isa(), GetParam());
  EXPECT_EQ(codec.kernel_name(), std::string(isa_name(GetParam())) + " loops");
}

TEST_P(KernelsTest, CodesOfFloatsAreTheSameBytes) { expect_equal_codes<float>(); }
TEST_P(KernelsTest, CodesOfDoublesAreTheSameBytes) { expect_equal_codes<double>(); }
TEST_P(KernelsTest, CodesOfHalvesAreTheSameBytes) { expect_equal_codes<Eigen::half>(); }
TEST_P(KernelsTest, CodesOfBfloat16AreTheSameBytes) { expect_equal_codes<Eigen::bfloat16>(); }
TEST_P(KernelsTest, DecodedFloatsAgree) { expect_equal_rows<float>(); }
TEST_P(KernelsTest, DecodedDoublesAgree) { expect_equal_rows<double>(); }
TEST_P(KernelsTest, DotsOfFloatsAgree) { expect_equal_dots<float>(); }
TEST_P(KernelsTest, DotsOfDoublesAgree) { expect_equal_dots<double>(); }
TEST_P(KernelsTest, AttentionOverTailsAgreesInFloat) { expect_equal_attention_of_tails<float>(); }
TEST_P(KernelsTest, AttentionOverTailsAgreesInDouble) { expect_equal_attention_of_tails<double>(); }
TEST_P(KernelsTest, AttentionOfGroupsAgreesInFloat) { expect_equal_attention_of_groups<float>(); }
TEST_P(KernelsTest, AttentionOfGroupsAgreesInDouble) { expect_equal_attention_of_groups<double>(); }
TEST_P(KernelsTest, AttentionOfFormatsAgreesInFloat) { expect_equal_attention_of_formats<float>(); }
TEST_P(KernelsTest, AttentionOfFormatsAgreesInDouble) {
  expect_equal_attention_of_formats<double>();
}

}  // namespace
