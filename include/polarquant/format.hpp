// Formats of keys and values.
#pragma once

#include "polarquant/codec/codec_format.hpp"
#include "polarquant/codec/families.hpp"
#include "polarquant/method/polar_format.hpp"
#include "polarquant/trellis/trellis_format.hpp"
