// The program of the consumers that are about packaging alone: both libraries' headers are found.
#include <Eigen/Core>
#include <polarquant/base/version.hpp>

static_assert(POLARQUANT_VERSION_MAJOR >= 0);

int main() { return Eigen::Vector2f(1.0f, 1.0f).sum() == 2.0f ? 0 : 1; }
