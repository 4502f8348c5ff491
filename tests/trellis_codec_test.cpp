#include "polarquant/codec/trellis_codec.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iomanip>
#include <memory>
#include <optional>
#include <polarquant/polarquant.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "sample.hpp"
#include "test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

constexpr double kAllBits[] = {2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 8};

std::shared_ptr<const Codec<float>> codec_of(const TrellisFormat& format, RotationKind kind,
                                             std::optional<Isa> isa = {}) {
  return make_codec<float>(format,
                           {make_rotation(kind, format.head_dim, 3), Arithmetic::kExact, isa});
}

// From both sides, of vectors in random directions, rotated and not: the norm's rounding is in it.
TEST(TrellisCodecTest, TheErrorIsTheExpectedOne) {
  for (const int head_dim : {16, 48, 64, 100, 128, 576}) {
    for (const double bits : kAllBits) {
      const TrellisFormat format(head_dim, bits);
      const std::size_t d = static_cast<std::size_t>(head_dim);
      const auto codec = codec_of(format, RotationKind::kHadamard);
      const std::size_t count = kSanitized ? 200 : 60000 / d + 200;
      const std::vector<float> rows = gaussian_vector<float>(count * d, 7);
      const std::vector<float> decoded = decode_rows(*codec, encode_rows(*codec, rows));
      double error = 0.0;
      double spread = 0.0;
      for (std::size_t row = 0; row < count; ++row) {
        double square = 0.0;
        double norm2 = 0.0;
        for (std::size_t i = row * d; i < (row + 1) * d; ++i) {
          const double difference = static_cast<double>(rows[i]) - static_cast<double>(decoded[i]);
          square += difference * difference;
          norm2 += static_cast<double>(rows[i]) * static_cast<double>(rows[i]);
        }
        error += square / norm2;
        spread += square / norm2 * (square / norm2);
      }
      error /= static_cast<double>(count);
      spread = std::sqrt((spread / static_cast<double>(count) - error * error) /
                         static_cast<double>(count));
      const double expected = format.expected_relative_mse();
      // 1 % and four standard errors; below 32 the law in 1 / head_dim holds to 4 %.
      EXPECT_NEAR(error, expected, (head_dim < 32 ? 0.04 : 0.01) * expected + 4.0 * spread)
          << head_dim << " " << bits;
    }
  }
}

// Real keys and values, rotated: no law but that of the rotation is assumed of them.
TEST(TrellisCodecTest, TheErrorOnTheSampleIsTheExpectedOne) {
  const polarquant_demo::Sample sample =
      polarquant_demo::load_sample(POLARQUANT_SOURCE_DIR "/data/smollm2-135m");
  const std::size_t d = static_cast<std::size_t>(sample.shape.key_dim);
  for (const double bits : {2.0, 3.0, 3.5, 4.0, 6.0, 8.0}) {
    const TrellisFormat format(sample.shape.key_dim, bits);
    const auto codec = codec_of(format, RotationKind::kHadamard);
    for (const bool is_value : {false, true}) {
      double error = 0.0;
      std::size_t count = 0;
      for (const auto& layer : sample.layers) {
        const RowMatrix<float>& matrix = is_value ? layer.values : layer.keys;
        // Heads stand behind each other in a row.
        const std::vector<float> rows(matrix.data(), matrix.data() + matrix.size());
        const std::vector<float> decoded = decode_rows(*codec, encode_rows(*codec, rows));
        for (std::size_t first = 0; first < rows.size(); first += d, ++count) {
          double square = 0.0;
          for (std::size_t i = first; i < first + d; ++i) {
            square += std::pow(static_cast<double>(rows[i]) - static_cast<double>(decoded[i]), 2);
          }
          error += square / std::pow(norm_of(rows.data() + first, d), 2);
        }
      }
      EXPECT_NEAR(error / static_cast<double>(count) / format.expected_relative_mse(), 1.0, 0.04)
          << bits << (is_value ? " values" : " keys");
    }
  }
}

// The fast search against the reference: its error may be more by what floats round.
TEST(TrellisCodecTest, NoCodesAreNearerThanTheEncoders) {
  for (const int head_dim : {16, 50, 64, 128}) {
    for (const double bits : kAllBits) {
      if (bits == 8.0) continue;
      const TrellisFormat format(head_dim, bits);
      const std::size_t d = static_cast<std::size_t>(head_dim);
      const auto codec = codec_of(format, RotationKind::kNone);
      const TrellisTables tables = polarquant::detail::trellis_tables(format);
      const polarquant::detail::TrellisLayout layout(format);
      const std::vector<float> rows = gaussian_vector<float>(33 * d, 11);
      const std::vector<std::byte> codes = encode_rows(*codec, rows);
      for (std::size_t row = 0; row < 33; ++row) {
        std::vector<double> numbers(rows.begin() + static_cast<std::ptrdiff_t>(row * d),
                                    rows.begin() + static_cast<std::ptrdiff_t>((row + 1) * d));
        const double factor = std::sqrt(static_cast<double>(d)) / norm_of(rows.data() + row * d, d);
        for (double& number : numbers) number *= factor;
        const auto error_of = [&](const std::vector<std::uint8_t>& own) {
          const std::vector<unsigned> windows = plain_trellis_windows(tables, own);
          double error = 0.0;
          for (std::size_t i = 0; i < d; ++i) {
            error += std::pow(numbers[i] - tables[i]->value(windows[i]), 2);
          }
          return error;
        };
        std::vector<std::uint8_t> own(d);
        layout.unpack(codes.data() + row * layout.num_bytes(), own.data());
        const double least = error_of(plain_trellis_encode(tables, numbers));
        EXPECT_LE(error_of(own), least * (1.0 + 2e-6)) << head_dim << " " << bits;
        EXPECT_GE(error_of(own), least * (1.0 - 1e-12)) << head_dim << " " << bits;
      }
    }
  }
}

