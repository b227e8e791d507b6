// conv_s8: int8 frames -> int8 or float32 frames (docs/arithmetic.md).
//
// An implicit matrix product on the tensor cores: positions of the output x output channels, over
// taps x input channels.
#pragma once

#include "core/conv_shape.h"
#include "core/epilogue_s8.h"
#include "cuda/launch.h"
#include "cuda/tensors.h"

namespace earmark::cuda {

// Weights as `pack_conv_s8` (pack_conv_s8.h) leaves them, in device memory, 16-byte aligned.
struct WeightsS8 {
  const int8_t* weight = nullptr;  // [padded_channels(c_out)][depth], zeros beyond the layer's own
  int depth = 0;                   // taps * c_in, up to a multiple of kDepth
  const int8_t* input_zero = nullptr;  // [c_in up to a multiple of 16]: what zero padding reads
};

// Epilogue and quantization of a layer. `epilogue.initial` is -sum over k, i of w * input_zero.
//
// Where `found` is there, the input's quantization is the recording's own: scale, inverse and zero
// point as `range_f32` leaves them. The layer is then packed for an input_zero of 1 everywhere.
struct LayerS8 {
  WeightsS8 weights;
  EpilogueS8 epilogue;
  Vectors<const float> bias;  // [recordings][padded channels], in place of epilogue.offset, or null
  Vectors<const float> found;  // [recordings][kFoundSize], or null
};

// One of the outputs: int8 frames `out`, by requantization or, with a table of int8, by
// table[index(v)]; or float32 frames `out_f32`.
struct ConvS8 {
  ConvShape shape;
  LayerS8 layer;
  const int8_t* table = nullptr;
  int table_size = 0;
  Frames<const int8_t> in;
  Ragged in_frames;
  Frames<int8_t> out;
  Frames<float> out_f32;
  Ragged out_frames;  // lengths that shape.time makes of in_frames; the same where it keeps them
};

// The output must not overlap the input.
cudaError_t conv_s8(const ConvS8& call, const Launch& launch);
size_t workspace_bytes(const ConvS8& call, const Device& device);

}  // namespace earmark::cuda
