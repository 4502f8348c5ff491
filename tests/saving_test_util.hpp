// What the tests of saving and loading share: bytes of saved caches, read without the library, and
// the recipes of the files in tests/saved.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <stdexcept>
#include <streambuf>
#include <string>
#include <utility>
#include <vector>

#include "kv_cache_test_util.hpp"
#include "plain_cache.hpp"

namespace polarquant_test {

using Bytes = std::vector<std::byte>;

template <typename T>
Bytes saved(const polarquant::KVCache<T>& cache) {
  Bytes bytes(polarquant::saved_bytes(cache));
  EXPECT_EQ(polarquant::save(cache, bytes.data(), bytes.size()), bytes.size());
  return bytes;
}

template <typename T>
polarquant::KVCache<T> loaded(const Bytes& bytes, const polarquant::KVCacheConfig& config) {
  polarquant::KVCache<T> cache = make_cache<T>(config);
  EXPECT_EQ(polarquant::load(bytes.data(), bytes.size(), cache), bytes.size());
  return cache;
}

// The error of loading bytes into a cache, which must not change for it.
inline std::string loading_error(
    const Bytes& bytes, polarquant::KVCache<float> cache = make_cache<float>(make_config())) {
  append_random(cache, 3, 8);
  const CacheState<float> before(cache);
  std::string message =
      message_of<std::runtime_error>([&] { polarquant::load(bytes.data(), bytes.size(), cache); });
  EXPECT_TRUE(state_of(cache) == before);
  return message;
}

// ---- Bytes, without the library ----

inline Bytes file_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  const std::vector<char> text(std::istreambuf_iterator<char>(file), {});
  Bytes bytes(text.size());
  if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

inline std::uint64_t number_at(const Bytes& bytes, std::size_t offset) {
  std::uint64_t number;
  std::memcpy(&number, bytes.data() + offset, sizeof number);
  return number;
}

// The contents of the sections behind the header of 32 bytes, by name.
inline std::map<std::string, Bytes> sections_of(const Bytes& bytes) {
  std::map<std::string, Bytes> sections;
  for (std::size_t begin = 32; begin < bytes.size();) {
    const std::string name(reinterpret_cast<const char*>(bytes.data() + begin), 4);
    const auto size = static_cast<std::size_t>(number_at(bytes, begin + 8));
    const auto first = bytes.begin() + static_cast<std::ptrdiff_t>(begin + 16);
    sections[name] = Bytes(first, first + static_cast<std::ptrdiff_t>(size));
    begin += 16 + (size + 7) / 8 * 8 + 8;
  }
  return sections;
}

// Where a section begins.
inline std::size_t section_at(const Bytes& bytes, const char* name) {
  for (std::size_t i = 32;; ++i) {
    if (std::memcmp(bytes.data() + i, name, 4) == 0) return i;
  }
}

// Puts a number into the header or a section, and the checksum right again.
inline void forge(Bytes& bytes, std::size_t offset, std::uint64_t value, std::size_t begin,
                  std::size_t end) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
  polarquant::detail::Checksum checksum;
  checksum.add(bytes.data() + begin, end - begin);
  const std::uint64_t sum = checksum.value();
  std::memcpy(bytes.data() + end, &sum, sizeof sum);
}

// Number `index` of a section.
inline void forge_number(Bytes& bytes, const char* section, std::size_t index,
                         std::uint64_t value) {
  const std::size_t begin = section_at(bytes, section);
  const auto size = static_cast<std::size_t>(number_at(bytes, begin + 8));
  forge(bytes, begin + 16 + 8 * index, value, begin, begin + 16 + (size + 7) / 8 * 8);
}

// A stream that cannot tell its size; or one that can tell where it is and not go elsewhere, like
// Boost's gzip filter.
class PipeBuffer : public std::streambuf {
 public:
  explicit PipeBuffer(Bytes bytes, bool can_tell = false)
      : bytes_(std::move(bytes)), can_tell_(can_tell) {
    char* const begin = reinterpret_cast<char*>(bytes_.data());
    setg(begin, begin, begin + bytes_.size());
  }

