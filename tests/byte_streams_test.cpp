#include "polarquant/saving/byte_streams.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <istream>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <streambuf>
#include <string>
#include <vector>

#include "test_util.hpp"

namespace {

using polarquant::detail::ByteSink;
using polarquant::detail::MemorySink;
using polarquant::detail::MemorySource;
using polarquant::detail::section_bytes;
using polarquant::detail::SectionReader;
using polarquant::detail::SectionWriter;
using polarquant::detail::StreamSink;
using polarquant::detail::StreamSource;
using polarquant_test::message_of;

// A section "ABCD" of `content` bytes 0, 1, 2, .., and a second one of a number.
void write_two(ByteSink& sink, std::size_t content) {
  SectionWriter writer(sink);
  writer.begin("ABCD", content);
  writer.fill(content, [content](std::byte* out) {
    for (std::size_t i = 0; i < content; ++i) out[i] = static_cast<std::byte>(i);
  });
  writer.end();
  writer.begin("EFGH", 8);
  writer.number(77);
  writer.end();
}

std::vector<std::byte> two_sections(std::size_t content) {
  std::vector<std::byte> bytes(section_bytes(content) + section_bytes(8));
  MemorySink sink(bytes.data());
  write_two(sink, content);
  return bytes;
}

std::string error_of(const std::vector<std::byte>& bytes, std::size_t content) {
  return message_of<std::runtime_error>([&] {
    MemorySource source(bytes.data(), bytes.size());
    SectionReader reader(source);
    reader.begin("ABCD", content);
    reader.take(content);
    reader.end();
    reader.begin("EFGH", 8);
    reader.number();
    reader.end();
  });
}

TEST(ByteStreamsTest, ASectionIsItsContentAndItsFrameInMultiplesOfEightBytes) {
  for (const std::size_t content : {0u, 1u, 7u, 8u, 9u, 100u}) {
    EXPECT_EQ(section_bytes(content) % 8, 0u);
    EXPECT_GE(section_bytes(content), content + 24);
    EXPECT_LT(section_bytes(content), content + 32);
    EXPECT_EQ(error_of(two_sections(content), content), "");
  }
}

TEST(ByteStreamsTest, AStreamHoldsWhatMemoryHolds) {
  std::stringstream stream;
  StreamSink sink(stream);
  write_two(sink, 13);
  const std::vector<std::byte> bytes = two_sections(13);
  ASSERT_EQ(stream.str().size(), bytes.size());
  EXPECT_EQ(std::memcmp(stream.str().data(), bytes.data(), bytes.size()), 0);
  StreamSource source(stream);
  SectionReader reader(source);
  reader.begin("ABCD", 13);
  EXPECT_EQ(reader.take(13)[12], std::byte{12});
  reader.end();
  reader.begin("EFGH", 8);
  EXPECT_EQ(reader.number(), 77u);
  reader.end();
  EXPECT_EQ(source.take(1), nullptr);
}

TEST(ByteStreamsTest, SourcesSayWhatIsLeft) {
  const std::vector<std::byte> bytes(10);
  MemorySource memory(bytes.data(), bytes.size());
  EXPECT_EQ(memory.take(11), nullptr);
  EXPECT_EQ(memory.take(4), bytes.data());
  EXPECT_EQ(memory.num_left(), 6u);
  std::istringstream stream("abcdef");
  stream.get();
  StreamSource known(stream);
  EXPECT_EQ(known.num_left(), 5u);
  EXPECT_EQ(known.take(2)[1], std::byte{'c'});
  EXPECT_EQ(known.num_left(), 3u);
  EXPECT_EQ(known.take(4), nullptr);
  struct Pipe : std::streambuf {
  } pipe;  // neither bytes nor a position
  std::istream end(&pipe);
  EXPECT_EQ(StreamSource(end).num_left(), std::numeric_limits<std::uint64_t>::max());
}

TEST(ByteStreamsTest, ASectionMayBeOfAnySizeUpToAMost) {
  const std::vector<std::byte> bytes = two_sections(13);
  MemorySource source(bytes.data(), bytes.size());
  SectionReader reader(source);
  EXPECT_EQ(reader.begin_up_to("ABCD", 13), 13u);
  reader.take(13);
  reader.end();
  EXPECT_EQ(message_of<std::runtime_error>([&] { reader.begin_up_to("EFGH", 7); }),
            "polarquant: loading: section \"EFGH\" has 8 bytes, must have at most 7");
}

// Asking for the length leaves a stream as it was: where it stands, its state, its exceptions.
TEST(ByteStreamsTest, TheLengthIsAskedForWithoutATrace) {
  struct Telling : std::stringbuf {
    explicit Telling(const std::string& text) : std::stringbuf(text) {}
    pos_type seekoff(off_type offset, std::ios::seekdir from, std::ios::openmode mode) override {
      if (from != std::ios::cur || offset != 0) return pos_type(off_type(-1));
      return std::stringbuf::seekoff(offset, from, mode);
    }
  } buffer("abcdef");
  std::istream stream(&buffer);
  stream.exceptions(std::ios::failbit | std::ios::badbit);
  EXPECT_EQ(stream.get(), 'a');
  StreamSource source(stream);
  EXPECT_EQ(source.num_left(), std::numeric_limits<std::uint64_t>::max());
  EXPECT_TRUE(stream.good());
  EXPECT_EQ(stream.exceptions(), std::ios::failbit | std::ios::badbit);
  EXPECT_EQ(source.take(1)[0], std::byte{'b'});
}

TEST(ByteStreamsTest, EveryFlippedByteIsDetected) {
  const std::vector<std::byte> bytes = two_sections(13);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (unsigned flip = 1; flip < 256; ++flip) {
      std::vector<std::byte> damaged = bytes;
      damaged[i] ^= static_cast<std::byte>(flip);
      if (error_of(damaged, 13).empty()) ADD_FAILURE() << "byte " << i << " ^ " << flip;
    }
  }
}

TEST(ByteStreamsTest, WhatIsWrongIsNamed) {
  std::vector<std::byte> bytes = two_sections(13);
  EXPECT_EQ(error_of(bytes, 14),
            "polarquant: loading: section \"ABCD\" has 13 bytes, must have 14");
  bytes[0] = std::byte{'X'};
  EXPECT_EQ(error_of(bytes, 13),
            "polarquant: loading: no section \"ABCD\" where it must be: damaged");
  bytes = two_sections(13);
  bytes[20] = std::byte{0};
  EXPECT_EQ(error_of(bytes, 13),
            "polarquant: loading: the checksum of section \"ABCD\" is wrong: damaged");
  bytes = two_sections(13);
  bytes.pop_back();
  EXPECT_EQ(error_of(bytes, 13), "polarquant: loading: the bytes end too early: truncated");
}

}  // namespace
