// The files of tests/saved/version_2 and version_3: what was done to the caches that they are of.
#pragma once

#include <string>
#include <vector>

#include "saving_test_util.hpp"

namespace polarquant_test {

// Each family, centring, type of exact rows and of rows, and holes. Version 2 had one estimated
// mean where later ones have centres of spans.
inline std::vector<SavedFile> saved_recipes(int version) {
  using polarquant::Centering;
  using polarquant::FloatType;
  using polarquant::PolarFormat;
  using Kind = SavedStep::Kind;
  std::vector<SavedFile> files;
  const auto add = [&files](std::string name, const polarquant::CodecFormat& keys,
                            const polarquant::CodecFormat& values,
                            std::vector<SavedStep> steps) -> SavedFile& {
    SavedFile file;
    file.name = std::move(name);
    file.config.key_format = keys;
    file.config.value_format = values;
    file.config.rotation = polarquant::RotationKind::kHadamard;
    file.config.seed = 5;
    file.config.num_sink_tokens = 2;
    file.config.num_recent_tokens = 20;
    file.steps = std::move(steps);
    files.push_back(file);
    return files.back();
  };
  const auto append = [](int first, int count) { return SavedStep{Kind::kAppend, first, count}; };
  const polarquant::CodecFormat paper = PolarFormat::paper(16);
  const polarquant::CodecFormat full = PolarFormat::full_depth(16, 3.5);
  const polarquant::CodecFormat joins = PolarFormat::full_depth(24, 3.5);

  add("empty", paper, full, {}).config.exact_type = FloatType::kFloat32;
  add("pending_mean", paper, full, {append(0, 20)});
  SavedFile& heads = add("two_heads", paper, joins, {append(0, 90)});
  heads.config.num_kv_heads = heads.config.num_query_heads = 2;
  SavedFile& given = add("given_means", full, paper, {append(0, 90)});
  given.config.centering = Centering::kGiven;
  given.config.value_mean.assign(16, 0.5f);
  given.type = FloatType::kFloat64;
  SavedFile& plain = add("plain_family", plain_8bit(16), paper, {append(0, 90)});
  plain.config.rotation = polarquant::RotationKind::kNone;
  plain.config.exact_type = FloatType::kBFloat16;
  SavedFile& uncompressed = add("uncompressed", PolarFormat::uncompressed(8),
                                PolarFormat::uncompressed(6, FloatType::kFloat32), {append(0, 70)});
  uncompressed.config.centering = Centering::kNone;
  SavedFile& holes = add("holes", paper, full,
                         {append(0, 100),
                          {Kind::kRemove, 1, 1},
                          {Kind::kRemove, 40, 20},
                          {Kind::kRemove, 97, 3},
                          append(100, 5)});
  holes.type = FloatType::kFloat16;
  SavedFile& dropped = add("dropped_front", paper, full,
                           {append(0, 150),
                            {Kind::kRemove, 30, 40},
                            {Kind::kDropFront, 0, 40},
                            {Kind::kTruncate, 0, 110},
                            append(150, 3)});
  dropped.type = FloatType::kBFloat16;
  SavedFile& meanings = add("meanings_of_radii", paper, full, {append(0, 60)});
  PolarFormat format = PolarFormat::paper(16);
  format.radius_meaning = polarquant::RadiusMeaning::kLeastSquares;
  format.radius_type = FloatType::kFloat16;
  meanings.config.key_format = format;
  meanings.config.num_recent_tokens = 0;
  meanings.config.exact_type = FloatType::kFloat64;
  SavedFile& all =
      add("all_recent", paper, full, {append(0, 40), {Kind::kEncodeRecent}, append(40, 9)});
  all.config.num_recent_tokens = polarquant::KVCacheConfig::kAllTokens;
  all.config.num_sink_tokens = 0;
  if (version < 3) return files;
  // Of tokens in the second half of a span the sums are saved, here with the codes before them
  // gone.
  add("sums", paper, joins, {append(0, 150)}).config.num_recent_tokens = 0;
  SavedFile& gone = add("sums_without_codes", paper, full,
                        {append(0, 200), {Kind::kDropFront, 0, 200}, append(200, 1)});
  gone.config.num_recent_tokens = 70;
  gone.config.exact_type = FloatType::kFloat16;
  return files;
}

}  // namespace polarquant_test