 protected:
  pos_type seekoff(off_type offset, std::ios::seekdir from, std::ios::openmode) override {
    if (!can_tell_ || from != std::ios::cur || offset != 0) return pos_type(off_type(-1));
    return pos_type(gptr() - eback());
  }

 private:
  Bytes bytes_;
  bool can_tell_;
};

// ---- How the files of tests/saved were made ----

// tests/saved/version_1/README.md.
inline float datum(int token, int column) {
  return static_cast<float>((token * 7919 + column * 104729) % 2001 - 1000) / 512.0f +
         static_cast<float>(column % 5 - 2);
}

template <typename T>
polarquant::RowMatrix<T> saved_rows(int first, int count, std::size_t columns) {
  polarquant::RowMatrix<T> rows(count, static_cast<Eigen::Index>(columns));
  for (Eigen::Index i = 0; i < rows.size(); ++i) {
    const int token = first + static_cast<int>(i / rows.cols());
    rows.data()[i] = static_cast<T>(datum(token, static_cast<int>(i % rows.cols())));
  }
  return rows;
}

struct SavedStep {
  enum Kind { kAppend, kTruncate, kEncodeRecent, kDropFront, kRemove } kind;
  int first = 0;  // a token, of the data for kAppend
  int count = 0;  // tokens
};

// A file of tests/saved: the cache, and what was done to it.
struct SavedFile {
  std::string name;
  polarquant::FloatType type = polarquant::FloatType::kFloat32;  // T
  polarquant::KVCacheConfig config;
  std::vector<SavedStep> steps;
  std::size_t num_tokens = 0;
  std::size_t num_encoded = 0;
};

template <typename T>
void replay(const std::vector<SavedStep>& steps, polarquant::KVCache<T>& cache) {
  for (const SavedStep& step : steps) {
    const auto first = static_cast<std::size_t>(step.first);
    const auto count = static_cast<std::size_t>(step.count);
    switch (step.kind) {
      case SavedStep::kAppend:
        cache.append(saved_rows<T>(step.first, step.count, cache.config().key_columns()),
                     saved_rows<T>(5000 + step.first, step.count, cache.config().value_columns()));
        break;
      case SavedStep::kTruncate:
        cache.truncate(count);
        break;
      case SavedStep::kEncodeRecent:
        cache.encode_recent();
        break;
      case SavedStep::kDropFront:
        cache.drop_front(count);
        break;
      case SavedStep::kRemove:
        cache.remove({first, count});
    }
  }
}

// Calls visit(T()) for the type that a file was made with.
template <typename Visit>
void visit_type(polarquant::FloatType type, const Visit& visit) {
  switch (type) {
    case polarquant::FloatType::kBFloat16:
      return visit(Eigen::bfloat16());
    case polarquant::FloatType::kFloat16:
      return visit(Eigen::half());
    case polarquant::FloatType::kFloat32:
      return visit(float());
    case polarquant::FloatType::kFloat64:
      return visit(double());
  }
}

// The name of a file as the name of a test: SnakeCase.
inline std::string name_of_file(const testing::TestParamInfo<SavedFile>& test) {
  std::string name;
  bool is_first = true;
  for (const char c : test.param.name) {
    if (c != '_') name += is_first ? static_cast<char>(std::toupper(c)) : c;
    is_first = c == '_';
  }
  return name;
}

inline std::size_t num_saved_files(const std::string& folder) {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    count += entry.path().extension() == ".polarkv";
  }
  return count;
}

// One number of a type, from its bytes.
inline double stored_number(polarquant::FloatType type, const std::byte* bytes) {
  std::uint16_t word;
  std::memcpy(&word, bytes, sizeof word);
  float number;
  double wide;
  switch (type) {
    case polarquant::FloatType::kBFloat16:
      return static_cast<double>(
          static_cast<float>(Eigen::numext::bit_cast<Eigen::bfloat16>(word)));
    case polarquant::FloatType::kFloat16:
      return static_cast<double>(static_cast<float>(Eigen::numext::bit_cast<Eigen::half>(word)));
    case polarquant::FloatType::kFloat32:
      std::memcpy(&number, bytes, sizeof number);
      return static_cast<double>(number);
    case polarquant::FloatType::kFloat64:
      break;
  }
  std::memcpy(&wide, bytes, sizeof wide);
  return wide;
}

