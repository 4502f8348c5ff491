// What a codec may touch: its scratch to the last byte, no other memory, and no exception.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cstddef>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "count_allocations.hpp"
#include "polarquant/codec/polar_codec.hpp"
#include "test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

template <typename T>
class CodecMemoryOfTypeTest : public testing::Test {};
// clang++ wants the empty argument in C++17.
TYPED_TEST_SUITE(CodecMemoryOfTypeTest, polarquant_test::ElementTypes, );

TYPED_TEST(CodecMemoryOfTypeTest, NoCallWritesBeyondScratchBytes) {
  using Accumulator = AccumulatorOf<TypeParam>;
  Random random(71);
  for (int trial = 0; trial < 40; ++trial) {
    const PolarFormat format =
        trial == 0 ? PolarFormat::uncompressed(64, FloatType::kFloat64) : random_format(random);
    const std::size_t d = static_cast<std::size_t>(format.head_dim);
    const PolarCodec<AccumulatorOf<TypeParam>> codec(
        format, make_rotation(RotationKind::kHadamard, format.head_dim));
    const std::size_t num_bytes = codec.bytes_per_vector();
    const std::vector<TypeParam> rows = gaussian_vector<TypeParam>(33 * d, 1);
    GuardedBytes scratch(codec.scratch_bytes());
    GuardedBytes codes(33 * num_bytes);
    GuardedBytes tile(polarquant::tile_bytes(num_bytes));
    GuardedBytes decoded(33 * d * sizeof(Accumulator));
    GuardedBytes prepared(codec.prepared_size() * sizeof(Accumulator));
    Accumulator* const output = reinterpret_cast<Accumulator*>(decoded.data());
    Accumulator* const table = reinterpret_cast<Accumulator*>(prepared.data());
    EXPECT_EQ(codec
                  .encode(Rows<const TypeParam>{rows.data(), 33, d}, {codes.data(), 33, num_bytes},
                          scratch.data())
                  .num_encoded,
              33u);
    codec.decode({codes.data(), 33, num_bytes}, {output, 33, d}, scratch.data());
    EXPECT_EQ(codec
                  .encode_tile(Rows<const TypeParam>{rows.data(), kTileTokens, d}, 0, tile.data(),
                               scratch.data())
                  .num_encoded,
              kTileTokens);
    codec.decode_tile(tile.data(), {output, kTileTokens, d}, scratch.data());
    codec.prepare_query(rows.data(), table, scratch.data());
    codec.dot(table, codes.data() + 32 * num_bytes, scratch.data());
    codec.accumulate(Accumulator(1), codes.data() + 32 * num_bytes, output, scratch.data());
    codec.finish(output, output + d);
    GuardedBytes prepared_rows(3 * codec.prepared_size() * sizeof(Accumulator));
    GuardedBytes scores(3 * 64 * sizeof(Accumulator));
    GuardedBytes sums(3 * codec.tile_sum_size() * sizeof(Accumulator));
    GuardedBytes tiles(2 * codec.tile_bytes());
    Accumulator* const tables = reinterpret_cast<Accumulator*>(prepared_rows.data());
    Accumulator* const weights = reinterpret_cast<Accumulator*>(scores.data());
    Accumulator* const sum = reinterpret_cast<Accumulator*>(sums.data());
    for (std::size_t row = 0; row < 3; ++row) {
      codec.prepare_query(rows.data() + row * d, tables + row * codec.prepared_size(),
                          scratch.data());
    }
    std::memset(tiles.data(), 0, 2 * codec.tile_bytes());
    EXPECT_EQ(codec
                  .encode_tile(Rows<const TypeParam>{rows.data(), kTileTokens, d}, 0, tiles.data(),
                               scratch.data())
                  .num_encoded,
              kTileTokens);
    codec.dot_rows({tables, 3, codec.prepared_size()}, {codes.data(), 33, num_bytes},
                   {weights, 3, 33}, scratch.data());
    codec.accumulate_rows({weights, 3, 33}, {codes.data(), 33, num_bytes}, {output, 3, d},
                          scratch.data());
    codec.score_tiles({tables, 3, codec.prepared_size()}, tiles.data(), 2, {weights, 3, 64},
                      scratch.data());
    codec.accumulate_tiles({weights, 3, 64}, tiles.data(), 2, {sum, 3, codec.tile_sum_size()},
                           scratch.data());
    codec.finish_tiles(sum, Accumulator(1), output, scratch.data());
    EXPECT_TRUE(scratch.guard_is_intact()) << format.description();
    EXPECT_TRUE(codes.guard_is_intact()) << format.description();
    EXPECT_TRUE(tile.guard_is_intact()) << format.description();
    EXPECT_TRUE(decoded.guard_is_intact()) << format.description();
    EXPECT_TRUE(prepared.guard_is_intact()) << format.description();
    EXPECT_TRUE(prepared_rows.guard_is_intact()) << format.description();
    EXPECT_TRUE(scores.guard_is_intact()) << format.description();
    EXPECT_TRUE(sums.guard_is_intact()) << format.description();
    EXPECT_TRUE(tiles.guard_is_intact()) << format.description();
  }
}

