// The recursive polar transform: a vector becomes radii and angles, and back.
//
// paper: Definition 1 and Algorithm 1. This file is the definition in plain loops; the library's
// run-time path (kernels/) computes the same codes without trigonometry.
#pragma once

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "polarquant/base/error.hpp"
#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/version.hpp"

POLARQUANT_BEGIN_NAMESPACE

// The tree of the transform over head_dim coordinates, `levels` deep.
//
// Level l pairs adjacent radii of level l-1 and so has floor(head_dim / 2^l) angles. Either
// 2^levels divides head_dim, and every block of 2^levels coordinates ends in a radius of its own;
// or the depth is full (2^levels is the largest power of two within head_dim), and the radii that
// were left without a partner on the way are joined to the largest part, larger ones first, by one
// angle each: 80 = 64 + 16 has one join, 112 = 64 + 32 + 16 two. Full depth always ends in one
// radius.
struct PolarShape {
  int head_dim = 0;
  int levels = 0;

  // The rule that is broken, with the value that breaks it; empty if all hold.
  POLARQUANT_COLD std::string problem() const {
    if (head_dim < 2 || head_dim > 1024 || head_dim % 2 != 0) {
      return detail::message({"head_dim is ", head_dim, ", must be even, 2 .. 1024"});
    }
    if (levels < 1 || levels > 10 || (head_dim >> levels) == 0) {
      return detail::message({"levels is ", levels,
                              ", must be 1 .. log2(head_dim) (0: uncompressed) for head_dim ",
                              head_dim});
    }
    if (num_radii() > 1 && (num_radii() << levels) != head_dim) {
      return detail::message({"head_dim is ", head_dim, ", must be a multiple of 2^levels = ",
                              1 << levels, " unless the depth is full"});
    }
    return {};
  }

  // Throws std::invalid_argument unless head_dim is even, 2 .. 1024, and levels fits it.
  void validate() const {
    const std::string found = problem();
    if (!found.empty()) detail::throw_invalid_argument(found);
  }

  int num_radii() const { return head_dim >> levels; }

  // Angles of level 1 .. levels.
  int num_angles(int level) const { return head_dim >> level; }

  // Angles that join unequal parts.
  int num_joins() const {
    int joins = -1;
    for (int rest = head_dim; rest != 0; rest &= rest - 1) ++joins;
    return num_radii() == 1 ? joins : 0;
  }

  int num_angles() const { return head_dim - num_radii(); }

  // Where level `level` begins in an array of all angles: level 1 first, then level 2, and so on;
  // level `levels` + 1 stands for the joins.
  int first_angle(int level) const {
    int first = 0;
    for (int l = 1; l < level; ++l) first += num_angles(l);
    return first;
  }

  // Coordinates on the cosine's and on the sine's side of join `join`, 0-based.
  int join_left(int join) const {
    int left = 0;
    int rest = head_dim;
    for (int part = 0; part <= join; ++part) {
      const int largest = largest_power_of_two(rest);
      left += largest;
      rest -= largest;
    }
    return left;
  }
  int join_right(int join) const { return largest_power_of_two(head_dim - join_left(join)); }

 private:
  static int largest_power_of_two(int value) {
    int power = 1;
    while (2 * power <= value) power *= 2;
    return power;
  }
};

// Radii and angles of x. paper: Definition 1,
//   psi_j = atan2(r_{2j+1}, r_{2j}),  r'_j = hypot(r_{2j}, r_{2j+1}),  starting from r = x.
// x: [head_dim]. radii: [num_radii()]. angles: [num_angles()] in the order of first_angle(),
// radians; level 1 in [0, 2 pi), all others in [0, pi/2]. Allocates; not for hot paths.
template <typename T>
void to_polar(const PolarShape& shape, const T* x, T* radii, T* angles) {
  std::vector<T> r(x, x + shape.head_dim);
  std::vector<T> left_over;
  const auto join = [](T cosine_side, T sine_side) {
    T psi = std::atan2(sine_side, cosine_side);
    if (psi < T(0)) psi += static_cast<T>(detail::kTwoPi);
    // A tiny negative angle rounds up to 2 pi itself, which is the angle 0.
    return psi >= static_cast<T>(detail::kTwoPi) ? T(0) : psi;
  };
  for (int level = 1; level <= shape.levels; ++level) {
    const std::size_t count = static_cast<std::size_t>(shape.num_angles(level));
    if (r.size() % 2 != 0) left_over.push_back(r.back());
    for (std::size_t j = 0; j < count; ++j) {
      *angles++ = join(r[2 * j], r[2 * j + 1]);
      r[j] = std::hypot(r[2 * j], r[2 * j + 1]);
    }
    r.resize(count);
  }
  for (std::size_t part = left_over.size(); part-- > 0;) {
    *angles++ = join(r[0], left_over[part]);
    r[0] = std::hypot(r[0], left_over[part]);
  }
  for (std::size_t block = 0; block < r.size(); ++block) radii[block] = r[block];
}

// The vector of given radii and angles, top down. paper: equation (1),
//   r_{2j} = r'_j cos(psi_j),  r_{2j+1} = r'_j sin(psi_j).
// Shapes as for to_polar.
template <typename T>
void from_polar(const PolarShape& shape, const T* radii, const T* angles, T* x) {
  std::vector<T> r(radii, radii + shape.num_radii());
  std::vector<T> parts;
  const int num_joins = shape.num_joins();
  for (int join = num_joins; join-- > 0;) {
    const T psi = angles[shape.first_angle(shape.levels + 1) + join];
    parts.push_back(r[0] * std::sin(psi));  // The smallest part first.
    r[0] *= std::cos(psi);
  }
  for (int level = shape.levels; level >= 1; --level) {
    const T* const psi = angles + shape.first_angle(level);
    std::vector<T> next(static_cast<std::size_t>(shape.num_angles(level - 1)));
    for (std::size_t j = 0; j < r.size(); ++j) {
      next[2 * j] = r[j] * std::cos(psi[j]);
      next[2 * j + 1] = r[j] * std::sin(psi[j]);
    }
    if (next.size() % 2 != 0) {  // The part that found no partner here.
      next.back() = parts.back();
      parts.pop_back();
    }
    r = next;
  }
  for (std::size_t i = 0; i < r.size(); ++i) x[i] = r[i];
}

POLARQUANT_END_NAMESPACE
