#include "engine.hpp"

#include <Eigen/Core>

int engine_version() { return POLARQUANT_VERSION_MAJOR + int(Eigen::Vector2f::Zero().sum()); }
