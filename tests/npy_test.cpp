// What the demo reads: .npy files, and the folder of a sample.

#include "npy.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "sample.hpp"

namespace polarquant_demo {
namespace {

std::string dictionary(const std::string& type, const std::string& shape,
                       const std::string& fortran_order = "False") {
  return "{'descr': " + type + ", 'fortran_order': " + fortran_order + ", 'shape': " + shape +
         ", }\n";
}

std::string npy_bytes(const std::string& header, const std::string& data, int version = 1) {
  std::string bytes = "\x93NUMPY";
  bytes += static_cast<char>(version);
  bytes += '\0';
  for (int byte = 0; byte < (version == 1 ? 2 : 4); ++byte) {
    bytes += static_cast<char>((header.size() >> (8 * byte)) & 0xff);
  }
  return bytes + header + data;
}

std::string float_bytes(const std::vector<float>& values) {
  std::string bytes;
  for (const float value : values) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    for (int byte = 0; byte < 4; ++byte) bytes += static_cast<char>((bits >> (8 * byte)) & 0xff);
  }
  return bytes;
}

// A folder of its own for each test.
class NpyTest : public testing::Test {
 protected:
  NpyTest()
      : folder_(std::filesystem::temp_directory_path() /
                (std::string("polarquant_npy_") +
                 testing::UnitTest::GetInstance()->current_test_info()->name() + "_" +
                 std::to_string(std::random_device()()))) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~NpyTest() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& bytes) const {
    const std::string path = (folder_ / name).string();
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

  // A file of zeros, [tokens, heads, head_dim].
  void write_zeros(const std::string& name, const std::array<std::size_t, 3>& shape) const {
    const std::size_t count = shape[0] * shape[1] * shape[2];
    write(name, npy_bytes(dictionary("'<f2'", "(" + std::to_string(shape[0]) + ", " +
                                                  std::to_string(shape[1]) + ", " +
                                                  std::to_string(shape[2]) + ")"),
                          std::string(2 * count, '\0')));
  }

  void write_layer(const std::string& name) const {
    write_zeros("layer_" + name + "_keys.npy", {5, 2, 4});
    write_zeros("layer_" + name + "_values.npy", {5, 2, 6});
    write_zeros("layer_" + name + "_queries.npy", {3, 4, 4});
  }

  std::string folder() const { return folder_.string(); }

 private:
  std::filesystem::path folder_;
};

// The message of what `read` throws, which must end in `expected` and name a file.
template <typename Read>
void expect_failure(const Read& read, const std::string& expected) {
  try {
    read();
    ADD_FAILURE() << "nothing was thrown; expected: " << expected;
  } catch (const std::runtime_error& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find(expected), std::string::npos) << message;
    EXPECT_NE(message.find("polarquant_npy_"), std::string::npos) << message;
  }
}

void expect_unreadable(const std::string& path, const std::string& expected) {
  expect_failure([&path] { read_npy(path); }, expected);
}

TEST_F(NpyTest, ReadsFloats) {
  const std::vector<float> values = {1.0f, -2.5f, 0.0f, 3e30f, 1e-40f, 6.0f};
  const NpyArray array =
      read_npy(write("a.npy", npy_bytes(dictionary("'<f4'", "(2, 3)"), float_bytes(values))));
  EXPECT_EQ(array.shape, (std::vector<std::size_t>{2, 3}));
  EXPECT_EQ(array.values, values);
}

TEST_F(NpyTest, ReadsHalvesInFormatTwo) {
  const std::string data("\x00\x3c\x00\xc0\x01\x00\xff\x7b", 8);
  const NpyArray array =
      read_npy(write("a.npy", npy_bytes(dictionary("'<f2'", "(2, 1, 2)"), data, 2)));
  EXPECT_EQ(array.shape, (std::vector<std::size_t>{2, 1, 2}));
  EXPECT_EQ(array.values, (std::vector<float>{1.0f, -2.0f, 0x1p-24f, 65504.0f}));
}

