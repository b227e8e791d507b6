// Weights of conv_f32 and attentive_pool_f32 in the order in which the kernels read them. Host
// code.
#pragma once

#include <vector>

#include "core/conv_shape.h"

namespace earmark::cuda {

// [c_out][taps][c_in] -> [taps * c_in][padded_channels(c_out)], zeros beyond c_out.
std::vector<float> pack_conv_f32(const ConvShape& shape, const float* weight);

}  // namespace earmark::cuda
