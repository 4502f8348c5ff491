// The program of the find_package and add_subdirectory consumers.
#include "attend_once.hpp"

int main() { return attend_once().empty() ? 1 : 0; }
