// Reads NumPy's .npy files of fp16 and fp32, as far as a KV cache needs it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "baselines/float16.hpp"

namespace polarquant_demo {

// An array in C order, as float.
struct NpyArray {
  std::vector<std::size_t> shape;
  std::vector<float> values;
};

namespace npy_detail {

[[noreturn]] inline void fail(const std::string& path, const std::string& what) {
  throw std::runtime_error(path + ": " + what);
}

inline std::size_t load_little_endian(const std::string& bytes, std::size_t offset,
                                      std::size_t size) {
  std::size_t value = 0;
  for (std::size_t i = size; i-- > 0;) {
    value = (value << 8) | static_cast<unsigned char>(bytes[offset + i]);
  }
  return value;
}

// What follows `key` and its colon in the header, a Python dictionary such as
// {'descr': '<f2', 'fortran_order': False, 'shape': (1000, 3, 64), }.
inline std::string value_of(const std::string& path, const std::string& header,
                            const std::string& key) {
  std::size_t position = header.find("'" + key + "'");
  if (position == std::string::npos) position = header.find("\"" + key + "\"");
  if (position == std::string::npos) fail(path, "the .npy header has no '" + key + "'");
  position = header.find_first_not_of(" :", position + key.size() + 2);
  return position == std::string::npos ? "" : header.substr(position);
}

inline std::vector<std::size_t> parse_shape(const std::string& path, const std::string& text) {
  const std::string list = text.substr(0, text.find(')'));
  if (list.empty() || list[0] != '(' || list.size() == text.size() ||
      list.find_first_not_of("0123456789, ", 1) != std::string::npos) {
    fail(path, "the shape in the .npy header is not a list of sizes");
  }
  std::vector<std::size_t> shape;
  for (std::size_t i = 1; i < list.size();) {
    if (list[i] == ',' || list[i] == ' ') {
      ++i;
      continue;
    }
    std::size_t size = 0;
    for (; i < list.size() && list[i] >= '0' && list[i] <= '9'; ++i) {
      // Larger than any file, and small enough to multiply by ten.
      if (size > std::numeric_limits<std::size_t>::max() / 100) {
        fail(path, "the shape in the .npy header is beyond all memory");
      }
      size = 10 * size + static_cast<std::size_t>(list[i] - '0');
    }
    shape.push_back(size);
  }
  return shape;
}

}  // namespace npy_detail

// Reads a file of format 1.0 or 2.0 that holds a two- or three-dimensional array of little-endian
// fp16 or fp32 in C order. Throws std::runtime_error, one sentence that names the file, for
// anything else.
inline NpyArray read_npy(const std::string& path) {
  using npy_detail::fail;
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(path, "cannot be opened");
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) fail(path, "cannot be read");

  if (bytes.compare(0, 6, "\x93NUMPY") != 0) {
    fail(path, "is not a .npy file: it does not begin with the bytes \\x93NUMPY");
  }
  const std::size_t version = bytes.size() > 6 ? static_cast<unsigned char>(bytes[6]) : 0;
  if (bytes.size() > 6 && version != 1 && version != 2) {
    fail(path, "is .npy format " + std::to_string(version) + ", must be 1 or 2");
  }
  const std::size_t begin = version == 1 ? 10 : 12;
  const std::size_t header_size =
      bytes.size() < begin ? 0 : npy_detail::load_little_endian(bytes, 8, begin - 8);
  if (bytes.size() < begin || bytes.size() - begin < header_size) {
    fail(path, "is truncated: it ends within its header");
  }
  const std::string header = bytes.substr(begin, header_size);

  const std::string type = npy_detail::value_of(path, header, "descr");
  const std::string name = type.substr(0, type.find_first_of(",}"));
  const bool is_half = name == "'<f2'" || name == "\"<f2\"";
  if (!is_half && name != "'<f4'" && name != "\"<f4\"") {
    fail(path, "holds elements of type " + name +
                   ", must be '<f2' or '<f4' (little-endian fp16 or fp32)");
  }
  if (npy_detail::value_of(path, header, "fortran_order").compare(0, 5, "False") != 0) {
    fail(path, "is in Fortran order, must be in C order (numpy.ascontiguousarray)");
  }
  NpyArray array;
  array.shape = npy_detail::parse_shape(path, npy_detail::value_of(path, header, "shape"));
  if (array.shape.size() != 2 && array.shape.size() != 3) {
    fail(path, "has " + std::to_string(array.shape.size()) +
                   " dimensions, must have 3: tokens, heads, head_dim (or 2: tokens, head_dim)");
  }

  const std::size_t element_bytes = is_half ? 2 : 4;
  const std::size_t available = bytes.size() - begin - header_size;
  std::size_t count = 1;
  std::string shape;
  bool fits = true;
  for (const std::size_t size : array.shape) {
    shape += (shape.empty() ? "" : ", ") + std::to_string(size);
    fits = fits && (size == 0 || count <= available / size);
    count *= size;
  }
  if (!fits || count > available / element_bytes) {
    fail(path, "is truncated: it has " + std::to_string(available) +
                   " bytes of data, too few for the shape (" + shape + ")");
  }
  if (count * element_bytes != available) {
    fail(path, "has " + std::to_string(available - count * element_bytes) +
                   " bytes more than the shape (" + shape + ") needs");
  }
  array.values.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(npy_detail::load_little_endian(
        bytes, begin + header_size + i * element_bytes, element_bytes));
    if (is_half) {
      array.values[i] = polarquant_baselines::float16_to_float(static_cast<std::uint16_t>(bits));
    } else {
      std::memcpy(&array.values[i], &bits, sizeof bits);
    }
  }
  return array;
}

}  // namespace polarquant_demo
