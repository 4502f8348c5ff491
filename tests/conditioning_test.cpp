// Channel scales and centres in the calls of a codec: on rows and on tiles.
#include "polarquant/codes/conditioning.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <memory>
#include <vector>

#include "kv_cache_test_util.hpp"

namespace {

using polarquant::Codec;
using polarquant::Conditioning;
using polarquant::KeyTransform;
using polarquant_test::gaussian_vector;

constexpr std::size_t kWidth = 32;
constexpr std::size_t kRows = 40;

template <typename Case>
class ConditioningTest : public testing::Test {
 protected:
  using T = typename Case::T;
  using A = typename Case::A;

  ConditioningTest() {
    for (std::size_t i = 0; i < kWidth; ++i) {
      scales_.push_back(static_cast<A>(std::exp2(static_cast<double>(i % 7) - 3.0) * 1.1));
    }
    polarquant::Random random(4);
    matrices_ = polarquant_test::random_key_matrices(1, kWidth, random);
    code_.resize(codec().center_bytes());
    center_.resize(kWidth);
    const std::vector<A> mean = gaussian_vector<A>(kWidth, 2, 3.0);
    codec().encode_center(mean.data(), code_.data(), scratch_.data());
    codec().decode_center(code_.data(), center_.data(), scratch_.data());
  }

  const Codec<A>& codec() const { return codec_->keys(); }
  std::vector<Conditioning<A>> conditionings() const {
    std::vector<Conditioning<A>> result;
    for (const KeyTransform<A>& transform :
         {KeyTransform<A>{}, KeyTransform<A>{scales_.data(), nullptr, nullptr},
          matrices_->template transform<A>(0)}) {
      result.push_back({transform, nullptr});
      result.push_back({transform, center_.data()});
    }
    return result;
  }

  // What is encoded.
  std::vector<A> conditioned(const Conditioning<A>& change) const {
    return by_rows(std::vector<A>(given_.begin(), given_.end()), [&](const std::vector<A>& row) {
      return polarquant_test::plainly_conditioned(change, row);
    });
  }
  // And back.
  static std::vector<A> restored(const std::vector<A>& rows, const Conditioning<A>& change) {
    return by_rows(rows, [&](const std::vector<A>& row) {
      return polarquant_test::plainly_restored(change, row);
    });
  }
  template <typename Change>
  static std::vector<A> by_rows(const std::vector<A>& rows, const Change& change) {
    std::vector<A> result;
    for (auto row = rows.begin(); row != rows.end(); row += kWidth) {
      const std::vector<A> changed = change(std::vector<A>(row, row + kWidth));
      result.insert(result.end(), changed.begin(), changed.end());
    }
    return result;
  }
  polarquant::Rows<const T> rows() const { return {given_.data(), kRows, kWidth}; }

  std::shared_ptr<const polarquant::KVCodec<A>> codec_ =
      polarquant_test::shared_codec<A>(polarquant_test::exact_config<typename Case::Family>());
  polarquant::AlignedBuffer scratch_{codec_->keys().scratch_bytes()};
  std::vector<T> given_ = gaussian_vector<T>(kRows * kWidth, 1, 2.0);
  std::vector<A> scales_, center_;
  std::shared_ptr<const polarquant::KeyMatrices> matrices_;
  std::vector<std::byte> code_;
};
TYPED_TEST_SUITE(ConditioningTest, polarquant_test::CacheCases, );

TYPED_TEST(ConditioningTest, RowsAreEncodedAsIfTheyHadBeenConditionedBefore) {
  using Number = typename TypeParam::A;
  const std::size_t num_bytes = this->codec().bytes_per_vector();
  for (const Conditioning<Number>& change : this->conditionings()) {
    const std::vector<Number> before = this->conditioned(change);
    std::vector<std::byte> codes(kRows * num_bytes), expected(kRows * num_bytes);
    EXPECT_EQ(
        this->codec()
            .encode(this->rows(), {codes.data(), kRows, num_bytes}, this->scratch_.data(), change)
            .num_encoded,
        kRows);
    EXPECT_EQ(this->codec()
                  .encode({before.data(), kRows, kWidth}, {expected.data(), kRows, num_bytes},
                          this->scratch_.data())
                  .num_encoded,
              kRows);
    EXPECT_EQ(codes, expected);
    // Decoded they are where the given rows were.
    std::vector<Number> decoded(kRows * kWidth), plain(kRows * kWidth);
    this->codec().decode({codes.data(), kRows, num_bytes}, {decoded.data(), kRows, kWidth},
                         this->scratch_.data(), change);
    this->codec().decode({codes.data(), kRows, num_bytes}, {plain.data(), kRows, kWidth},
                         this->scratch_.data());
    EXPECT_EQ(decoded, this->restored(plain, change));
  }
}

TYPED_TEST(ConditioningTest, TilesAreRowsInTiles) {
  using Number = typename TypeParam::A;
  const std::size_t num_bytes = this->codec().bytes_per_vector();
  for (const Conditioning<Number>& change : this->conditionings()) {
    std::vector<std::byte> codes(kRows * num_bytes);
    static_cast<void>(this->codec().encode(this->rows(), {codes.data(), kRows, num_bytes},
                                           this->scratch_.data(), change));
    polarquant::AlignedBuffer tile(this->codec().tile_bytes());
    EXPECT_EQ(
        this->codec()
            .encode_tile(this->rows().block(0, 20), 3, tile.data(), this->scratch_.data(), change)
            .num_encoded,
        20u);
    std::vector<std::byte> code(num_bytes);
    for (std::size_t row = 0; row < 20; ++row) {
      polarquant::read_tile_slot(tile.data(), num_bytes, 3 + row, code.data());
      EXPECT_TRUE(std::equal(code.begin(), code.end(),
                             codes.begin() + static_cast<std::ptrdiff_t>(row * num_bytes)));
    }
    std::vector<Number> decoded(23 * kWidth), expected(20 * kWidth);
    this->codec().decode_tile(tile.data(), {decoded.data(), 23, kWidth}, this->scratch_.data(),
                              change);
    this->codec().decode({codes.data(), 20, num_bytes}, {expected.data(), 20, kWidth},
                         this->scratch_.data(), change);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(decoded[3 * kWidth + i], expected[i], 1e-4);
    }
  }
}

