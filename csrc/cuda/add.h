// add_s8 and add_f32: a residual added to frames, these times constants or the recording's gate
// (docs/arithmetic.md). The output may be one of the inputs, in exactly the same place.
#pragma once

#include "cuda/launch.h"
#include "cuda/tensors.h"

namespace earmark::cuda {

struct AddS8 {
  int channels = 0;
  Frames<const int8_t> in;
  Frames<const int8_t> residual;
  Frames<int8_t> out;
  Ragged frames;
  const float* multiplier = nullptr;  // [padded channels]
  float residual_multiplier = 0.0f;
  int in_zero = 0;
  int residual_zero = 0;
  int out_zero = 0;
  Vectors<const float> gate;  // [recordings][channels], or null
  bool relu = false;
};

cudaError_t add_s8(const AddS8& call, const Launch& launch);

struct AddF32 {
  int channels = 0;
  Frames<const float> in;
  Frames<const float> residual;
  Frames<float> out;
  Ragged frames;
  Vectors<const float> gate;  // or null
  bool relu = false;
};

cudaError_t add_f32(const AddF32& call, const Launch& launch);

}  // namespace earmark::cuda
