// A tile of 64 positions x 64 channels by 256 threads, 16 inputs at a time.
#include "core/softmax.h"
#include "cuda/conv_f32.h"
#include "cuda/conv_rows.cuh"

namespace earmark::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 64;  // positions, and channels
constexpr int kInputs = 16;
constexpr int kEach = 4;  // positions and channels of a thread, 16 apart

struct Shared {
  ConvRow rows[kTile];
  int recordings[kTile];
  float x[kInputs][kTile + 1];  // a column more: no two rows of a column in one bank
  float weight[kInputs][kTile];
};

__device__ __forceinline__ float activate(const LayerF32& layer, float v, int channel) {
  if (layer.relu) v = v > 0.0f ? v : 0.0f;
  if (layer.gain != nullptr) v = multiply_add(v, layer.gain[channel], layer.shift[channel]);
  switch (layer.activation) {
    case LayerF32::Activation::kTanh:
      return tanh_f32(v);
    case LayerF32::Activation::kSigmoid:
      return sigmoid_f32(v);
    default:
      return v;
  }
}

__global__ void __launch_bounds__(kThreads) conv_f32_kernel(const ConvF32 call, int tiles_across) {
  auto& shared = shared_memory<Shared>();
  const int64_t positions = static_cast<int64_t>(call.out_frames.rows) * call.out.width;
  const int64_t first = static_cast<int64_t>(blockIdx.x / tiles_across) * kTile;
  const int channel = static_cast<int>(blockIdx.x) % tiles_across * kTile;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kTile) {
    shared.rows[thread] = conv_row(call.shape, call.in_frames, call.in.width, call.out_frames,
                                   call.out.width, first + thread, &shared.recordings[thread]);
  }
  __syncthreads();

  const int depth = call.shape.taps() * call.shape.c_in;
  const int outputs = padded_channels(call.shape.c_out);
  float sums[kEach][kEach] = {};
  // A thread fetches one input of every 16th row, and one channel of every 4th input's weights.
  TapChannel at;
  const int input = thread % kInputs;
  if (input < depth) at.advance(call.shape, input);
  for (int k = 0; k < depth; k += kInputs) {
#pragma unroll
    for (int i = 0; i < kTile * kInputs / kThreads; ++i) {
      const int row = thread / kInputs + i * (kThreads / kInputs);
      const ConvRow& r = shared.rows[row];
      float x = 0.0f;
      if (r.length != 0 && k + input < depth) {
        const int position = source_position(call.shape, r, call.in.width, at);
        if (position >= 0) x = call.in.data[position * call.in.stride + at.channel];
      }
      shared.x[input][row] = x;
      const int from = thread / kTile + i * (kThreads / kTile);
      shared.weight[from][thread % kTile] =
          k + from < depth
              ? call.layer
                    .weight[static_cast<int64_t>(k + from) * outputs + channel + thread % kTile]
              : 0.0f;
    }
    if (k + kInputs + input < depth) at.advance(call.shape, kInputs);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kInputs; ++j) {
      float x[kEach], w[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        x[i] = shared.x[j][thread / 16 + 16 * i];
        w[i] = shared.weight[j][thread % 16 + 16 * i];
      }
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
#pragma unroll
        for (int c = 0; c < kEach; ++c) sums[i][c] = multiply_add(x[i], w[c], sums[i][c]);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int row = thread / 16 + 16 * i;
    if (first + row >= positions) continue;
    const float* offset = call.bias.data == nullptr
                              ? call.layer.offset
                              : call.bias.data + shared.recordings[row] * call.bias.stride;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int c = channel + thread % 16 + 16 * j;
      if (c >= call.shape.c_out) continue;
      call.out.data[(first + row) * call.out.stride + c] =
          activate(call.layer, sums[i][j] + offset[c], c);
    }
  }
}

}  // namespace

cudaError_t conv_f32(const ConvF32& call, const Launch& launch) {
  const int64_t positions = static_cast<int64_t>(call.out_frames.rows) * call.out.width;
  const int across = ceil_div(call.shape.c_out, kTile);
  return launch_kernel("conv_f32", conv_f32_kernel,
                       dim3(static_cast<unsigned>(ceil_div<int64_t>(positions, kTile) * across)),
                       dim3(kThreads), sizeof(Shared), launch, call, across);
}

}  // namespace earmark::cuda
