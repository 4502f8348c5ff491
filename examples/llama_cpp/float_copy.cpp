// Writes a copy of a GGUF model with all weights as float32:
//
//   float_copy quantized.gguf float.gguf
//
// llama.cpp rounds the activations to 8 bits wherever it multiplies them by quantized weights. That
// noise depends on the instruction set and grows with depth, to some per cent of a key or value.
// The same weights as floats keep every activation a float, and machines agree.

#include <cstdio>

#include "llama.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: float_copy quantized.gguf float.gguf\n");
    return 1;
  }
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.ftype = LLAMA_FTYPE_ALL_F32;
  params.allow_requantize = true;  // the input is quantized
  params.quantize_output_tensor = true;
  if (llama_model_quantize(argv[1], argv[2], &params) != 0) {
    std::fprintf(stderr, "float_copy: cannot make '%s' from '%s'.\n", argv[2], argv[1]);
    return 1;
  }
  return 0;
}
