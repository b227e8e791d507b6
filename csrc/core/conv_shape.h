// Geometry of a convolution over (time, width); 1-D networks have width 1. Dilation counts from 1.
#pragma once

#include <cstdint>
#include <string>

#include "core/check.h"
#include "core/quant.h"

namespace earmark {

enum class PadMode { kZero, kReflect };

struct Axis {
  int kernel = 1;
  int stride = 1;
  int dilation = 1;
  int padding = 0;
  int pad_to = 0;  // zeros follow the input up to the next multiple of this above its size; 0: none

  EARMARK_MEMBER int reach() const { return dilation * (kernel - 1); }
  EARMARK_MEMBER int size_out(int size_in) const {
    return (padded(size_in) + 2 * padding - reach() - 1) / stride + 1;
  }
  EARMARK_MEMBER int padded(int size_in) const {
    return pad_to == 0 ? size_in : (size_in / pad_to + 1) * pad_to;
  }
};

struct ConvShape {
  Axis time;
  Axis width;
  PadMode pad_mode = PadMode::kZero;
  int c_in = 0;
  int c_out = 0;

  EARMARK_MEMBER int taps() const { return time.kernel * width.kernel; }
  int64_t weights() const { return static_cast<int64_t>(c_out) * taps() * c_in; }

  // Output size along one axis; refuses inputs that the padding rule does not allow.
  int size_out(const Axis& axis, int size_in, const char* name) const {
    EARMARK_CHECK(pad_mode == PadMode::kZero || size_in > axis.padding, "reflect padding of ",
                  axis.padding, " needs more than ", axis.padding, " ", name, ", got ", size_in);
    EARMARK_CHECK(axis.padded(size_in) + 2 * axis.padding > axis.reach(), "a kernel that spans ",
                  axis.reach() + 1, " ", name, " does not fit ", size_in, " with padding ",
                  axis.padding);
    return axis.size_out(size_in);
  }

  // Input position of output `out` and tap `k`, or -1 for zero padding.
  EARMARK_MEMBER int source(const Axis& axis, int out, int k, int size_in) const {
    const int position = out * axis.stride + k * axis.dilation - axis.padding;
    if (position >= 0 && position < size_in) return position;
    if (pad_mode == PadMode::kZero) return -1;
    return position < 0 ? -position : 2 * (size_in - 1) - position;
  }
};

}  // namespace earmark
