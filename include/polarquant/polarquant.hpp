// PolarQuant: compression of an LLM's key-value cache with polar coordinates (arXiv 2502.02617).
// This header includes all others, in the order of the method.
#pragma once

// clang-format off
#include "polarquant/version.hpp"
#include "polarquant/error.hpp"

// The method, step by step: rotate, transform, know the angles' law, quantize them.
#include "polarquant/rotation.hpp"
#include "polarquant/polar_transform.hpp"
#include "polarquant/angle_distribution.hpp"
#include "polarquant/codebook.hpp"
#include "polarquant/online_codebooks.hpp"
#include "polarquant/format.hpp"

// The codes, and attention on them.
#include "polarquant/packed_codes.hpp"
#include "polarquant/codec.hpp"
#include "polarquant/online_softmax.hpp"
#include "polarquant/kv_cache_config.hpp"
#include "polarquant/attention_options.hpp"
#include "polarquant/partial_attention.hpp"
#include "polarquant/kv_cache.hpp"
#include "polarquant/kv_cache_batch.hpp"
#include "polarquant/serialization.hpp"
// clang-format on
