// Entries of the baselines that are compiled apart: with another compiler or other flags.
#pragma once

#include "baselines/float16_kernels.hpp"

namespace polarquant_baselines {

enum class UnitIsa { kScalar, kAvx2, kAvx512, kNeon };

}  // namespace polarquant_baselines

// float16_unit.cpp as each compiler built it. The machine must have the instruction set.
extern "C" void polarquant_float16_by_gcc(polarquant_baselines::UnitIsa isa,
                                          polarquant_baselines::Float16Kernels* kernels);
extern "C" void polarquant_float16_by_clang(polarquant_baselines::UnitIsa isa,
                                            polarquant_baselines::Float16Kernels* kernels);
