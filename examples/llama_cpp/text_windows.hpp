// Windows of texts that something is fitted to.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "llama_model.hpp"

// So many tokens in windows of a size, about as many from each text, spread evenly over it; at
// least one from each. Throws for a text that has too few.
inline std::vector<std::vector<llama_token>> read_windows(const Model& model,
                                                          const std::vector<std::string>& texts,
                                                          int num_tokens, int window) {
  const std::size_t size = static_cast<std::size_t>(window);
  const std::size_t num_windows =
      std::max(texts.size(), static_cast<std::size_t>(num_tokens) / size);
  std::vector<std::vector<llama_token>> windows;
  for (std::size_t text = 0; text < texts.size(); ++text) {
    const std::vector<llama_token> tokens = model.tokenize(read_file(texts[text]), false);
    const std::size_t own =
        num_windows / texts.size() + (text < num_windows % texts.size() ? 1 : 0);
    if (tokens.size() < own * size) {
      fail("'" + texts[text] + "' has " + std::to_string(tokens.size()) + " tokens, " +
           std::to_string(own) + " windows of " + std::to_string(size) + " need " +
           std::to_string(own * size) + ".");
    }
    const std::size_t step = own > 1 ? (tokens.size() - size) / (own - 1) : 0;
    for (std::size_t i = 0; i < own; ++i) {
      const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(i * step);
      windows.emplace_back(first, first + static_cast<std::ptrdiff_t>(size));
      if (llama_vocab_get_add_bos(model.vocab())) {
        windows.back().front() = llama_vocab_bos(model.vocab());
      }
    }
  }
  return windows;
}
