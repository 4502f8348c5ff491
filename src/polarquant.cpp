// The library polarquant::compiled: what its users need not compile themselves.
#include <polarquant/polarquant.hpp>
