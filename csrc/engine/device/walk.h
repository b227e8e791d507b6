// Where the tensors of one batch of recordings lie in device memory, as a step finds them.
#pragma once

#include <vector>

#include "cuda/constants.h"
#include "cuda/tensors.h"
#include "engine/plan.h"

namespace earmark::device {

using cuda::check;
using cuda::Constants;
using cuda::DeviceBuffer;
using cuda::DeviceGuard;
using cuda::Event;
using cuda::Graph;
using cuda::Memory;
using cuda::PinnedBuffer;
using cuda::Stream;

// Elements from one position, or one recording's vector, to the next. Kernels copy 16 bytes at once
// where rows allow it, and read vectors by whole panels. The caller's features are contiguous.
inline int64_t stride_of(const Tensor& base, bool is_input) {
  if (base.kind == Kind::kVector) return cuda::padded_channels(base.channels);
  if (base.dtype == DType::kS16) return (base.channels + 15) / 16 * 16;  // of bytes, each plane
  const int whole = static_cast<int>(16 / size_of(base.dtype));
  if (is_input || base.channels < whole) return base.channels;
  return (base.channels + whole - 1) / whole * whole;
}

struct Place {
  char* data = nullptr;
  int64_t stride = 0;
  int width = 1;
  cuda::Ragged frames;  // of a vector: one position a recording
};

struct Walk {
  cuda::Launch launch;
  int recordings = 0;
  std::vector<Place> places;  // by tensor id
  char* moved = nullptr;      // where the step leaves the base tensor that it moves

  template <class T>
  cuda::Frames<T> frames(const Tensor& t) const {
    const Place& p = places[t.id];
    return {reinterpret_cast<T*>(p.data), p.stride, p.width};
  }
  template <class T>
  cuda::Vectors<T> vectors(const Tensor& t) const {
    const Place& p = places[t.id];
    return {reinterpret_cast<T*>(p.data), p.stride};
  }
  // Of an s8 or s16 tensor, frames or vector.
  template <class T>
  cuda::Planes<T> planes(const Tensor& t) const {
    const Place& p = places[t.id];
    auto* data = reinterpret_cast<T*>(p.data);
    if (t.dtype == DType::kS8) return {{data, p.stride, p.width}, 0};
    return {{data, 2 * p.stride, p.width}, p.stride};
  }
  // Null for none.
  cuda::Vectors<const float> vectors(const Tensor* t) const {
    return t == nullptr ? cuda::Vectors<const float>() : vectors<const float>(*t);
  }
  const cuda::Ragged& ragged(const Tensor& t) const { return places[t.id].frames; }
  // Of which as many count as `valid` has; all where that is null.
  cuda::Ragged ragged(const Tensor& t, const Tensor* valid) const {
    cuda::Ragged frames = ragged(t);
    if (valid != nullptr) frames.counted = ragged(*valid).offsets;
    return frames;
  }

  // From here on the base tensor and its views are in that memory.
  void bind(const Plan& plan, int base, char* memory) {
    for (const Tensor& t : plan.tensors()) {
      if (t.base == base) places[t.id].data = memory + t.offset * size_of(t.dtype);
    }
  }
};

}  // namespace earmark::device
