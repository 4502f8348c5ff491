// The unit of two_units_main.cpp that is built with -march=native.
#include <vector>

#include "attend_once.hpp"

std::vector<float> attend_once_native();

std::vector<float> attend_once_native() { return attend_once(); }
