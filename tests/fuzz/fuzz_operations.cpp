// Operations on a cache, chosen by the input, against a plain list of tokens.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <polarquant/polarquant.hpp>
#include <utility>
#include <vector>

#include "plain_cache.hpp"
#include "test_util.hpp"

namespace {

using polarquant::KVCache;
using polarquant::KVCacheConfig;
using polarquant::PolarFormat;
using polarquant::RowMatrix;
using polarquant_test::gaussian_matrix;
using polarquant_test::PlainCache;

// The input, byte by byte; zeros when it is spent.
struct Input {
  const std::uint8_t* data;
  std::size_t size;

  bool is_spent() const { return size == 0; }
  std::size_t next() {
    if (size == 0) return 0;
    --size;
    return *data++;
  }
};

void check(bool holds) {
  if (!holds) std::abort();
}

KVCacheConfig config_of(Input& input) {
  // Made once: allocating bits to levels, and the codebooks that saving asks for, take longer than
  // all the rest.
  static const polarquant::CodecFormat keys = PolarFormat::paper(16);
  static const polarquant::CodecFormat values = PolarFormat::full_depth(16, 4.0);
  KVCacheConfig config;
  config.num_query_heads = 2;
  config.key_format = keys;
  config.value_format = values;
  config.rotation = polarquant::RotationKind::kHadamard;
  config.num_sink_tokens = input.next() % 8;
  config.num_recent_tokens = input.next() % 80;
  config.exact_type = polarquant::FloatType::kFloat32;
  config.centering =
      input.next() % 2 == 0 ? polarquant::Centering::kNone : polarquant::Centering::kLocal;
  return config;
}

void expect_equal(const KVCache<float>& cache, const PlainCache<float>& plain) {
  check(cache.num_tokens() == plain.num_tokens());
  check(cache.num_encoded_tokens() == plain.num_encoded());
  check(cache.capacity() >= cache.num_tokens());
  const std::vector<bool> removed = plain.removed();
  std::size_t num_removed = 0;
  for (const polarquant::TokenRange& range : cache.removed_tokens()) {
    num_removed += range.count;
    for (std::size_t i = 0; i < range.count; ++i) check(removed[range.first + i]);
  }
  check(num_removed == static_cast<std::size_t>(std::count(removed.begin(), removed.end(), true)));
  for (const bool of_values : {false, true}) {
    const RowMatrix<float> rows = of_values ? cache.decode_values(0) : cache.decode_keys(0);
    const RowMatrix<double> expected = plain.rows(of_values, 0);
    check(rows.rows() == expected.rows());
    for (Eigen::Index i = 0; i < rows.size(); ++i) {
      check(std::fabs(static_cast<double>(rows.data()[i]) - expected.data()[i]) < 2e-5);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // All caches have the same codec: making one takes longer than all the rest.
  static const std::shared_ptr<const polarquant::KVCodec<float>> codec = [] {
    Input none{nullptr, 0};
    return std::make_shared<const polarquant::KVCodec<float>>(config_of(none));
  }();
  Input input{data, size};
  const KVCacheConfig config = config_of(input);
  KVCache<float> cache(config, codec);
  PlainCache<float> plain(config, codec);
  std::vector<std::pair<KVCache<float>, PlainCache<float>>> copies;
  for (int step = 0; step < 24 && !input.is_spent(); ++step) {
    const std::size_t operation = input.next() % 12;
    const std::size_t argument = input.next();
    switch (operation) {
      case 0:
      case 1:
      case 2: {
        const auto count = static_cast<Eigen::Index>(operation == 0 ? argument % 4 : argument % 80);
        const RowMatrix<float> rows = gaussian_matrix<float>(count, 16, argument + 1);
        cache.append(rows, rows);
        plain.append(rows, rows);
        break;
      }
      case 3: {
        const std::size_t kept = cache.num_tokens() - std::min(cache.num_tokens(), argument);
        cache.truncate(kept);
        plain.truncate(kept);
        break;
      }
      case 4:
        check(cache.drop_front(argument) == plain.drop_front(argument));
        break;
      case 5:
        cache.encode_recent(argument);
        plain.encode_recent(argument);
        break;
      case 6:
        cache.shrink();
        break;
      case 7:
        cache.reserve(4 * argument);
        break;
      case 8:
        if (copies.size() < 3) copies.emplace_back(cache.copy(), plain);
        break;
      case 9:
        if (!copies.empty()) {
          std::swap(cache, copies[argument % copies.size()].first);
          std::swap(plain, copies[argument % copies.size()].second);
        }
        break;
      case 10: {
        std::vector<std::byte> bytes(polarquant::saved_bytes(cache));
        polarquant::save(cache, bytes.data(), bytes.size());
        KVCache<float> other(config, codec);
        polarquant::load(bytes.data(), bytes.size(), other);
        cache = std::move(other);
        break;
      }
      default:
        if (argument % 4 == 0) {
          cache.clear();
          plain.clear();
        } else {
          const std::size_t first = std::min(cache.num_tokens(), argument);
          const std::size_t count = std::min(cache.num_tokens() - first, argument / 2);
          cache.remove({first, count});
          plain.remove(first, count);
        }
    }
    check(cache.attend(RowMatrix<float>::Ones(2, 32)).allFinite());
  }
  expect_equal(cache, plain);
  for (const auto& [copy, plain_copy] : copies) expect_equal(copy, plain_copy);
  return 0;
}
