#include "polarquant/saving/calibration_file.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <istream>
#include <limits>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "polarquant/base/random.hpp"
#include "saving_test_util.hpp"

namespace {

using polarquant::Calibration;
using polarquant::CalibrationShape;
using polarquant::KeyMatrices;
using polarquant::load_calibration;
using polarquant::detail::Checksum;
using polarquant_test::Bytes;
using polarquant_test::file_bytes;
using polarquant_test::message_of;
using polarquant_test::number_at;

// Layers with scales, with bits, with both and with neither.
Calibration example() {
  Calibration calibration({5, 2, 3});
  calibration.set_key_scales(0, {1.0f, 0.5f, 2.0f, 1e-3f, 1e3f, 0.1f}, {4, 8192});
  calibration.set_key_scales(2, {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f}, {1, 10});
  calibration.set_bits(2, 3.25, 2.25);
  calibration.set_bits(4, 0.0, 4.25);
  return calibration;
}

// Layers with matrices and with scales. Heads of 3 channels have triangles of 6 entries.
Calibration matrices_example() {
  Calibration calibration({3, 2, 3});
  calibration.set_key_matrices(
      0,
      std::make_shared<const KeyMatrices>(2, 3,
                                          std::vector<float>{2.0f, 0.5f, 1.0f, -0.25f, 0.125f, 3.0f,
                                                             1.0f, 0.0f, 2.0f, 0.0f, 0.5f, 4.0f}),
      {4, 8192});
  calibration.set_key_scales(1, {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f}, {1, 10});
  calibration.set_bits(0, 3.25, 2.25);
  return calibration;
}

Bytes saved_calibration(const Calibration& calibration) {
  Bytes bytes(saved_bytes(calibration));
  EXPECT_EQ(save(calibration, bytes.data(), bytes.size()), bytes.size());
  return bytes;
}

std::string text_of(const Bytes& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string error_of(const Bytes& bytes) {
  return message_of<std::runtime_error>([&] { load_calibration(bytes.data(), bytes.size()); });
}

template <typename Number>
void put(Bytes& bytes, std::size_t offset, Number number) {
  std::memcpy(bytes.data() + offset, &number, sizeof number);
}

// Where a section begins.
std::size_t begin_of(const Bytes& bytes, const char* name) {
  return polarquant_test::section_at(bytes, name);
}

// Corrects the checksums of the header and of all sections, so that only the content is wrong.
void sign(Bytes& bytes) {
  const auto put_sum = [&bytes](std::size_t begin, std::size_t end) {
    Checksum sum;
    sum.add(bytes.data() + begin, end - begin);
    put(bytes, end, sum.value());
  };
  put_sum(0, 24);
  for (std::size_t begin = 32; begin + 24 <= bytes.size();) {
    const std::size_t end =
        begin + 16 + (static_cast<std::size_t>(number_at(bytes, begin + 8)) + 7) / 8 * 8;
    if (end + 8 > bytes.size()) return;
    put_sum(begin, end);
    begin = end + 8;
  }
}

TEST(CalibrationFileTest, ComesBackFromMemoryStreamsAndFiles) {
  for (const Calibration& calibration :
       {example(), matrices_example(), Calibration({1, 1, 1}), Calibration({100, 8, 128})}) {
    const Bytes bytes = saved_calibration(calibration);
    EXPECT_EQ(load_calibration(bytes.data(), bytes.size()), calibration);
    EXPECT_EQ(load_calibration(bytes.data(), bytes.size()).checksum(), calibration.checksum());

    std::stringstream stream;  // Two that follow each other.
    save(calibration, stream);
    save(example(), stream);
    EXPECT_EQ(stream.str(), text_of(bytes) + text_of(saved_calibration(example())));
    EXPECT_EQ(load_calibration(stream), calibration);
    EXPECT_EQ(load_calibration(stream), example());

    Bytes more = bytes;  // Other bytes may follow in memory.
    more.resize(bytes.size() + 100);
    EXPECT_EQ(load_calibration(more.data(), more.size()), calibration);
  }
}

TEST(CalibrationFileTest, TheBytesAreThoseOfTheFormat) {
  const Bytes bytes = saved_calibration(example());
  // Header, SIZE, LAYS, SCAL.
  ASSERT_EQ(bytes.size(), 32u + (24 + 40) + (24 + 3 * 48) + (24 + 12 * 4));
  EXPECT_EQ(text_of(bytes).substr(0, 8), "PolarCal");
  EXPECT_EQ(number_at(bytes, 8), 1u);
  EXPECT_EQ(number_at(bytes, 16), bytes.size());
  const auto sections = polarquant_test::sections_of(bytes);
  ASSERT_EQ(sections.size(), 3u);
  const Bytes& size = sections.at("SIZE");
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(number_at(size, 8 * i), (std::vector<std::uint64_t>{5, 2, 3, 3})[i]);
  }
  EXPECT_EQ(number_at(size, 32), example().checksum());
  const Bytes& layers = sections.at("LAYS");
  const std::uint64_t numbers[3][4] = {{0, 4, 8192, 6}, {2, 1, 10, 6}, {4, 0, 0, 0}};
  const double bits[3][2] = {{0.0, 0.0}, {3.25, 2.25}, {0.0, 4.25}};
  for (std::size_t layer = 0; layer < 3; ++layer) {
    EXPECT_EQ(std::memcmp(layers.data() + 48 * layer, numbers[layer], 32), 0) << layer;
    EXPECT_EQ(std::memcmp(layers.data() + 48 * layer + 32, bits[layer], 16), 0) << layer;
  }
  const float scales[] = {1.0f, 0.5f, 2.0f, 1e-3f, 1e3f, 0.1f, 1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f};
  EXPECT_EQ(std::memcmp(sections.at("SCAL").data(), scales, sizeof scales), 0);

  Checksum sum;
  sum.add(bytes.data(), bytes.size());
  EXPECT_EQ(sum.value(), 14350023757362102836u);
}

TEST(CalibrationFileTest, MatricesAreTriangles) {
  const Bytes bytes = saved_calibration(matrices_example());
  ASSERT_EQ(bytes.size(), 32u + (24 + 40) + (24 + 2 * 48) + (24 + 18 * 4));
  const auto sections = polarquant_test::sections_of(bytes);
  const std::uint64_t numbers[2][4] = {{0, 4, 8192, 12}, {1, 1, 10, 6}};
  for (std::size_t layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(std::memcmp(sections.at("LAYS").data() + 48 * layer, numbers[layer], 32), 0);
  }
  const float entries[] = {2.0f, 0.5f, 1.0f, -0.25f, 0.125f, 3.0f, 1.0f, 0.0f, 2.0f,
                           0.0f, 0.5f, 4.0f, 1.0f,   2.0f,   3.0f, 4.0f, 5.0f, 6.0f};
  EXPECT_EQ(std::memcmp(sections.at("SCAL").data(), entries, sizeof entries), 0);
  // The checksum of the calibration is that of the other kind's numbers too.
  EXPECT_EQ(number_at(sections.at("SIZE"), 32), matrices_example().checksum());
}

TEST(CalibrationFileTest, IsSmall) {
  // At most 1 KB per layer and KV head at a width of 128, even for a single one.
  for (const CalibrationShape& shape :
       {CalibrationShape{1, 1, 128}, CalibrationShape{32, 8, 128}}) {
    Calibration calibration(shape);
    for (int layer = 0; layer < shape.num_layers; ++layer) {
      calibration.set_key_scales(layer, std::vector<float>(shape.num_scales(), 1.0f));
      calibration.set_bits(layer, 3.25, 3.25);
    }
    const std::size_t num_heads =
        static_cast<std::size_t>(shape.num_layers) * static_cast<std::size_t>(shape.num_kv_heads);
    EXPECT_LE(saved_bytes(calibration), 1024 * num_heads);
    EXPECT_GE(saved_bytes(calibration), 512 * num_heads);
    // Matrices: as much as all their entries as halves, and a little.
    polarquant::Random random(1);
    const auto matrices =
        polarquant_test::random_key_matrices(shape.num_kv_heads, shape.head_dim, random);
    for (int layer = 0; layer < shape.num_layers; ++layer) {
      calibration.set_key_matrices(layer, matrices);
    }
    EXPECT_LE(saved_bytes(calibration), 33536 * num_heads);
    EXPECT_GE(saved_bytes(calibration), 33024 * num_heads);
  }
}

TEST(CalibrationFileTest, TooLittleMemoryIsAnError) {
  Bytes bytes(saved_bytes(example()));
  polarquant_test::expect_invalid([&] { save(example(), bytes.data(), bytes.size() - 1); },
                                  {"saving to 335 bytes: needs 336"});
}

// ---- Damage ----

TEST(CalibrationFileTest, EveryFlippedBitIsDetected) {
  for (const Bytes& bytes : {saved_calibration(example()), saved_calibration(matrices_example())}) {
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      for (int bit = 0; bit < 8; ++bit) {
        Bytes damaged = bytes;
        damaged[i] ^= static_cast<std::byte>(1 << bit);
        EXPECT_NE(error_of(damaged), "") << "byte " << i << ", bit " << bit;
      }
    }
  }
}

