// storage/calibration.hpp, and that calibration.hpp alone is enough for a calibration.
#include "polarquant/calibration.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "test_util.hpp"

namespace {

using polarquant::Calibration;
using polarquant::CalibrationShape;
using polarquant::KeyMatrices;
using polarquant::LayerCalibration;
using polarquant_test::expect_invalid;

constexpr CalibrationShape kShape{3, 2, 4};

std::vector<float> scales_of(float first) {
  std::vector<float> scales;
  for (int i = 0; i < 8; ++i) scales.push_back(first + 0.25f * static_cast<float>(i));
  return scales;
}

// Positive definite: their diagonals outweigh the rest.
std::shared_ptr<const KeyMatrices> some_matrices(std::size_t num_kv_heads = 2,
                                                 std::size_t head_dim = 4) {
  std::vector<float> triangles;
  for (std::size_t head = 0; head < num_kv_heads; ++head) {
    for (std::size_t i = 0; i < head_dim; ++i) {
      triangles.insert(triangles.end(), i, 0.125f);
      triangles.push_back(static_cast<float>(1 + head + i));
    }
  }
  return std::make_shared<const KeyMatrices>(num_kv_heads, head_dim, triangles);
}

// A layer with scales and bits, one with bits, one that is not there.
Calibration example() {
  Calibration calibration(kShape);
  calibration.set_key_scales(0, scales_of(0.5f), {2, 300});
  calibration.set_bits(0, 3.25, 4.25);
  calibration.set_bits(2, 2.25, 0.0);
  return calibration;
}

TEST(CalibrationTest, HoldsWhatWasSet) {
  const Calibration calibration = example();
  EXPECT_EQ(calibration.num_layers(), 3);
  EXPECT_EQ(calibration.num_kv_heads(), 2);
  EXPECT_EQ(calibration.head_dim(), 4);
  EXPECT_EQ(calibration.shape(), kShape);
  const LayerCalibration& layer = calibration.layer(0);
  EXPECT_EQ(layer.key_scales, scales_of(0.5f));
  EXPECT_EQ(layer.key_bits, 3.25);
  EXPECT_EQ(layer.value_bits, 4.25);
  EXPECT_EQ(calibration.counts(0).num_windows, 2u);
  EXPECT_EQ(calibration.counts(0).num_queries, 300u);
  EXPECT_TRUE(calibration.layer(2).key_scales.empty());
  EXPECT_EQ(calibration.layer(2).key_bits, 2.25);
  EXPECT_EQ(calibration.counts(2).num_windows, 0u);
  EXPECT_EQ(example().layer(0), layer);  // of a temporary
}

TEST(CalibrationTest, LayersAreThereOnceTheyHaveSomething) {
  Calibration calibration = example();
  EXPECT_TRUE(calibration.has_layer(0));
  EXPECT_FALSE(calibration.has_layer(1));
  EXPECT_TRUE(calibration.has_layer(2));
  for (const int index : {-1, 3}) {
    EXPECT_FALSE(calibration.has_layer(index));
    expect_invalid([&] { calibration.layer(index); }, {"layer", "has 3 layers"});
    expect_invalid([&] { calibration.counts(index); }, {"layer", "has 3 layers"});
  }
  expect_invalid([&] { calibration.layer(1); }, {"layer 1 is not in the calibration"});
  calibration.set_bits(2, 0.0, -0.0);
  EXPECT_FALSE(calibration.has_layer(2));
}

TEST(CalibrationTest, TheChecksumCoversWhatDecidesCodes) {
  const Calibration calibration = example();
  std::vector<Calibration> others;
  const auto other = [&](const auto& change) {
    others.push_back(calibration);
    change(others.back());
  };
  others.emplace_back(kShape);
  others.emplace_back(CalibrationShape{3, 4, 2});
  others.emplace_back(CalibrationShape{4, 2, 4});
  other([](Calibration& c) { c.set_bits(0, 3.25, 4.0); });
  other([](Calibration& c) { c.set_bits(0, 4.25, 3.25); });
  other([](Calibration& c) { c.set_bits(1, 3.25, 4.25); });
  other([](Calibration& c) { c.set_key_scales(1, scales_of(0.5f)); });
  other([](Calibration& c) { c.set_key_scales(0, scales_of(0.75f)); });
  other([](Calibration& c) { c.set_key_matrices(0, some_matrices()); });
  other([](Calibration& c) {
    std::vector<float> scales = c.layer(0).key_scales;
    std::swap(scales[0], scales[7]);
    c.set_key_scales(0, scales, c.counts(0));
  });
  for (std::size_t i = 0; i < others.size(); ++i) {
    EXPECT_NE(others[i], calibration) << i;
    EXPECT_NE(others[i].checksum(), calibration.checksum()) << i;
    EXPECT_NE(others[i].checksum(), 0u);
    for (std::size_t j = 0; j < i; ++j) EXPECT_NE(others[i].checksum(), others[j].checksum());
  }
  // Each layer says whose it is.
  EXPECT_EQ(calibration.layer(0).checksum, calibration.checksum());
  EXPECT_EQ(calibration.layer(2).checksum, calibration.checksum());

  // What was counted does not decide codes, nor in which order things were set.
  Calibration same(kShape);
  same.set_bits(2, 2.25, 0.0);
  same.set_bits(0, 3.25, 4.25);
  same.set_key_scales(0, scales_of(9.0f));
  same.set_key_scales(0, scales_of(0.5f), {1, 300});
  EXPECT_EQ(same.checksum(), calibration.checksum());
  EXPECT_NE(same, calibration);
  same.set_key_scales(0, scales_of(0.5f), {2, 300});
  EXPECT_EQ(same, calibration);
}

TEST(CalibrationTest, ScalesAndMatricesReplaceEachOther) {
  Calibration calibration = example();
  const auto matrices = some_matrices();
  calibration.set_key_matrices(0, matrices, {7, 70});
  EXPECT_TRUE(calibration.layer(0).key_scales.empty());
  EXPECT_EQ(calibration.layer(0).key_matrices, matrices);
  EXPECT_EQ(calibration.layer(0).transform_numbers(), matrices->triangles());
  EXPECT_EQ(calibration.layer(0).key_bits, 3.25);
  EXPECT_EQ(calibration.counts(0).num_queries, 70u);
  Calibration same = example();
  same.set_key_matrices(0, some_matrices(), {7, 70});
  EXPECT_EQ(same, calibration);  // by their numbers
  calibration.set_key_scales(0, scales_of(0.5f), {2, 300});
  EXPECT_EQ(calibration, example());
  EXPECT_EQ(calibration.layer(0).transform_numbers(), scales_of(0.5f));
}

TEST(CalibrationTest, TheChecksumIsTheSameOnEveryMachine) {
  EXPECT_EQ(example().checksum(), 12308318121419832652u);
}

TEST(CalibrationTest, BadInputChangesNothing) {
  Calibration calibration = example();
  const auto error = [&](const auto& call, std::initializer_list<const char*> parts) {
    expect_invalid(call, parts);
    EXPECT_EQ(calibration, example());
    EXPECT_EQ(calibration.checksum(), example().checksum());
  };
  error([&] { calibration.set_key_scales(3, scales_of(1.0f)); }, {"layer 3", "has 3 layers"});
  error([&] { calibration.set_key_scales(0, std::vector<float>(7, 1.0f)); },
        {"7 scales", "num_kv_heads * head_dim = 8"});
  error([&] { calibration.set_key_scales(0, {}); }, {"0 scales", "= 8"});
  error([&] { calibration.set_key_matrices(0, some_matrices(1)); },
        {"of 1 KV heads of width 4", "must be of 2 of width 4"});
  error([&] { calibration.set_key_matrices(0, some_matrices(2, 5)); },
        {"of 2 KV heads of width 5", "must be of 2 of width 4"});
  error([&] { calibration.set_key_matrices(3, some_matrices()); }, {"layer 3", "has 3 layers"});
  for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> scales = scales_of(1.0f);
    scales[5] = bad;
    error([&] { calibration.set_key_scales(0, scales); },
          {"scale 5 of layer 0 is", "finite and above 0"});
  }
  error([&] { calibration.set_bits(-1, 3.0, 3.0); }, {"layer -1", "has 3 layers"});
  for (const double bad : {-0.5, 65.0, std::numeric_limits<double>::quiet_NaN()}) {
    error([&] { calibration.set_bits(0, bad, 3.0); }, {"bits of layer 0 are", "0 .. 64"});
    error([&] { calibration.set_bits(0, 3.0, bad); }, {"bits of layer 0 are", "0 .. 64"});
  }
}

