// A codec made before main, among the first constructors, gets the kernels of the machine.
#include <cstdio>
#include <cstring>
#include <memory>

#include "polarquant/codec.hpp"

namespace {

const char* kernel_name() {
  using polarquant::PolarFormat;
  using polarquant::Rotation;
  using polarquant::RotationKind;
  const auto rotation = std::make_shared<const Rotation>(RotationKind::kHadamard, 64, 1);
  return polarquant::PolarCodec<float>(PolarFormat::paper(64), rotation).kernel_name();
}

struct Early {
  const char* name = kernel_name();
};
__attribute__((init_priority(101))) Early early;

}  // namespace

int main() {
  std::printf("before main: %s, in main: %s\n", early.name, kernel_name());
  return std::strcmp(early.name, kernel_name()) == 0 ? 0 : 1;
}
