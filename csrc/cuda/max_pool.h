// max_pool_s8 and max_pool_f32: the largest value of each channel under a window
// (docs/arithmetic.md).
#pragma once

#include "core/conv_shape.h"
#include "cuda/launch.h"
#include "cuda/tensors.h"

namespace earmark::cuda {

// shape: c_in = c_out, no dilation, zero padding below the kernel's size.
template <class T>
struct MaxPool {
  ConvShape shape;
  Frames<const T> in;
  Ragged in_frames;
  Frames<T> out;
  Ragged out_frames;
};
using MaxPoolS8 = MaxPool<int8_t>;
using MaxPoolF32 = MaxPool<float>;

cudaError_t max_pool_s8(const MaxPoolS8& call, const Launch& launch);
cudaError_t max_pool_f32(const MaxPoolF32& call, const Launch& launch);

}  // namespace earmark::cuda