TEST(CalibrationFileTest, EveryTruncationIsDetected) {
  const Bytes bytes = saved_calibration(example());
  EXPECT_EQ(error_of({}), "polarquant: loading: there are no bytes, it is empty");
  for (std::size_t size = 1; size < bytes.size(); ++size) {
    const Bytes truncated(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_NE(error_of(truncated).find("truncated"), std::string::npos) << size;
    std::istringstream stream(text_of(truncated));
    EXPECT_NE(message_of<std::runtime_error>([&] { load_calibration(stream); }).find("truncated"),
              std::string::npos)
        << size;
  }
}

TEST(CalibrationFileTest, ForeignAndLaterFilesAreTold) {
  EXPECT_EQ(error_of(Bytes(1000)),
            "polarquant: loading: this is no calibration, it does not begin with \"PolarCal\"");
  const Bytes cache = polarquant_test::saved(polarquant_test::filled_cache<float>(3));
  EXPECT_EQ(error_of(cache),
            "polarquant: loading: this is no calibration, it does not begin with \"PolarCal\"");
  EXPECT_EQ(polarquant_test::loading_error(saved_calibration(example())),
            "polarquant: loading: this is no saved cache, it does not begin with \"PolarKV\"");
  Bytes later = saved_calibration(example());
  put(later, 8, std::uint64_t{2});
  sign(later);
  EXPECT_EQ(
      error_of(later),
      "polarquant: loading: the calibration has version 2, this library reads versions 1 to 1");
}

// The checksums are right, what they cover is not.
TEST(CalibrationFileTest, WrongContentIsNamed) {
  const Bytes bytes = saved_calibration(example());
  const std::size_t size = begin_of(bytes, "SIZE") + 16;
  const std::size_t layers = begin_of(bytes, "LAYS") + 16;
  const std::size_t scales = begin_of(bytes, "SCAL") + 16;
  const auto expect_error = [&](std::size_t offset, auto number, const char* part) {
    Bytes damaged = bytes;
    put(damaged, offset, number);
    sign(damaged);
    const std::string error = error_of(damaged);
    EXPECT_NE(error.find(part), std::string::npos) << error << "\nlacks: " << part;
    EXPECT_EQ(error.rfind("polarquant: loading: ", 0), 0u) << error;
  };
  const std::uint64_t absurd = std::numeric_limits<std::uint64_t>::max();
  for (const std::uint64_t number : {std::uint64_t{0}, absurd, std::uint64_t{1} << 32}) {
    expect_error(size, number, "num_layers is");
    expect_error(size + 8, number, "num_kv_heads is");
    expect_error(size + 16, number, "head_dim is");
  }
  expect_error(size, std::uint64_t{4}, "layer 4 of 4, out of range");
  expect_error(size, std::uint64_t{6}, "checksum of the calibration");
  expect_error(size + 8, std::uint64_t{3}, "has 6 numbers, must have 9 scales, 18 entries");
  expect_error(size + 24, std::uint64_t{6}, "6 layers of a model of 5");
  expect_error(size + 24, absurd, "layers of a model of 5");
  expect_error(size + 24, std::uint64_t{2}, "section \"LAYS\" has 144 bytes, must have 96");
  expect_error(size + 32, std::uint64_t{1}, "checksum of the calibration is wrong");
  expect_error(layers, std::uint64_t{5}, "layer 5 of 5, out of range");
  expect_error(layers + 48, std::uint64_t{0}, "layer 0 of 5, out of range or of order");
  expect_error(layers, std::uint64_t{1}, "checksum of the calibration is wrong");
  expect_error(layers + 24, std::uint64_t{5}, "has 5 numbers, must have 6 scales, 12 entries");
  expect_error(layers + 48 + 24, std::uint64_t{0}, "3 layers and 6 numbers in 336 bytes");
  expect_error(layers + 24, std::uint64_t{0}, "layer 0 has 0 and 0 bits and 0 numbers");
  for (const double bits : {-1.0, 65.0, std::nan(""), HUGE_VAL}) {
    expect_error(layers + 48 + 32, bits, "layer 2 has");
    expect_error(layers + 48 + 40, bits, "layer 2 has");
  }
  for (const float scale : {0.0f, -1.0f, std::nanf(""), HUGE_VALF}) {
    expect_error(scales + 4 * 7, scale, "scale 1 of layer 2 is");
  }
  expect_error(scales, 1.5f, "checksum of the calibration is wrong");
  expect_error(16, std::uint64_t{344}, "truncated");
  expect_error(16, std::uint64_t{335}, "3 layers and 12 numbers in 335 bytes");
}

TEST(CalibrationFileTest, WrongMatricesAreNamed) {
  const Bytes bytes = saved_calibration(matrices_example());
  const std::size_t entries = begin_of(bytes, "SCAL") + 16;
  const auto error = [&](std::size_t entry, float number) {
    Bytes damaged = bytes;
    put(damaged, entries + 4 * entry, number);
    sign(damaged);
    return error_of(damaged);
  };
  const std::string begin = "polarquant: loading: layer 0: the key matrix of KV head ";
  EXPECT_EQ(error(4, std::nanf("")),
            begin + "0 has a NaN or an infinity in row 2, column 1: damaged");
  EXPECT_EQ(error(8, -2.0f), begin + "1 is not positive definite: damaged");
  EXPECT_EQ(error(7, 1.5f), begin + "1 is not positive definite: damaged");
  EXPECT_EQ(error(11, 1e7f), begin + "1 has a condition of 1e+07, must be at most 100000: damaged");
  EXPECT_NE(error(1, 0.25f).find("checksum of the calibration is wrong"), std::string::npos);
}

// Random changes under right checksums: an error of the kind that is documented, or a calibration
// that can be saved.
TEST(CalibrationFileTest, NoiseIsRefusedOrLoaded) {
  polarquant::Random random(1);
  const Bytes bytes = saved_calibration(example());
  int num_loaded = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    Bytes damaged = bytes;
    const int num_changes = polarquant_test::random_int(random, 1, 3);
    for (int i = 0; i < num_changes; ++i) {
      const int at = polarquant_test::random_int(random, 32, static_cast<int>(bytes.size()) - 1);
      damaged[static_cast<std::size_t>(at)] =
          static_cast<std::byte>(polarquant_test::random_int(random, 0, 255));
    }
    sign(damaged);
    try {
      const Calibration calibration = load_calibration(damaged.data(), damaged.size());
      const Bytes again = saved_calibration(calibration);
      EXPECT_EQ(load_calibration(again.data(), again.size()), calibration);
      ++num_loaded;
    } catch (const std::runtime_error&) {
    }
  }
  // What was counted may be any number.
  EXPECT_GT(num_loaded, 100);
  EXPECT_LT(num_loaded, 10000);
}

