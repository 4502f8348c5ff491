// Calibration of a model: scales of key channels, or matrices, and bits by layer, from a text, kept
// in a file.
#pragma once

#include "polarquant/calibration/bit_budget.hpp"
#include "polarquant/calibration/calibrator.hpp"
#include "polarquant/calibration/channel_scales.hpp"
#include "polarquant/calibration/key_matrix.hpp"
#include "polarquant/saving/calibration_file.hpp"
#include "polarquant/storage/calibration.hpp"
