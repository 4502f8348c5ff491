// What tests share: exceptions, reproducible inputs, formats, guarded memory, the way through a
// codec and what it makes of vectors, instruction sets.
#pragma once

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <new>
#include <polarquant/polarquant.hpp>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define POLARQUANT_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POLARQUANT_TEST_SANITIZED 1
#endif
#endif
#if !defined(POLARQUANT_TEST_SANITIZED)
#define POLARQUANT_TEST_SANITIZED 0
#endif

namespace polarquant_test {

// Under sanitizers statistics are taken over fewer vectors; their tolerances follow the count.
inline constexpr bool kSanitized = POLARQUANT_TEST_SANITIZED != 0;

// Types of rows, and of the results of the codec they go into.
using ElementTypes = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
template <typename T>
using AccumulatorOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

// ---- Exceptions ----

// The message of the exception that `call` throws; empty if it throws none. An exception of another
// type is the test's failure.
template <typename Exception, typename Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const Exception& exception) {
    return exception.what();
  }
  return {};
}

// Fails unless `call` throws std::invalid_argument with every one of `parts` in its message.
template <typename Call>
void expect_invalid(Call&& call, std::initializer_list<const char*> parts) {
  const std::string message = message_of<std::invalid_argument>(call);
  EXPECT_EQ(message.rfind("polarquant: ", 0), 0u) << "message: " << message;
  for (const char* const part : parts) {
    EXPECT_NE(message.find(part), std::string::npos)
        << "message: " << message << "\nlacks: " << part;
  }
}

// ---- Inputs ----

// Independent standard normal entries times `scale`, rounded to T.
template <typename T>
std::vector<T> gaussian_vector(std::size_t count, std::uint64_t seed, double scale = 1.0) {
  polarquant::Random random(seed);
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(static_cast<float>(random.gaussian() * scale));
  return values;
}

template <typename T>
polarquant::RowMatrix<T> gaussian_matrix(Eigen::Index rows, Eigen::Index columns,
                                         std::uint64_t seed, double scale = 1.0) {
  polarquant::Random random(seed);
  polarquant::RowMatrix<T> matrix(rows, columns);
  for (Eigen::Index i = 0; i < matrix.size(); ++i) {
    matrix.data()[i] = static_cast<T>(static_cast<float>(random.gaussian() * scale));
  }
  return matrix;
}

inline int random_int(polarquant::Random& random, int low, int high) {
  return low + static_cast<int>(random.uniform() * (high - low + 1));
}

// ---- Formats ----

// Every width, depth, allocation of bits, radius type and meaning that a format may have.
inline polarquant::PolarFormat random_format(polarquant::Random& random, int max_head_dim = 1024) {
  static constexpr int kWidths[] = {16,  18,  22,  24,  32,  40,  48,  56,  64,  80,  96,   100,
                                    112, 128, 160, 192, 200, 256, 320, 384, 512, 576, 1000, 1024};
  polarquant::PolarFormat format;
  do {
    format.head_dim = kWidths[random_int(random, 0, 23)];
  } while (format.head_dim > max_head_dim);
  do {
    format.levels = random_int(random, 1, 10);
  } while (format.num_radii() == 0 ||
           (format.num_radii() > 1 && (format.num_radii() << format.levels) != format.head_dim));
  format.level_bits[0] = static_cast<std::uint8_t>(random_int(random, 1, 8));
  for (int level = 2; level <= format.levels; ++level) {
    format.level_bits[static_cast<std::size_t>(level - 1)] =
        static_cast<std::uint8_t>(random_int(random, 0, 6));
  }
  for (int join = 0; join < format.shape().num_joins(); ++join) {
    format.join_bits[static_cast<std::size_t>(join)] =
        static_cast<std::uint8_t>(random_int(random, 0, 6));
  }
  format.radius_type = static_cast<polarquant::FloatType>(random_int(random, 0, 2));
  format.radius_meaning = static_cast<polarquant::RadiusMeaning>(random_int(random, 0, 3));
  return format;
}

// A format of these bits, first level and first join first.
inline polarquant::PolarFormat format_of(int head_dim, const std::vector<int>& level_bits,
                                         const std::vector<int>& join_bits = {}) {
  polarquant::PolarFormat format;
  format.head_dim = head_dim;
  for (const int bits : level_bits) {
    format.level_bits[static_cast<std::size_t>(format.levels++)] = static_cast<std::uint8_t>(bits);
  }
  std::size_t join = 0;
  for (const int bits : join_bits) format.join_bits[join++] = static_cast<std::uint8_t>(bits);
  return format;
}

