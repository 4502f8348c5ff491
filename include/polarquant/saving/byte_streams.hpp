// Where saved bytes go and come from: memory or a stream, in checksummed sections.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <istream>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "polarquant/base/checksum.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// Takes bytes in. prepare() gives a place for the next num_bytes bytes, commit() takes them from
// there.
class ByteSink {
 public:
  virtual ~ByteSink() = default;
  virtual std::byte* prepare(std::size_t num_bytes) = 0;
  virtual void commit(std::size_t num_bytes) = 0;
};

// Gives bytes out.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // The next num_bytes bytes, valid until the next call; null if there are fewer.
  virtual const std::byte* take(std::size_t num_bytes) = 0;
  // Bytes that are left; kUnknown if only reading tells.
  static constexpr std::uint64_t kUnknown = (std::numeric_limits<std::uint64_t>::max)();
  virtual std::uint64_t num_left() const = 0;
};

class MemorySink final : public ByteSink {
 public:
  // The caller has seen to it that the memory is large enough.
  explicit MemorySink(std::byte* data) : next_(data) {}
  std::byte* prepare(std::size_t) override { return next_; }
  void commit(std::size_t num_bytes) override { next_ += num_bytes; }

 private:
  std::byte* next_;
};

class MemorySource final : public ByteSource {
 public:
  MemorySource(const std::byte* data, std::size_t size) : next_(data), num_left_(size) {}
  const std::byte* take(std::size_t num_bytes) override {
    if (num_bytes > num_left_) return nullptr;
    num_left_ -= num_bytes;
    next_ += num_bytes;
    return next_ - num_bytes;
  }
  std::uint64_t num_left() const override { return num_left_; }

 private:
  const std::byte* next_;
  std::size_t num_left_;
};

class StreamSink final : public ByteSink {
 public:
  explicit StreamSink(std::ostream& stream) : stream_(stream) {}
  std::byte* prepare(std::size_t num_bytes) override {
    if (buffer_.size() < num_bytes) buffer_.resize(num_bytes);
    return buffer_.data();
  }
  // Throws std::runtime_error if the stream does not take them.
  void commit(std::size_t num_bytes) override {
    stream_.write(reinterpret_cast<const char*>(buffer_.data()),
                  static_cast<std::streamsize>(num_bytes));
    if (!stream_) throw_runtime_error("saving: the stream does not take the bytes");
  }

 private:
  std::ostream& stream_;
  std::vector<std::byte> buffer_;
};

class StreamSource final : public ByteSource {
 public:
  explicit StreamSource(std::istream& stream) : stream_(stream) {
    // How much there is, if the stream can tell. It is left as it was: a filter such as Boost's
    // gzip can say where it is and not go elsewhere.
    const std::ios::iostate state = stream.rdstate();
    const std::ios::iostate exceptions = stream.exceptions();
    stream.exceptions(std::ios::goodbit);
    const std::istream::pos_type begin = stream.tellg();
    if (begin != std::istream::pos_type(-1) && stream.seekg(0, std::ios::end)) {
      const std::istream::pos_type end = stream.tellg();
      stream.clear();
      stream.seekg(begin);
      if (end >= begin) num_left_ = static_cast<std::uint64_t>(end - begin);
    }
    stream.clear(state);
    stream.exceptions(exceptions);
  }
  const std::byte* take(std::size_t num_bytes) override {
    if (buffer_.size() < num_bytes) buffer_.resize(num_bytes);
    stream_.read(reinterpret_cast<char*>(buffer_.data()), static_cast<std::streamsize>(num_bytes));
    if (stream_.gcount() != static_cast<std::streamsize>(num_bytes)) return nullptr;
    if (num_left_ != kUnknown) num_left_ -= num_bytes;
    return buffer_.data();
  }
  std::uint64_t num_left() const override { return num_left_; }

 private:
  std::istream& stream_;
  std::uint64_t num_left_ = kUnknown;  // of a stream that can seek
  std::vector<std::byte> buffer_;
};

// A section: its name (four letters, four zero bytes), the size of its content in bytes, the
// content, zeros up to a multiple of eight bytes, the checksum of all that.
inline constexpr std::size_t kSectionFrameBytes = 24;

inline std::size_t padding_of(std::uint64_t num_bytes) {
  return static_cast<std::size_t>((8 - num_bytes % 8) % 8);
}
inline std::uint64_t section_bytes(std::uint64_t content) {
  return content + padding_of(content) + kSectionFrameBytes;
}

class SectionWriter {
 public:
  explicit SectionWriter(ByteSink& sink) : sink_(sink) {}

  void begin(const char* name, std::uint64_t content) {
    checksum_ = Checksum();
    fill(8, [name](std::byte* out) {
      std::memset(out, 0, 8);
      std::memcpy(out, name, 4);
    });
    number(content);
    padding_ = padding_of(content);
  }
  void end() {
    fill(padding_, [this](std::byte* out) { std::memset(out, 0, padding_); });
    number(checksum_.value());
  }

  // num_bytes bytes that write(std::byte*) sets.
  template <typename Write>
  void fill(std::size_t num_bytes, const Write& write) {
    std::byte* const out = sink_.prepare(num_bytes);
    write(out);
    checksum_.add(out, num_bytes);
    sink_.commit(num_bytes);
  }
  void number(std::uint64_t value) {
    fill(sizeof value, [value](std::byte* out) { std::memcpy(out, &value, sizeof value); });
  }

 private:
  ByteSink& sink_;
  Checksum checksum_;
  std::size_t padding_ = 0;
};

// Reads what SectionWriter wrote. Every call throws std::runtime_error if the bytes end; begin and
// end if they are not a section of that name and size, or damaged.
class SectionReader {
 public:
  explicit SectionReader(ByteSource& source) : source_(source) {}

  // Of any size up to `most`; returns it.
  std::uint64_t begin_up_to(const char* name, std::uint64_t most) {
    checksum_ = Checksum();
    name_ = name;
    char expected[8] = {};
    std::memcpy(expected, name, 4);
    if (std::memcmp(take(sizeof expected), expected, sizeof expected) != 0) {
      throw_runtime_error({"loading: no section \"", name_, "\" where it must be: damaged"});
    }
    const std::uint64_t found = number();
    if (found > most) {
      throw_runtime_error(
          {"loading: section \"", name_, "\" has ", found, " bytes, must have at most ", most});
    }
    padding_ = padding_of(found);
    return found;
  }
  void begin(const char* name, std::uint64_t content) {
    const std::uint64_t found = begin_up_to(name, kUnlimited);
    if (found == content) return;
    throw_runtime_error(
        {"loading: section \"", name_, "\" has ", found, " bytes, must have ", content});
  }
  void end() {
    take(padding_);
    const std::uint64_t expected = checksum_.value();
    if (number() != expected) {
      throw_runtime_error({"loading: the checksum of section \"", name_, "\" is wrong: damaged"});
    }
  }

  const std::byte* take(std::size_t num_bytes) {
    const std::byte* const bytes = source_.take(num_bytes);
    if (bytes == nullptr) throw_runtime_error("loading: the bytes end too early: truncated");
    checksum_.add(bytes, num_bytes);
    return bytes;
  }
  std::uint64_t number() {
    std::uint64_t value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }

 private:
  static constexpr std::uint64_t kUnlimited = (std::numeric_limits<std::uint64_t>::max)();

  ByteSource& source_;
  Checksum checksum_;
  std::string name_;
  std::size_t padding_ = 0;
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
