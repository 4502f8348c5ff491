// Saving and loading a calibration (docs/format.md, "The calibration file").
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <istream>
#include <limits>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "polarquant/base/error.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/saving/byte_streams.hpp"
#include "polarquant/saving/saved_file.hpp"
#include "polarquant/storage/calibration.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

inline constexpr SavedKind kCalibrationKind = {"PolarCal", "calibration", 1};

// A number per layer in section LAYS.
struct SavedLayer {
  std::uint64_t index;
  std::uint64_t num_windows;
  std::uint64_t num_queries;
  std::uint64_t num_floats;  // num_scales(), num_matrix_entries() or 0
  double key_bits;
  double value_bits;
};
static_assert(sizeof(SavedLayer) == 48, "it stands in the file as it stands in memory");

inline constexpr std::uint64_t kCalibrationNumbers = 5;

inline std::vector<SavedLayer> saved_layers_of(const Calibration& calibration) {
  std::vector<SavedLayer> layers;
  for (int index = 0; index < calibration.num_layers(); ++index) {
    if (!calibration.has_layer(index)) continue;
    const LayerCalibration& layer = calibration.layer(index);
    const CalibrationCounts counts = calibration.counts(index);
    layers.push_back({static_cast<std::uint64_t>(index), counts.num_windows, counts.num_queries,
                      layer.transform_numbers().size(), layer.key_bits, layer.value_bits});
  }
  return layers;
}

inline std::uint64_t calibration_bytes(std::uint64_t num_layers, std::uint64_t num_floats) {
  return kSavedHeaderBytes + section_bytes(8 * kCalibrationNumbers) +
         section_bytes(sizeof(SavedLayer) * num_layers) + section_bytes(sizeof(float) * num_floats);
}

inline std::uint64_t total_floats(const std::vector<SavedLayer>& layers) {
  std::uint64_t sum = 0;
  for (const SavedLayer& layer : layers) sum += layer.num_floats;
  return sum;
}

inline void save_to(const Calibration& calibration, ByteSink& sink) {
  const std::vector<SavedLayer> layers = saved_layers_of(calibration);
  const std::uint64_t num_floats = total_floats(layers);
  SectionWriter writer(sink);
  write_header(kCalibrationKind, calibration_bytes(layers.size(), num_floats), writer);

  writer.begin("SIZE", 8 * kCalibrationNumbers);
  for (const int number :
       {calibration.num_layers(), calibration.num_kv_heads(), calibration.head_dim()}) {
    writer.number(static_cast<std::uint64_t>(number));
  }
  writer.number(layers.size());
  writer.number(calibration.checksum());
  writer.end();

  writer.begin("LAYS", sizeof(SavedLayer) * layers.size());
  for (const SavedLayer& layer : layers) {
    writer.fill(sizeof layer, [&](std::byte* out) { std::memcpy(out, &layer, sizeof layer); });
  }
  writer.end();

  writer.begin("SCAL", sizeof(float) * num_floats);
  for (const SavedLayer& layer : layers) {
    const std::vector<float> numbers =
        calibration.layer(static_cast<int>(layer.index)).transform_numbers();
    if (numbers.empty()) continue;
    const std::size_t num_bytes = numbers.size() * sizeof(float);
    writer.fill(num_bytes, [&](std::byte* out) { std::memcpy(out, numbers.data(), num_bytes); });
  }
  writer.end();
}

// Of section SIZE.
inline CalibrationShape read_shape(SectionReader& reader) {
  CalibrationShape shape;
  for (int* const number : {&shape.num_layers, &shape.num_kv_heads, &shape.head_dim}) {
    const std::uint64_t found = reader.number();
    const std::uint64_t most = (std::numeric_limits<int>::max)();
    *number = static_cast<int>(found < most ? found : most);
  }
  const std::string problem = shape.problem();
  if (!problem.empty()) throw_runtime_error({"loading: ", problem, ": damaged"});
  return shape;
}

