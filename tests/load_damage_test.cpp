// Bytes that are no saved cache, or a damaged one: an error that says so, and a cache as before.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

#include "counting_memory.hpp"
#include "polarquant/saving/load.hpp"
#include "saving_test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

// With sinks, codes, recent tokens, means and a hole.
KVCache<float> cache_with_everything() {
  auto cache = filled_cache<float>(90, polarquant_test::segments_config(4, 30, Centering::kLocal));
  cache.remove({20, 10});
  return cache;
}

std::string text_of(const Bytes& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(DamageTest, EveryFlippedByteIsDetected) {
  for (const bool has_everything : {false, true}) {
    const KVCache<float> like = has_everything ? cache_with_everything() : filled_cache<float>(3);
    const Bytes bytes = saved(like);
    const auto info = read_saved_info(bytes.data(), bytes.size());
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      Bytes damaged = bytes;
      damaged[i] ^= std::byte{0x10};
      auto cache = make_cache<float>(like.config());
      EXPECT_NE(
          message_of<std::runtime_error>([&] { load(damaged.data(), damaged.size(), cache); }), "")
          << "byte " << i;
      EXPECT_EQ(cache.num_tokens(), 0u);
      // What it says of itself is read no further than its sizes; some of what is behind them.
      if (i > section_at(bytes, "HOLE") && i % 101 != 0) continue;
      try {
        EXPECT_EQ(read_saved_info(damaged.data(), damaged.size()).num_tokens, info.num_tokens);
      } catch (const std::runtime_error&) {
      }
    }
  }
}