TEST(CodecMemoryTest, TheCounterOfAllocationsCounts) {
  EXPECT_EQ(count_allocations([] { ::operator delete(::operator new(1)); }), 1u);
}

TYPED_TEST(CodecMemoryOfTypeTest, CallsWithScratchAllocateNothing) {
  using Accumulator = AccumulatorOf<TypeParam>;
  for (const RotationKind kind : kRotations) {
    for (const PolarFormat& format : {PolarFormat::paper(96), PolarFormat::full_depth(96, 3.25),
                                      PolarFormat::uncompressed(96)}) {
      const PolarCodec<AccumulatorOf<TypeParam>> codec(format, make_rotation(kind, 96));
      const std::size_t num_bytes = codec.bytes_per_vector();
      const std::vector<TypeParam> rows = gaussian_vector<TypeParam>(40 * 96, 1);
      std::vector<std::byte> codes(40 * num_bytes);
      polarquant::AlignedBuffer tile(polarquant::tile_bytes(num_bytes));
      std::vector<Accumulator> decoded(40 * 96), output(96);
      GuardedBytes table(codec.prepared_size() * sizeof(Accumulator));
      Accumulator* const prepared = reinterpret_cast<Accumulator*>(table.data());
      polarquant::AlignedBuffer score_memory(40 * sizeof(Accumulator));
      polarquant::AlignedBuffer sum_memory(codec.tile_sum_size() * sizeof(Accumulator));
      Accumulator* const scores = score_memory.as<Accumulator>();
      Accumulator* const sum = sum_memory.as<Accumulator>();
      GuardedBytes scratch(codec.scratch_bytes());
      EXPECT_EQ(
          count_allocations([&] {
            EXPECT_EQ(codec
                          .encode(Rows<const TypeParam>{rows.data(), 40, 96},
                                  {codes.data(), 40, num_bytes}, scratch.data())
                          .num_encoded,
                      40u);
            EXPECT_EQ(codec
                          .encode_tile(Rows<const TypeParam>{rows.data(), 32, 96}, 0, tile.data(),
                                       scratch.data())
                          .num_encoded,
                      32u);
            codec.decode({codes.data(), 40, num_bytes}, {decoded.data(), 40, 96}, scratch.data());
            codec.decode_tile(tile.data(), {decoded.data(), 32, 96}, scratch.data());
            codec.prepare_query(rows.data(), prepared, scratch.data());
            codec.dot(prepared, codes.data(), scratch.data());
            codec.accumulate(Accumulator(1), codes.data(), decoded.data(), scratch.data());
            codec.finish(decoded.data(), output.data());
            codec.dot_rows({prepared, 1, codec.prepared_size()}, {codes.data(), 40, num_bytes},
                           {scores, 1, 40}, scratch.data());
            codec.accumulate_rows({scores, 1, 40}, {codes.data(), 40, num_bytes},
                                  {output.data(), 1, 96}, scratch.data());
            codec.score_tiles({prepared, 1, codec.prepared_size()}, tile.data(), 1, {scores, 1, 32},
                              scratch.data());
            codec.accumulate_tiles({scores, 1, 32}, tile.data(), 1, {sum, 1, codec.tile_sum_size()},
                                   scratch.data());
            codec.finish_tiles(sum, Accumulator(1), output.data(), scratch.data());
          }),
          0u);
    }
  }
}

