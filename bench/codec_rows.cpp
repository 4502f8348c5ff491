// Single rows in the caller's memory, encoding, decoding and appending.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "heads.hpp"
#include "rows.hpp"
#include "sides.hpp"

namespace polarquant_bench {
namespace {

using polarquant::kTileTokens;
using polarquant::KVCodec;

void name_codec(const polarquant::Codec<float>& codec, Work& work) {
  work.kernel = codec.kernel_name();
  work.bits = codec.format().bits_per_coordinate();
}

double relative_mse(const RowMatrix<float>& decoded, const RowMatrix<float>& rows) {
  return (decoded - rows).squaredNorm() / rows.squaredNorm();
}

}  // namespace

Work dot_work(const Row& row) {
  const auto inputs = inputs_of(row);
  const auto codec = std::make_shared<const KVCodec<float>>(config_of(row));
  const auto scratch = std::make_shared<Scratch>(codec->keys().scratch_bytes());
  const auto prepared = std::make_shared<Scratch>(codec->keys().prepared_size() * sizeof(float));
  const std::size_t bytes = codec->keys().bytes_per_vector();
  const std::size_t num_tokens = size_of(row.num_tokens);
  const auto codes = std::make_shared<CopiedHeads>(
      bytes * num_tokens, num_heads_for(bytes * num_tokens, row.memory_bytes));
  require_encoded(codec->keys().encode(
      rows_of(inputs->keys), {codes->head<std::byte>(0), num_tokens, bytes}, scratch->data()));
  codes->copy();
  float* const query = reinterpret_cast<float*>(prepared->data());
  codec->keys().prepare_query(inputs->queries.data(), query, scratch->data());

  constexpr std::size_t kAhead = polarquant_baselines::kPrefetchBytes;
  Work work;
  name_codec(codec->keys(), work);
  Side ours = {"ours", static_cast<double>(row.num_tokens),
               static_cast<double>(bytes) * row.num_tokens, nullptr,
               std::make_shared<RowMatrix<float>>(1, row.num_tokens)};
  ours.run = [=, turn = std::make_shared<Turn>(codes->size()), result = ours.result,
              one_by_one = row.operation == "dot"] {
    static_cast<void>(prepared);
    const std::byte* const code = codes->head<std::byte>(turn->next());
    if (one_by_one) {
      for (std::size_t t = 0; t < num_tokens; ++t) {
        result->data()[t] = codec->keys().dot(query, code + t * bytes, scratch->data());
      }
    } else {
      codec->keys().dot_rows({query, 1, codec->keys().prepared_size()}, {code, num_tokens, bytes},
                             rows_of(*result), scratch->data());
    }
  };
  work.sides.push_back(ours);
  const auto heads = float16_heads(row, *inputs);
  for (const NamedKernels& built : float16_kernels(row.isa)) {
    Side side = {built.name, static_cast<double>(row.num_tokens),
                 2.0 * row.num_tokens * row.head_dim, nullptr,
                 std::make_shared<RowMatrix<float>>(1, row.num_tokens)};
    side.run = [=, dot = built.kernels.dot, scores = side.result->data()] {
      const auto keys = heads->keys_of(heads->turn.next());
      for (std::size_t t = 0; t < num_tokens; ++t) {
        const std::uint16_t* const key = keys.row(t);
        for (std::size_t i = 0; i < keys.stride; i += 32) {
          __builtin_prefetch(reinterpret_cast<const std::byte*>(key + i) + kAhead);
        }
        scores[t] = dot(key, keys.stride, inputs->queries.data());
      }
    };
    work.sides.push_back(side);
  }
  ours.run();
  RowMatrix<float> decoded(row.num_tokens, row.head_dim);
  codec->keys().decode({codes->head<std::byte>(0), num_tokens, bytes}, rows_of(decoded),
                       scratch->data());
  const auto error_to = [&](const RowMatrix<float>& keys) {
    const RowMatrix<double> exact =
        inputs->queries.cast<double>() * keys.cast<double>().transpose();
    return (ours.result->cast<double>() - exact).norm() / exact.norm();
  };
  work.error = error_to(inputs->keys);
  work.error_decoded = error_to(decoded);
  return work;
}

Work encode_work(const Row& row) {
  const auto inputs = inputs_of(row);
  KVCacheConfig config = config_of(row);
  config.rotation = row.operation == "encode_hadamard" ? polarquant::RotationKind::kHadamard
                                                       : polarquant::RotationKind::kHaar;
  const auto codec = std::make_shared<const KVCodec<float>>(config);
  const auto scratch = std::make_shared<Scratch>(codec->keys().scratch_bytes());
  const std::size_t bytes = codec->keys().bytes_per_vector();
  const std::size_t num_tokens = size_of(row.num_tokens);
  const auto codes = std::make_shared<CopiedHeads>(bytes * num_tokens, 1);
  Work work;
  name_codec(codec->keys(), work);
  work.sides.push_back({"ours", static_cast<double>(row.num_tokens),
                        static_cast<double>(bytes) * row.num_tokens, [=] {
                          constexpr std::size_t kBatch = 64;
                          for (std::size_t t = 0; t < num_tokens; t += kBatch) {
                            const std::size_t count = std::min(kBatch, num_tokens - t);
                            require_encoded(codec->keys().encode(
                                {inputs->keys.data() + t * codec->keys().head_dim(), count,
                                 codec->keys().head_dim()},
                                {codes->head<std::byte>(0) + t * bytes, count, bytes},
                                scratch->data()));
                          }
                        }});
  work.sides.front().run();
  RowMatrix<float> decoded(row.num_tokens, row.head_dim);
  codec->keys().decode({codes->head<std::byte>(0), num_tokens, bytes}, rows_of(decoded),
                       scratch->data());
  work.error = relative_mse(decoded, inputs->keys);
  return work;
}

Work decode_work(const Row& row) {
  const auto inputs = inputs_of(row);
  const auto codec = std::make_shared<const KVCodec<float>>(config_of(row));
  const auto scratch = std::make_shared<Scratch>(codec->keys().scratch_bytes());
  const std::size_t tile_bytes = polarquant::tile_bytes(codec->keys().bytes_per_vector());
  const std::size_t num_tiles = size_of(row.num_tokens) / kTileTokens;
  const std::size_t head_dim = codec->keys().head_dim();
  const auto tiles = std::make_shared<CopiedHeads>(num_tiles * tile_bytes, 1);
  for (std::size_t i = 0; i < num_tiles; ++i) {
    require_encoded(codec->keys().encode_tile(
        {inputs->keys.data() + i * kTileTokens * head_dim, kTileTokens, head_dim}, 0,
        tiles->head<std::byte>(0) + i * tile_bytes, scratch->data()));
  }
  Work work;
  name_codec(codec->keys(), work);
  // Into one tile's memory: what matters is decoding, not storing.
  const auto decoded =
      std::make_shared<RowMatrix<float>>(static_cast<Eigen::Index>(kTileTokens), row.head_dim);
  work.sides.push_back({"ours", static_cast<double>(num_tiles * kTileTokens),
                        static_cast<double>(num_tiles * tile_bytes), [=] {
                          for (std::size_t i = 0; i < num_tiles; ++i) {
                            codec->keys().decode_tile(tiles->head<std::byte>(0) + i * tile_bytes,
                                                      rows_of(*decoded), scratch->data());
                          }
                        }});
  work.sides.front().run();
  work.error = relative_mse(
      *decoded, inputs->keys.middleRows(static_cast<Eigen::Index>((num_tiles - 1) * kTileTokens),
                                        static_cast<Eigen::Index>(kTileTokens)));
  return work;
}

// With a window of recent tokens, as by default: they are encoded a tile at a time.
Work append_work(const Row& row) {
  const auto inputs = inputs_of(row);
  KVCacheConfig config = config_of(row);
  config.num_recent_tokens = KVCacheConfig().num_recent_tokens;
  const auto cache = std::make_shared<KVCache<float>>(config);
  cache->reserve(size_of(row.num_tokens));
  const auto scratch = std::make_shared<Scratch>(cache->scratch_bytes());
  const auto append_by = [=](std::size_t step) {
    return [=] {
      cache->clear();
      for (std::size_t t = 0; t < size_of(row.num_tokens); t += step) {
        const std::size_t count = std::min(step, size_of(row.num_tokens) - t);
        const Rows<const float> keys = rows_of(inputs->keys);
        const Rows<const float> values = rows_of(inputs->values);
        require_encoded(
            cache->append(keys.block(t, count), values.block(t, count), scratch->data()));
      }
    };
  };
  Work work;
  name_codec(cache->codec()->keys(), work);
  const double num_bytes = static_cast<double>(cache->bytes_per_token()) * row.num_tokens;
  work.sides.push_back({"ours", static_cast<double>(row.num_tokens), num_bytes, append_by(1)});
  work.sides.push_back(
      {"batches of 512", static_cast<double>(row.num_tokens), num_bytes, append_by(512)});
  return work;
}

}  // namespace polarquant_bench