inline polarquant::PolarFormat with_codebooks(polarquant::PolarFormat format,
                                              polarquant::CodebookSet codebooks) {
  format.codebooks = std::make_shared<const polarquant::CodebookSet>(std::move(codebooks));
  return format;
}

inline constexpr polarquant::RadiusMeaning kRadiusMeanings[] = {
    polarquant::RadiusMeaning::kNorm, polarquant::RadiusMeaning::kUnbiased,
    polarquant::RadiusMeaning::kProjection, polarquant::RadiusMeaning::kLeastSquares};

// ---- Rotations ----

inline constexpr polarquant::RotationKind kRotations[] = {polarquant::RotationKind::kNone,
                                                          polarquant::RotationKind::kHadamard,
                                                          polarquant::RotationKind::kHaar};

// A Haar matrix costs head_dim^3; the widest formats take the fast rotation instead.
inline polarquant::RotationKind random_rotation(polarquant::Random& random, int head_dim) {
  const polarquant::RotationKind kind = kRotations[random_int(random, 0, 2)];
  return kind == polarquant::RotationKind::kHaar && head_dim > 256
             ? polarquant::RotationKind::kHadamard
             : kind;
}

inline polarquant::PolarFormat with_meaning(
    polarquant::PolarFormat format, polarquant::RadiusMeaning meaning,
    polarquant::FloatType type = polarquant::FloatType::kBFloat16) {
  format.radius_meaning = meaning;
  format.radius_type = type;
  return format;
}

inline std::shared_ptr<const polarquant::Rotation> make_rotation(polarquant::RotationKind kind,
                                                                 int head_dim,
                                                                 std::uint64_t seed = 1) {
  return std::make_shared<const polarquant::Rotation>(kind, head_dim, seed);
}

// Every token as the code of what came in, at once.
inline void encode_all(polarquant::KVCacheConfig& config) {
  config.num_sink_tokens = 0;
  config.num_recent_tokens = 0;
  config.centering = polarquant::Centering::kNone;
}

// ---- Memory ----

// Exactly `size` bytes aligned to 64, with a guard behind them: AddressSanitizer's own, or bytes
// that guard_is_intact() checks.
class GuardedBytes {
 public:
  explicit GuardedBytes(std::size_t size)
      : size_(size),
        data_(static_cast<std::byte*>(::operator new(size + kGuardBytes, kAlignment))) {
    std::memset(data_, 0xa5, size + kGuardBytes);
  }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;
  ~GuardedBytes() { ::operator delete(data_, kAlignment); }

  std::byte* data() { return data_; }
  bool guard_is_intact() const {
    for (std::size_t i = 0; i < kGuardBytes; ++i) {
      if (data_[size_ + i] != std::byte{0xa5}) return false;
    }
    return true;
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  static constexpr std::size_t kGuardBytes = kSanitized ? 0 : 256;

  std::size_t size_;
  std::byte* data_;
};

// A copy of numbers as kernels on tiles want them: aligned to 64 bytes.
template <typename A>
polarquant::AlignedBuffer aligned(const std::vector<A>& numbers) {
  polarquant::AlignedBuffer buffer(numbers.size() * sizeof(A));
  std::copy(numbers.begin(), numbers.end(), buffer.as<A>());
  return buffer;
}

// ---- The whole way through a codec ----

// The codes of `count` rows standing one after another.
template <typename T>
std::vector<std::byte> encode_rows(const polarquant::Codec<AccumulatorOf<T>>& codec,
                                   const std::vector<T>& rows) {
  const std::size_t count = rows.size() / codec.head_dim();
  std::vector<std::byte> codes(count * codec.bytes_per_vector());
  GuardedBytes scratch(codec.scratch_bytes());
  const polarquant::EncodeResult result =
      codec.encode(polarquant::Rows<const T>{rows.data(), count, codec.head_dim()},
                   {codes.data(), count, codec.bytes_per_vector()}, scratch.data());
  if (result.num_encoded != count) codes.clear();
  return codes;
}

template <typename A>
std::vector<A> decode_rows(const polarquant::Codec<A>& codec, const std::vector<std::byte>& codes) {
  const std::size_t count = codes.size() / codec.bytes_per_vector();
  std::vector<A> rows(count * codec.head_dim());
  GuardedBytes scratch(codec.scratch_bytes());
  codec.decode({codes.data(), count, codec.bytes_per_vector()},
               {rows.data(), count, codec.head_dim()}, scratch.data());
  return rows;
}

// ---- Numbers ----

template <typename A, typename B>
double inner_product(const A* x, const B* y, std::size_t count) {
  double sum = 0.0;
  for (std::size_t i = 0; i < count; ++i) {
    sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
  }
  return sum;
}

template <typename A>
double norm_of(const A* x, std::size_t count) {
  return std::sqrt(inner_product(x, x, count));
}

// Mean and standard error of samples, from running sums.
class Mean {
 public:
  void add(double value) {
    ++count_;
    const double delta = value - mean_;
    mean_ += delta / static_cast<double>(count_);
    squares_ += delta * (value - mean_);
  }
  double mean() const { return mean_; }
  double standard_error() const {
    const double n = static_cast<double>(count_);
    return std::sqrt(squares_ / (n * (n - 1.0)));
  }

