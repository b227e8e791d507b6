// range_f32: the quantization that covers all values of a recording's frames or vector
// (docs/arithmetic.md).
#pragma once

#include "cuda/launch.h"
#include "cuda/tensors.h"

namespace earmark::cuda {

struct RangeF32 {
  int channels = 0;
  Frames<const float> in;
  Ragged frames;
  Vectors<float> out;  // [recordings][kFoundSize]
};

cudaError_t range_f32(const RangeF32& call, const Launch& launch);
size_t workspace_bytes(const RangeF32& call, const Device& device);

}  // namespace earmark::cuda
