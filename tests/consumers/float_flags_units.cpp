// A plain unit of a program whose other unit, float_flags_other.cpp, is compiled with -ffast-math
// and comes first: flags of one unit must not reach another by way of its inline functions.
#include <cstddef>
#include <cstdio>
#include <vector>

#include "attend_once.hpp"

std::vector<float> attend_once_fast();

int main() {
  const std::vector<float> plain = attend_once();
  const std::vector<float> fast = attend_once_fast();
  // The exponential rounded wrongly was off by 3.9e-2.
  double largest = plain.empty() || plain.size() != fast.size() ? 1.0 : 0.0;
  for (std::size_t i = 0; i < plain.size() && i < fast.size(); ++i) {
    const double gap = static_cast<double>(plain[i]) - static_cast<double>(fast[i]);
    largest = gap > largest ? gap : -gap > largest ? -gap : largest;
  }
  std::printf("outputs of the two units differ by at most %g\n", largest);
  return largest < 1e-6 ? 0 : 1;
}
