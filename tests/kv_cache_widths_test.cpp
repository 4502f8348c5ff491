// Every width that an engine may have, with exact rows and centring beside the codes.
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <vector>

#include "plain_8bit_codec.hpp"
#include "plain_attention.hpp"

namespace {

using namespace polarquant;
using namespace polarquant_test;

void expect_attention_over_decoded(const CodecFormat& keys, const CodecFormat& values) {
  KVCacheConfig config;
  config.num_query_heads = 2;
  config.key_format = keys;
  config.value_format = values;
  config.rotation = polarquant::RotationKind::kHadamard;
  config.arithmetic = polarquant::Arithmetic::kExact;
  config.num_sink_tokens = 2;
  config.num_recent_tokens = 5;
  config.centering = polarquant::Centering::kLocal;
  EXPECT_TRUE(polarquant::is_supported(config));
  KVCache<float> cache(config);
  const RowMatrix<float> given = gaussian_matrix<float>(75, keys.head_dim(), 1);
  cache.append(given, gaussian_matrix<float>(75, values.head_dim(), 2));
  EXPECT_GT(cache.num_encoded_tokens(), 0u);
  const RowMatrix<float> queries = gaussian_matrix<float>(1, 2 * keys.head_dim(), 3);
  const RowMatrix<double> expected = plain_attention(cache, queries);
  EXPECT_LE((cache.attend(queries).cast<double>() - expected).cwiseAbs().maxCoeff(),
            attention_tolerance<float>(values.head_dim()))
      << keys.description() << " and " << values.description();
  // What the codes hold is near what came in.
  EXPECT_LT((cache.decode_keys(0) - given).squaredNorm() / given.squaredNorm(), 0.05f);
}

TEST(KVCacheWidthsTest, EveryMultipleOfEight) {
  for (int width = 16; width <= 1024; width += kSanitized ? 200 : 8) {
    const CodecFormat format = PolarFormat::full_depth(width, 4.0);
    expect_attention_over_decoded(format, format);
    const CodecFormat plain = polarquant_test::plain_8bit(width);
    expect_attention_over_decoded(plain, plain);
  }
}

TEST(KVCacheWidthsTest, KeysAndValuesOfDifferentWidths) {
  const int widths[] = {16, 80, 96, 112, 192, 576};
  for (const int key_width : widths) {
    for (const int value_width : widths) {
      expect_attention_over_decoded(PolarFormat::full_depth(key_width, 4.25),
                                    PolarFormat::paper(value_width));
      expect_attention_over_decoded(polarquant_test::plain_8bit(key_width),
                                    PolarFormat::paper(value_width));
    }
  }
}

}  // namespace