// <x, decode(code)> = ||x||^2 to what the norm's 8 bits round.
TEST(TrellisCodecTest, ThePartAlongTheVectorIsTheVector) {
  for (const double bits : kAllBits) {
    const auto codec = codec_of(TrellisFormat(64, bits), RotationKind::kHaar);
    const std::vector<float> rows = gaussian_vector<float>(64 * 64, 13);
    const std::vector<float> decoded = decode_rows(*codec, encode_rows(*codec, rows));
    for (std::size_t row = 0; row < 64; ++row) {
      const double norm = norm_of(rows.data() + row * 64, 64);
      EXPECT_NEAR(inner_product(rows.data() + row * 64, decoded.data() + row * 64, 64), norm * norm,
                  norm * norm / 255.0)
          << bits;
    }
  }
}

TEST(TrellisCodecTest, EveryInstructionSetWritesTheSameBytes) {
  for (const int head_dim : {16, 64, 90, 128}) {
    for (const double bits : kAllBits) {
      for (const RotationKind kind : {RotationKind::kHadamard, RotationKind::kHaar}) {
        const TrellisFormat format(head_dim, bits);
        // A tile at a time and one by one.
        const std::vector<float> rows =
            gaussian_vector<float>(65 * static_cast<std::size_t>(head_dim), 17);
        const std::vector<std::byte> expected =
            encode_rows(*codec_of(format, kind, Isa::kScalar), rows);
        for (const Isa isa : available_isas()) {
          EXPECT_TRUE(encode_rows(*codec_of(format, kind, isa), rows) == expected)
              << head_dim << " " << bits << " " << isa_name(isa);
        }
      }
    }
  }
}

// A line of tests/saved/trellis_codes.txt, which decode_trellis.py decodes: width, bits, the code
// of a vector that is not rotated, and what it decodes to.
std::string golden_line(int head_dim, double bits) {
  const auto codec = codec_of(TrellisFormat(head_dim, bits), RotationKind::kNone);
  const std::size_t d = static_cast<std::size_t>(head_dim);
  const std::vector<std::byte> code = encode_rows(*codec, gaussian_vector<float>(d, 23));
  std::ostringstream line;
  line << head_dim << " " << bits << " " << std::hex << std::setfill('0');
  for (const std::byte byte : code) line << std::setw(2) << std::to_integer<int>(byte);
  for (const float number : decode_rows(*codec, code))
    line << " " << std::setprecision(9) << number;
  return line.str();
}

// The bytes are a format: a change of them is a decision, never an accident.
TEST(TrellisCodecTest, CodesAreTheGoldenOnes) {
  std::ifstream file(POLARQUANT_SOURCE_DIR "/tests/saved/trellis_codes.txt");
  std::string line;
  int count = 0;
  for (; std::getline(file, line); ++count) {
    std::istringstream start(line);
    int head_dim = 0;
    double bits = 0.0;
    ASSERT_TRUE(start >> head_dim >> bits);
    EXPECT_EQ(golden_line(head_dim, bits), line);
  }
  EXPECT_EQ(count, 12);
}

TEST(TrellisCodecTest, LengthsOfAllOrdersComeBack) {
  for (const double bits : kAllBits) {
    const auto codec = codec_of(TrellisFormat(32, bits), RotationKind::kHadamard);
    const std::vector<float> row = gaussian_vector<float>(32, 19);
    const std::vector<std::byte> code = encode_rows(*codec, row);
    for (const float scale : {0x1p-100f, 0x1p-20f, 0x1p30f, 0x1p110f}) {
      std::vector<float> scaled = row;
      for (float& number : scaled) number *= scale;
      const std::vector<std::byte> other = encode_rows(*codec, scaled);
      EXPECT_TRUE(std::equal(code.begin() + 2, code.end(), other.begin() + 2)) << bits;
      const std::vector<float> near = decode_rows(*codec, code);
      const std::vector<float> far = decode_rows(*codec, other);
      for (std::size_t i = 0; i < 32; ++i) EXPECT_EQ(far[i], near[i] * scale) << bits;
    }
    const std::vector<std::byte> zero = encode_rows(*codec, std::vector<float>(32));
    EXPECT_TRUE(zero == std::vector<std::byte>(zero.size())) << bits;
    EXPECT_TRUE(decode_rows(*codec, zero) == std::vector<float>(32)) << bits;
    // Not one of a normal law, and not rotated: the factor has a bound.
    const auto plain = codec_of(TrellisFormat(32, bits), RotationKind::kNone);
    std::vector<float> single(32);
    single[3] = -5.0f;
    const std::vector<float> back = decode_rows(*plain, encode_rows(*plain, single));
    EXPECT_LE(norm_of(back.data(), 32), 2.6 * 5.0) << bits;
    EXPECT_LT(back[3], 0.0f) << bits;
  }
}

}  // namespace
