// Loops over positions and channels, and vectors of channels in registers.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/ragged.cuh"

namespace earmark::cuda {

// Channels that a thread takes at once where all tensors are aligned; else one.
inline constexpr int kVector = 16;

template <class T>
bool aligned_to_vector(const T* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride * sizeof(T) % 16 == 0;
}
template <class T>
bool aligned_to_vector(const Frames<T>& x) {
  return aligned_to_vector(x.data, x.stride);
}

// kCount channels, `n` of which exist.
template <class T, int kCount>
struct alignas(16) Channels {
  T value[kCount];

  __device__ __forceinline__ void load(const T* from, int n) {
    if constexpr (kCount == kVector) {
      if (n == kCount) {
        const auto* chunks = reinterpret_cast<const int4*>(from);
#pragma unroll
        for (int i = 0; i < static_cast<int>(sizeof(T)); ++i) {
          reinterpret_cast<int4*>(value)[i] = chunks[i];
        }
        return;
      }
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) value[i] = i < n ? from[i] : T{};
  }

  __device__ __forceinline__ void store(T* to, int n) const {
    if constexpr (kCount == kVector) {
      if (n == kCount) {
        auto* chunks = reinterpret_cast<int4*>(to);
#pragma unroll
        for (int i = 0; i < static_cast<int>(sizeof(T)); ++i) {
          chunks[i] = reinterpret_cast<const int4*>(value)[i];
        }
        return;
      }
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i < n) to[i] = value[i];
    }
  }
};

// A block takes blockDim.y positions; its threads of one row share out their channels.
struct ElementGrid {
  dim3 grid, block;

  ElementGrid(const Ragged& frames, int width, int channels, int vector) {
    const unsigned groups = ceil_div(channels, vector);
    unsigned columns = 1;
    while (columns < groups && columns < 32) columns *= 2;
    block = dim3(columns, 256 / columns);
    const int64_t positions = static_cast<int64_t>(frames.rows) * width;
    grid = dim3(static_cast<unsigned>(ceil_div<int64_t>(positions, block.y)));
  }
};

// body(position, first channel, channels that exist) for this thread's share.
template <int kCount, class Body>
__device__ __forceinline__ void for_elements(int64_t positions, int channels, const Body& body) {
  const int64_t position = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (position >= positions) return;
  for (int c = threadIdx.x * kCount; c < channels; c += blockDim.x * kCount) {
    const int rest = channels - c;
    body(position, c, rest < kCount ? rest : kCount);
  }
}

}  // namespace earmark::cuda