TEST_F(NpyTest, ReadsTheSampleThatIsCommitted) {
  const NpyArray keys =
      read_npy(std::string(POLARQUANT_SOURCE_DIR) + "/data/smollm2-135m/layer_00_keys.npy");
  EXPECT_EQ(keys.shape, (std::vector<std::size_t>{1000, 3, 64}));
}

TEST_F(NpyTest, MissingFile) { expect_unreadable(folder() + "/none.npy", "cannot be opened"); }

TEST_F(NpyTest, WrongMagic) {
  expect_unreadable(write("a.npy", "PK\x03\x04 something else"), "is not a .npy file");
  expect_unreadable(write("b.npy", ""), "is not a .npy file");
}

TEST_F(NpyTest, WrongVersion) {
  expect_unreadable(write("a.npy", npy_bytes(dictionary("'<f4'", "(1, 1)"), "1234", 3)),
                    "is .npy format 3, must be 1 or 2");
}

TEST_F(NpyTest, EveryTruncationIsFound) {
  const std::string bytes = npy_bytes(dictionary("'<f4'", "(2, 1)"), float_bytes({1.0f, 2.0f}));
  for (std::size_t size = 6; size < bytes.size(); ++size) {
    expect_unreadable(write("a.npy", bytes.substr(0, size)), "is truncated");
  }
  EXPECT_EQ(read_npy(write("a.npy", bytes)).values.size(), 2u);
}

TEST_F(NpyTest, TooLong) {
  expect_unreadable(write("a.npy", npy_bytes(dictionary("'<f2'", "(1, 1)"), "123")),
                    "has 1 bytes more than the shape (1, 1) needs");
}

TEST_F(NpyTest, WrongType) {
  for (const std::string type : {"'<f8'", "'>f2'", "'<i2'", "[('x', '<f4')]"}) {
    expect_unreadable(write("a.npy", npy_bytes(dictionary(type, "(1, 1)"), "12345678")),
                      "must be '<f2' or '<f4'");
  }
}

TEST_F(NpyTest, FortranOrder) {
  expect_unreadable(write("a.npy", npy_bytes(dictionary("'<f4'", "(1, 1)", "True"), "1234")),
                    "is in Fortran order");
}

TEST_F(NpyTest, WrongShape) {
  expect_unreadable(write("a.npy", npy_bytes(dictionary("'<f4'", "(1,)"), "1234")),
                    "has 1 dimensions");
  expect_unreadable(write("a.npy", npy_bytes(dictionary("'<f4'", "(-1, 2)"), "1234")),
                    "not a list of sizes");
  expect_unreadable(write("a.npy", npy_bytes(dictionary("'<f4'", "(1, 2"), "1234")),
                    "not a list of sizes");
  expect_unreadable(
      write("a.npy", npy_bytes(dictionary("'<f4'", "(99999999999999999999999, 2)"), "1234")),
      "beyond all memory");
  // The product wraps around to 4 bytes.
  expect_unreadable(
      write("a.npy", npy_bytes(dictionary("'<f4'", "(9223372036854775809, 2, 1)"), "1234")),
      "beyond all memory");
  expect_unreadable(
      write("a.npy", npy_bytes(dictionary("'<f4'", "(4294967296, 4294967296, 1)"), "1234")),
      "is truncated");
}

TEST_F(NpyTest, HeaderWithoutAKey) {
  expect_unreadable(write("a.npy", npy_bytes("{'descr': '<f4', 'shape': (1, 1)}", "1234")),
                    "has no 'fortran_order'");
}

class SampleTest : public NpyTest {};

TEST_F(SampleTest, LoadsAllLayersInOrder) {
  write_layer("07");
  write_layer("00");
  const Sample sample = load_sample(folder());
  ASSERT_EQ(sample.layers.size(), 2u);
  EXPECT_EQ(sample.layers[0].name, "00");
  EXPECT_EQ(sample.layers[1].name, "07");
  EXPECT_EQ(sample.shape.num_kv_heads, 2);
  EXPECT_EQ(sample.shape.num_query_heads, 4);
  EXPECT_EQ(sample.shape.key_dim, 4);
  EXPECT_EQ(sample.shape.value_dim, 6);
  EXPECT_EQ(sample.layers[1].queries.rows(), 3);
  EXPECT_EQ(sample.layers[1].queries.cols(), 16);
}

