// attentive_pool_s8: the attention's last layer, the softmax over time and the weighted mean and
// standard deviation in one kernel (docs/arithmetic.md). The logits never leave the chip; the exact
// softmax computes them twice, first for their maximum.
#pragma once

#include "cuda/conv_s8.h"
#include "cuda/softmax_function.h"

namespace earmark::cuda {

struct AttentivePoolS8 {
  int hidden_channels = 0;
  int channels = 0;             // of the values
  Frames<const int8_t> hidden;  // width 1, as the values
  Frames<const int8_t> values;
  Ragged frames;      // of both
  WeightsS8 weights;  // [channels][hidden_channels]
  const int32_t* initial = nullptr;
  const float* multiplier = nullptr;
  const float* offset = nullptr;  // not of the exact softmax
  SoftmaxFunction softmax;
  int value_zero = 0;
  const float* value_multiplier = nullptr;
  Vectors<const float> found;  // of the values, in place of these two, or null
  double min_variance = 0.0;
  Vectors<float> out;  // [recordings][2 * channels]: mean, standard deviation
};

cudaError_t attentive_pool_s8(const AttentivePoolS8& call, const Launch& launch);

}  // namespace earmark::cuda
