// From int32 sums to real values, with the constants of two neighbouring channels in registers.
#pragma once

#include "cuda/conv_s8.h"

namespace earmark::cuda {

// A recording's own quantization, where there is one.
__device__ __forceinline__ FoundQuantization found_of(const Vectors<const float>& found,
                                                      int recording) {
  const float* v = found.data + recording * found.stride;
  return {v[0], v[1], v[2]};
}

// Arrays are padded to whole panels: channels beyond the layer's own are computed and dropped.
struct ChannelPair {
  int2 initial;
  float2 multiplier, offset, gain, shift;

  __device__ __forceinline__ ChannelPair(const EpilogueS8& e, int c)
      : initial(*reinterpret_cast<const int2*>(e.initial + c)),
        multiplier(*reinterpret_cast<const float2*>(e.multiplier + c)),
        offset(e.offset == nullptr ? float2{0.0f, 0.0f}
                                   : *reinterpret_cast<const float2*>(e.offset + c)),
        gain{1.0f, 1.0f},
        shift{0.0f, 0.0f} {
    if (e.gain == nullptr) return;
    gain = *reinterpret_cast<const float2*>(e.gain + c);
    shift = *reinterpret_cast<const float2*>(e.shift + c);
  }

  // The constants of a recording, where some are its own.
  __device__ __forceinline__ ChannelPair of_recording(const LayerS8& layer, int c,
                                                      int recording) const {
    ChannelPair own = *this;
    if (layer.bias.data != nullptr) {
      const float* bias = layer.bias.data + recording * layer.bias.stride + c;
      own.offset = float2{bias[0], bias[1]};
    }
    if (layer.found.data != nullptr) {
      const FoundQuantization found = found_of(layer.found, recording);
      const int zero = zero_u8(found) - 128;
      own.initial = int2{zero * initial.x, zero * initial.y};
      own.multiplier = float2{multiplier.x * found.scale, multiplier.y * found.scale};
    }
    return own;
  }

  __device__ __forceinline__ float2 real_values(const EpilogueS8& e, int32_t x, int32_t y) const {
    float2 v = {scaled_sum(static_cast<float>(initial.x + x), multiplier.x, offset.x, e.relu),
                scaled_sum(static_cast<float>(initial.y + y), multiplier.y, offset.y, e.relu)};
    if (e.gain != nullptr) v = float2{v.x * gain.x + shift.x, v.y * gain.y + shift.y};
    return v;
  }
};

}  // namespace earmark::cuda
