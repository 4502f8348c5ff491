// Formats of keys and values.
#pragma once

#include "polarquant/method/polar_format.hpp"
