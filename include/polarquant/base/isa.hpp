// Instruction sets: their names, whether this machine has them, and how a function is compiled for
// one of them without any -m flag.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "polarquant/base/error.hpp"
#include "polarquant/base/version.hpp"

#if defined(__GNUC__) && defined(__x86_64__)
#define POLARQUANT_X86 1
#define POLARQUANT_TARGET_AVX2 __attribute__((target("avx2,fma")))
#define POLARQUANT_TARGET_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#else
#define POLARQUANT_X86 0
#endif

#if defined(__GNUC__) && defined(__aarch64__)
#define POLARQUANT_NEON 1
#else
#define POLARQUANT_NEON 0
#endif

// A loop written once and compiled into each instruction set's own function.
#if defined(__GNUC__)
#define POLARQUANT_ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define POLARQUANT_ALWAYS_INLINE inline
#endif

POLARQUANT_BEGIN_NAMESPACE

enum class Isa { kScalar, kAvx2, kAvx512, kNeon };

// How scores and weighted sums are computed on codes. Encoding and decoding do not depend on it.
enum class Arithmetic : std::uint8_t {
  // In float (double for T = double): attention is that over the decoded keys and values, to 1e-5.
  kExact = 0,

  // In 16-bit fixed point where the machine and the format have a kernel for it (kernel_name() then
  // ends in "16-bit"), twice as fast and more: scores within 1e-3 of ||q|| ||k||, typically 3e-5;
  // the output of attention within 1.5e-3 of its norm. The codes themselves are off by far more.
  // Elsewhere the same as kExact.
  kFixedPoint = 1,
};

inline const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kNeon:
      return "neon";
    case Isa::kScalar:
      break;
  }
  return "scalar";
}

// True if this machine can run the kernels of `isa`, and they are part of this build.
inline bool isa_is_available(Isa isa) {
#if POLARQUANT_X86
  __builtin_cpu_init();  // Done already, except before main.
#endif
  switch (isa) {
    case Isa::kScalar:
      return true;
#if POLARQUANT_X86
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("fma");
#elif POLARQUANT_NEON
    case Isa::kNeon:  // Part of every aarch64.
      return true;
#endif
    default:
      return false;
  }
}

namespace detail {

// What is wrong with asking for `wanted`, or else for what POLARQUANT_ISA names; empty if nothing.
POLARQUANT_COLD inline std::string isa_problem(std::optional<Isa> wanted) {
  constexpr const char* kLacking = ", which this machine or build does not have";
  if (wanted) {
    if (static_cast<int>(*wanted) < 0 || *wanted > Isa::kNeon) {
      return message({"isa is ", static_cast<int>(*wanted), ", not an Isa"});
    }
    if (isa_is_available(*wanted)) return {};
    return message({"isa is ", isa_name(*wanted), kLacking});
  }
  const char* const variable = std::getenv("POLARQUANT_ISA");
  const std::string_view name = variable == nullptr ? "" : variable;
  if (name.empty()) return {};
  for (const Isa isa : {Isa::kAvx512, Isa::kAvx2, Isa::kNeon, Isa::kScalar}) {
    if (name != isa_name(isa)) continue;
    if (isa_is_available(isa)) return {};
    return message({"POLARQUANT_ISA is ", name, kLacking});
  }
  return message({"POLARQUANT_ISA is ", name, ", must be scalar, avx2, avx512 or neon"});
}

}  // namespace detail

// `wanted`, if given; else the one that the environment variable POLARQUANT_ISA names (scalar,
// avx2, avx512, neon); else the best of this machine. Throws std::invalid_argument if the machine
// or this build lacks `wanted`, std::runtime_error if the variable names one that is unknown or
// that it lacks.
POLARQUANT_COLD inline Isa choose_isa(std::optional<Isa> wanted = {}) {
  const std::string found = detail::isa_problem(wanted);
  if (!found.empty() && wanted) detail::throw_invalid_argument(found);
  if (!found.empty()) detail::throw_runtime_error(found);
  if (wanted) return *wanted;
  const char* const variable = std::getenv("POLARQUANT_ISA");
  const std::string_view name = variable == nullptr ? "" : variable;
  for (const Isa isa : {Isa::kAvx512, Isa::kAvx2, Isa::kNeon}) {
    if (name.empty() ? isa_is_available(isa) : name == isa_name(isa)) return isa;
  }
  return Isa::kScalar;
}

POLARQUANT_END_NAMESPACE
