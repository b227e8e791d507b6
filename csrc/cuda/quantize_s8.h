// quantize_s8, quantize_s16 and dequantize_f32: between float32 and integers, frames or vectors
// (docs/arithmetic.md).
#pragma once

#include "cuda/launch.h"
#include "cuda/tensors.h"

namespace earmark::cuda {

struct QuantizeS8 {
  int channels = 0;
  Frames<const float> in;
  Frames<int8_t> out;
  Ragged frames;
  const float* multiplier = nullptr;  // [padded channels]
  const float* offset = nullptr;
  int zero = 0;
  Vectors<const float> found;  // the recordings' own quantization in place of these three, or null
};

cudaError_t quantize_s8(const QuantizeS8& call, const Launch& launch);

struct QuantizeS16 {
  int channels = 0;
  Frames<const float> in;
  Planes<int8_t> out;
  Ragged frames;
  const float* multiplier = nullptr;  // [padded channels]
  const float* offset = nullptr;
  int zero = 0;
};

cudaError_t quantize_s16(const QuantizeS16& call, const Launch& launch);

struct DequantizeF32 {
  int channels = 0;
  Frames<const int8_t> in;
  Frames<float> out;
  Ragged frames;
  const float* multiplier = nullptr;  // [padded channels]
  int zero = 0;
};

cudaError_t dequantize_f32(const DequantizeF32& call, const Launch& launch);

}  // namespace earmark::cuda
