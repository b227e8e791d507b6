// What follows the int32 sums of an int8 layer (docs/arithmetic.md, conv_s8).
#pragma once

#include "core/quant.h"

namespace earmark {

// v = f32(acc) * multiplier + offset -> ReLU -> * gain + shift -> requantize; `gain` is null where
// no affine follows. Arrays are padded to whole panels of channels. `initial` is where the
// accumulator starts: on the CPU, whose bytes are q + 128, -(z + 128) * sum w; on a GPU -z * sum w.
struct EpilogueS8 {
  const int32_t* initial;
  const float* multiplier;
  const float* offset;
  const float* gain;
  const float* shift;
  bool relu;
  int zero_u8;
};

// sum * multiplier + offset -> ReLU. A NaN, which only a tensor beyond float32's range makes,
// counts as -Inf.
EARMARK_FN float scaled_sum(float sum, float multiplier, float offset, bool relu) {
  const float floor = relu ? 0.0f : -__builtin_inff();
  const float v = sum * multiplier + offset;
  return v > floor ? v : floor;
}

// v of one sum, f32(acc).
EARMARK_FN float real_value(const EpilogueS8& e, int c, float sum) {
  const float v = scaled_sum(sum, e.multiplier[c], e.offset[c], e.relu);
  return e.gain == nullptr ? v : v * e.gain[c] + e.shift[c];
}

// The epilogue of the channels from `channel` on.
EARMARK_FN EpilogueS8 at_channel(EpilogueS8 e, int channel) {
  e.initial += channel;
  e.multiplier += channel;
  e.offset += channel;
  if (e.gain != nullptr) {
    e.gain += channel;
    e.shift += channel;
  }
  return e;
}

}  // namespace earmark
