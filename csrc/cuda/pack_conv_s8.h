// Weights of integer layers in the order in which the kernels read them:
// rows of output channels, taps and inputs contiguous, filled up with zeros to whole panels and
// steps. Host code.
#pragma once

#include <cstdint>
#include <vector>

#include "core/conv_shape.h"
#include "cuda/tensors.h"

namespace earmark::cuda {

inline constexpr int kDepth = 64;  // bytes of a row that a step of the kernels multiplies

struct PackedConvS8 {
  std::vector<int8_t> weight;      // [padded_channels(c_out)][depth]
  int depth = 0;                   // taps * c_in, up to a multiple of kDepth
  std::vector<int8_t> input_zero;  // [c_in up to a multiple of 16]
  std::vector<int32_t> initial;    // [padded_channels(c_out)], -sum of w * input_zero
};

// weight: [c_out][taps][c_in]; input_zero: [c_in], 1 for each channel where the zero point is found
// at run time. Throws std::invalid_argument if an int32 sum could overflow.
PackedConvS8 pack_conv_s8(const ConvShape& shape, const int8_t* weight, const int8_t* input_zero);

// Of a layer whose inputs or weights have 16 bits: planes of bytes, high and low, or one.
struct PackedConvS16 {
  std::vector<int8_t> weight;  // [planes of the weights][padded_channels(c_out)][depth]
  int depth = 0;
  std::vector<int8_t> input_zero;  // [planes of the inputs][c_in up to a multiple of 16]
  std::vector<int64_t> initial;    // [padded_channels(c_out)], -sum of w * input_zero
};

// weight: by plane [c_out][taps][c_in]; input_zero: by plane [c_in]. Throws as `pack_conv_s8`, for
// each plane.
PackedConvS16 pack_conv_s16(const ConvShape& shape, const std::vector<std::vector<int8_t>>& weight,
                            const std::vector<std::vector<int8_t>>& input_zero);

}  // namespace earmark::cuda
