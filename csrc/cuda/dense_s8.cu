// A warp computes one output of a few recordings, so that its weights are read once for them all.
#include "cuda/dense_s8.h"
#include "cuda/dot_s8.cuh"
#include "cuda/epilogue.cuh"

namespace earmark::cuda {
namespace {

constexpr int kWarps = 4;

template <int kRecordings>
__global__ void __launch_bounds__(32 * kWarps) dense_s8_kernel(const DenseS8 call, int blocks) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int output =
      static_cast<int>(blockIdx.x) % blocks * kWarps + static_cast<int>(threadIdx.x) / 32;
  const int first = static_cast<int>(blockIdx.x) / blocks * kRecordings;
  if (output >= call.outputs) return;
  const int depth = call.layer.weights.depth;
  const int8_t* weight = call.layer.weights.weight + static_cast<int64_t>(output) * depth;
  const int rest = call.recordings - first;
  int32_t sums[kRecordings];
#pragma unroll
  for (int r = 0; r < kRecordings; ++r) sums[r] = 0;
  for (int k = lane * kChunk; k < depth; k += 32 * kChunk) {
    const int4 w = *reinterpret_cast<const int4*>(weight + k);
#pragma unroll
    for (int r = 0; r < kRecordings; ++r) {
      if (r < rest) {
        const int8_t* x = call.in.data + (first + r) * call.in.stride + k;
        sums[r] = dot_16(w, *reinterpret_cast<const int4*>(x), sums[r]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRecordings; ++r) sums[r] = sum_of_lanes<32>(sums[r]);

#pragma unroll
  for (int r = 0; r < kRecordings; ++r) {
    if (lane != r || r >= rest) continue;
    const EpilogueS8& e = call.layer.epilogue;
    // The pair that the output is one of.
    const int pair = output & ~1;
    const ChannelPair constants = ChannelPair(e, pair).of_recording(call.layer, pair, first + r);
    const float2 both = constants.real_values(e, sums[r], sums[r]);
    const float v = output == pair ? both.x : both.y;
    if (call.out.data != nullptr) {
      call.out.data[(first + r) * call.out.stride + output] = requantize_s8(v, e.zero_u8);
    } else {
      call.out_f32.data[(first + r) * call.out_f32.stride + output] =
          call.table == nullptr ? v : call.table[table_index(v, call.table_size)];
    }
  }
}

template <int kRecordings>
cudaError_t launch_dense(const char* name, const DenseS8& call, const Launch& launch) {
  const int blocks = ceil_div(call.outputs, kWarps);
  const unsigned groups = ceil_div(call.recordings, kRecordings);
  return launch_kernel(name, dense_s8_kernel<kRecordings>, dim3(blocks * groups), dim3(32 * kWarps),
                       0, launch, call, blocks);
}

}  // namespace

cudaError_t dense_s8(const DenseS8& call, const Launch& launch) {
  if ((call.out.data == nullptr) == (call.out_f32.data == nullptr)) return cudaErrorInvalidValue;
  return call.recordings == 1 ? launch_dense<1>("dense_s8/1", call, launch)
                              : launch_dense<8>("dense_s8/8", call, launch);
}

}  // namespace earmark::cuda
