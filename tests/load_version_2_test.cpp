// Files of version 2 (tests/saved/version_2/README.md): each loads, holds what its bytes say, is
// saved again as version 3, and goes on. A mean that was estimated then is one that is given now.
#include <gtest/gtest.h>

#include <cstddef>
#include <filesystem>
#include <string>

#include "saved_recipes.hpp"

namespace {

using polarquant::KVCache;
using polarquant_test::Bytes;
using polarquant_test::SavedFile;

const std::string kFolder = POLARQUANT_SOURCE_DIR "/tests/saved/version_2/";

class Version2Test : public testing::TestWithParam<SavedFile> {};

TEST_P(Version2Test, LoadsHoldsWhatItsBytesSayAndIsSavedAgain) {
  const SavedFile& file = GetParam();
  const Bytes bytes = polarquant_test::file_bytes(kFolder + file.name + ".polarkv");
  ASSERT_EQ(polarquant_test::number_at(bytes, 8), 2u);
  polarquant_test::visit_type(file.type, [&](auto number) {
    using T = decltype(number);
    KVCache<T> cache(file.config);
    ASSERT_EQ(polarquant::load(bytes.data(), bytes.size(), cache), bytes.size());
    polarquant_test::expect_saved_again(cache, bytes);
    const bool had_mean = file.config.centering == polarquant::Centering::kLocal &&
                          polarquant_test::sections_of(bytes).at("MEAN").size() > 0;
    EXPECT_EQ(cache.config().centering,
              had_mean ? polarquant::Centering::kGiven : file.config.centering);
  });
}

TEST_P(Version2Test, SaysWhatItIs) {
  const SavedFile& file = GetParam();
  polarquant::SavedCacheInfo info = polarquant::read_saved_info(kFolder + file.name + ".polarkv");
  EXPECT_EQ(info.version, 2u);
  EXPECT_EQ(info.config.key_format.is_set(), file.name != "plain_family");
  info.config.key_format = file.config.key_format;
  EXPECT_EQ(info.config.value_format, file.config.value_format);
  polarquant_test::visit_type(file.type, [&](auto number) {
    KVCache<decltype(number)> cache(info.config);
    polarquant::load(kFolder + file.name + ".polarkv", cache);
    EXPECT_EQ(cache.num_tokens(), info.num_tokens);
  });
}

INSTANTIATE_TEST_SUITE_P(Files, Version2Test, testing::ValuesIn(polarquant_test::saved_recipes(2)),
                         polarquant_test::name_of_file);

TEST(Version2FilesTest, EveryOneIsTested) {
  EXPECT_EQ(polarquant_test::num_saved_files(kFolder), polarquant_test::saved_recipes(2).size());
}

}  // namespace
