// affine_f32: y[c] = x[c] * multiplier[c] + offset[c], float32 vectors (docs/arithmetic.md).
#pragma once

#include "cuda/launch.h"
#include "cuda/tensors.h"

namespace earmark::cuda {

struct AffineF32 {
  int channels = 0;
  int recordings = 0;
  Vectors<const float> in;
  Vectors<float> out;
  const float* multiplier = nullptr;  // [padded channels]
  const float* offset = nullptr;
};

cudaError_t affine_f32(const AffineF32& call, const Launch& launch);

}  // namespace earmark::cuda
