// Inner products and weighted sums on one code after another, for rows of every type and for every
// family of codes.
#include "polarquant/codec/codec.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "plain_8bit_codec.hpp"
#include "polarquant/codec/polar_codec.hpp"
#include "test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

template <typename T>
class CodecTest : public testing::Test {};
// clang++ wants the empty argument in C++17.
TYPED_TEST_SUITE(CodecTest, polarquant_test::ElementTypes, );

// Uncompressed, another family's, trellis and polar ones.
CodecFormat any_format(int trial, Random& random) {
  if (trial < 3) return PolarFormat::uncompressed(48 << trial);
  if (trial == 3) return plain_8bit(48);
  if (trial < 10) {
    constexpr double kBits[] = {2, 3, 3.5, 4, 6, 8};
    return TrellisFormat(2 * random_int(random, 8, 60), kBits[trial - 4]);
  }
  return random_format(random, kSanitized ? 256 : 1024);
}

template <typename A>
std::shared_ptr<const Codec<A>> codec_of(const CodecFormat& format, RotationKind kind) {
  return make_codec<A>(format, {make_rotation(kind, format.head_dim(), 3), Arithmetic::kExact, {}});
}

TYPED_TEST(CodecTest, DotIsTheInnerProductWithTheDecodedVector) {
  using Accumulator = AccumulatorOf<TypeParam>;
  const double tolerance = std::is_same_v<Accumulator, double> ? 1e-13 : 1e-5;
  Random random(31);
  for (int trial = 0; trial < 26; ++trial) {
    const CodecFormat format = any_format(trial, random);
    const std::size_t d = static_cast<std::size_t>(format.head_dim());
    const auto codec_pointer =
        codec_of<Accumulator>(format, random_rotation(random, format.head_dim()));
    const Codec<Accumulator>& codec = *codec_pointer;
    const std::vector<TypeParam> query = gaussian_vector<TypeParam>(d, random.next());
    const std::vector<TypeParam> rows = gaussian_vector<TypeParam>(10 * d, random.next());
    const std::vector<std::byte> codes = encode_rows(codec, rows);
    const std::vector<Accumulator> decoded = decode_rows(codec, codes);
    GuardedBytes memory(codec.prepared_size() * sizeof(Accumulator));
    Accumulator* const prepared = reinterpret_cast<Accumulator*>(memory.data());
    GuardedBytes scratch(codec.scratch_bytes());
    codec.prepare_query(query.data(), prepared, scratch.data());
    for (std::size_t row = 0; row < 10; ++row) {
      const Accumulator* const key = decoded.data() + row * d;
      EXPECT_NEAR(static_cast<double>(codec.dot(
                      prepared, codes.data() + row * codec.bytes_per_vector(), scratch.data())),
                  inner_product(query.data(), key, d),
                  tolerance * norm_of(query.data(), d) * norm_of(key, d))
          << format.description();
    }
  }
}

// A power of two scales every step exactly.
TYPED_TEST(CodecTest, AQueryPreparedWithAScaleScalesItsInnerProducts) {
  using Accumulator = AccumulatorOf<TypeParam>;
  for (const CodecFormat& format :
       {CodecFormat(PolarFormat::paper(64)), CodecFormat(PolarFormat::full_depth(80, 3.25)),
        CodecFormat(PolarFormat::uncompressed(64)), plain_8bit(64),
        CodecFormat(TrellisFormat(64, 3))}) {
    const std::size_t d = static_cast<std::size_t>(format.head_dim());
    const auto codec_pointer = codec_of<Accumulator>(format, RotationKind::kHaar);
    const Codec<Accumulator>& codec = *codec_pointer;
    const std::vector<TypeParam> query = gaussian_vector<TypeParam>(d, 1);
    const std::vector<std::byte> codes = encode_rows(codec, gaussian_vector<TypeParam>(d, 2));
    GuardedBytes prepared(codec.prepared_size() * sizeof(Accumulator));
    GuardedBytes scratch(codec.scratch_bytes());
    Accumulator* const table = reinterpret_cast<Accumulator*>(prepared.data());
    codec.prepare_query(query.data(), table, scratch.data());
    const Accumulator plain = codec.dot(table, codes.data(), scratch.data());
    codec.prepare_query(query.data(), table, scratch.data(), Accumulator(0.125));
    EXPECT_EQ(codec.dot(table, codes.data(), scratch.data()), Accumulator(0.125) * plain);
  }
}

