// A unit compiled with -ffast-math, linked before a plain float_flags.cpp: the linker keeps the
// first of equal inline functions.
#include <vector>

#include "attend_once.hpp"

std::vector<float> attend_once_fast();

std::vector<float> attend_once_fast() { return attend_once(); }
