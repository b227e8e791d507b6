// res2_s8: the chain of convolutions of one SE-Res2 block (Res2Net, arXiv:1904.01169) in one
// kernel, with the bits of the conv_s8 and add_s8 it stands for:
//
//   s_1 = in_1;   s_i = add_s8(in_i, out_{i-1})   for i > 1;   out_i = conv_s8(s_i)
//
// A block of threads takes some frames of a recording through the whole chain on chip; since each
// convolution reaches dilation * (kernel - 1) / 2 frames to both sides, it begins with as many more
// as all steps behind need, and each step computes fewer of them.
#pragma once

#include "cuda/conv_s8.h"

namespace earmark::cuda {

inline constexpr int kMaxRes2Steps = 15;
inline constexpr int kMaxRes2Channels = 128;

struct Res2Step {
  const int8_t* in = nullptr;  // first channel at the first position; strides are the call's
  int8_t* out = nullptr;
  WeightsS8 weights;
  EpilogueS8 epilogue;
  // The addition, of every step but the first, as in AddS8 (add_s8.h) without gate and ReLU.
  const float* multiplier = nullptr;
  float residual_multiplier = 0.0f;
  int in_zero = 0;        // of in
  int previous_zero = 0;  // of the output of the step before
  int sum_zero = 0;       // of their sum
};

// `copy_in` -> `copy_out`: the chunk of channels that passes the chain by; null where there is
// none.
struct Res2S8 {
  int steps = 0;
  Res2Step step[kMaxRes2Steps];
  ConvShape shape;  // of each step: c_in = c_out, stride 1, same length, width 1
  int64_t in_stride = 0;
  int64_t out_stride = 0;
  const int8_t* copy_in = nullptr;
  int8_t* copy_out = nullptr;
  Ragged frames;
};

// Whether the kernel can run it: channels a multiple of 32 up to kMaxRes2Channels, all addresses
// and strides multiples of 16, steps and reach within what fits shared memory. Else the separate
// ops do.
bool supports(const Res2S8& call, const Device& device);

// No output may overlap an input, not of another step either: blocks of threads read frames that
// others write. A plan whose chain works in place needs its second half elsewhere.
cudaError_t res2_s8(const Res2S8& call, const Launch& launch);

}  // namespace earmark::cuda