TEST(CalibrationTest, BadShapesAreNamed) {
  expect_invalid([] { Calibration calibration({0, 1, 8}); }, {"num_layers is 0", "1 .. 16384"});
  expect_invalid([] { Calibration calibration({1, 0, 8}); }, {"num_kv_heads is 0"});
  expect_invalid([] { Calibration calibration({1, 1, -8}); }, {"head_dim is -8"});
  expect_invalid([] { Calibration calibration({20000, 1, 8}); }, {"num_layers is 20000"});
}

TEST(CalibrationTest, FromATextToAFile) {
  polarquant::Calibrator calibrator({1, 1, 2, 8});
  calibrator.add_window<float>(0, polarquant_test::gaussian_matrix<float>(50, 16, 1),
                               polarquant_test::gaussian_matrix<float>(50, 8, 2));
  Calibration calibration = calibrator.finish();
  const std::vector<polarquant::LayerBits> bits =
      polarquant::allocate_bits({{{{3.25, 0.1}}, {{3.25, 0.05}}}}, {2.25, 3.25, 4.25}, 3.25);
  calibration.set_bits(0, bits[0].keys, bits[0].values);
  std::stringstream file;
  polarquant::save(calibration, file);
  EXPECT_EQ(polarquant::load_calibration(file), calibration);
}

}  // namespace