TYPED_TEST(CodecMemoryOfTypeTest, HotCallsAreNoexcept) {
  using Codec = polarquant::Codec<AccumulatorOf<TypeParam>>;
  using Accumulator = AccumulatorOf<TypeParam>;
  std::byte* const bytes = nullptr;
  Accumulator* const numbers = nullptr;
  const TypeParam* const query = nullptr;
  static_assert(noexcept(
      std::declval<const Codec&>().encode(Rows<const TypeParam>{}, Rows<std::byte>{}, bytes)));
  static_assert(
      noexcept(std::declval<const Codec&>().encode_tile(Rows<const TypeParam>{}, 0, bytes, bytes)));
  static_assert(noexcept(
      std::declval<const Codec&>().decode(Rows<const std::byte>{}, Rows<Accumulator>{}, bytes)));
  static_assert(
      noexcept(std::declval<const Codec&>().decode_tile(bytes, Rows<Accumulator>{}, bytes)));
  static_assert(noexcept(std::declval<const Codec&>().prepare_query(query, numbers, bytes)));
  static_assert(noexcept(std::declval<const Codec&>().dot(numbers, bytes, bytes)));
  static_assert(
      noexcept(std::declval<const Codec&>().accumulate(Accumulator(1), bytes, numbers, bytes)));
  static_assert(noexcept(std::declval<const Codec&>().finish(numbers, numbers)));
  static_assert(noexcept(std::declval<const Codec&>().dot_rows(
      Rows<const Accumulator>{}, Rows<const std::byte>{}, Rows<Accumulator>{}, bytes)));
  static_assert(noexcept(std::declval<const Codec&>().accumulate_rows(
      Rows<const Accumulator>{}, Rows<const std::byte>{}, Rows<Accumulator>{}, bytes)));
  static_assert(noexcept(std::declval<const Codec&>().score_tiles(Rows<const Accumulator>{}, bytes,
                                                                  0, Rows<Accumulator>{}, bytes)));
  static_assert(noexcept(std::declval<const Codec&>().accumulate_tiles(
      Rows<const Accumulator>{}, bytes, 0, Rows<Accumulator>{}, bytes)));
  static_assert(
      noexcept(std::declval<const Codec&>().finish_tiles(numbers, Accumulator(1), numbers, bytes)));
}

// ---- memory_bytes ----

TEST(CodecMemoryTest, MemoryCountsTheRotationAndTheTables) {
  for (const PolarFormat& format : {PolarFormat::paper(128), PolarFormat::full_depth(128, 3.25),
                                    PolarFormat::uncompressed(128)}) {
    const PolarCodec<float> codec(format, make_rotation(RotationKind::kHaar, 128));
    EXPECT_EQ(codec.memory_bytes(),
              sizeof codec + codec.rotation().memory_bytes() + codec.tables().memory_bytes());
  }
}

// What a codec allocates beyond the given rotation, by the allocator's own count of bytes.
TEST(CodecMemoryTest, MemoryOfTheTablesIsSmallBesideThatOfTheRotation) {
  const PolarCodec<float> codec(PolarFormat::full_depth(128, 3.25),
                                make_rotation(RotationKind::kHaar, 128));
  EXPECT_GT(codec.tables().memory_bytes(), 0u);
  EXPECT_LT(codec.tables().memory_bytes(), codec.rotation().memory_bytes() / 4);
}

}  // namespace