TEST_F(SampleTest, TwoDimensionsAreOneHead) {
  for (const std::string what : {"keys", "values", "queries"}) {
    write("layer_0_" + what + ".npy",
          npy_bytes(dictionary("'<f4'", "(2, 2)"), float_bytes({1.0f, 2.0f, 3.0f, 4.0f})));
  }
  const Sample sample = load_sample(folder());
  EXPECT_EQ(sample.shape.num_query_heads, 1);
  EXPECT_EQ(sample.layers[0].keys(1, 0), 3.0f);
}

void expect_unloadable(const std::string& folder, const std::string& expected) {
  expect_failure([&folder] { load_sample(folder); }, expected);
}

TEST_F(SampleTest, NoFolder) {
  expect_unloadable(folder() + "/none", "cannot be read as a folder");
}

TEST_F(SampleTest, NoLayers) { expect_unloadable(folder(), "holds no file layer_*_keys.npy"); }

TEST_F(SampleTest, MissingValues) {
  write_zeros("layer_0_keys.npy", {5, 2, 4});
  expect_unloadable(folder(), "layer_0_values.npy: cannot be opened");
}

TEST_F(SampleTest, ValuesOfOtherTokens) {
  write_layer("0");
  write_zeros("layer_0_values.npy", {4, 2, 6});
  expect_unloadable(folder(), "layer_0_values.npy: has 4 tokens, must have 5 like the keys");
}

TEST_F(SampleTest, ValuesOfOtherHeads) {
  write_layer("0");
  write_zeros("layer_0_values.npy", {5, 1, 6});
  expect_unloadable(folder(), "layer_0_values.npy: has 1 heads, must have 2 like the keys");
}

TEST_F(SampleTest, QueriesOfAnotherWidth) {
  write_layer("0");
  write_zeros("layer_0_queries.npy", {3, 4, 6});
  expect_unloadable(folder(),
                    "layer_0_queries.npy: has 6 coordinates per head, must have 4 like the keys");
}

TEST_F(SampleTest, QueryHeadsThatAreNoMultiple) {
  write_layer("0");
  write_zeros("layer_0_queries.npy", {3, 3, 4});
  expect_unloadable(folder(),
                    "layer_0_queries.npy: has 3 heads, must have a multiple of the 2 KV heads");
}

TEST_F(SampleTest, MoreQueriesThanTokens) {
  write_layer("0");
  write_zeros("layer_0_queries.npy", {6, 4, 4});
  expect_unloadable(folder(), "layer_0_queries.npy: has 6 tokens, more than the keys' 5");
}

TEST_F(SampleTest, LayersThatDisagree) {
  write_layer("0");
  write_layer("1");
  write_zeros("layer_1_keys.npy", {5, 2, 8});
  expect_unloadable(folder(),
                    "layer_1_keys.npy: has 8 coordinates per head, must have 4 as in layer 0");
}

TEST_F(SampleTest, NaNIsNamed) {
  write_layer("0");
  std::string data(5 * 2 * 4 * 2, '\0');
  data[(3 * 2 + 1) * 4 * 2 + 1] = '\x7e';
  write("layer_0_keys.npy", npy_bytes(dictionary("'<f2'", "(5, 2, 4)"), data));
  expect_unloadable(folder(), "layer_0_keys.npy: token 3, head 1 has a NaN or an infinity");
}

TEST_F(SampleTest, NoEntries) {
  write_layer("0");
  write_zeros("layer_0_keys.npy", {0, 2, 4});
  expect_unloadable(folder(), "layer_0_keys.npy: has no entries");
}

}  // namespace
}  // namespace polarquant_demo
