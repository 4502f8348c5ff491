# Turns the first C++ example of the README, as printed, into a program:
#   cmake -DREADME=README.md -DOUTPUT=main.cpp -P readme_example.cmake
# What stands before the configuration goes to the top of the file, the rest into main().
file(READ "${README}" text)
string(FIND "${text}" "```cpp\n" begin)
math(EXPR begin "${begin} + 7")
string(SUBSTRING "${text}" ${begin} -1 text)
string(FIND "${text}" "```" end)
string(SUBSTRING "${text}" 0 ${end} example)
string(FIND "${example}" "polarquant::KVCacheConfig config;" body)
if(body EQUAL -1)
  message(FATAL_ERROR "the README's first example does not begin with a KVCacheConfig")
endif()
string(SUBSTRING "${example}" 0 ${body} head)
string(SUBSTRING "${example}" ${body} -1 body)
file(WRITE "${OUTPUT}" "${head}
#include <cmath>

int main() {
  const RowMatrix<float> keys = RowMatrix<float>::Random(1000, 8 * 128);
  const RowMatrix<float> values = RowMatrix<float>::Random(1000, 8 * 128);
  const RowMatrix<float> queries = RowMatrix<float>::Random(2, 32 * 128);
${body}
  const bool shapes = output.rows() == 2 && output.cols() == 32 * 128 && scores.rows() == 64 &&
                      scores.cols() == 1000 && keys0.rows() == 1000 && keys0.cols() == 128;
  const double error = (keys.leftCols(128) - keys0).squaredNorm() / keys.squaredNorm() * 8;
  return shapes && cache.num_tokens() == 997 && bits == 3.875 && bytes > 900 * 8 * (62 + 52) &&
                 std::abs(error / config.key_format.expected_relative_mse() - 1) < 0.1
             ? 0
             : 1;
}
")