// A size that the bytes cannot have allocates nothing like it.
TEST(CalibrationFileTest, LargeShapesOfFewBytesAreRefused) {
  Bytes bytes = saved_calibration(example());
  const std::size_t size = begin_of(bytes, "SIZE") + 16;
  const std::size_t layers = begin_of(bytes, "LAYS") + 16;
  put(bytes, size + 8, std::uint64_t{16384});
  put(bytes, size + 16, std::uint64_t{16384});
  for (const std::size_t layer : {std::size_t{0}, std::size_t{1}}) {
    put(bytes, layers + 48 * layer + 24, std::uint64_t{16384} * 16384);
  }
  put(bytes, 16, std::uint64_t{288} + 2 * (std::uint64_t{4} << 28));
  put(bytes, begin_of(bytes, "SCAL") + 8, 2 * (std::uint64_t{4} << 28));
  sign(bytes);
  EXPECT_NE(error_of(bytes).find("336 bytes of a calibration of"), std::string::npos);
  // Nor from a stream that cannot tell how much it has.
  polarquant_test::PipeBuffer pipe(bytes);
  std::istream stream(&pipe);
  EXPECT_EQ(message_of<std::runtime_error>([&] { load_calibration(stream); }),
            "polarquant: loading: the bytes end too early: truncated");
}