// <q / s, s k - c> + q' . c' is q . k: raw scores are what they would be without all this.
TYPED_TEST(ConditioningTest, ScoresAreThoseOfTheDecodedRows) {
  using Number = typename TypeParam::A;
  const Codec<Number>& codec = this->codec();
  const std::size_t num_bytes = codec.bytes_per_vector();
  const std::vector<Number> query = gaussian_vector<Number>(kWidth, 5);
  for (const Conditioning<Number>& change : this->conditionings()) {
    std::vector<std::byte> codes(kRows * num_bytes);
    static_cast<void>(codec.encode(this->rows(), {codes.data(), kRows, num_bytes},
                                   this->scratch_.data(), change));
    std::vector<Number> decoded(kRows * kWidth);
    codec.decode({codes.data(), kRows, num_bytes}, {decoded.data(), kRows, kWidth},
                 this->scratch_.data(), change);
    polarquant::AlignedBuffer prepared(codec.prepared_size() * sizeof(Number));
    std::vector<Number> rotated(kWidth), center(kWidth + 8);
    codec.prepare_query(query.data(), prepared.template as<Number>(), this->scratch_.data(),
                        Number(2), change.transform, rotated.data());
    double shift = 0.0;
    if (change.center != nullptr) {
      codec.vectors().expand_center(this->code_.data(), kWidth, center.data());
      for (std::size_t i = 0; i < kWidth; ++i) {
        shift += static_cast<double>(rotated[i]) * static_cast<double>(center[i]);
      }
    }
    for (std::size_t row = 0; row < kRows; ++row) {
      double expected = 0.0, size = 0.0;
      for (std::size_t i = 0; i < kWidth; ++i) {
        const double product =
            2.0 * static_cast<double>(query[i]) * static_cast<double>(decoded[row * kWidth + i]);
        expected += product;
        size += std::fabs(product);
      }
      const double score = static_cast<double>(codec.dot(
          prepared.template as<Number>(), codes.data() + row * num_bytes, this->scratch_.data()));
      // Scales of 1 / 7 to 9 make sums of larger terms.
      EXPECT_NEAR(score + shift, expected, 3e-5 * (size + std::fabs(shift)));
    }
  }
}

// Codes must not depend on the machine.
template <typename A>
void expect_same_bits_everywhere() {
  polarquant::Random random(8);
  for (const std::size_t width : {2u, 30u, 64u, 80u, 128u, 200u}) {
    const auto matrices = polarquant_test::random_key_matrices(1, static_cast<int>(width), random);
    const std::vector<A> row = gaussian_vector<A>(width, width);
    const std::vector<A> center = gaussian_vector<A>(width, width + 1);
    std::vector<A> scales = gaussian_vector<A>(width, width + 2);
    for (A& scale : scales) scale = std::fabs(scale) + A(0.25);
    for (const KeyTransform<A>& transform :
         {KeyTransform<A>{}, KeyTransform<A>{scales.data(), nullptr, nullptr},
          matrices->template transform<A>(0)}) {
      for (const A* const subtracted : {static_cast<const A*>(nullptr), center.data()}) {
        const Conditioning<A> change{transform, subtracted};
        for (const polarquant::Isa isa : polarquant_test::available_isas()) {
          const auto kernels = polarquant::detail::choose_vector_kernels<A>(isa);
          std::vector<A> changed = row;
          kernels.condition(change, width, changed.data());
          EXPECT_EQ(changed, polarquant_test::plainly_conditioned(change, row)) << width;
          kernels.uncondition(change, width, changed.data());
          for (std::size_t i = 0; i < width; ++i) EXPECT_NEAR(changed[i], row[i], 1e-4);
          const std::vector<A> expected = polarquant_test::plainly_restored(
              change, polarquant_test::plainly_conditioned(change, row));
          EXPECT_EQ(changed, expected) << width;
        }
      }
    }
  }
}

TEST(ConditionKernelsTest, EveryInstructionSetGivesTheSameBits) {
  expect_same_bits_everywhere<float>();
  expect_same_bits_everywhere<double>();
}

}  // namespace
