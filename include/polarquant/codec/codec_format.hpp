// The format of a side of a cache, whatever family of codes it belongs to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/isa.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/method/polar_format.hpp"
#include "polarquant/method/rotation.hpp"
#include "polarquant/trellis/trellis_format.hpp"

POLARQUANT_BEGIN_NAMESPACE

template <typename A>
class Codec;

// What a codec is built from beside its format.
struct CodecSetup {
  std::shared_ptr<const Rotation> rotation;  // as wide as the format
  Arithmetic arithmetic = Arithmetic::kFixedPoint;
  std::optional<Isa> isa;  // empty: the best of the machine, or what POLARQUANT_ISA names
};

// A family of codes. Derive from it, and from Codec, to bring a family of your own: everything from
// the codec on up (cache, attention, saving) takes it as it takes the library's.
class FormatModel {
 public:
  virtual ~FormatModel() = default;

  // What saved files call the family: 1 .. 8 letters.
  virtual const char* family() const = 0;
  virtual int head_dim() const = 0;
  virtual std::size_t bytes_per_vector() const = 0;

  // Whether vectors are kept as they are, each number in number_type(): not rotated, not centred.
  virtual bool is_uncompressed() const = 0;

  // The type that holds a vector's norms (the numbers themselves where it is uncompressed): how
  // large a vector may be.
  virtual FloatType number_type() const = 0;

  // E||x - x'||^2 / ||x||^2.
  virtual double expected_relative_mse() const = 0;

  // The family and what tells this format from its others, for people.
  virtual std::string description() const = 0;

  // The first rule that is broken, with the value that breaks it; empty if all hold.
  virtual std::string problem() const = 0;

  // What a saved file says of the format, always as many numbers, which decide its codes: a saved
  // cache and the cache it is loaded into must agree on all of them.
  virtual std::vector<std::uint64_t> settings() const = 0;

  // Whether a format of the same family has the same codes.
  virtual bool equals(const FormatModel& other) const { return settings() == other.settings(); }

  // The library's own format that this is a model of, if it is one.
  virtual const PolarFormat* polar() const { return nullptr; }
  virtual const TrellisFormat* trellis() const { return nullptr; }

  // The codec of a valid format; null: none for this type of results.
  virtual std::shared_ptr<const Codec<float>> make_float(const CodecSetup&) const { return {}; }
  virtual std::shared_ptr<const Codec<double>> make_double(const CodecSetup&) const { return {}; }
};

// The format of the keys, or of the values: any family's. Made from one of the library's formats,
// config.key_format = PolarFormat::paper(128), or from a FormatModel. Empty as it comes.
class CodecFormat {
 public:
  CodecFormat() = default;
  CodecFormat(const PolarFormat& format);    // NOLINT: a format is a format
  CodecFormat(const TrellisFormat& format);  // NOLINT
  CodecFormat(std::shared_ptr<const FormatModel> model) : model_(std::move(model)) {}  // NOLINT

  bool is_set() const { return model_ != nullptr; }

  // The library's own format in it, or null.
  const PolarFormat* polar() const { return is_set() ? model_->polar() : nullptr; }
  const TrellisFormat* trellis() const { return is_set() ? model_->trellis() : nullptr; }

  // What follows throws std::invalid_argument if no format is set.
  int head_dim() const { return model().head_dim(); }
  bool is_uncompressed() const { return model().is_uncompressed(); }
  std::size_t bytes_per_vector() const { return model().bytes_per_vector(); }
  double bits_per_coordinate() const {
    return static_cast<double>(bytes_per_vector()) * 8.0 / head_dim();
  }
  double expected_relative_mse() const { return model().expected_relative_mse(); }
  std::string description() const { return model().description(); }

  // See FormatModel; that there is no format is a problem too.
  std::string problem() const {
    return is_set() ? model_->problem()
                    : "no format is set: take PolarFormat::paper(head_dim), "
                      "full_depth(head_dim, bits) or uncompressed(head_dim), or "
                      "TrellisFormat(head_dim, bits)";
  }

  const FormatModel& model() const {
    if (model_ == nullptr) detail::throw_invalid_argument(problem());
    return *model_;
  }

  friend bool operator==(const CodecFormat& x, const CodecFormat& y) {
    if (x.model_ == y.model_) return true;
    if (!x.is_set() || !y.is_set()) return false;
    return std::string(x.model_->family()) == y.model_->family() && x.model_->equals(*y.model_);
  }
  friend bool operator!=(const CodecFormat& x, const CodecFormat& y) { return !(x == y); }

 private:
  std::shared_ptr<const FormatModel> model_;
};

POLARQUANT_END_NAMESPACE
