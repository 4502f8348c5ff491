// A library of someone else's, whose header needs ours.
#pragma once

#include <polarquant/base/version.hpp>

int engine_version();
