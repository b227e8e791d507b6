// Where the recordings of a batch of equal lengths begin.
#include "cuda/launch.cuh"
#include "frames.h"

namespace earmark::trt {
namespace {

constexpr int kThreads = 128;

__global__ void offsets_kernel(int32_t* offsets, int batch, int frames) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i <= batch) offsets[i] = i * frames;
}

}  // namespace

cudaError_t count_offsets(int32_t* offsets, int batch, int frames, const cuda::Launch& launch) {
  const dim3 grid(static_cast<unsigned>(batch / kThreads + 1));
  return cuda::launch_kernel("offsets", offsets_kernel, grid, dim3(kThreads), 0, launch, offsets,
                             batch, frames);
}

}  // namespace earmark::trt
