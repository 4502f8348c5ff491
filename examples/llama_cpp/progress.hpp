// A progress bar with an estimate of the time left, on standard error.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <string>

inline bool is_terminal() { return isatty(fileno(stderr)) != 0; }

class Progress {
 public:
  explicit Progress(int num_steps) : num_steps_(num_steps) {}

  // One more step is done. Without a terminal, a line every twentieth part.
  void step(const std::string& what) {
    ++done_;
    const int percent = 100 * done_ / num_steps_;
    if (!is_terminal() && percent / 5 == 100 * (done_ - 1) / num_steps_ / 5) return;
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    const int left = static_cast<int>(seconds / done_ * (num_steps_ - done_));
    const std::string bar = std::string(static_cast<std::size_t>(percent / 5), '#') +
                            std::string(static_cast<std::size_t>(20 - percent / 5), '.');
    std::fprintf(stderr, "%s[%s] %3d %%  %d:%02d left  %-40.40s%s", is_terminal() ? "\r" : "",
                 bar.c_str(), percent, left / 60, left % 60, what.c_str(),
                 is_terminal() && done_ < num_steps_ ? "" : "\n");
  }

 private:
  int num_steps_;
  int done_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};