inline std::vector<SavedLayer> read_layers(SectionReader& reader, const CalibrationShape& shape,
                                           std::uint64_t count) {
  std::vector<SavedLayer> layers;
  reader.begin("LAYS", sizeof(SavedLayer) * count);
  for (std::uint64_t i = 0; i < count; ++i) {
    SavedLayer layer;
    std::memcpy(&layer, reader.take(sizeof layer), sizeof layer);
    if (layer.index >= static_cast<std::uint64_t>(shape.num_layers) ||
        (i > 0 && layer.index <= layers.back().index)) {
      throw_runtime_error({"loading: layer ", layer.index, " of ", shape.num_layers,
                           ", out of range or of order: damaged"});
    }
    if (layer.num_floats != 0 && layer.num_floats != shape.num_scales() &&
        layer.num_floats != shape.num_matrix_entries()) {
      throw_runtime_error({"loading: layer ", layer.index, " has ", layer.num_floats,
                           " numbers, must have ", shape.num_scales(), " scales, ",
                           shape.num_matrix_entries(), " entries of matrices or none: damaged"});
    }
    if (!Calibration::are_bits(layer.key_bits) || !Calibration::are_bits(layer.value_bits) ||
        (layer.num_floats == 0 && !(layer.key_bits > 0.0) && !(layer.value_bits > 0.0))) {
      throw_runtime_error({"loading: layer ", layer.index, " has ", layer.key_bits, " and ",
                           layer.value_bits, " bits and ", layer.num_floats, " numbers: damaged"});
    }
    layers.push_back(layer);
  }
  reader.end();
  return layers;
}

// Memory grows with the bytes that have really come.
inline std::vector<float> read_floats(SectionReader& reader, std::uint64_t count) {
  constexpr std::size_t kPieceFloats = 256;
  std::vector<float> numbers;
  while (numbers.size() < count) {
    const std::size_t size =
        static_cast<std::size_t>((std::min<std::uint64_t>)(kPieceFloats, count - numbers.size()));
    const std::byte* const bytes = reader.take(size * sizeof(float));
    numbers.resize(numbers.size() + size);
    std::memcpy(numbers.data() + numbers.size() - size, bytes, size * sizeof(float));
  }
  return numbers;
}

// Sets the scales or the matrices of a layer.
inline void read_transform(SectionReader& reader, const SavedLayer& layer,
                           Calibration& calibration) {
  const int index = static_cast<int>(layer.index);
  const CalibrationCounts counts = {layer.num_windows, layer.num_queries};
  const CalibrationShape& shape = calibration.shape();
  std::vector<float> numbers = read_floats(reader, layer.num_floats);
  if (numbers.size() == shape.num_scales()) {  // of a single channel there are no matrices
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (Calibration::is_scale(numbers[i])) continue;
      throw_runtime_error({"loading: scale ", i, " of layer ", index, " is ", numbers[i],
                           ", must be finite and above 0: damaged"});
    }
    calibration.set_key_scales(index, std::move(numbers), counts);
    return;
  }
  std::string problem;
  const std::shared_ptr<const KeyMatrices> matrices =
      KeyMatrices::try_make(static_cast<std::size_t>(shape.num_kv_heads),
                            static_cast<std::size_t>(shape.head_dim), numbers, problem);
  if (matrices == nullptr) {
    throw_runtime_error({"loading: layer ", index, ": ", problem, ": damaged"});
  }
  calibration.set_key_matrices(index, matrices, counts);
}

