// A program compiled with flags that let a compiler change float arithmetic, such as -ffast-math:
// attention stays as accurate, what is not finite is refused, and codebooks, rotations and codes
// are the same bits as in a plain build.
//
// usage: float_flags          checks; the environment variable POLARQUANT_ISA chooses the kernels
//        float_flags print    prints the checksums that stand below
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <vector>

#include "polarquant/polarquant.hpp"

namespace {

using polarquant::Arithmetic;
using polarquant::FloatType;
using polarquant::KVCache;
using polarquant::KVCacheConfig;
using polarquant::PolarCodec;
using polarquant::PolarFormat;
using polarquant::Random;
using polarquant::Rotation;
using polarquant::RotationKind;
using polarquant::Rows;
using Matrix = polarquant::RowMatrix<float>;

constexpr std::uint64_t kCodebooks = 0xb8a9cae5855aeb60ULL;
constexpr std::uint64_t kRotations = 0xe45e7b5e580b1f2cULL;
constexpr std::uint64_t kCodes = 0x68d7cc512294bd7cULL;

int num_failures = 0;

void expect(bool holds, const char* what, double got = 0.0) {
  if (holds) return;
  ++num_failures;
  std::printf("FAILED: %s (%g)\n", what, got);
}

Matrix random_matrix(int num_rows, int num_columns, std::uint64_t seed) {
  Random random(seed);
  Matrix result(num_rows, num_columns);
  for (int i = 0; i < num_rows; ++i) {
    for (int j = 0; j < num_columns; ++j) {
      result(i, j) = static_cast<float>(4.0 * random.uniform() - 2.0);
    }
  }
  return result;
}

// ||output - attention in double over what the cache decodes|| / ||that attention||.
double error_of(const KVCache<float>& cache, const Matrix& queries, const Matrix& output) {
  const Matrix keys = cache.decode_keys(0);
  const Matrix values = cache.decode_values(0);
  double difference2 = 0.0;
  double norm2 = 0.0;
  for (Eigen::Index q = 0; q < queries.rows(); ++q) {
    std::vector<double> weights(static_cast<std::size_t>(keys.rows()));
    double largest = -1e300;
    for (Eigen::Index t = 0; t < keys.rows(); ++t) {
      double logit = 0.0;
      for (Eigen::Index i = 0; i < keys.cols(); ++i) {
        logit += static_cast<double>(queries(q, i)) * static_cast<double>(keys(t, i));
      }
      logit /= 8.0;  // sqrt(64)
      weights[static_cast<std::size_t>(t)] = logit;
      largest = largest > logit ? largest : logit;
    }
    double total = 0.0;
    for (double& weight : weights) total += weight = std::exp(weight - largest);
    for (Eigen::Index i = 0; i < values.cols(); ++i) {
      double right = 0.0;
      for (Eigen::Index t = 0; t < keys.rows(); ++t) {
        right += weights[static_cast<std::size_t>(t)] / total * static_cast<double>(values(t, i));
      }
      const double difference = static_cast<double>(output(q, i)) - right;
      difference2 += difference * difference;
      norm2 += right * right;
    }
  }
  return std::sqrt(difference2 / norm2);
}

KVCacheConfig config_of(Arithmetic arithmetic) {
  KVCacheConfig config;
  config.key_format = PolarFormat::paper(64);
  config.value_format = PolarFormat::full_depth(64, 3.25);
  config.arithmetic = arithmetic;
  return config;
}

void check_attention() {
  const Matrix keys = random_matrix(300, 64, 1);
  const Matrix values = random_matrix(300, 64, 2);
  const Matrix queries = random_matrix(4, 64, 3);
  polarquant::AttentionOptions<float> options;
  options.causal = false;
  for (const Arithmetic arithmetic : {Arithmetic::kExact, Arithmetic::kFixedPoint}) {
    // Everything encoded; some exact in float, in half; everything exact.
    for (int kind = 0; kind < 4; ++kind) {
      KVCacheConfig config = config_of(arithmetic);
      config.num_sink_tokens = kind == 0 ? 0 : 4;
      config.num_recent_tokens = kind == 0 ? 0 : kind == 3 ? 1000 : 32;
      config.exact_type = kind == 2 ? FloatType::kFloat16 : FloatType::kFloat32;
      KVCache<float> cache(config);
      cache.append(keys, values);
      const double error = error_of(cache, queries, cache.attend(queries, options));
      // 2e-7 and 1e-4 were measured.
      const bool is_exact = arithmetic == Arithmetic::kExact || kind == 3;
      expect(error < (is_exact ? 2e-6 : 1e-3), cache.kernel_name(), error);
    }
  }
}

void check_masked_queries() {
  KVCache<float> cache(config_of(Arithmetic::kExact));
  cache.append(random_matrix(300, 64, 1), random_matrix(300, 64, 2));
  // -infinity, whatever the compiler believes about it.
  const std::uint32_t bits = 0xff800000u;
  float infinity;
  std::memcpy(&infinity, &bits, sizeof infinity);
  const std::vector<float> mask(300, infinity);
  polarquant::AttentionOptions<float> options;
  options.causal = false;
  options.mask = {mask.data(), 1, 300};
  const Matrix output = cache.attend(random_matrix(1, 64, 3), options);
  for (Eigen::Index i = 0; i < output.cols(); ++i) {
    float entry = output(0, i);
    std::uint32_t entry_bits;
    std::memcpy(&entry_bits, &entry, sizeof entry);
    expect((entry_bits & 0x7fffffffu) == 0, "a fully masked query is not 0", entry);
  }
}

void check_refusals() {
  for (const std::uint32_t bits : {0x7fc00000u, 0x7f800000u, 0xff800000u}) {
    for (int kind = 0; kind < 2; ++kind) {
      KVCacheConfig config = config_of(Arithmetic::kExact);
      config.num_recent_tokens = kind == 0 ? 0 : 32;
      KVCache<float> cache(config);
      Matrix keys = random_matrix(40, 64, 1);
      std::memcpy(&keys(20, 7), &bits, sizeof bits);
      bool is_refused = false;
      try {
        cache.append(keys, random_matrix(40, 64, 2));
      } catch (const std::exception&) {
        is_refused = true;
      }
      expect(is_refused, "a key that is not finite is appended", bits);
    }
  }
}

PolarFormat with_meaning(PolarFormat format, polarquant::RadiusMeaning meaning) {
  format.radius_meaning = meaning;
  return format;
}

void check_bits(bool print) {
  const PolarFormat formats[] = {
      PolarFormat::paper(64), PolarFormat::full_depth(112, 3.25), PolarFormat::full_depth(80, 4.25),
      with_meaning(PolarFormat::paper(64), polarquant::RadiusMeaning::kLeastSquares)};
  std::uint64_t codebooks = 0;
  std::uint64_t rotations = 0;
  polarquant::detail::Checksum codes;
  for (const PolarFormat& format : formats) {
    for (const RotationKind kind : {RotationKind::kHaar, RotationKind::kHadamard}) {
      const auto rotation = std::make_shared<const Rotation>(kind, format.head_dim, 7);
      rotations = rotations * 31 + rotation->checksum();
      const PolarCodec<float> codec(format, rotation);
      codebooks = codebooks * 31 +
                  polarquant::detail::checksum_of(codec.format().polar()->codebooks_or_offline());
      const Matrix rows = random_matrix(40, format.head_dim, 11);
      std::vector<std::byte> bytes(40 * codec.bytes_per_vector());
      polarquant::AlignedBuffer scratch(codec.scratch_bytes());
      const polarquant::EncodeResult encoded =
          codec.encode({rows.data(), 40, format.head_dim},
                       {bytes.data(), 40, codec.bytes_per_vector()}, scratch.data());
      expect(encoded.num_encoded == 40, "rows are not encoded", 0.0);
      codes.add(bytes.data(), bytes.size());
    }
  }
  if (print) {
    std::printf("constexpr std::uint64_t kCodebooks = 0x%llxULL;\n",
                static_cast<unsigned long long>(codebooks));
    std::printf("constexpr std::uint64_t kRotations = 0x%llxULL;\n",
                static_cast<unsigned long long>(rotations));
    std::printf("constexpr std::uint64_t kCodes = 0x%llxULL;\n",
                static_cast<unsigned long long>(codes.value()));
    return;
  }
  expect(codebooks == kCodebooks, "codebooks differ from those of a plain build");
  expect(rotations == kRotations, "rotations differ from those of a plain build");
  expect(codes.value() == kCodes, "codes differ from those of a plain build");
}

}  // namespace

int main(int argc, char** argv) {
  const bool print = argc > 1 && std::strcmp(argv[1], "print") == 0;
  // ctest knows the sentence and skips the test, but not if it ends in an abort.
  try {
    polarquant::choose_isa();
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  check_bits(print);
  if (print) return 0;
  check_attention();
  check_masked_queries();
  check_refusals();
  if (num_failures == 0) std::printf("float flags: all as in a plain build\n");
  return num_failures == 0 ? 0 : 1;
}
