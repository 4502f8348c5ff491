// Files of version 3 (tests/saved/version_3/README.md): each loads, holds what its bytes say, is
// saved as the same bytes, and is what the same calls make today. A change of these bytes is a
// change of the format: raise kSavedVersion.
#include <gtest/gtest.h>

#include <cstddef>
#include <filesystem>
#include <string>

#include "saved_recipes.hpp"

namespace {

using polarquant::KVCache;
using polarquant_test::Bytes;
using polarquant_test::SavedFile;

const std::string kFolder = POLARQUANT_SOURCE_DIR "/tests/saved/version_3/";

class Version3Test : public testing::TestWithParam<SavedFile> {};

TEST_P(Version3Test, LoadsHoldsWhatItsBytesSayAndIsSavedTheSame) {
  const SavedFile& file = GetParam();
  const Bytes bytes = polarquant_test::file_bytes(kFolder + file.name + ".polarkv");
  ASSERT_EQ(polarquant_test::number_at(bytes, 8), 3u);
  polarquant_test::visit_type(file.type, [&](auto number) {
    using T = decltype(number);
    KVCache<T> cache(file.config);
    ASSERT_EQ(polarquant::load(bytes.data(), bytes.size(), cache), bytes.size());
    polarquant_test::expect_sections(cache, bytes);
    EXPECT_EQ(polarquant_test::saved(cache), bytes);
    // The same calls make it again.
    KVCache<T> made(file.config, cache.codec());
    polarquant_test::replay(file.steps, made);
    EXPECT_TRUE(polarquant_test::state_of(made) == polarquant_test::state_of(cache));
    EXPECT_EQ(polarquant_test::saved(made), bytes);
  });
}

TEST_P(Version3Test, SaysWhatItIs) {
  const SavedFile& file = GetParam();
  polarquant::SavedCacheInfo info = polarquant::read_saved_info(kFolder + file.name + ".polarkv");
  EXPECT_EQ(info.version, 3u);
  EXPECT_EQ(info.config.key_format.is_set(), file.name != "plain_family");
  info.config.key_format = file.config.key_format;
  EXPECT_EQ(info.config.value_format, file.config.value_format);
  polarquant_test::visit_type(file.type, [&](auto number) {
    KVCache<decltype(number)> cache(info.config);
    polarquant::load(kFolder + file.name + ".polarkv", cache);
    EXPECT_EQ(cache.num_tokens(), info.num_tokens);
  });
}

INSTANTIATE_TEST_SUITE_P(Files, Version3Test, testing::ValuesIn(polarquant_test::saved_recipes(3)),
                         polarquant_test::name_of_file);

TEST(Version3FilesTest, EveryOneIsTested) {
  EXPECT_EQ(polarquant_test::num_saved_files(kFolder), polarquant_test::saved_recipes(3).size());
}

}  // namespace