// must_end: more bytes are an error, which names `name`.
inline Calibration load_calibration_from(ByteSource& source, bool must_end = false,
                                         const std::string& name = {}) {
  SectionReader reader(source);
  const SavedHeader header = read_header(kCalibrationKind, source, reader);
  reader.begin("SIZE", 8 * kCalibrationNumbers);
  const CalibrationShape shape = read_shape(reader);
  const std::uint64_t count = reader.number();
  const std::uint64_t checksum = reader.number();
  reader.end();
  if (count > static_cast<std::uint64_t>(shape.num_layers)) {
    throw_runtime_error(
        {"loading: ", count, " layers of a model of ", shape.num_layers, ": damaged"});
  }
  const std::vector<SavedLayer> layers = read_layers(reader, shape, count);
  const std::uint64_t num_floats = total_floats(layers);
  if (calibration_bytes(count, num_floats) != header.total) {
    throw_runtime_error({"loading: ", count, " layers and ", num_floats, " numbers in ",
                         header.total, " bytes: damaged"});
  }
  Calibration calibration(shape);
  reader.begin("SCAL", sizeof(float) * num_floats);
  for (const SavedLayer& layer : layers) {
    calibration.set_bits(static_cast<int>(layer.index), layer.key_bits, layer.value_bits);
    if (layer.num_floats > 0) read_transform(reader, layer, calibration);
  }
  reader.end();
  if (calibration.checksum() != checksum) {
    throw_runtime_error("loading: the checksum of the calibration is wrong: damaged");
  }
  if (must_end && source.take(1) != nullptr) {
    throw_runtime_error({"loading: ", name, " has bytes behind the calibration"});
  }
  return calibration;
}

}  // namespace detail

// Bytes that save writes: 4 per scale or entry of a triangle, 48 per layer, and about 170 more.
inline std::size_t saved_bytes(const Calibration& calibration) {
  const std::vector<detail::SavedLayer> layers = detail::saved_layers_of(calibration);
  return static_cast<std::size_t>(
      detail::calibration_bytes(layers.size(), detail::total_floats(layers)));
}

// Saves to a stream opened in binary mode. The same bytes on every machine. Throws
// std::runtime_error if the stream fails.
inline void save(const Calibration& calibration, std::ostream& stream) {
  detail::StreamSink sink(stream);
  detail::save_to(calibration, sink);
}

// To a file. It is written beside, as path + ".part", and takes the place of what stands at `path`
// when it is complete. Throws std::runtime_error if it cannot be written; what was there is then as
// before.
inline void save(const Calibration& calibration, const std::string& path) {
  detail::write_file(path, [&](std::ostream& stream) { save(calibration, stream); });
}

// To memory of `size` bytes. Returns saved_bytes(); throws std::invalid_argument if size is less.
inline std::size_t save(const Calibration& calibration, std::byte* data, std::size_t size) {
  const std::size_t needed = saved_bytes(calibration);
  if (size < needed) {
    detail::throw_invalid_argument({"saving to ", size, " bytes: needs ", needed});
  }
  detail::MemorySink sink(data);
  detail::save_to(calibration, sink);
  return needed;
}

// Throws std::runtime_error, naming both shapes, if a calibration is another model's.
inline void check_shape(const Calibration& calibration, const CalibrationShape& expected) {
  if (calibration.shape() == expected) return;
  detail::throw_runtime_error(
      {"the calibration is for ", calibration.shape().text(), ", must be for ", expected.text()});
}

// Reads from a stream in binary mode exactly the bytes of one calibration. Throws
// std::runtime_error if they are truncated, damaged, of a later version or no calibration.
inline Calibration load_calibration(std::istream& stream) {
  detail::StreamSource source(stream);
  return detail::load_calibration_from(source);
}

// From a file that holds a calibration and nothing else. Throws also if it cannot be read.
inline Calibration load_calibration(const std::string& path) {
  Calibration calibration({1, 1, 1});
  detail::read_file(path, [&](std::istream& stream) {
    detail::StreamSource source(stream);
    calibration = detail::load_calibration_from(source, true, path);
  });
  return calibration;
}

// The same for a model of this shape. Throws also if the calibration is another's.
inline Calibration load_calibration(const std::string& path, const CalibrationShape& expected) {
  Calibration calibration = load_calibration(path);
  check_shape(calibration, expected);
  return calibration;
}

// From memory; more bytes may follow, saved_bytes() tells how many were its own.
inline Calibration load_calibration(const std::byte* data, std::size_t size) {
  detail::MemorySource source(data, size);
  return detail::load_calibration_from(source);
}

POLARQUANT_END_NAMESPACE
