// What the kernels on whole tiles read: where every field lies, and tables as wide as registers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "polarquant/base/aligned_storage.hpp"
#include "polarquant/base/error.hpp"
#include "polarquant/base/fixed_math.hpp"
#include "polarquant/base/float_types.hpp"
#include "polarquant/base/version.hpp"
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/method/codebook.hpp"
#include "polarquant/method/polar_format.hpp"

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// Look-up tables as the registers of a permutation hold them: 32 fractions of 2^15, or 32 floats.
// Shorter tables are repeated, so that the bits above an index need not be masked away.
struct alignas(64) Lanes {
  std::int16_t values[32];
};
struct alignas(64) FloatLanes {
  float values[32];
};

// A table of 64 fractions.
struct Lanes64 {
  Lanes low;
  Lanes high;
};

// The same for look-ups of bytes: the low and the high bytes of 64 fractions.
struct SplitLanes {
  alignas(64) std::uint8_t low[64];
  alignas(64) std::uint8_t high[64];
};

// The tree of one vector is cut into blocks of 16 coordinates (levels 1 to 4, where the work is)
// and the nodes above them. A field is read through a window: 16 bits that begin at its first bit,
// from two consecutive words.
//
// usable is false for a format that these kernels do not cover: widths that are no multiple of 16,
// fewer than 4 levels, blocks of another width than 16 unless the depth is full, radii that are not
// bfloat16, more than 5 bits for an angle within a block, or more than 16 for a subtree of two
// levels.
struct TileTables {
  // Where the two words' rows lie in a tile whose rows are all words, in bytes.
  struct Window {
    std::uint32_t low;
    std::uint32_t high;  // the last row stands for itself where no row follows
    std::uint32_t shift;
  };

  // Seven windows per block: its four subtrees of two levels (index, joining index, index: 2 b1 +
  // b2 bits), its two level-3 nodes, its level-4 node.
  static constexpr std::size_t kWindowsPerBlock = 7;
  static constexpr std::size_t kBlockWidth = 16;
  static constexpr std::size_t kMaxBlocks = 64;

  // A node above the blocks. While the radii of blocks are folded in place, it makes number
  // `target` of numbers `left` and `right`, or the other way down.
  struct Node {
    std::uint16_t target;
    std::uint16_t left;
    std::uint16_t right;
    std::uint16_t table;  // of cosines and sines
    std::uint16_t num_bits;
    Window window;
  };

  bool usable = false;
  bool combined = false;   // level-1 and level-2 index together have at most 6 bits
  bool packed = false;     // each half of a subtree of two levels with what follows fits a byte
  int first_bits = 0;      // of level 1
  int second_bits = 0;     // of level 2
  int rest_bits = 0;       // the most of levels 2 to 4
  int block_bits[4] = {};  // of levels 1 to 4
  std::size_t num_blocks = 0;
  std::size_t num_pairs = 0;  // of blocks: block i and block num_pairs + i
  std::size_t num_words = 0;  // rows of a tile; the last has bytes if has_byte_row
  bool has_byte_row = false;
  std::vector<Window> windows;     // [num_blocks * kWindowsPerBlock]
  std::vector<Node> nodes;         // in the order of folding
  AlignedVector<Lanes64> cosines;  // per level, then per join
  AlignedVector<Lanes64> sines;
  AlignedVector<SplitLanes> split_cosines;
  AlignedVector<SplitLanes> split_sines;
  AlignedVector<FloatLanes> float_cosines;  // the first 32 entries
  AlignedVector<FloatLanes> float_sines;
  std::vector<float> float_tables;  // all 64: cosines, sines, cosines of the next, ..

  // Where the indices of levels 2 and 3 together have at most 4 bits: by (level 2, level 3), the
  // product of their cosines or sines on the way to coordinates 0 and 1 of eight, 2 and 3, ..
  AlignedVector<SplitLanes> quarters;  // 4

  // Combined tables. By (index, joining index): coordinates 0 and 1 of four; by (joining index,
  // index): coordinates 2 and 3.
  AlignedVector<Lanes64> coordinate;  // 4

