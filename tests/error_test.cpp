#include "polarquant/base/error.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

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

TEST(Error, broken_rules_are_invalid_arguments_that_name_the_library) {
  EXPECT_EQ(message_of<std::invalid_argument>(
                [] { polarquant::detail::throw_invalid_argument("bits is 9"); }),
            "polarquant: bits is 9");
}

TEST(Error, failures_of_the_outside_world_are_runtime_errors_that_name_the_library) {
  EXPECT_EQ(message_of<std::runtime_error>(
                [] { polarquant::detail::throw_runtime_error("the file is short"); }),
            "polarquant: the file is short");
}

TEST(Error, debug_checks_do_not_evaluate_their_condition_in_release_builds) {
  int num_evaluations = 0;
  POLARQUANT_DCHECK(++num_evaluations > 0);
#if defined(NDEBUG)
  EXPECT_EQ(num_evaluations, 0);
#else
  EXPECT_EQ(num_evaluations, 1);
#endif
}

}  // namespace
