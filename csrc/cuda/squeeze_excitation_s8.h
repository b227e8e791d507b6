// squeeze_excitation_s8: mean over time, two dense layers and the gate's table (squeeze-excitation,
// arXiv:1709.01507) in one kernel, with the bits of the ops it stands for:
//
//   stats_s8 (mean) -> quantize_s8 -> dense_s8 (ReLU) -> quantize_s8 -> dense_s8 with a table
//
// The gate then multiplies the frames in add_s8.
#pragma once

#include "cuda/conv_s8.h"

namespace earmark::cuda {

struct Quantization {
  const float* multiplier = nullptr;  // [padded channels]
  const float* offset = nullptr;
  int zero = 0;
};

struct SqueezeExcitationS8 {
  int channels = 0;
  int hidden_channels = 0;
  Frames<const int8_t> in;
  Ragged frames;
  int in_zero = 0;
  const float* mean_multiplier = nullptr;  // [padded channels]
  Quantization squeezed;                   // of the mean
  WeightsS8 reduce;                        // [hidden_channels][channels]
  EpilogueS8 reduce_epilogue;
  Quantization hidden;
  WeightsS8 expand;  // [channels][hidden_channels]
  EpilogueS8 expand_epilogue;
  const float* table = nullptr;  // null: the gate is v
  int table_size = 0;
  Vectors<float> gate;  // [recordings][channels]
};

bool supports(const SqueezeExcitationS8& call, const Device& device);  // shared memory is enough
cudaError_t squeeze_excitation_s8(const SqueezeExcitationS8& call, const Launch& launch);
size_t workspace_bytes(const SqueezeExcitationS8& call, const Device& device);

}  // namespace earmark::cuda
