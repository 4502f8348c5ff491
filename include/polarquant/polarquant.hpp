// PolarQuant: compression of an LLM's key-value cache with polar coordinates (arXiv 2502.02617).
// This header includes all others, in the order of the method.
#pragma once

// clang-format off
// The method, step by step: rotate, transform, know the angles' law, quantize them.
#include "polarquant/method/rotation.hpp"
#include "polarquant/method/polar_transform.hpp"
#include "polarquant/method/angle_distribution.hpp"
#include "polarquant/method/codebook.hpp"
#include "polarquant/method/k_means.hpp"
#include "polarquant/method/online_codebooks.hpp"
#include "polarquant/method/polar_format.hpp"

// The codes, the cache, and attention on them.
#include "polarquant/format.hpp"
#include "polarquant/codec.hpp"
#include "polarquant/kv_cache.hpp"
#include "polarquant/kv_cache_batch.hpp"
#include "polarquant/serialization.hpp"
#include "polarquant/calibration.hpp"
// clang-format on