 private:
  std::size_t count_ = 0;
  double mean_ = 0.0;
  double squares_ = 0.0;
};

// What a decoded vector x' is to x, over many vectors.
struct Distortion {
  Mean relative_mse;  // ||x - x'||^2 / ||x||^2
  Mean alignment;     // <x, x'> / ||x||^2

  template <typename A, typename B>
  void add(const A* x, const B* decoded, std::size_t count) {
    double error = 0.0;
    for (std::size_t i = 0; i < count; ++i) {
      const double difference = static_cast<double>(x[i]) - static_cast<double>(decoded[i]);
      error += difference * difference;
    }
    const double norm2 = inner_product(x, x, count);
    relative_mse.add(error / norm2);
    alignment.add(inner_product(x, decoded, count) / norm2);
  }
};

// Of rows that a codec encodes and decodes.
template <typename T>
void add_distortion(const polarquant::Codec<AccumulatorOf<T>>& codec, const std::vector<T>& rows,
                    Distortion* distortion) {
  const std::vector<AccumulatorOf<T>> decoded = decode_rows(codec, encode_rows(codec, rows));
  ASSERT_EQ(decoded.size(), rows.size());
  const std::size_t d = codec.head_dim();
  for (std::size_t i = 0; i < rows.size(); i += d) {
    distortion->add(rows.data() + i, decoded.data() + i, d);
  }
}
template <typename T>
Distortion distortion_of(const polarquant::Codec<AccumulatorOf<T>>& codec,
                         const std::vector<T>& rows) {
  Distortion distortion;
  add_distortion(codec, rows, &distortion);
  return distortion;
}

// Of `count` Gaussian vectors, in batches that fit the cache.
inline Distortion gaussian_distortion(const polarquant::Codec<float>& codec, std::size_t count,
                                      std::uint64_t seed) {
  constexpr std::size_t kBatch = 1000;
  Distortion distortion;
  for (std::size_t first = 0; first < count; first += kBatch) {
    add_distortion(codec, gaussian_vector<float>(kBatch * codec.head_dim(), seed + first),
                   &distortion);
  }
  return distortion;
}

// The relative MSE that rounding a radius adds: the mean square of a relative error uniform within
// half a unit of the last place, at most 2^-2p / 3 for p bits of precision.
inline double radius_rounding_mse(polarquant::FloatType type) {
  const int precision = type == polarquant::FloatType::kBFloat16  ? 8
                        : type == polarquant::FloatType::kFloat16 ? 11
                                                                  : 24;
  return std::ldexp(1.0, -2 * precision) / 3.0;
}

// ---- Instruction sets ----

inline constexpr polarquant::Isa kIsas[] = {polarquant::Isa::kScalar, polarquant::Isa::kAvx2,
                                            polarquant::Isa::kAvx512, polarquant::Isa::kNeon};

// Those of this machine and build.
inline std::vector<polarquant::Isa> available_isas() {
  std::vector<polarquant::Isa> result;
  for (const polarquant::Isa isa : kIsas) {
    if (polarquant::isa_is_available(isa)) result.push_back(isa);
  }
  return result;
}

// Sets POLARQUANT_ISA while it lives; what is constructed meanwhile obeys it.
class ScopedIsa {
 public:
  explicit ScopedIsa(const char* name) {
    const char* const before = std::getenv("POLARQUANT_ISA");
    had_value_ = before != nullptr;
    if (had_value_) before_ = before;
    if (name == nullptr) {
      unsetenv("POLARQUANT_ISA");
    } else {
      setenv("POLARQUANT_ISA", name, 1);
    }
  }
  ScopedIsa(const ScopedIsa&) = delete;
  ScopedIsa& operator=(const ScopedIsa&) = delete;
  ~ScopedIsa() {
    if (had_value_) {
      setenv("POLARQUANT_ISA", before_.c_str(), 1);
    } else {
      unsetenv("POLARQUANT_ISA");
    }
  }

 private:
  bool had_value_ = false;
  std::string before_;
};

}  // namespace polarquant_test
