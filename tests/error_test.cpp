#include "polarquant/base/error.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>

namespace {

template <typename Error, typename Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(ErrorTest, BrokenRulesAreInvalidArgumentsThatNameTheLibrary) {
  EXPECT_EQ(message_of<std::invalid_argument>(
                [] { polarquant::detail::throw_invalid_argument("bits is 9"); }),
            "polarquant: bits is 9");
}

TEST(ErrorTest, FailuresOfTheOutsideWorldAreRuntimeErrorsThatNameTheLibrary) {
  EXPECT_EQ(message_of<std::runtime_error>(
                [] { polarquant::detail::throw_runtime_error("the file is short"); }),
            "polarquant: the file is short");
}

TEST(ErrorTest, AMessageIsPutTogetherOfTextAndNumbers) {
  using polarquant::detail::message;
  const std::string name = "keys";
  EXPECT_EQ(message({}), "");
  EXPECT_EQ(message({"plain"}), "plain");
  EXPECT_EQ(message({"a", "b"}), "ab");
  EXPECT_EQ(message({name, " have ", std::size_t{3}, " rows, must have ", -4}),
            "keys have 3 rows, must have -4");
  EXPECT_EQ(message({std::string_view("keys and values").substr(0, 4), ": ", name}), "keys: keys");
  EXPECT_EQ(message({std::numeric_limits<std::uint64_t>::max(), " ",
                     std::numeric_limits<std::int64_t>::min()}),
            "18446744073709551615 -9223372036854775808");
  EXPECT_EQ(message({std::uint8_t{200}, " ", std::int8_t{-5}}), "200 -5");
  EXPECT_EQ(message({3.25, " ", 0.1f, " ", 1e30}), "3.25 0.1 1e+30");
}

TEST(ErrorTest, AFailureTakesItsMessageInParts) {
  EXPECT_EQ(message_of<std::invalid_argument>([] {
              polarquant::detail::throw_invalid_argument({"bits is ", 9});
            }),
            "polarquant: bits is 9");
  EXPECT_EQ(message_of<std::runtime_error>([] {
              polarquant::detail::throw_runtime_error({"read ", 3, " bytes"});
            }),
            "polarquant: read 3 bytes");
}

TEST(ErrorTest, DebugChecksDoNotEvaluateTheirConditionInReleaseBuilds) {
  int num_evaluations = 0;
  POLARQUANT_DCHECK(++num_evaluations > 0);
#if defined(NDEBUG)
  EXPECT_EQ(num_evaluations, 0);
#else
  EXPECT_EQ(num_evaluations, 1);
#endif
}

}  // namespace
