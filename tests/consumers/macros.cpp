// Macros that headers of others define: none is to hit a name of ours. check_layers.py has the same
// list. The standard library's headers and Eigen's come first: those are not ours.
#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <istream>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <ostream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#undef unix
#undef linux
#undef I
#undef major
#undef minor

// What they are defined as is wrong wherever it stands.
// Windows.h
#define min(...) 0 macro
#define max(...) 0 macro
#define near 0 macro
#define far 0 macro
#define small 0 macro
#define hyper 0 macro
#define interface 0 macro
#define IN 0 macro
#define OUT 0 macro
#define OPTIONAL 0 macro
#define ERROR 0 macro
#define NO_ERROR 0 macro
#define DELETE 0 macro
#define CONST 0 macro
#define VOID 0 macro
#define STRICT 0 macro
#define TRUE 0 macro
#define FALSE 0 macro
// Unreal Engine, AssertMacros.h of macOS
#define check(...) 0 macro
#define checkf(...) 0 macro
#define verify(...) 0 macro
#define ensure(...) 0 macro
#define require(...) 0 macro
#define TEXT(...) 0 macro
#define PI 0 macro
// X11
#define Bool 0 macro
#define None 0 macro
#define Status 0 macro
#define Success 0 macro
#define Always 0 macro
#define True 0 macro
#define False 0 macro
#define Above 0 macro
#define Below 0 macro
// Qt, Objective-C
#define slots 0 macro
#define signals 0 macro
#define emit 0 macro
#define foreach 0 macro
#define forever 0 macro
#define nil 0 macro
#define YES 0 macro
#define NO 0 macro
// GNU, the kernel's headers, complex.h
#define likely(...) 0 macro
#define unlikely(...) 0 macro
#define unix 0 macro
#define linux 0 macro
#define major 0 macro
#define minor 0 macro
#define I 0 macro

#include <polarquant/polarquant.hpp>

int main() { return sizeof(polarquant::KVCache<float>) != 0 ? 0 : 1; }
