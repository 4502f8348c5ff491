// How the library reports a failure: exceptions from cold helpers, debug checks in hot calls.
#pragma once

#include <cstdlib>
#include <string>

#include "polarquant/base/version.hpp"

#if POLARQUANT_HAS_EXCEPTIONS
#include <stdexcept>
#elif !defined(POLARQUANT_ON_ERROR)
#error \
    "polarquant is compiled without exceptions: define POLARQUANT_ON_ERROR(message) before including it. It receives a const char* and must not return."
#endif

#if defined(__GNUC__)
#define POLARQUANT_COLD __attribute__((cold, noinline))
#else
#define POLARQUANT_COLD
#endif

// A precondition of a hot, noexcept call. Checked in debug builds only; the message goes through
// assert's own channel so that a debugger stops at the line.
#if defined(NDEBUG)
#define POLARQUANT_DCHECK(condition) static_cast<void>(0)
#else
#include <cassert>
#define POLARQUANT_DCHECK(condition) assert(condition)
#endif

POLARQUANT_BEGIN_NAMESPACE
namespace detail {

// An argument breaks a rule. `message` names the value and the rule.
[[noreturn]] POLARQUANT_COLD inline void throw_invalid_argument(const std::string& message) {
#if POLARQUANT_HAS_EXCEPTIONS
  throw std::invalid_argument("polarquant: " + message);
#else
  POLARQUANT_ON_ERROR(("polarquant: " + message).c_str());
  std::abort();  // Reached only by a handler that breaks its contract and returns.
#endif
}

// The outside world (a file, the machine) is not as needed. `message` names what was found.
[[noreturn]] POLARQUANT_COLD inline void throw_runtime_error(const std::string& message) {
#if POLARQUANT_HAS_EXCEPTIONS
  throw std::runtime_error("polarquant: " + message);
#else
  POLARQUANT_ON_ERROR(("polarquant: " + message).c_str());
  std::abort();
#endif
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
