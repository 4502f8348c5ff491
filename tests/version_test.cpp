#include "polarquant/base/version.hpp"

#include <gtest/gtest.h>

#include <string>
#include <type_traits>

POLARQUANT_BEGIN_NAMESPACE
struct VersionProbe {};
POLARQUANT_END_NAMESPACE

namespace {

#define POLARQUANT_TEST_TEXT_OF(x) #x
#define POLARQUANT_TEST_TEXT(x) POLARQUANT_TEST_TEXT_OF(x)

TEST(VersionTest, StringIsMajorMinorPatch) {
  EXPECT_STREQ(POLARQUANT_VERSION,
               POLARQUANT_TEST_TEXT(POLARQUANT_VERSION_MAJOR) "." POLARQUANT_TEST_TEXT(
                   POLARQUANT_VERSION_MINOR) "." POLARQUANT_TEST_TEXT(POLARQUANT_VERSION_PATCH));
}

TEST(VersionTest, InlineNamespaceBeginsWithTheVersion) {
  EXPECT_EQ(std::string(POLARQUANT_TEST_TEXT(POLARQUANT_ABI_NAMESPACE))
                .rfind("v" POLARQUANT_TEST_TEXT(POLARQUANT_VERSION_MAJOR) "_" POLARQUANT_TEST_TEXT(
                           POLARQUANT_VERSION_MINOR) "_",
                       0),
            0u);
}

TEST(VersionTest, InlineNamespaceTellsReleaseFromCheckedBuilds) {
  const bool is_checked =
      std::string(POLARQUANT_TEST_TEXT(POLARQUANT_ABI_NAMESPACE)).find("_checked") !=
      std::string::npos;
#if defined(NDEBUG)
  EXPECT_FALSE(is_checked);
#else
  EXPECT_TRUE(is_checked);
#endif
}

TEST(VersionTest, InlineNamespaceTellsFlagsOfFloatArithmetic) {
  const std::string name = POLARQUANT_TEST_TEXT(POLARQUANT_ABI_NAMESPACE);
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__)
  EXPECT_NE(name.find("_fast"), std::string::npos);
#else
  EXPECT_EQ(name.find("_fast"), std::string::npos);
#endif
#if defined(__ROUNDING_MATH__) && !defined(__FAST_MATH__)
  EXPECT_NE(name.find("_rounding"), std::string::npos);
#else
  EXPECT_EQ(name.find("_rounding"), std::string::npos);
#endif
}

TEST(VersionTest, NamesAreFoundWithoutTheInlineNamespace) {
  const bool same =
      std::is_same_v<polarquant::VersionProbe, polarquant::POLARQUANT_ABI_NAMESPACE::VersionProbe>;
  EXPECT_TRUE(same);
}

}  // namespace
