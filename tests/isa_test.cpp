#include "polarquant/base/isa.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "test_util.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

constexpr Isa kAllIsas[] = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kNeon};

TEST(IsaTest, NamesAreThoseOfTheEnvironmentVariable) {
  EXPECT_STREQ(isa_name(Isa::kScalar), "scalar");
  EXPECT_STREQ(isa_name(Isa::kAvx2), "avx2");
  EXPECT_STREQ(isa_name(Isa::kAvx512), "avx512");
  EXPECT_STREQ(isa_name(Isa::kNeon), "neon");
}

TEST(IsaTest, ScalarIsAlwaysAvailable) { EXPECT_TRUE(isa_is_available(Isa::kScalar)); }

TEST(IsaTest, NoMachineHasBothAvx2AndNeon) {
  EXPECT_FALSE(isa_is_available(Isa::kAvx2) && isa_is_available(Isa::kNeon));
}

TEST(IsaTest, WithoutTheVariableNothingBetterIsAvailable) {
  const ScopedIsa isa(nullptr);
  const Isa chosen = choose_isa();
  EXPECT_TRUE(isa_is_available(chosen));
  if (chosen != Isa::kAvx512) {
    EXPECT_FALSE(isa_is_available(Isa::kAvx512));
  }
  if (chosen == Isa::kScalar) {
    EXPECT_FALSE(isa_is_available(Isa::kAvx2));
    EXPECT_FALSE(isa_is_available(Isa::kNeon));
  }
}

TEST(IsaTest, AnEmptyVariableIsNoVariable) {
  Isa without;
  {
    const ScopedIsa isa(nullptr);
    without = choose_isa();
  }
  const ScopedIsa isa("");
  EXPECT_EQ(choose_isa(), without);
}

TEST(IsaTest, EveryAvailableIsaCanBeForced) {
  for (const Isa wanted : kAllIsas) {
    if (!isa_is_available(wanted)) continue;
    const ScopedIsa isa(isa_name(wanted));
    EXPECT_EQ(choose_isa(), wanted);
  }
}

TEST(IsaTest, AMissingIsaIsAnErrorThatNamesIt) {
  bool any_is_missing = false;
  for (const Isa wanted : kAllIsas) {
    if (isa_is_available(wanted)) continue;
    any_is_missing = true;
    const ScopedIsa isa(isa_name(wanted));
    EXPECT_EQ(message_of<std::runtime_error>([] { choose_isa(); }),
              "polarquant: POLARQUANT_ISA is " + std::string(isa_name(wanted)) +
                  ", which this machine or build does not have");
  }
  EXPECT_TRUE(any_is_missing);  // None has AVX2 and NEON at once.
}

TEST(IsaTest, WhatIsAskedForWinsOverTheVariable) {
  const ScopedIsa isa("avx51");
  EXPECT_EQ(choose_isa(Isa::kScalar), Isa::kScalar);
}

TEST(IsaTest, AskingForAMissingIsaIsAnErrorThatNamesIt) {
  for (const Isa wanted : kAllIsas) {
    if (isa_is_available(wanted)) {
      EXPECT_EQ(choose_isa(wanted), wanted);
      continue;
    }
    EXPECT_EQ(message_of<std::invalid_argument>([wanted] { choose_isa(wanted); }),
              "polarquant: isa is " + std::string(isa_name(wanted)) +
                  ", which this machine or build does not have");
  }
}

TEST(IsaTest, AnUnknownNameIsAnErrorThatListsTheNames) {
  for (const char* const name : {"sse", "AVX2", "avx51", "avx5122", " scalar"}) {
    const ScopedIsa isa(name);
    EXPECT_EQ(message_of<std::runtime_error>([] { choose_isa(); }),
              "polarquant: POLARQUANT_ISA is " + std::string(name) +
                  ", must be scalar, avx2, avx512 or neon");
  }
}

}  // namespace