TYPED_TEST(CodecTest, AccumulateAndFinishAreTheWeightedSumOfTheDecodedVectors) {
  using Accumulator = AccumulatorOf<TypeParam>;
  const double tolerance = std::is_same_v<Accumulator, double> ? 1e-13 : 1e-5;
  Random random(37);
  for (int trial = 0; trial < 26; ++trial) {
    const CodecFormat format = any_format(trial, random);
    const std::size_t d = static_cast<std::size_t>(format.head_dim());
    const auto codec_pointer =
        codec_of<Accumulator>(format, random_rotation(random, format.head_dim()));
    const Codec<Accumulator>& codec = *codec_pointer;
    const std::size_t n = 12;
    const std::vector<std::byte> codes =
        encode_rows(codec, gaussian_vector<TypeParam>(n * d, random.next()));
    const std::vector<Accumulator> decoded = decode_rows(codec, codes);
    std::vector<Accumulator> sum(d), output(d);
    std::vector<double> expected(d);
    double scale = 0.0;
    GuardedBytes scratch(codec.scratch_bytes());
    for (std::size_t row = 0; row < n; ++row) {
      const Accumulator weight = static_cast<Accumulator>(random.gaussian());
      codec.accumulate(weight, codes.data() + row * codec.bytes_per_vector(), sum.data(),
                       scratch.data());
      for (std::size_t i = 0; i < d; ++i) {
        expected[i] += static_cast<double>(weight) * static_cast<double>(decoded[row * d + i]);
      }
      scale += std::abs(static_cast<double>(weight)) * norm_of(decoded.data() + row * d, d);
    }
    codec.finish(sum.data(), output.data());
    for (std::size_t i = 0; i < d; ++i) {
      ASSERT_NEAR(static_cast<double>(output[i]), expected[i], tolerance * scale)
          << format.description();
    }
  }
}

// ---- Rows that cannot be encoded ----

// As saved results and engines know them.
TEST(EncodeFailureTest, HasFixedNumbers) {
  static_assert(static_cast<int>(EncodeFailure::kNone) == 0);
  static_assert(static_cast<int>(EncodeFailure::kNotFinite) == 1);
  static_assert(static_cast<int>(EncodeFailure::kOutOfRange) == 2);
  static_assert(static_cast<int>(EncodeFailure::kNoCapacity) == 3);
  EXPECT_EQ(EncodeResult{}.num_encoded, 0u);
  EXPECT_EQ(EncodeResult{}.failure, EncodeFailure::kNone);
}

// Whatever the family, the type, and the tile that the row falls into.
TYPED_TEST(CodecTest, StopsAtTheFirstRowThatIsNotFinite) {
  using Accumulator = AccumulatorOf<TypeParam>;
  for (const CodecFormat& format :
       {CodecFormat(PolarFormat::paper(32)), CodecFormat(PolarFormat::uncompressed(32)),
        plain_8bit(32), CodecFormat(TrellisFormat(32, 3.5))}) {
    const auto codec = codec_of<Accumulator>(format, RotationKind::kHaar);
    const std::vector<TypeParam> good = gaussian_vector<TypeParam>(100 * 32, 5);
    const std::vector<std::byte> expected = encode_rows(*codec, good);
    ASSERT_FALSE(expected.empty());
    GuardedBytes scratch(codec->scratch_bytes());
    for (const std::size_t row : {0u, 31u, 32u, 77u, 99u}) {
      std::vector<TypeParam> rows = good;
      rows[row * 32 + 9] = static_cast<TypeParam>(std::numeric_limits<float>::infinity());
      std::vector<std::byte> codes(expected.size());
      const EncodeResult result =
          codec->encode(Rows<const TypeParam>{rows.data(), 100, 32},
                        {codes.data(), 100, codec->bytes_per_vector()}, scratch.data());
      EXPECT_EQ(result.num_encoded, row) << format.description();
      EXPECT_EQ(result.failure, EncodeFailure::kNotFinite) << format.description();
      codes.resize(row * codec->bytes_per_vector());
      EXPECT_TRUE(std::equal(codes.begin(), codes.end(), expected.begin())) << format.description();
    }
  }
}

// Doubles that no code of float radii can hold, behind more rows than a tile has.
TEST(CodecOfDoublesTest, ANormBeyondTheTypeOfNormsIsOutOfRange) {
  for (const CodecFormat& format :
       {CodecFormat(PolarFormat::paper(32)), CodecFormat(PolarFormat::uncompressed(32)),
        plain_8bit(32), CodecFormat(TrellisFormat(32, 3.5))}) {
    const auto codec = codec_of<double>(format, RotationKind::kHaar);
    std::vector<double> rows = gaussian_vector<double>(50 * 32, 5);
    rows[40 * 32 + 3] = 1e300;
    std::vector<std::byte> codes(50 * codec->bytes_per_vector());
    GuardedBytes scratch(codec->scratch_bytes());
    const EncodeResult result = codec->encode(
        {rows.data(), 50, 32}, {codes.data(), 50, codec->bytes_per_vector()}, scratch.data());
    EXPECT_EQ(result.num_encoded, 40u) << format.description();
    EXPECT_EQ(result.failure, EncodeFailure::kOutOfRange) << format.description();
  }
}

}  // namespace