// ---- Files ----

class CalibrationPathTest : public testing::Test {
 protected:
  CalibrationPathTest()
      : folder_(std::filesystem::temp_directory_path() /
                ("polarquant_calibration_" +
                 std::string(testing::UnitTest::GetInstance()->current_test_info()->name()))),
        path_((folder_ / "model.cal").string()) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directory(folder_);
  }
  ~CalibrationPathTest() override { std::filesystem::remove_all(folder_); }

  std::size_t num_files() const {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_)) ++count;
    return count;
  }

  const std::filesystem::path folder_;
  const std::string path_;
};

TEST_F(CalibrationPathTest, AFileHoldsOneCalibration) {
  save(Calibration({9, 9, 9}), path_);
  save(example(), path_);
  EXPECT_EQ(num_files(), 1u);
  EXPECT_EQ(file_bytes(path_), saved_calibration(example()));
  EXPECT_EQ(load_calibration(path_), example());
  std::ofstream(path_, std::ios::binary | std::ios::app) << '\0';
  EXPECT_EQ(message_of<std::runtime_error>([&] { load_calibration(path_); }),
            "polarquant: loading: " + path_ + " has bytes behind the calibration");
}

TEST_F(CalibrationPathTest, AnotherModelsFileIsRefused) {
  save(example(), path_);
  EXPECT_EQ(load_calibration(path_, {5, 2, 3}), example());
  EXPECT_EQ(
      message_of<std::runtime_error>([&] {
        load_calibration(path_, {5, 3, 2});
      }),
      "polarquant: the calibration is for 5 layers of 2 KV heads of 3 channels, must be for 5 "
      "layers of 3 KV heads of 2 channels");
}

TEST_F(CalibrationPathTest, WhatCannotBeReadOrWrittenIsNamed) {
  EXPECT_EQ(message_of<std::runtime_error>([&] { load_calibration(path_); }),
            "polarquant: loading: cannot read " + path_);
  std::ofstream(path_).flush();
  EXPECT_EQ(message_of<std::runtime_error>([&] { load_calibration(path_); }),
            "polarquant: loading: " + path_ + " is empty");
  // A failed save leaves the old file, and nothing else.
  save(example(), path_);
  std::filesystem::create_directory(path_ + ".part");
  EXPECT_EQ(message_of<std::runtime_error>([&] {
              save(Calibration({1, 1, 1}), path_);
            }),
            "polarquant: saving: cannot write " + path_ + ".part");
  std::filesystem::remove(path_ + ".part");
  EXPECT_EQ(load_calibration(path_), example());
  EXPECT_EQ(num_files(), 1u);
  std::ostringstream closed;
  closed.setstate(std::ios::badbit);
  EXPECT_EQ(message_of<std::runtime_error>([&] { save(example(), closed); }),
            "polarquant: saving: the stream does not take the bytes");
}

}  // namespace