// A loaded cache against the sections of its file, byte by byte: codes, exact rows, given means.
template <typename T>
void expect_sections(const polarquant::KVCache<T>& cache, const Bytes& bytes) {
  using A = AccumulatorOf<T>;
  std::map<std::string, Bytes> sections = sections_of(bytes);
  const polarquant::KVCacheConfig& config = cache.config();
  const polarquant::FloatType type = config.exact_type.value_or(own_type<T>());
  const auto width = static_cast<std::size_t>(polarquant::float_type_bytes(type));
  const std::size_t num_sinks = std::min(cache.num_tokens(), config.num_sink_tokens);
  const std::size_t num_encoded = cache.num_encoded_tokens();
  const std::size_t num_recent = cache.num_tokens() - num_sinks - num_encoded;
  const std::byte* mean = sections["MEAN"].data();
  const std::byte* sink = sections["SINK"].data();
  const std::byte* code = sections["CODE"].data();
  const std::byte* recent = sections["LAST"].data();
  for (int head = 0; head < config.num_kv_heads; ++head) {
    for (const bool of_values : {false, true}) {
      const auto rows = of_values ? cache.decode_values(head) : cache.decode_keys(head);
      const auto expect_rows = [&](std::size_t first, std::size_t count, const std::byte*& stored) {
        for (std::size_t token = first; token < first + count; ++token) {
          for (Eigen::Index i = 0; i < rows.cols(); ++i) {
            ASSERT_EQ(rows(static_cast<Eigen::Index>(token), i),
                      static_cast<A>(stored_number(type, stored)))
                << "token " << token;
            stored += width;
          }
        }
      };
      expect_rows(0, num_sinks, sink);
      expect_rows(num_sinks + num_encoded, num_recent, recent);
      for (std::size_t token = num_sinks; token < num_sinks + num_encoded; ++token) {
        const Bytes own = of_values ? cache.value_code(head, token) : cache.key_code(head, token);
        ASSERT_EQ(std::memcmp(own.data(), code, own.size()), 0) << "token " << token;
        code += own.size();
      }
      if (num_encoded == 0 || config.centering != polarquant::Centering::kGiven) continue;
      for (const A entry :
           of_values ? cache.value_center(head, num_sinks) : cache.key_center(head, num_sinks)) {
        ASSERT_EQ(entry, static_cast<A>(stored_number(polarquant::FloatType::kFloat64, mean)));
        mean += sizeof(double);
      }
    }
  }
  if (num_encoded > 0) {
    EXPECT_EQ(mean, sections["MEAN"].data() + sections["MEAN"].size());
  }
  EXPECT_EQ(sink, sections["SINK"].data() + sections["SINK"].size());
  EXPECT_EQ(code, sections["CODE"].data() + sections["CODE"].size());
  EXPECT_EQ(recent, sections["LAST"].data() + sections["LAST"].size());
}

// A cache loaded from bytes of an earlier version, and what is saved of it and loaded again.
template <typename T>
void expect_saved_again(polarquant::KVCache<T>& cache, const Bytes& bytes) {
  expect_sections(cache, bytes);
  const Bytes again = saved(cache);
  ASSERT_EQ(number_at(again, 8), polarquant::detail::kSavedVersion);
  polarquant::KVCache<T> other(cache.config(), cache.codec());
  ASSERT_EQ(polarquant::load(again.data(), again.size(), other), again.size());
  EXPECT_TRUE(state_of(other) == state_of(cache));
  expect_sections(other, bytes);
  EXPECT_EQ(saved(other), again);
  // It goes on as the cache that was saved.
  for (polarquant::KVCache<T>* const each : {&cache, &other}) {
    replay({{SavedStep::kAppend, 900, 200}}, *each);
  }
  EXPECT_TRUE(state_of(other) == state_of(cache));
}

}  // namespace polarquant_test
