// Saving a cache and loading it.
#pragma once

#include "polarquant/saving/load.hpp"
#include "polarquant/saving/save.hpp"
