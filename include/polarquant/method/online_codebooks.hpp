// Codebooks fitted to the vectors of a prompt.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "polarquant/base/error.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/rows.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/method/codebook.hpp"
#include "polarquant/method/k_means.hpp"
#include "polarquant/method/polar_format.hpp"
#include "polarquant/method/polar_transform.hpp"
#include "polarquant/method/rotation.hpp"

POLARQUANT_BEGIN_NAMESPACE

// How to fit codebooks to vectors.
struct OnlineCodebookOptions {
  std::uint64_t seed = 0;  // of the k-means++ starts

  // At most this many angles of a level enter its fit, from rows evenly spread (but those of one
  // row at least).
  std::size_t max_num_angles = 200000;
};

// The paper's online codebooks (section 4.1): the rows, [rows.count, head_dim] of T, are rotated
// and transformed, and k-means++ is run on the angles of each level (and join) by itself. In a
// model one calls it once per layer, on the prompt's keys of all heads, and once more on its
// values. Costs trigonometry and sorting; the result is used like the offline codebooks, at the
// same speed.
//
// Throws std::invalid_argument if the format is invalid or uncompressed, its width is not the
// rotation's, an entry is not finite, or there are fewer angles than centroids. Zero vectors have
// no angles and are left out.
template <typename T>
CodebookSet online_codebooks(const PolarFormat& format, const Rotation& rotation,
                             Rows<const T> rows, const OnlineCodebookOptions& options = {}) {
  format.validate();
  if (format.is_uncompressed()) {
    detail::throw_invalid_argument("online codebooks of an uncompressed format: it has no angles");
  }
  if (rotation.head_dim() != format.head_dim) {
    detail::throw_invalid_argument(
        {"the rotation is ", rotation.head_dim(), " wide, the format ", format.head_dim});
  }
  const PolarShape shape = format.shape();
  const std::size_t d = static_cast<std::size_t>(format.head_dim);
  const std::size_t num_levels = static_cast<std::size_t>(format.levels);
  const std::size_t num_joins = static_cast<std::size_t>(shape.num_joins());
  std::vector<std::vector<double>> samples(num_levels + num_joins);
  // Of each level every stride-th row is used.
  std::vector<std::size_t> stride(num_levels + num_joins, 1);
  for (std::size_t k = 0; k < stride.size(); ++k) {
    const std::size_t per_row =
        k < num_levels ? static_cast<std::size_t>(shape.num_angles(static_cast<int>(k) + 1)) : 1;
    const std::size_t max_num_rows = (std::max<std::size_t>)(1, options.max_num_angles / per_row);
    stride[k] = (std::max<std::size_t>)(1, (rows.count + max_num_rows - 1) / max_num_rows);
  }
  std::vector<double> given(d), rotated(d), angles(d), radii(d);
  for (std::size_t row = 0; row < rows.count; ++row) {
    double largest = 0.0;
    for (std::size_t i = 0; i < d; ++i) {
      given[i] = static_cast<double>(rows.row(row)[i]);
      if (!detail::is_finite(given[i])) {
        detail::throw_invalid_argument(
            {"row ", row, " has a NaN or an infinity at coordinate ", i});
      }
      largest = (std::max)(largest, std::abs(given[i]));
    }
    if (largest == 0.0) continue;
    rotation.apply(given.data(), rotated.data());
    to_polar(shape, rotated.data(), radii.data(), angles.data());
    for (std::size_t k = 0; k < samples.size(); ++k) {
      if (row % stride[k] != 0) continue;
      const bool is_join = k >= num_levels;
      const int level = static_cast<int>((std::min)(k, num_levels)) + 1;
      const std::size_t first =
          static_cast<std::size_t>(shape.first_angle(level)) + (is_join ? k - num_levels : 0);
      const std::size_t count = is_join ? 1 : static_cast<std::size_t>(shape.num_angles(level));
      samples[k].insert(samples[k].end(), angles.begin() + static_cast<std::ptrdiff_t>(first),
                        angles.begin() + static_cast<std::ptrdiff_t>(first + count));
    }
  }
  CodebookSet codebooks;
  for (std::size_t k = 0; k < samples.size(); ++k) {
    KMeansOptions fit;
    fit.bits = k < num_levels ? format.level_bits[k] : format.join_bits[k - num_levels];
    fit.circular = k == 0;
    fit.seed = options.seed + k;
    (k < num_levels ? codebooks.levels : codebooks.joins)
        .push_back(AngleCodebook::k_means(std::move(samples[k]), fit));
  }
  return codebooks;
}

POLARQUANT_END_NAMESPACE