  POLARQUANT_COLD TileTables(const PolarFormat& format, const CodeLayout& layout,
                             const CodebookSet& codebooks) {
    usable = is_usable(format);
    if (!usable) return;
    quarters.resize(4);
    coordinate.resize(4);
    first_bits = format.level_bits[0];
    second_bits = format.level_bits[1];
    combined = first_bits + second_bits <= 6;
    std::copy_n(format.level_bits.begin(), 4, block_bits);
    const int upper_bits = (std::max<int>)(format.level_bits[2], format.level_bits[3]);
    rest_bits = (std::max)(second_bits, upper_bits);
    packed = first_bits + rest_bits <= 8 && 2 * first_bits + second_bits + upper_bits <= 16;
    num_blocks = static_cast<std::size_t>(format.head_dim) / kBlockWidth;
    num_pairs = (num_blocks + 1) / 2;
    num_words = (layout.num_bytes() + 1) / 2;
    has_byte_row = layout.num_bytes() % 2 != 0;
    for (const std::vector<AngleCodebook>* set : {&codebooks.levels, &codebooks.joins}) {
      for (const AngleCodebook& codebook : *set) add_codebook(codebook);
    }
    if (combined) combine(codebooks);
    if (second_bits + format.level_bits[2] <= 4) combine_quarters(codebooks);
    const PolarShape shape = format.shape();
    const auto field = [&](int level, std::size_t node) {
      return layout.fields()[static_cast<std::size_t>(shape.first_angle(level)) + node];
    };
    for (std::size_t block = 0; block < num_blocks; ++block) {
      for (std::size_t k = 0; k < 4; ++k) windows.push_back(window_at(field(1, 8 * block + 2 * k)));
      for (std::size_t k = 0; k < 2; ++k) windows.push_back(window_at(field(3, 2 * block + k)));
      windows.push_back(window_at(field(4, block)));
    }
    for (int level = 5; level <= format.levels; ++level) {
      for (std::size_t j = 0; j < static_cast<std::size_t>(shape.num_angles(level)); ++j) {
        add_node(j, 2 * j, 2 * j + 1, field(level, j), static_cast<std::size_t>(level) - 1);
      }
    }
    for (std::size_t join = 0; join < codebooks.joins.size(); ++join) {
      const int right = shape.join_right(static_cast<int>(join));
      add_node(0, 0, static_cast<std::size_t>(format.head_dim / right - 1),
               field(format.levels + 1, join), codebooks.levels.size() + join);
    }
  }

  // Tiles that a kernel takes at a time, and query rows.
  static constexpr std::size_t kMaxRun = 16;
  static constexpr std::size_t kMaxRows = 64;

  // Registers of working memory that kernels need: radii, weights of blocks, one block of a run (or
  // two) decoded, sums, codes with an odd number of bytes copied; or one tile decoded to floats.
  std::size_t num_scratch_lanes() const {
    if (!usable) return 0;
    const std::size_t copy = has_byte_row ? num_words : 0;
    return (std::max)(kMaxRun * (2 + num_blocks + 32 + 2 * kMaxRows + copy),
                      copy + 15 + 2 * num_blocks + 2 * 16 * num_blocks);
  }

  // Registers that the level-1 tables of a query fill in 16 bits.
  std::size_t num_query_lanes() const { return num_blocks * (combined ? 16 : 8); }

  std::size_t memory_bytes() const {
    return windows.size() * sizeof(Window) + nodes.size() * sizeof(Node) +
           2 * cosines.size() * (sizeof(Lanes64) + sizeof(SplitLanes) + sizeof(FloatLanes)) +
           quarters.size() * sizeof(SplitLanes) + coordinate.size() * sizeof(Lanes64) +
           float_tables.size() * sizeof(float);
  }

  static std::int16_t to_fraction(double value) {
    return static_cast<std::int16_t>(std::lrint((std::min)(value * 32768.0, 32767.0)));
  }

 private:
  static bool is_usable(const PolarFormat& format) {
    if (format.is_uncompressed() || format.levels < 4) return false;
    if (format.head_dim % static_cast<int>(kBlockWidth) != 0) return false;
    if (format.levels > 4 && format.num_radii() > 1) return false;
    if (format.radius_type != FloatType::kBFloat16) return false;
    if (*std::max_element(format.level_bits.begin(), format.level_bits.begin() + 4) > 5)
      return false;
    return 2 * format.level_bits[0] + format.level_bits[1] <= 16;
  }

