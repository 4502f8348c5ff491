// Two or more sides take turns at the same work, so that what else the machine does meets all.
#pragma once

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "memory.hpp"

namespace polarquant_bench {

// One way to do the work. A run handles num_tokens tokens (or vectors), whose code is num_bytes.
struct Side {
  std::string name;
  double num_tokens = 0.0;
  double num_bytes = 0.0;
  std::function<void()> run;
  std::shared_ptr<RowMatrix<float>> result = nullptr;  // of the last run, if it can be checked
  bool has_threads = false;
};

inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

class Contest {
 public:
  // A turn lasts about turn_seconds, one run at least. Where is_hot, what others left in the caches
  // does not count: a run more comes before those that do.
  Contest(std::vector<Side> sides, double turn_seconds, bool is_hot)
      : sides_(std::move(sides)),
        is_hot_(is_hot),
        num_runs_(sides_.size(), 1),
        seconds_(sides_.size()) {
    // The first run touches memory for the first time.
    for (const Side& side : sides_) side.run();
    for (std::size_t i = 0; i < sides_.size(); ++i) {
      const double run_seconds = take_turn(i) * sides_[i].num_tokens;
      num_runs_[i] = std::max(1, static_cast<int>(std::lround(turn_seconds / run_seconds)));
    }
  }

  const Side& side(std::size_t i) const { return sides_[i]; }
  std::size_t num_sides() const { return sides_.size(); }

  // Every side once; returns the seconds per token of side 0.
  double play_round() {
    for (std::size_t i = 0; i < sides_.size(); ++i) seconds_[i].push_back(take_turn(i));
    return seconds_.front().back();
  }

  // Seconds per token.
  double median_seconds(std::size_t i) const { return median(seconds_[i]); }

  // Side i's time per token over side j's in the same round.
  double median_ratio(std::size_t i, std::size_t j) const {
    std::vector<double> ratios;
    for (std::size_t round = 0; round < seconds_[i].size(); ++round) {
      ratios.push_back(seconds_[i][round] / seconds_[j][round]);
    }
    return median(std::move(ratios));
  }

 private:
  static double seconds_of(clockid_t clock) {
    timespec time;
    ::clock_gettime(clock, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }

  // Seconds per token.
  double take_turn(std::size_t i) const {
    // The thread's own time: when others have the core does not count.
    const clockid_t clock = sides_[i].has_threads ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID;
    if (is_hot_ && num_runs_[i] > 1) sides_[i].run();
    const double begin = seconds_of(clock);
    for (int run = 0; run < num_runs_[i]; ++run) sides_[i].run();
    return (seconds_of(clock) - begin) / (num_runs_[i] * sides_[i].num_tokens);
  }

  std::vector<Side> sides_;
  bool is_hot_;
  std::vector<int> num_runs_;                 // per turn
  std::vector<std::vector<double>> seconds_;  // [side][round], per token
};

}  // namespace polarquant_bench
