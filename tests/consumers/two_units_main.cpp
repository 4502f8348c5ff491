// Two units of one program, this one built without -m flags, the other with -march=native: each
// must run its own code, and both must agree. An Eigen matrix of the default alignment does not
// survive this: its allocation is shared between the units, its alignment is not (clang++ 14, -O1
// and up).
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <vector>

#include "attend_once.hpp"

std::vector<float> attend_once_native();

int main() {
  const std::vector<float> here = attend_once();
  const std::vector<float> native = attend_once_native();
  if (here.empty() || here.size() != native.size()) {
    std::fprintf(stderr, "wrong shape: %zu and %zu values\n", here.size(), native.size());
    return 1;
  }
  for (std::size_t i = 0; i < here.size(); ++i) {
    if (!(std::fabs(here[i] - native[i]) <= 1e-5f)) {
      std::fprintf(stderr, "value %zu differs: %.9g and %.9g\n", i, static_cast<double>(here[i]),
                   static_cast<double>(native[i]));
      return 1;
    }
  }
  return 0;
}
