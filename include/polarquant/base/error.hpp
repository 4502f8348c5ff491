// How the library reports a failure: exceptions from cold helpers, debug checks in hot calls.
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

#include "polarquant/base/version.hpp"

#if POLARQUANT_HAS_EXCEPTIONS
#include <stdexcept>
#elif !defined(POLARQUANT_ON_ERROR)
#error \
    "polarquant is compiled without exceptions: define POLARQUANT_ON_ERROR(message) before including it. It receives a const char* and must not return."
#endif

#if defined(__GNUC__)
#define POLARQUANT_COLD __attribute__((cold, noinline))
#define POLARQUANT_NOINLINE __attribute__((noinline))
#else
#define POLARQUANT_COLD
#define POLARQUANT_NOINLINE
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

// A part of a message: text, which must outlive the message() call, or a number. Call sites only
// list the parts; strings are put together in one cold function, because std::string's operator+
// inlined into every check of a header is slow to compile.
class Piece {
 public:
  constexpr Piece(const char* text) : kind_(Kind::kLiteral), text_(text) {}
  constexpr Piece(std::string_view text)
      : kind_(Kind::kText), size_(text.size()), text_(text.data()) {}
  Piece(const std::string& text) : Piece(std::string_view(text)) {}

  template <typename Number, std::enable_if_t<std::is_arithmetic_v<Number>, int> = 0>
  constexpr Piece(Number number) {
    static_assert(!std::is_same_v<Number, bool> && !std::is_same_v<Number, char>,
                  "a message holds text or numbers: say what a bool means, write a char as text");
    if constexpr (std::is_floating_point_v<Number>) {
      kind_ = Kind::kReal;
      real_ = static_cast<double>(number);
    } else if constexpr (std::is_signed_v<Number>) {
      kind_ = Kind::kSigned;
      signed_ = static_cast<long long>(number);
    } else {
      kind_ = Kind::kUnsigned;
      unsigned_ = static_cast<unsigned long long>(number);
    }
  }

  // Integers in full, others with six significant digits.
  POLARQUANT_COLD void append_to(std::string& text) const {
    switch (kind_) {
      case Kind::kLiteral:
        text.append(text_);
        return;
      case Kind::kText:
        text.append(text_, size_);
        return;
      case Kind::kSigned:
        text.append(std::to_string(signed_));
        return;
      case Kind::kUnsigned:
        text.append(std::to_string(unsigned_));
        return;
      case Kind::kReal:
        break;
    }
    char digits[32];
    std::snprintf(digits, sizeof digits, "%g", real_);
    text.append(digits);
  }

 private:
  enum class Kind : unsigned char { kLiteral, kText, kSigned, kUnsigned, kReal };

  Kind kind_ = Kind::kLiteral;
  std::size_t size_ = 0;
  union {
    const char* text_ = nullptr;
    long long signed_;
    unsigned long long unsigned_;
    double real_;
  };
};

POLARQUANT_COLD inline std::string message(std::initializer_list<Piece> pieces) {
  std::string text;
  for (const Piece& piece : pieces) piece.append_to(text);
  return text;
}

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

// The same with the message in parts. The call site holds no string, and so nothing to clean up.
[[noreturn]] POLARQUANT_COLD inline void throw_invalid_argument(
    std::initializer_list<Piece> pieces) {
  throw_invalid_argument(message(pieces));
}
[[noreturn]] POLARQUANT_COLD inline void throw_runtime_error(std::initializer_list<Piece> pieces) {
  throw_runtime_error(message(pieces));
}

}  // namespace detail
POLARQUANT_END_NAMESPACE
