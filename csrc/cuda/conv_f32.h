// conv_f32 and dense_f32: float32 layers of a mixed-precision network. Their sums are fused
// multiply-adds in one order, the same for every batch; other orders elsewhere, hence a tolerance
// (docs/arithmetic.md).
#pragma once

#include "core/conv_shape.h"
#include "cuda/launch.h"
#include "cuda/tensors.h"

namespace earmark::cuda {

// acc + offset -> ReLU -> * gain + shift -> activation. Arrays are [padded channels]; gain and
// shift are null where no affine follows.
struct LayerF32 {
  enum class Activation { kNone, kTanh, kSigmoid };
  const float* weight = nullptr;  // [taps * c_in][padded_channels(c_out)], zeros beyond c_out
  const float* offset = nullptr;
  const float* gain = nullptr;
  const float* shift = nullptr;
  bool relu = false;
  Activation activation = Activation::kNone;
};

struct ConvF32 {
  ConvShape shape;
  LayerF32 layer;
  Vectors<const float> bias;  // [recordings][padded channels], in place of layer.offset, or null
  Frames<const float> in;
  Ragged in_frames;
  Frames<float> out;
  Ragged out_frames;
};

// The output must not overlap the input. dense_f32 is the same of vectors: one position a
// recording.
cudaError_t conv_f32(const ConvF32& call, const Launch& launch);

}  // namespace earmark::cuda
