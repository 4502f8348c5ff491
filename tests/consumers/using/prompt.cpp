// A prompt that attends to exact tokens, and drafts that leave no trace.
#include "prompt.hpp"

#include "check.hpp"

int main() {
  polarquant::KVCacheConfig config;
  config.key_format = polarquant::PolarFormat::full_depth(64, 3.25);
  config.value_format = config.key_format;
  config.centering = polarquant::Centering::kNone;
  constexpr Eigen::Index kPrompt = 200, kTokens = 400;
  const RowMatrix<float> rows =
      Eigen::Map<const RowMatrix<float>>(gaussian(kTokens * 64, 1).data(), kTokens, 64);
  const RowMatrix<float> others =
      Eigen::Map<const RowMatrix<float>>(gaussian(7 * 64, 2).data(), 7, 64);

  KVCache<float> drafting(exact_until_encoded(config)), plain(exact_until_encoded(config));
  polarquant::KVCacheConfig uncompressed = config;
  uncompressed.key_format = uncompressed.value_format =
      polarquant::PolarFormat::uncompressed(64, polarquant::FloatType::kFloat32);
  KVCache<float> exact(uncompressed);
  const RowMatrix<float> prompt = rows.topRows(kPrompt);
  exact.append(prompt, prompt);
  const RowMatrix<float> output = read_prompt(drafting, prompt, prompt, prompt);
  const bool is_exact = (output - exact.attend(prompt)).norm() < 1e-5f * output.norm();
  read_prompt(plain, prompt, prompt, prompt);
  bool are_equal = drafting.num_encoded_tokens() == kPrompt - 4 - 32;
  for (Eigen::Index token = kPrompt; token < kTokens; ++token) {
    for (KVCache<float>* const cache : {&drafting, &plain}) {
      cache->append(rows.row(token), rows.row(token));
      // Seven drafts, all of them rejected.
      if (cache == &drafting) cache->append(others, others);
      accept(*cache, static_cast<std::size_t>(token) + 1);
    }
    are_equal &= drafting.num_encoded_tokens() == plain.num_encoded_tokens() &&
                 drafting.attend(rows.row(token)) == plain.attend(rows.row(token));
  }
  return is_exact && are_equal && plain.num_encoded_tokens() > kTokens - 4 - 64 - 1 ? 0 : 1;
}
