// Flags, numbers and files of the programs in this folder.
#pragma once

#include <charconv>
#include <cstdio>
#include <exception>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

[[noreturn]] inline void fail(const std::string& sentence) { throw std::runtime_error(sentence); }

inline int parse_number(const std::string& text, int minimum) {
  int number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stop != end || number < minimum) {
    fail("'" + text + "' is not a whole number of at least " + std::to_string(minimum) + ".");
  }
  return number;
}

inline bool parse_yes(const std::string& text) {
  if (text != "yes" && text != "no") fail("'" + text + "' is neither yes nor no.");
  return text == "yes";
}

inline std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> items;
  std::istringstream list(text);
  for (std::string item; std::getline(list, item, separator);) items.push_back(item);
  return items;
}

// A list such as 0,15,29.
inline std::vector<int> parse_numbers(const std::string& text, int minimum) {
  std::vector<int> numbers;
  for (const std::string& item : split(text, ',')) numbers.push_back(parse_number(item, minimum));
  if (numbers.empty()) fail("'" + text + "' is not a list of numbers such as 0,15,29.");
  return numbers;
}

// What to do with the value of a flag: into(...) sets a variable of the type it names.
using Flag = std::function<void(const std::string&)>;
using Flags = std::map<std::string, Flag>;

inline Flag into(std::string& target) {
  return [&target](const std::string& value) { target = value; };
}
inline Flag into(bool& target) {
  return [&target](const std::string& value) { target = parse_yes(value); };
}
inline Flag into(int& target, int minimum) {
  return [&target, minimum](const std::string& value) { target = parse_number(value, minimum); };
}
inline Flag into(std::vector<int>& target, int minimum) {
  return [&target, minimum](const std::string& value) { target = parse_numbers(value, minimum); };
}
inline Flag into(std::vector<std::string>& target) {
  return [&target](const std::string& value) { target = split(value, ','); };
}

// Every flag takes a value. Throws a sentence for a flag that is unknown or lacks its value, and
// the usage for --help.
inline void parse_flags(int argc, char** argv, const Flags& flags, const std::string& usage) {
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--help" || name == "-h") fail(usage);
    const auto flag = flags.find(name);
    if (flag == flags.end()) fail("unknown flag '" + name + "'; " + usage);
    if (i + 1 == argc) fail("the flag " + name + " lacks its value.");
    flag->second(argv[i + 1]);
  }
}

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  if (!file || !(content << file.rdbuf())) fail("cannot read '" + path + "', or it is empty.");
  return content.str();
}

// Writes beside the file and renames, so that a failure leaves the old one.
inline void write_file(const std::string& path, const std::string& content) {
  const std::string scratch = path + ".new";
  std::ofstream file(scratch, std::ios::binary);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  file.close();
  if (!file || std::rename(scratch.c_str(), path.c_str()) != 0) {
    fail("cannot write '" + path + "'.");
  }
}

// main() of a program: its errors are sentences on standard error and exit status 1.
template <typename Program>
int run_program(const char* name, const Program& program) {
  try {
    program();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return 1;
  }
  return 0;
}