TEST(DamageTest, EveryTruncationIsDetected) {
  const Bytes bytes = saved(filled_cache<float>(3));
  EXPECT_EQ(loading_error({}), "polarquant: loading: there are no bytes, it is empty");
  for (std::size_t size = 1; size < bytes.size(); ++size) {
    const Bytes truncated(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_NE(loading_error(truncated).find("truncated"), std::string::npos) << size << " bytes";
    std::istringstream stream(text_of(truncated));
    auto cache = make_cache<float>(make_config());
    EXPECT_NE(message_of<std::runtime_error>([&] { load(stream, cache); }).find("truncated"),
              std::string::npos)
        << size;
    EXPECT_EQ(cache.num_tokens(), 0u);
    EXPECT_NE(message_of<std::runtime_error>([&] {
                read_saved_info(truncated.data(), truncated.size());
              }).find("truncated"),
              std::string::npos)
        << size;
  }
}

TEST(DamageTest, AForeignFileIsToldFromADamagedOne) {
  EXPECT_EQ(loading_error(Bytes(1000)),
            "polarquant: loading: this is no saved cache, it does not begin with \"PolarKV\"");
  Bytes bytes = saved(filled_cache<float>(3));
  bytes[12] ^= std::byte{1};
  EXPECT_EQ(loading_error(bytes),
            "polarquant: loading: the checksum of the header is wrong: damaged");
  bytes = saved(filled_cache<float>(3));
  bytes[bytes.size() - 20] ^= std::byte{1};
  EXPECT_EQ(loading_error(bytes),
            "polarquant: loading: no section \"LAST\" where it must be: damaged");
  bytes = saved(filled_cache<float>(3));
  bytes[section_at(bytes, "CODE") + 20] ^= std::byte{1};
  EXPECT_EQ(loading_error(bytes),
            "polarquant: loading: the checksum of section \"CODE\" is wrong: damaged");
}

TEST(DamageTest, AnotherVersionIsNamed) {
  for (const std::uint64_t version : {std::uint64_t{0}, std::uint64_t{4}, ~std::uint64_t{0}}) {
    Bytes bytes = saved(filled_cache<float>(3));
    forge(bytes, 8, version, 0, 24);
    const std::string expected = "polarquant: loading: the saved cache has version " +
                                 std::to_string(version) + ", this library reads versions 1 to 3";
    EXPECT_EQ(loading_error(bytes), expected);
    EXPECT_EQ(message_of<std::runtime_error>([&] { read_saved_info(bytes.data(), bytes.size()); }),
              expected);
  }
}

// With right checksums: sizes that no file can have are refused before anything is allocated.
TEST(DamageTest, AForgedNumberOfTokensAllocatesNothing) {
  const Bytes bytes = saved(filled_cache<float>(3));
  CountingMemory memory;
  KVCacheConfig config = make_config();
  config.allocator = memory.allocator();
  for (const std::uint64_t value :
       {std::uint64_t{4}, std::uint64_t{1} << 30, std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
    Bytes forged = bytes;
    for (const std::size_t field : {0u, 1u}) forge_number(forged, "SIZE", field, value);
    auto cache = make_cache<float>(config);
    const std::string expected = "polarquant: loading: " + std::to_string(value) + " tokens, " +
                                 std::to_string(value) + " of them encoded, in " +
                                 std::to_string(bytes.size()) + " bytes: damaged";
    EXPECT_EQ(message_of<std::runtime_error>([&] { load(forged.data(), forged.size(), cache); }),
              expected);
    // A total that fits the number: memory and files know their size, a pipe has to be read.
    const std::uint64_t total = bytes.size() + (value - 3) * cache.bytes_per_token();
    forge(forged, 16, total, 0, 24);
    const std::string truncated =
        message_of<std::runtime_error>([&] { load(forged.data(), forged.size(), cache); });
    EXPECT_NE(truncated, "");
    std::istringstream stream(text_of(forged));
    EXPECT_EQ(message_of<std::runtime_error>([&] { load(stream, cache); }), truncated);
    for (const bool can_tell : {false, true}) {
      PipeBuffer buffer(forged, can_tell);
      std::istream pipe(&buffer);
      EXPECT_NE(message_of<std::runtime_error>([&] { load(pipe, cache); }), "");
    }
    EXPECT_EQ(memory.num_held, 0u);
  }
}

// Numbers of tokens that this cache could not have come to hold.
TEST(DamageTest, ImpossibleSegmentsAreRefused) {
  const KVCache<float> cache = cache_with_everything();
  const Bytes bytes = saved(cache);
  ASSERT_EQ(number_at(bytes, section_at(bytes, "SIZE") + 24), 32u);  // encoded
  const auto expect_refused = [&](std::size_t field, std::uint64_t value) {
    Bytes forged = bytes;
    forge_number(forged, "SIZE", field, value);
    EXPECT_NE(loading_error(forged, make_cache<float>(cache.config())).find("of them encoded"),
              std::string::npos)
        << field << ": " << value;
  };
  for (const std::uint64_t value : {0u, 87u, 1000u}) expect_refused(1, value);
  for (const std::uint64_t is_pending : {1u, 2u}) expect_refused(2, is_pending);
  for (const std::uint64_t num_removed :
       {std::uint64_t{0}, std::uint64_t{2}, std::uint64_t{91}, std::uint64_t{1} << 60}) {
    expect_refused(3, num_removed);
  }
}

TEST(DamageTest, ImpossibleHolesAreRefused) {
  KVCache<float> cache = cache_with_everything();
  cache.remove({50, 5});
  const Bytes bytes = saved(cache);
  struct Case {
    std::size_t field;
    std::uint64_t value;
  };
  // {20, 10}, {50, 5}: empty, beyond the end, in the wrong order, touching.
  for (const Case& wrong : {Case{1, 0}, Case{3, 0}, Case{3, 41}, Case{2, 91}, Case{0, 60},
                            Case{2, 25}, Case{2, 30}, Case{1, ~std::uint64_t{0}}}) {
    Bytes forged = bytes;
    forge_number(forged, "HOLE", wrong.field, wrong.value);
    const std::string error = loading_error(forged, make_cache<float>(cache.config()));
    EXPECT_NE(error.find("removed tokens from token"), std::string::npos)
        << wrong.field << ": " << wrong.value << " " << error;
  }
}

// Every number of the settings, set to what nobody writes: an error, never another exception.
TEST(DamageTest, ForgedSettingsAreAnError) {
  const KVCache<float> cache = cache_with_everything();
  const Bytes bytes = saved(cache);
  for (const char* const section : {"CONF", "KEYS", "VALS", "SIZE"}) {
    const std::size_t begin = section_at(bytes, section);
    const std::size_t num_numbers = static_cast<std::size_t>(number_at(bytes, begin + 8)) / 8;
    for (std::size_t field = 0; field < num_numbers; ++field) {
      for (const std::uint64_t value :
           {std::uint64_t{0}, std::uint64_t{7}, std::uint64_t{1000}, std::uint64_t{1} << 32,
            std::uint64_t{1} << 60, ~std::uint64_t{0}}) {
        Bytes forged = bytes;
        forge_number(forged, section, field, value);
        // 7, "not known", is what a file of version 1 is taken to say of its centred sides.
        if (forged == bytes || (section[0] == 'C' && field == 7 && value == 7)) continue;
        // A wrong checksum of codebooks or rotation, or a wrong number of tokens, is one too.
        EXPECT_NE(loading_error(forged, make_cache<float>(cache.config())), "")
            << section << " " << field << " " << value;
        try {
          static_cast<void>(read_saved_info(forged.data(), forged.size()));
        } catch (const std::runtime_error&) {
        }
      }
    }
  }
}

}  // namespace
