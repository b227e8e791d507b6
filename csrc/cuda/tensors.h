// Tensors of a batch of recordings in device memory, as the kernels of this folder take them.
//
// An int8 tensor holds q itself (the CPU keeps q + 128). Strides are in elements. A kernel gives
// each recording the bits that it has alone: nothing depends on what else is in the batch.
#pragma once

#include <cstdint>

#include "core/quant.h"

namespace earmark::cuda {

// Lengths of the recordings of a frames tensor, which lie one after another. Recording r has the
// time positions offsets[r] .. offsets[r + 1] - 1, at least one. A convolution with a stride has
// other lengths behind it than before it. A vector is a tensor of one position a recording, its
// offsets are 0, 1, 2 ...
struct Ragged {
  const int32_t* offsets = nullptr;  // device memory, [recordings + 1], offsets[0] = 0
  int recordings = 0;
  int rows = 0;  // offsets[recordings], for the host
  // Of what is pooled over time: offsets of another tensor. As many of a recording's first
  // positions count as it has there; null: all do.
  const int32_t* counted = nullptr;

  // Time positions of a recording that count.
  EARMARK_MEMBER int count(int recording) const {
    const int32_t* of = counted == nullptr ? offsets : counted;
    return of[recording + 1] - of[recording];
  }
};

// Channel c of position (row, w) is at data[(row * width + w) * stride + c]. A view of some
// channels has its own `data` and the stride of its base. rows * width is below 2^31.
//
// Any address and stride will do; where both are multiples of 16 bytes the kernels copy 16 bytes at
// once. Nothing outside the channels is read or written.
template <class T>
struct Frames {
  T* data = nullptr;
  int64_t stride = 0;
  int width = 1;
};

// Frames of one plane of bytes, an int8 tensor, or of two, an int16 tensor: q = 256 * high + low +
// 128. A position's low bytes are `low` behind its high ones; 0 where there are none.
template <class T>
struct Planes {
  Frames<T> high;
  int64_t low = 0;

  EARMARK_MEMBER int count() const { return low == 0 ? 1 : 2; }
  EARMARK_MEMBER Frames<T> plane(int i) const {
    return {high.data + i * low, high.stride, high.width};
  }
};

// Channel c of recording r is at data[r * stride + c].
template <class T>
struct Vectors {
  T* data = nullptr;
  int64_t stride = 0;
};

// Per-channel arrays are padded to whole panels of so many channels with anything finite, and
// aligned to 16 bytes: no kernel checks a channel before it reads one.
inline constexpr int kPanel = 128;

EARMARK_MEMBER constexpr int padded_channels(int channels) {
  return (channels + kPanel - 1) / kPanel * kPanel;
}

}  // namespace earmark::cuda
