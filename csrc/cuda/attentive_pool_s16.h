// attentive_pool_s16: as attentive_pool_s8, of a layer with 16-bit inputs or weights, over float32
// values; sums in float64, time ascending.
#pragma once

#include "cuda/conv_s16.h"
#include "cuda/softmax_function.h"

namespace earmark::cuda {

struct AttentivePoolS16 {
  int hidden_channels = 0;
  int channels = 0;             // of the values
  Planes<const int8_t> hidden;  // width 1, as the values
  Frames<const float> values;
  Ragged frames;       // of both
  WeightsS16 weights;  // [channels][hidden_channels]
  const float* multiplier = nullptr;
  const float* offset = nullptr;
  SoftmaxFunction softmax;
  double min_variance = 0.0;
  Vectors<float> out;  // [recordings][2 * channels]: mean, standard deviation
};

cudaError_t attentive_pool_s16(const AttentivePoolS16& call, const Launch& launch);

}  // namespace earmark::cuda
