// conv_s16: int8 or int16 frames -> float32 frames, with weights of 8 or 16 bits
// (docs/arithmetic.md).
//
// Each plane of bytes of the inputs is multiplied with each of the weights, as conv_s8 does it; the
// exact sum of these products, 64 bits, is rounded to float32 once.
#pragma once

#include "core/conv_shape.h"
#include "core/epilogue_s8.h"
#include "core/softmax.h"
#include "cuda/launch.h"
#include "cuda/tensors.h"

namespace earmark::cuda {

// Weights as `pack_conv_s16` (pack_conv_s8.h) leaves them, in device memory, 16-byte aligned.
struct WeightsS16 {
  const int8_t* weight = nullptr;
  int planes = 1;
  int depth = 0;
  const int8_t* input_zero = nullptr;
  const int64_t* initial = nullptr;
};

struct ConvS16 {
  ConvShape shape;
  WeightsS16 weights;
  EpilogueS8 epilogue;        // neither its `initial` nor its `zero_u8` is read
  Vectors<const float> bias;  // [recordings][padded channels], in place of its offset, or null
  LookupTable table;          // with lines; no entries: none
  Planes<const int8_t> in;
  Ragged in_frames;
  Frames<float> out;
  Ragged out_frames;
};

// The output must not overlap the input. dense_s16 is the same of vectors: one position a
// recording.
cudaError_t conv_s16(const ConvS16& call, const Launch& launch);

}  // namespace earmark::cuda
