// The unit of float_flags_units.cpp that is compiled with -ffast-math.
#include <vector>

#include "attend_once.hpp"

std::vector<float> attend_once_fast();

std::vector<float> attend_once_fast() { return attend_once(); }
