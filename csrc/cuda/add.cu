#include "core/quant.h"
#include "cuda/add.h"
#include "cuda/elementwise.cuh"

namespace earmark::cuda {
namespace {

// The gate of the recording that a position belongs to, or null.
template <class Call>
__device__ __forceinline__ const float* gate_of(const Call& call, int64_t position) {
  if (call.gate.data == nullptr) return nullptr;
  const int row = static_cast<int>(position / call.in.width);
  return call.gate.data + recording_of(call.frames, row) * call.gate.stride;
}

template <int kCount>
__global__ void add_s8_kernel(const AddS8 call) {
  const int64_t positions = static_cast<int64_t>(call.frames.rows) * call.in.width;
  for_elements<kCount>(positions, call.channels, [&](int64_t position, int c, int n) {
    const float* gate = gate_of(call, position);
    Channels<int8_t, kCount> x, r;
    x.load(call.in.data + position * call.in.stride + c, n);
    r.load(call.residual.data + position * call.residual.stride + c, n);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      float m = call.multiplier[c + i];
      if (gate != nullptr) m = i < n ? m * gate[c + i] : 0.0f;
      const float v = static_cast<float>(x.value[i] - call.in_zero) * m;
      const float w =
          static_cast<float>(r.value[i] - call.residual_zero) * call.residual_multiplier;
      float sum = v + w;
      if (call.relu) sum = sum > 0.0f ? sum : 0.0f;
      x.value[i] = requantize_s8(sum, call.out_zero + 128);
    }
    x.store(call.out.data + position * call.out.stride + c, n);
  });
}

template <int kCount>
__global__ void add_f32_kernel(const AddF32 call) {
  const int64_t positions = static_cast<int64_t>(call.frames.rows) * call.in.width;
  for_elements<kCount>(positions, call.channels, [&](int64_t position, int c, int n) {
    const float* gate = gate_of(call, position);
    Channels<float, kCount> x, r;
    x.load(call.in.data + position * call.in.stride + c, n);
    r.load(call.residual.data + position * call.residual.stride + c, n);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      float v = x.value[i];
      if (gate != nullptr && i < n) v = v * gate[c + i];
      v = v + r.value[i];
      if (call.relu) v = v > 0.0f ? v : 0.0f;
      x.value[i] = v;
    }
    x.store(call.out.data + position * call.out.stride + c, n);
  });
}

template <class Call>
bool aligned(const Call& call) {
  return aligned_to_vector(call.in) && aligned_to_vector(call.residual) &&
         aligned_to_vector(call.out);
}

}  // namespace

cudaError_t add_s8(const AddS8& call, const Launch& launch) {
  const bool vectors = aligned(call);
  const ElementGrid g(call.frames, call.in.width, call.channels, vectors ? kVector : 1);
  return launch_kernel(vectors ? "add_s8/16" : "add_s8/1",
                       vectors ? add_s8_kernel<kVector> : add_s8_kernel<1>, g.grid, g.block, 0,
                       launch, call);
}

cudaError_t add_f32(const AddF32& call, const Launch& launch) {
  const bool vectors = aligned(call);
  const ElementGrid g(call.frames, call.in.width, call.channels, vectors ? kVector : 1);
  return launch_kernel(vectors ? "add_f32/16" : "add_f32/1",
                       vectors ? add_f32_kernel<kVector> : add_f32_kernel<1>, g.grid, g.block, 0,
                       launch, call);
}

}  // namespace earmark::cuda
