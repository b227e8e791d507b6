#include "cuda/affine_f32.h"
#include "cuda/launch.cuh"

namespace earmark::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) affine_f32_kernel(const AffineF32 call, int blocks) {
  const int c = static_cast<int>(blockIdx.x) % blocks * kThreads + static_cast<int>(threadIdx.x);
  const int64_t recording = static_cast<int>(blockIdx.x) / blocks;
  if (c >= call.channels) return;
  call.out.data[recording * call.out.stride + c] =
      call.in.data[recording * call.in.stride + c] * call.multiplier[c] + call.offset[c];
}

}  // namespace

cudaError_t affine_f32(const AffineF32& call, const Launch& launch) {
  const int blocks = ceil_div(call.channels, kThreads);
  return launch_kernel("affine_f32", affine_f32_kernel,
                       dim3(static_cast<unsigned>(blocks) * call.recordings), dim3(kThreads), 0,
                       launch, call, blocks);
}

}  // namespace earmark::cuda
