// PolarQuant: compression of an LLM's key-value cache with polar coordinates (arXiv 2502.02617).
// This header includes all others, in the order of the method.
#pragma once

// clang-format off
#include "polarquant/base/version.hpp"
#include "polarquant/base/error.hpp"

// The method, step by step: rotate, transform, know the angles' law, quantize them.
#include "polarquant/method/rotation.hpp"
#include "polarquant/method/polar_transform.hpp"
#include "polarquant/method/angle_distribution.hpp"
#include "polarquant/method/codebook.hpp"
#include "polarquant/method/online_codebooks.hpp"
#include "polarquant/method/polar_format.hpp"

// The codes, and attention on them.
#include "polarquant/codes/code_layout.hpp"
#include "polarquant/codec/codec.hpp"
#include "polarquant/attention/online_softmax.hpp"
#include "polarquant/storage/config.hpp"
#include "polarquant/attention/options.hpp"
#include "polarquant/attention/partial.hpp"
#include "polarquant/kv_cache.hpp"
#include "polarquant/kv_cache_batch.hpp"
#include "polarquant/saving/save.hpp"
// clang-format on
