#include "core/quant.h"
#include "cuda/elementwise.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/quantize_s8.h"

namespace earmark::cuda {
namespace {

template <int kCount>
__global__ void quantize_s8_kernel(QuantizeS8 call) {
  const int64_t positions = static_cast<int64_t>(call.frames.rows) * call.in.width;
  for_elements<kCount>(positions, call.channels, [&](int64_t position, int c, int n) {
    float inverse = 0.0f;
    int zero = call.zero + 128;
    if (call.found.data != nullptr) {
      const int row = static_cast<int>(position / call.in.width);
      const auto found = found_of(call.found, recording_of(call.frames, row));
      inverse = found.inverse;
      zero = zero_u8(found);
    }
    Channels<float, kCount> x;
    Channels<int8_t, kCount> q;
    x.load(call.in.data + position * call.in.stride + c, n);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      // The recording's own quantization has no offset; adding 0 changes no requantized value.
      const float v = call.found.data != nullptr
                          ? x.value[i] * inverse
                          : x.value[i] * call.multiplier[c + i] + call.offset[c + i];
      q.value[i] = requantize_s8(v, zero);
    }
    q.store(call.out.data + position * call.out.stride + c, n);
  });
}

template <int kCount>
__global__ void quantize_s16_kernel(QuantizeS16 call) {
  const int64_t positions = static_cast<int64_t>(call.frames.rows) * call.in.width;
  for_elements<kCount>(positions, call.channels, [&](int64_t position, int c, int n) {
    Channels<float, kCount> x;
    Channels<int8_t, kCount> high, low;
    x.load(call.in.data + position * call.in.stride + c, n);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float v = x.value[i] * call.multiplier[c + i] + call.offset[c + i];
      const int u = requantize_u16(v, call.zero + 32768);
      high.value[i] = static_cast<int8_t>((u >> 8) - 128);
      low.value[i] = static_cast<int8_t>((u & 255) - 128);
    }
    int8_t* to = call.out.high.data + position * call.out.high.stride + c;
    high.store(to, n);
    low.store(to + call.out.low, n);
  });
}

template <int kCount>
__global__ void dequantize_f32_kernel(DequantizeF32 call) {
  const int64_t positions = static_cast<int64_t>(call.frames.rows) * call.in.width;
  for_elements<kCount>(positions, call.channels, [&](int64_t position, int c, int n) {
    Channels<int8_t, kCount> q;
    Channels<float, kCount> x;
    q.load(call.in.data + position * call.in.stride + c, n);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      x.value[i] = static_cast<float>(q.value[i] - call.zero) * call.multiplier[c + i];
    }
    x.store(call.out.data + position * call.out.stride + c, n);
  });
}

}  // namespace

cudaError_t quantize_s8(const QuantizeS8& call, const Launch& launch) {
  const bool vectors = aligned_to_vector(call.in) && aligned_to_vector(call.out);
  const ElementGrid g(call.frames, call.in.width, call.channels, vectors ? kVector : 1);
  return launch_kernel(vectors ? "quantize_s8/16" : "quantize_s8/1",
                       vectors ? quantize_s8_kernel<kVector> : quantize_s8_kernel<1>, g.grid,
                       g.block, 0, launch, call);
}

cudaError_t quantize_s16(const QuantizeS16& call, const Launch& launch) {
  const bool vectors =
      aligned_to_vector(call.in) && aligned_to_vector(call.out.high) && call.out.low % kVector == 0;
  const ElementGrid g(call.frames, call.in.width, call.channels, vectors ? kVector : 1);
  return launch_kernel(vectors ? "quantize_s16/16" : "quantize_s16/1",
                       vectors ? quantize_s16_kernel<kVector> : quantize_s16_kernel<1>, g.grid,
                       g.block, 0, launch, call);
}

cudaError_t dequantize_f32(const DequantizeF32& call, const Launch& launch) {
  const bool vectors = aligned_to_vector(call.in) && aligned_to_vector(call.out);
  const ElementGrid g(call.frames, call.in.width, call.channels, vectors ? kVector : 1);
  return launch_kernel(vectors ? "dequantize_f32/16" : "dequantize_f32/1",
                       vectors ? dequantize_f32_kernel<kVector> : dequantize_f32_kernel<1>, g.grid,
                       g.block, 0, launch, call);
}

}  // namespace earmark::cuda
