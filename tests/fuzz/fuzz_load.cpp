// Any bytes, loaded: an exception of the kind that load documents, or a cache that works and, if
// they are of the latest version, is saved as the same bytes. What a fuzzer cannot guess, the
// checksums, is put right for it.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <polarquant/polarquant.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using polarquant::KVCache;
using polarquant::KVCacheConfig;
using polarquant::PolarFormat;
using polarquant::RowMatrix;
using polarquant::detail::Checksum;

// Two caches to load into: plain, and with exact tokens and centring.
const KVCache<float>& model(bool has_segments) {
  const auto make = [](bool segments) {
    KVCacheConfig config;
    config.key_format = PolarFormat::paper(16);
    config.value_format = PolarFormat::full_depth(16, 4.0);
    config.rotation = polarquant::RotationKind::kHadamard;
    config.num_sink_tokens = segments ? 2 : 0;
    config.num_recent_tokens = segments ? 3 : 0;
    config.centering = segments ? polarquant::Centering::kLocal : polarquant::Centering::kNone;
    config.exact_type = polarquant::FloatType::kFloat16;  // as in the corpus
    return KVCache<float>(config);
  };
  static const KVCache<float> plain = make(false);
  static const KVCache<float> segments = make(true);
  return has_segments ? segments : plain;
}

void put_checksum(std::vector<std::byte>& bytes, std::size_t begin, std::size_t end) {
  Checksum checksum;
  checksum.add(bytes.data() + begin, end - begin);
  const std::uint64_t sum = checksum.value();
  std::memcpy(bytes.data() + end, &sum, sizeof sum);
}

// Makes the checksum of the header, and of every section that is complete, right.
void repair(std::vector<std::byte>& bytes) {
  if (bytes.size() < polarquant::detail::kSavedHeaderBytes) return;
  put_checksum(bytes, 0, 24);
  std::size_t begin = polarquant::detail::kSavedHeaderBytes;
  while (bytes.size() - begin >= polarquant::detail::kSectionFrameBytes) {
    std::uint64_t content;
    std::memcpy(&content, bytes.data() + begin + 8, sizeof content);
    if (content > bytes.size()) return;
    const std::size_t end = begin + polarquant::detail::section_bytes(content);
    if (end > bytes.size()) return;
    put_checksum(bytes, begin, end - 8);
    begin = end;
  }
}

void check(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

// The first byte: bit 0 the model, bit 1 whether checksums are put right, bit 2 from a stream.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const unsigned choice = data[0];
  std::vector<std::byte> bytes(size - 1);
  if (size > 1) std::memcpy(bytes.data(), data + 1, size - 1);
  if ((choice & 2u) != 0) repair(bytes);
  try {
    static_cast<void>(polarquant::read_saved_info(bytes.data(), bytes.size()));
  } catch (const std::runtime_error&) {
  }
  const KVCache<float>& like = model((choice & 1u) != 0);
  KVCache<float> cache(like.config(), like.codec());
  std::size_t num_read = 0;
  try {
    if ((choice & 4u) != 0) {
      std::istringstream stream(
          std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
      polarquant::load(stream, cache);
      num_read = polarquant::saved_bytes(cache);
    } else {
      num_read = polarquant::load(bytes.data(), bytes.size(), cache);
    }
  } catch (const std::runtime_error&) {
    check(cache.num_tokens() == 0);
    return 0;
  }
  std::vector<std::byte> again(polarquant::saved_bytes(cache));
  polarquant::save(cache, again.data(), again.size());
  // What was read as version 1 is saved as version 2.
  if (bytes[8] == std::byte{polarquant::detail::kSavedVersion}) {
    check(again.size() == num_read);
    check((choice & 2u) != 0 || std::equal(again.begin(), again.end(), bytes.begin()));
  }
  const RowMatrix<float> row = RowMatrix<float>::Ones(1, 16);
  static_cast<void>(cache.attend(row));
  cache.append(row, row);
  static_cast<void>(cache.decode_keys(0));
  cache.truncate(cache.num_tokens() / 2);
  return 0;
}
