// Attention to tiles in the caller's memory is that of a cache of the same tokens.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "count_allocations.hpp"
#include "kv_cache_test_util.hpp"
#include "plain_attention.hpp"
#include "polarquant/attention/tiles.hpp"

namespace {

using Eigen::Index;
using namespace polarquant;
using namespace polarquant_test;

constexpr std::size_t kNumTokens = 1300;

// A cache of all tokens as codes, and the tokens of each of its KV heads in runs of tiles: one run,
// pages of one or five tiles, or runs of any numbers of tiles.
template <typename Case>
class AttentionTilesTest : public testing::Test {
 protected:
  using T = typename Case::T;

  AttentionTilesTest() { tokens_.append_to(cache_, 0, kNumTokens); }

  struct Pages {
    std::vector<AlignedBuffer> memory;
    std::vector<TileRun> runs;

    TileRuns get() const { return {runs.data(), runs.size()}; }
  };

  // Runs of next_size() tiles, the last with what is left.
  template <typename Size>
  Pages pages_of(int head, const Size& next_size) const {
    const auto& keys = cache_.codec()->keys();
    const auto& values = cache_.codec()->values();
    AlignedBuffer scratch(std::max(keys.scratch_bytes(), values.scratch_bytes()));
    Pages pages;
    for (std::size_t first = 0; first < kNumTokens;) {
      const std::size_t num_tiles = next_size();
      pages.memory.emplace_back(num_tiles * keys.tile_bytes());
      std::byte* const key_tiles = pages.memory.back().data();
      pages.memory.emplace_back(num_tiles * values.tile_bytes());
      std::byte* const value_tiles = pages.memory.back().data();
      const std::size_t count = std::min(num_tiles * kTileTokens, kNumTokens - first);
      for (std::size_t done = 0; done < count; done += kTileTokens) {
        const std::size_t rows = std::min(kTileTokens, count - done);
        const auto side = [&](const auto& codec, const RowMatrix<T>& given, std::byte* tiles) {
          const Rows<const T> part = TokenRows<T>::rows_of(given).block(
              first + done, rows, static_cast<std::size_t>(head) * codec.head_dim());
          return codec.encode_tile(part, 0, tiles + done / kTileTokens * codec.tile_bytes(),
                                   scratch.data());
        };
        EXPECT_EQ(side(keys, tokens_.keys, key_tiles).num_encoded, rows);
        EXPECT_EQ(side(values, tokens_.values, value_tiles).num_encoded, rows);
      }
      pages.runs.push_back({key_tiles, value_tiles, count});
      first += count;
    }
    return pages;
  }

  // The options of the group of one KV head.
  static PlainOptions options_of(PlainOptions options, Index head) {
    const auto own = [head](std::vector<double>& numbers) {
      if (!numbers.empty()) {
        numbers = {numbers.begin() + head * 3, numbers.begin() + head * 3 + 3};
      }
    };
    own(options.alibi_slopes);
    own(options.sink_logits);
    return options;
  }

  Rows<const T> queries_of(Index head, Index count) const {
    return {queries_.data() + head * 96, count, queries_.cols()};
  }

