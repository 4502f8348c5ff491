// How far one next-token distribution is from another.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

// log sum_i exp(logits[i]): less it, logits are log-probabilities.
inline double log_sum_exp(const float* logits, std::size_t vocab_size) {
  const float maximum = *std::max_element(logits, logits + vocab_size);
  double sum = 0.0;
  for (std::size_t i = 0; i < vocab_size; ++i) {
    sum += static_cast<double>(std::exp(logits[i] - maximum));
  }
  return static_cast<double>(maximum) + std::log(sum);
}

inline std::size_t most_likely(const float* logits, std::size_t vocab_size) {
  return static_cast<std::size_t>(std::max_element(logits, logits + vocab_size) - logits);
}

// One predicted token.
struct TokenScore {
  double divergence = 0.0;  // Kullback-Leibler, sum_i p_i log(p_i / q_i), nats
  double surprise = 0.0;    // -log q of the token that came, nats
  bool same_top = false;    // whether p and q have the same most likely token
};

// The log-probabilities log softmax(logits), [num_tokens, vocab_size], of the plain run.
class ReferenceDistribution {
 public:
  ReferenceDistribution(const float* logits, std::size_t num_tokens, std::size_t vocab_size)
      : vocab_size_(vocab_size), log_p_(logits, logits + num_tokens * vocab_size) {
    for (std::size_t i = 0; i < num_tokens; ++i) {
      float* const row = log_p_.data() + i * vocab_size;
      const float normalizer = static_cast<float>(log_sum_exp(row, vocab_size));
      for (std::size_t j = 0; j < vocab_size; ++j) row[j] -= normalizer;
    }
  }

  std::size_t num_tokens() const { return log_p_.size() / vocab_size_; }

  // Token number `index`, whose distribution is softmax(logits) instead, and which turned out to
  // be `next`.
  TokenScore compare(std::size_t index, const float* logits, std::size_t next) const {
    const float* const log_p = log_p_.data() + index * vocab_size_;
    const double normalizer = log_sum_exp(logits, vocab_size_);
    double divergence = 0.0;
    for (std::size_t j = 0; j < vocab_size_; ++j) {
      // Tokens without probability add nothing.
      if (log_p[j] < -60.0f) continue;
      const double log_q = static_cast<double>(logits[j]) - normalizer;
      divergence +=
          static_cast<double>(std::exp(log_p[j])) * (static_cast<double>(log_p[j]) - log_q);
    }
    TokenScore score;
    score.divergence = std::max(divergence, 0.0);  // rounding makes -1e-8 of equal ones
    score.surprise = normalizer - static_cast<double>(logits[next]);
    score.same_top = most_likely(log_p, vocab_size_) == most_likely(logits, vocab_size_);
    return score;
  }

 private:
  std::size_t vocab_size_;
  std::vector<float> log_p_;
};

// What the tokens of all windows say together.
struct DivergenceSummary {
  std::size_t num_tokens = 0;
  double perplexity = 0.0;  // exp of the mean surprise
  double mean_divergence = 0.0;
  double percentile99_divergence = 0.0;   // the least that 99 % of the tokens do not exceed
  double percentile999_divergence = 0.0;  // 99.9 %: what users of large models judge by
  double same_top = 0.0;                  // share of the tokens
};

inline DivergenceSummary summarize(const std::vector<TokenScore>& scores) {
  DivergenceSummary summary;
  summary.num_tokens = scores.size();
  if (scores.empty()) return summary;
  std::vector<double> divergences;
  double surprise = 0.0;
  for (const TokenScore& score : scores) {
    divergences.push_back(score.divergence);
    summary.mean_divergence += score.divergence;
    surprise += score.surprise;
    summary.same_top += score.same_top ? 1.0 : 0.0;
  }
  const double count = static_cast<double>(scores.size());
  summary.mean_divergence /= count;
  summary.same_top /= count;
  summary.perplexity = std::exp(surprise / count);
  std::sort(divergences.begin(), divergences.end());
  const auto percentile = [&](double share) {
    return divergences[static_cast<std::size_t>(std::ceil(share * count)) - 1];
  };
  summary.percentile99_divergence = percentile(0.99);
  summary.percentile999_divergence = percentile(0.999);
  return summary;
}
