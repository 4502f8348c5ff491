// The demo's input: queries, keys and values of some layers of a model.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "baselines/exact_attention.hpp"
#include "npy.hpp"
#include "polarquant/attention/matrix.hpp"
#include "polarquant/calibration.hpp"

namespace polarquant_demo {

using polarquant::RowMatrix;
using polarquant_baselines::HeadShape;

// One layer. A row is a token, its heads side by side. The queries are those of the last tokens.
struct Layer {
  std::string name;          // what stands between "layer_" and "_keys.npy"
  RowMatrix<float> keys;     // [num_tokens, num_kv_heads * key_dim]
  RowMatrix<float> values;   // [num_tokens, num_kv_heads * value_dim]
  RowMatrix<float> queries;  // [num_queries, num_query_heads * key_dim]

  // Of the model: the name as a number. Throws std::invalid_argument if it is none.
  int index() const {
    if (name.empty() || name.size() > 6 ||
        name.find_first_not_of("0123456789") != std::string::npos) {
      throw std::invalid_argument("the layer '" + name + "' is not named by its number");
    }
    return std::stoi(name);
  }
};

struct Sample {
  HeadShape shape;  // of every layer
  std::vector<Layer> layers;
  std::optional<polarquant::Calibration> calibration;  // of the model, if the folder has one
};

namespace sample_detail {

struct Tensor {
  std::string path;
  int num_heads;
  int head_dim;
  RowMatrix<float> rows;
};

inline Tensor load_tensor(const std::string& path) {
  const NpyArray array = read_npy(path);
  const bool has_heads = array.shape.size() == 3;
  const std::size_t num_heads = has_heads ? array.shape[1] : 1;
  const std::size_t head_dim = array.shape.back();
  if (array.values.empty()) throw std::runtime_error(path + ": has no entries");
  // Not NaN or infinity: the cache would refuse it, and a reference made of it means nothing.
  const auto is_not_finite = [](float x) { return !(x - x == 0.0f); };
  const auto bad = std::find_if(array.values.begin(), array.values.end(), is_not_finite);
  if (bad != array.values.end()) {
    const std::size_t vector = static_cast<std::size_t>(bad - array.values.begin()) / head_dim;
    throw std::runtime_error(path + ": token " + std::to_string(vector / num_heads) + ", head " +
                             std::to_string(vector % num_heads) + " has a NaN or an infinity");
  }
  Tensor tensor = {path, static_cast<int>(num_heads), static_cast<int>(head_dim), {}};
  tensor.rows = Eigen::Map<const RowMatrix<float>>(array.values.data(),
                                                   static_cast<Eigen::Index>(array.shape[0]),
                                                   static_cast<Eigen::Index>(num_heads * head_dim));
  return tensor;
}

// Throws unless `actual` of the file `path` is `expected`, which is what `reason` says.
inline void check_equal(const std::string& path, const std::string& what, Eigen::Index actual,
                        Eigen::Index expected, const std::string& reason) {
  if (actual == expected) return;
  throw std::runtime_error(path + ": has " + std::to_string(actual) + " " + what + ", must have " +
                           std::to_string(expected) + " " + reason);
}

}  // namespace sample_detail

// Loads every layer_NAME_{keys,values,queries}.npy of a folder, in the order of their names, and
// model.calibration if it is there. Shapes
// are [tokens, heads, head_dim]; the last query stands at the last token. Throws
// std::runtime_error, one sentence that names file and rule, if a file is missing or unreadable, or
// the shapes do not fit each other.
inline Sample load_sample(const std::string& folder) {
  using sample_detail::check_equal;
  using sample_detail::load_tensor;
  const std::string prefix = "layer_";
  const std::string suffix = "_keys.npy";
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string file = entry->path().filename().string();
    if (file.size() > prefix.size() + suffix.size() &&
        file.compare(0, prefix.size(), prefix) == 0 &&
        file.compare(file.size() - suffix.size(), suffix.size(), suffix) == 0) {
      names.push_back(file.substr(prefix.size(), file.size() - prefix.size() - suffix.size()));
    }
  }
  if (error) throw std::runtime_error(folder + ": cannot be read as a folder");
  if (names.empty()) throw std::runtime_error(folder + ": holds no file layer_*_keys.npy");
  std::sort(names.begin(), names.end());

  Sample sample;
  for (const std::string& name : names) {
    const std::string base = folder + "/" + prefix + name;
    auto keys = load_tensor(base + "_keys.npy");
    auto values = load_tensor(base + "_values.npy");
    auto queries = load_tensor(base + "_queries.npy");
    if (sample.layers.empty()) {
      sample.shape = {keys.num_heads, queries.num_heads, keys.head_dim, values.head_dim};
    }
    const HeadShape& shape = sample.shape;
    const std::string first = "as in layer " + names[0];
    check_equal(keys.path, "heads", keys.num_heads, shape.num_kv_heads, first);
    check_equal(keys.path, "coordinates per head", keys.head_dim, shape.key_dim, first);
    check_equal(values.path, "heads", values.num_heads, shape.num_kv_heads, "like the keys");
    check_equal(values.path, "coordinates per head", values.head_dim, shape.value_dim, first);
    check_equal(values.path, "tokens", values.rows.rows(), keys.rows.rows(), "like the keys");
    check_equal(queries.path, "heads", queries.num_heads, shape.num_query_heads, first);
    check_equal(queries.path, "coordinates per head", queries.head_dim, shape.key_dim,
                "like the keys");
    if (shape.num_query_heads % shape.num_kv_heads != 0) {
      throw std::runtime_error(queries.path + ": has " + std::to_string(shape.num_query_heads) +
                               " heads, must have a multiple of the " +
                               std::to_string(shape.num_kv_heads) + " KV heads");
    }
    if (queries.rows.rows() > keys.rows.rows()) {
      throw std::runtime_error(queries.path + ": has " + std::to_string(queries.rows.rows()) +
                               " tokens, more than the keys' " + std::to_string(keys.rows.rows()));
    }
    sample.layers.push_back({name, keys.rows, values.rows, queries.rows});
  }
  const std::string calibration = folder + "/model.calibration";
  if (std::filesystem::exists(calibration)) {
    sample.calibration = polarquant::load_calibration(calibration);
    const polarquant::CalibrationShape& shape = sample.calibration->shape();
    if (shape.num_kv_heads != sample.shape.num_kv_heads || shape.head_dim != sample.shape.key_dim) {
      throw std::runtime_error(calibration + ": is of " + shape.text() + ", not of this sample");
    }
  }
  return sample;
}

}  // namespace polarquant_demo
