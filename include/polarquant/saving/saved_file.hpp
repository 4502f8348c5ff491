// What all saved things share: the header that says what they are, and the way into a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>

#include "polarquant/base/checksum.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/saving/byte_streams.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

struct SavedKind {
  char magic[9];       // eight letters, the last of which may be a newline
  const char* name;    // behind "a"
  std::uint64_t last;  // the version that is written; those from 1 on are read
};

// Magic, version, bytes of the whole, checksum of the three. The same for every kind and version.
inline constexpr std::size_t kSavedHeaderBytes = 32;
// No sum of sizes overflows.
inline constexpr std::uint64_t kMaxSavedBytes = std::uint64_t{1} << 48;

struct SavedHeader {
  std::uint64_t version;
  std::uint64_t total;  // bytes of the whole
};

inline void write_header(const SavedKind& kind, std::uint64_t total, SectionWriter& writer) {
  writer.fill(kSavedHeaderBytes, [&](std::byte* header) {
    const std::uint64_t numbers[2] = {kind.last, total};
    std::memcpy(header, kind.magic, 8);
    std::memcpy(header + 8, numbers, sizeof numbers);
    Checksum checksum;
    checksum.add(header, 24);
    const std::uint64_t sum = checksum.value();
    std::memcpy(header + 24, &sum, 8);
  });
}

// Throws std::runtime_error if it is no such header, or damaged, or of a later version, or of more
// bytes than there are.
inline SavedHeader read_header(const SavedKind& kind, ByteSource& source, SectionReader& reader) {
  std::byte header[kSavedHeaderBytes];
  if (source.num_left() == 0) throw_runtime_error("loading: there are no bytes, it is empty");
  std::memcpy(header, reader.take(sizeof header), sizeof header);
  if (std::memcmp(header, kind.magic, 8) != 0) {
    const std::string_view magic(kind.magic, kind.magic[7] == '\n' ? 7 : 8);
    throw_runtime_error(
        {"loading: this is no ", kind.name, ", it does not begin with \"", magic, "\""});
  }
  Checksum checksum;
  checksum.add(header, 24);
  SavedHeader found;
  std::uint64_t sum;
  std::memcpy(&found.version, header + 8, 8);
  std::memcpy(&found.total, header + 16, 8);
  std::memcpy(&sum, header + 24, 8);
  if (sum != checksum.value()) {
    throw_runtime_error("loading: the checksum of the header is wrong: damaged");
  }
  if (found.version < 1 || found.version > kind.last) {
    throw_runtime_error({"loading: the ", kind.name, " has version ", found.version,
                         ", this library reads versions 1 to ", kind.last});
  }
  if (found.total < kSavedHeaderBytes || found.total > kMaxSavedBytes) {
    throw_runtime_error({"loading: a ", kind.name, " of ", found.total, " bytes: damaged"});
  }
  const std::uint64_t left = source.num_left();
  if (left != ByteSource::kUnknown && found.total - kSavedHeaderBytes > left) {
    throw_runtime_error({"loading: ", kSavedHeaderBytes + left, " bytes of a ", kind.name, " of ",
                         found.total, ": truncated"});
  }
  return found;
}

// Calls write(stream) for a file. It is written beside, as path + ".part", and takes the place of
// what stands at `path` when it is complete. Throws std::runtime_error if it cannot be written;
// what was there is then as before.
template <typename Write>
void write_file(const std::string& path, const Write& write) {
  const std::string part = path + ".part";
  std::ofstream file(part, std::ios::binary | std::ios::trunc);
  if (!file) throw_runtime_error({"saving: cannot write ", part});
  // Whatever happens from here on, no part of a file stays behind.
  struct Remover {
    const std::string& path;
    ~Remover() { std::remove(path.c_str()); }
  } const remover{part};
  write(file);
  file.close();
  if (!file) throw_runtime_error({"saving: cannot write all of ", part});
  if (std::rename(part.c_str(), path.c_str()) != 0) {
    throw_runtime_error({"saving: cannot put ", part, " in the place of ", path});
  }
}

// Calls read(stream) for a file. Throws std::runtime_error if it cannot be read or is empty.
template <typename Read>
void read_file(const std::string& path, const Read& read) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw_runtime_error({"loading: cannot read ", path});
  if (file.peek() == std::ifstream::traits_type::eof()) {
    throw_runtime_error(
        {"loading: ", path, file.bad() ? " is a folder or cannot be read" : " is empty"});
  }
  read(file);
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
