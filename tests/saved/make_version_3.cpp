// Makes the files of tests/saved/version_3 from tests/saved_recipes.hpp; not part of the build:
//   c++ -std=c++17 -O1 -I include -I tests -I EIGEN tests/saved/make_version_3.cpp -lgtest -o make
//   ./make tests/saved/version_3
// Files that were released are never made again: a new one gets a new name.
#include <cstdio>
#include <string>

#include "saved_recipes.hpp"

int main(int argc, char** argv) {
  if (argc != 2) return 1;
  for (const polarquant_test::SavedFile& file : polarquant_test::saved_recipes(3)) {
    polarquant_test::visit_type(file.type, [&](auto number) {
      polarquant::KVCache<decltype(number)> cache(file.config);
      polarquant_test::replay(file.steps, cache);
      polarquant::save(cache, std::string(argv[1]) + "/" + file.name + ".polarkv");
      std::printf("%-20s %4zu tokens %4zu encoded\n", file.name.c_str(), cache.num_tokens(),
                  cache.num_encoded_tokens());
    });
  }
  return 0;
}