  static SplitLanes split(const Lanes64& table) {
    SplitLanes result;
    for (std::size_t i = 0; i < 64; ++i) {
      const int value = (i < 32 ? table.low : table.high).values[i % 32];
      result.low[i] = static_cast<std::uint8_t>(value & 0xff);
      result.high[i] = static_cast<std::uint8_t>((value >> 8) & 0xff);
    }
    return result;
  }

  POLARQUANT_COLD void add_codebook(const AngleCodebook& codebook) {
    const std::size_t mask = codebook.centroids().size() - 1;
    Lanes64 cosine, sine;
    FloatLanes float_cosine, float_sine;
    float entries[2][64];
    for (std::size_t i = 0; i < 64; ++i) {
      const SinCos s = fixed_sin_cos_full(codebook.centroids()[i & mask]);
      (i < 32 ? cosine.low : cosine.high).values[i % 32] = to_fraction(s.cos);
      (i < 32 ? sine.low : sine.high).values[i % 32] = to_fraction(s.sin);
      entries[0][i] = static_cast<float>(s.cos);
      entries[1][i] = static_cast<float>(s.sin);
      if (i >= 32) continue;
      float_cosine.values[i] = entries[0][i];
      float_sine.values[i] = entries[1][i];
    }
    cosines.push_back(cosine);
    sines.push_back(sine);
    split_cosines.push_back(split(cosine));
    split_sines.push_back(split(sine));
    float_cosines.push_back(float_cosine);
    float_sines.push_back(float_sine);
    for (const float(&half)[64] : entries) float_tables.insert(float_tables.end(), half, half + 64);
  }

  POLARQUANT_COLD void combine(const CodebookSet& codebooks) {
    const std::vector<double>& first = codebooks.levels[0].centroids();
    const std::vector<double>& second = codebooks.levels[1].centroids();
    for (std::size_t i = 0; i < 64; ++i) {
      const SinCos a1 = fixed_sin_cos_full(first[i % first.size()]);
      const SinCos a2 = fixed_sin_cos_full(second[(i >> first_bits) % second.size()]);
      const SinCos b1 = fixed_sin_cos_full(first[(i >> second_bits) % first.size()]);
      const SinCos b2 = fixed_sin_cos_full(second[i % second.size()]);
      const double entries[4] = {a2.cos * a1.cos, a2.cos * a1.sin, b2.sin * b1.cos,
                                 b2.sin * b1.sin};
      for (std::size_t k = 0; k < 4; ++k) {
        Lanes& half = i < 32 ? coordinate[k].low : coordinate[k].high;
        half.values[i % 32] = to_fraction(entries[k]);
      }
    }
  }

  POLARQUANT_COLD void combine_quarters(const CodebookSet& codebooks) {
    const std::vector<double>& second = codebooks.levels[1].centroids();
    const std::vector<double>& third = codebooks.levels[2].centroids();
    Lanes64 tables[4];
    for (std::size_t i = 0; i < 64; ++i) {
      const SinCos s2 = fixed_sin_cos_full(second[i % second.size()]);
      const SinCos s3 = fixed_sin_cos_full(third[(i >> second_bits) % third.size()]);
      const double entries[4] = {s3.cos * s2.cos, s3.cos * s2.sin, s3.sin * s2.cos,
                                 s3.sin * s2.sin};
      for (std::size_t k = 0; k < 4; ++k) {
        (i < 32 ? tables[k].low : tables[k].high).values[i % 32] = to_fraction(entries[k]);
      }
    }
    for (std::size_t k = 0; k < 4; ++k) quarters[k] = split(tables[k]);
  }

  Window window_at(CodeLayout::Field field) const {
    constexpr std::size_t kRowBytes = 2 * kTileTokens;
    const std::size_t row = (std::min<std::size_t>)(field.bit_offset / 16, num_words - 1);
    return {static_cast<std::uint32_t>(row * kRowBytes),
            static_cast<std::uint32_t>((std::min)(row + 1, num_words - 1) * kRowBytes),
            field.bit_offset % 16};
  }

  void add_node(std::size_t target, std::size_t left, std::size_t right, CodeLayout::Field field,
                std::size_t table) {
    nodes.push_back({static_cast<std::uint16_t>(target), static_cast<std::uint16_t>(left),
                     static_cast<std::uint16_t>(right), static_cast<std::uint16_t>(table),
                     static_cast<std::uint16_t>(field.num_bits), window_at(field)});
  }
};

}  // namespace detail
POLARQUANT_END_NAMESPACE
