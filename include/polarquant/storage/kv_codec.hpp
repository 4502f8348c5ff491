// The codecs of keys and of values, which the caches of all layers share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "polarquant/base/compiled.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codec/families.hpp"
#include "polarquant/method/rotation.hpp"
#include "polarquant/storage/config.hpp"

POLARQUANT_BEGIN_NAMESPACE

enum class Side : std::uint8_t { kKeys = 0, kValues = 1 };

namespace detail {
inline constexpr Side kSides[] = {Side::kKeys, Side::kValues};
}

// The codecs of keys and of values: what the caches of all layers and sequences share. Immutable.
// A: the type of results; caches of float, Eigen::half and Eigen::bfloat16 take KVCodec<float>.
template <typename A>
class KVCodec {
 public:
  // Throws what KVCacheConfig::validate throws.
  explicit KVCodec(const KVCacheConfig& config);

  const Codec<A>& keys() const { return side(Side::kKeys); }
  const Codec<A>& values() const { return side(Side::kValues); }
  const Codec<A>& side(Side side) const { return *sides_[static_cast<std::size_t>(side)]; }

  // Whether caches of a configuration can share it: what does not fit, empty if all does.
  std::string mismatch(const KVCacheConfig& config) const;

  // Rotations and tables.
  std::size_t memory_bytes() const {
    const bool shared = &keys().rotation() == &values().rotation();
    return keys().memory_bytes() + values().memory_bytes() -
           (shared ? keys().rotation().memory_bytes() : 0);
  }

 private:
  std::shared_ptr<const Codec<A>> sides_[2];
};

template <typename A>
KVCodec<A>::KVCodec(const KVCacheConfig& config) {
  config.validate();
  std::shared_ptr<const Rotation> rotation;
  for (const Side side : detail::kSides) {
    const CodecFormat& format = side == Side::kKeys ? config.key_format : config.value_format;
    // Keys and values of equal width share a rotation.
    if (rotation == nullptr || rotation->head_dim() != format.head_dim()) {
      rotation = std::make_shared<const Rotation>(config.rotation, format.head_dim(), config.seed);
    }
    sides_[static_cast<std::size_t>(side)] =
        make_codec<A>(format, {rotation, config.arithmetic, config.isa});
  }
}

template <typename A>
std::string KVCodec<A>::mismatch(const KVCacheConfig& config) const {
  for (const Side side : detail::kSides) {
    const Codec<A>& codec = this->side(side);
    const CodecFormat& format = side == Side::kKeys ? config.key_format : config.value_format;
    const char* const name = side == Side::kKeys ? "keys" : "values";
    if (codec.format() != format) {
      return detail::message({"the shared codec was made for ", name, " in ",
                              codec.format().description(), ", the configuration has ",
                              format.description()});
    }
    if (!format.is_uncompressed() &&
        (codec.rotation().kind() != config.rotation || codec.rotation().seed() != config.seed)) {
      return "the shared codec was made for another rotation or seed";
    }
    if (codec.arithmetic() != config.arithmetic) {
      return "the shared codec was made for another arithmetic";
    }
    if (config.isa && codec.isa() != *config.isa) {
      return detail::message({"the shared codec was made for the instruction set ",
                              isa_name(codec.isa()), ", the configuration asks for ",
                              isa_name(*config.isa)});
    }
  }
  return {};
}

POLARQUANT_INSTANTIATE(class KVCodec<float>);
POLARQUANT_INSTANTIATE(class KVCodec<double>);

namespace detail {

// Returns the codec of caches of a configuration; throws std::invalid_argument if it is none.
template <typename A>
std::shared_ptr<const KVCodec<A>> fitting_codec(const KVCacheConfig& config,
                                                std::shared_ptr<const KVCodec<A>> codec) {
  config.validate();
  if (codec == nullptr) throw_invalid_argument("a cache without a codec");
  const std::string found = codec->mismatch(config);
  if (!found.empty()) throw_invalid_argument(found);
  return codec;
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
