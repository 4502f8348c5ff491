#include <engine.hpp>

int main() { return engine_version() == POLARQUANT_VERSION_MAJOR ? 0 : 1; }
