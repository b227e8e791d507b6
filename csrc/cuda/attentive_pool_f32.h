// attentive_pool_f32: as attentive_pool_s8, of a float32 layer; sums in float64, in an order
// that depends on nothing but the length.
#pragma once

#include "cuda/conv_f32.h"
#include "cuda/softmax_function.h"

namespace earmark::cuda {

struct AttentivePoolF32 {
  int hidden_channels = 0;
  int channels = 0;
  Frames<const float> hidden;
  Frames<const float> values;
  Ragged frames;
  const float* weight = nullptr;  // [hidden_channels][padded_channels(channels)]
  const float* offset = nullptr;  // [padded channels]
  SoftmaxFunction softmax;
  double min_variance = 0.0;
  Vectors<float> out;  // [recordings][2 * channels]
};

cudaError_t attentive_pool_f32(const AttentivePoolF32& call, const Launch& launch);

}  // namespace earmark::cuda