  const polarquant::KVCacheConfig config_ = polarquant_test::exact_config<typename Case::Family>();
  KVCache<T> cache_ = polarquant_test::make_cache<T>(config_);
  const TokenRows<T> tokens_{config_, static_cast<Index>(kNumTokens), 1};
  const RowMatrix<T> queries_ = random_queries<T>(config_, 13);
  AlignedBuffer scratch_{polarquant::attend_tiles_scratch_bytes(*cache_.codec())};
};
TYPED_TEST_SUITE(AttentionTilesTest,
                 polarquant_test::CacheCases, );  // clang++ wants the empty one.

TYPED_TEST(AttentionTilesTest, IsThatOfACacheBitForBitInOneRun) {
  using Result = typename TypeParam::A;
  for (const Index count : {0, 1, 2, 13}) {
    const auto expected = this->cache_.attend(this->queries_.topRows(count));
    for (const int head : {0, 1}) {
      const auto pages = this->pages_of(head, [] { return std::size_t{100}; });
      RowMatrix<Result> output(count, 144);
      EXPECT_EQ(polarquant_test::count_allocations([&] {
                  attend_tiles(*this->cache_.codec(), pages.get(), this->queries_of(head, count), 3,
                               Rows<Result>(output.data(), count, 144), this->scratch_.data());
                }),
                0u);
      if (count > 0) {
        EXPECT_EQ(output, expected.middleCols(head * 144, 144));
      }
    }
  }
}

TYPED_TEST(AttentionTilesTest, IsThatOfACacheWithAnyOptionsInAnyRuns) {
  using Result = typename TypeParam::A;
  polarquant::Random random(23);
  for (int trial = 0; trial < 40; ++trial) {
    const Index count = random_int(random, 1, 13);
    PlainOptions plain = random_options(random, count, 6, kNumTokens);
    // A mask of a row per head would be another for each group.
    if (plain.mask.rows() > count) plain.mask = plain.mask.topRows(count).eval();
    const RowMatrix<double> expected =
        this->cache_.attend(this->queries_.topRows(count), OptionsOf<Result>(plain).get())
            .template cast<double>();
    const int head = trial % 2;
    const int longest = trial % 3 == 0 ? 1 : trial % 3 == 1 ? 5 : 40;
    const auto pages = this->pages_of(
        head, [&] { return static_cast<std::size_t>(random_int(random, 1, longest)); });
    const OptionsOf<Result> options(this->options_of(plain, head));
    RowMatrix<Result> output(count, 144);
    attend_tiles(*this->cache_.codec(), pages.get(), this->queries_of(head, count), 3,
                 Rows<Result>(output.data(), count, 144), this->scratch_.data(), options.get());
    ASSERT_LE((output.template cast<double>() - expected.middleCols(head * 144, 144))
                  .cwiseAbs()
                  .maxCoeff(),
              attention_tolerance<typename TypeParam::T>(48))
        << "trial " << trial;
  }
}

// The first tokens in tiles, the others in a cache: positions count from each part's own start.
TYPED_TEST(AttentionTilesTest, PartsMergeWithThoseOfOtherTokens) {
  using Result = typename TypeParam::A;
  const std::vector<double> sinks = {1.0, 2.0, -3.0, 0.0, 5.0, 1.0};
  const std::vector<Result> sink_logits(sinks.begin(), sinks.end());
  polarquant::AttentionOptions<Result> with_sinks;
  with_sinks.sink_logits = sink_logits.data();
  const auto expected = this->cache_.attend(this->queries_, with_sinks);
  for (const int head : {0, 1}) {
    auto pages = this->pages_of(head, [] { return std::size_t{7}; });
    PartialAttention<Result> part(13, this->config_), other(13, this->config_);
    polarquant::PartialRows<Result> own = part.rows();
    own.output = own.output.block(0, 13, static_cast<std::size_t>(head) * 144);
    own.softmax = own.softmax.block(0, 13, static_cast<std::size_t>(head) * 3);
    own.num_heads = 3;
    const TileRuns first = {pages.runs.data(), 3};
    const std::size_t num_first = 3 * 7 * kTileTokens;
    polarquant::AttentionOptions<Result> options;
    options.first_position = static_cast<std::ptrdiff_t>(kNumTokens - 13);
    attend_tiles_partial(*this->cache_.codec(), first, this->queries_of(head, 13), own,
                         this->scratch_.data(), options);
    // Those behind them, from the cache.
    const auto rest = this->cache_.attend_partial(this->queries_, {},
                                                  {head, 1, {num_first, kNumTokens - num_first}});
    part.merge(rest);
    const auto output = part.output(sink_logits.data());
    EXPECT_LE((output - expected).middleCols(head * 144, 144).cwiseAbs().maxCoeff(),
              attention_tolerance<typename TypeParam::T>(48));
    // A part that sees nothing.
    options.first_position = -1 - 13;
    attend_tiles_partial(*this->cache_.codec(), first, this->queries_of(head, 13), own,
                         this->scratch_.data(), options);
    EXPECT_EQ(own.softmax.row(12)[2].sum, Result(0));
  }
}

// Runs with centres and transforms of their own, as an engine would make them: attention is that
// over what they decode to.
TYPED_TEST(AttentionTilesTest, RunsMayBeCentredAndTransformed) {
  using Number = typename TypeParam::T;
  using Result = typename TypeParam::A;
  polarquant::Random random(23);
  const polarquant::KVCodec<Result>& codec = *this->cache_.codec();
  std::vector<Result> scales;
  for (int i = 0; i < 32; ++i)
    scales.push_back(static_cast<Result>(std::exp(0.5 * random.gaussian())));
  const auto matrices = random_key_matrices(1, 32, random);
  for (const KeyTransform<Result>& transform :
       {KeyTransform<Result>{scales.data(), nullptr, nullptr},
        matrices->template transform<Result>(0)}) {
    AlignedBuffer scratch(std::max(codec.keys().scratch_bytes(), codec.values().scratch_bytes()));
    std::vector<AlignedBuffer> memory;
    std::vector<TileRun> runs;
    RowMatrix<double> decoded[2] = {RowMatrix<double>(kNumTokens, 32),
                                    RowMatrix<double>(kNumTokens, 48)};
    for (std::size_t first = 0; first < kNumTokens;) {
      const auto num_tiles = static_cast<std::size_t>(random_int(random, 1, 20));
      const std::size_t count = std::min(num_tiles * kTileTokens, kNumTokens - first);
      TileRun run;
      run.num_tokens = count;
      const auto side = [&](const auto& own, const RowMatrix<Number>& given, bool is_key,
                            const std::byte*& tiles, const std::byte*& centers) {
        memory.emplace_back(num_tiles * own.tile_bytes());
        std::byte* const tile_memory = memory.back().data();
        const std::size_t num_spans = (count + kSpanTokens - 1) / kSpanTokens;
        memory.emplace_back(num_spans * own.center_bytes());
        std::byte* const center_memory = memory.back().data();
        std::vector<Result> center(own.head_dim());
        for (std::size_t done = 0; done < count; done += kTileTokens) {
          const std::size_t rows = std::min(kTileTokens, count - done);
          std::byte* const code = center_memory + done / kSpanTokens * own.center_bytes();
          if (done % kSpanTokens == 0) {
            for (Result& x : center) x = static_cast<Result>(2.0 * random.gaussian());
            own.encode_center(center.data(), code, scratch.data());
            own.decode_center(code, center.data(), scratch.data());
          }
          const Conditioning<Result> change = {is_key ? transform : KeyTransform<Result>{},
                                               center.data()};
          std::byte* const tile = tile_memory + done / kTileTokens * own.tile_bytes();
          EXPECT_EQ(own.encode_tile(TokenRows<Number>::rows_of(given).block(first + done, rows), 0,
                                    tile, scratch.data(), change)
                        .num_encoded,
                    rows);
          RowMatrix<Result> back(static_cast<Index>(rows), static_cast<Index>(own.head_dim()));
          own.decode_tile(tile, {back.data(), back.rows(), back.cols()}, scratch.data(), change);
          decoded[!is_key].middleRows(static_cast<Index>(first + done), static_cast<Index>(rows)) =
              back.template cast<double>();
        }
        tiles = tile_memory;
        centers = center_memory;
      };
      side(codec.keys(), this->tokens_.keys, true, run.keys, run.key_centers);
      side(codec.values(), this->tokens_.values, false, run.values, run.value_centers);
      runs.push_back(run);
      first += count;
    }
    for (int trial = 0; trial < 10; ++trial) {
      const PlainOptions plain = random_options(random, 5, 3, static_cast<Index>(kNumTokens));
      const OptionsOf<Result> options(plain);
      RowMatrix<Result> output(5, 144);
      attend_tiles(codec, {runs.data(), runs.size()}, this->queries_of(0, 5), 3,
                   Rows<Result>(output.data(), 5, 144), this->scratch_.data(), options.get(),
                   transform);
      const RowMatrix<double> expected =
          plain_attention({decoded[0]}, {decoded[1]},
                          this->queries_.topRows(5).leftCols(96).template cast<double>(), plain,
                          std::vector<bool>(kNumTokens));
      ASSERT_LE((output.template cast<double>() - expected).cwiseAbs().maxCoeff(),
                30 * attention_tolerance<Number>(48))
          << "trial " << trial;
    }
  }
}

TYPED_TEST(AttentionTilesTest, NoTokensGiveZeros) {
  using Result = typename TypeParam::A;
  RowMatrix<Result> output = RowMatrix<Result>::Constant(2, 144, Result(7));
  attend_tiles(*this->cache_.codec(), TileRuns{}, this->queries_of(0, 2), 3,
               Rows<Result>(output.data(), 2, 144), this->scratch_.data());
  EXPECT_EQ(output.cwiseAbs().maxCoeff(), Result(0));
}

}  // namespace
