// Codecs: vectors to codes in the caller's memory, and attention on them.
#pragma once

#include "polarquant/codec/codec.hpp"
