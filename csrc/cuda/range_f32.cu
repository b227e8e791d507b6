// Several blocks share the positions of a recording and leave their extremes in the workspace; the
// last of them makes the quantization. Both extremes as magnitudes, low <= 0 <= high: the bits of
// floats that are not negative rise with them, and those of 0 are 0.
#include <algorithm>

#include "core/softmax.h"
#include "cuda/elementwise.cuh"
#include "cuda/range_f32.h"

namespace earmark::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPart = 1 << 14;  // values of a block

struct Extremes {
  unsigned low, high, done, unused;
};

int tile_rows(const RangeF32& call) { return std::max(1, kPart / (call.channels * call.in.width)); }

__global__ void __launch_bounds__(kThreads, 4)
    range_f32_kernel(const RangeF32 call, int size, Extremes* extremes) {
  const TimeTile tile = time_tile(call.frames, size, static_cast<int>(blockIdx.x));
  if (tile.begin >= tile.end) return;
  const int64_t first = static_cast<int64_t>(tile.first + tile.begin) * call.in.width;
  const int64_t positions = static_cast<int64_t>(tile.end - tile.begin) * call.in.width;
  float low = 0.0f, high = 0.0f;
  const int64_t values = positions * call.channels;
  for (int64_t i = threadIdx.x; i < values; i += kThreads) {
    const int64_t position = i / call.channels;
    const float v =
        call.in.data[(first + position) * call.in.stride + i - position * call.channels];
    low = v < low ? v : low;  // NaN is neither
    high = v > high ? v : high;
  }
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const float other_low = __shfl_xor_sync(0xffffffffu, low, lanes);
    const float other_high = __shfl_xor_sync(0xffffffffu, high, lanes);
    low = other_low < low ? other_low : low;
    high = other_high > high ? other_high : high;
  }
  Extremes& all = extremes[tile.recording];
  if (threadIdx.x % 32 == 0) {
    atomicMax(&all.low, bits_of(low < 0.0f ? -low : 0.0f));
    atomicMax(&all.high, bits_of(high));
    __threadfence();
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  const unsigned blocks = ceil_div(tile.length, size);
  if (atomicAdd(&all.done, 1u) != blocks - 1) return;
  __threadfence();
  const float least = float_of(atomicExch(&all.low, 0u));
  const float most = float_of(atomicExch(&all.high, 0u));
  all.done = 0;
  const FoundQuantization found = find_quantization(-least, most);
  float* out = call.out.data + tile.recording * call.out.stride;
  out[0] = found.scale;
  out[1] = found.inverse;
  out[2] = found.zero;
}

}  // namespace

cudaError_t range_f32(const RangeF32& call, const Launch& launch) {
  const int size = tile_rows(call);
  return launch_kernel("range_f32", range_f32_kernel,
                       dim3(static_cast<unsigned>(tile_bound(call.frames, size))), dim3(kThreads),
                       0, launch, call, size, static_cast<Extremes*>(launch.workspace));
}

size_t workspace_bytes(const RangeF32& call, const Device&) {
  return sizeof(Extremes) * call.frames.recordings;
}

}  // namespace earmark::cuda
