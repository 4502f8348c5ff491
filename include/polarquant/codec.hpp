// Codecs: vectors to codes in the caller's memory and back, and attention to them.
#pragma once

#include "polarquant/attention/tiles.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/codec/codec_rows.hpp"
#include "polarquant/codec/families.hpp"
#include "polarquant/codec/polar_codec.hpp"
#include "polarquant/storage/kv_codec.hpp"
