// Kernels with the mistakes that the emulation is there to find, and without them.
#include "cuda/async_copy.cuh"
#include "cuda/launch.cuh"
#include "tests/cuda/faulty_kernels.h"

namespace earmark::cuda {
namespace {

// Reverses the values of a block through shared memory.
__global__ void reverse_kernel(const int* in, int* out, Mistake mistake) {
  int* shared = &shared_memory<int>();
  const int i = threadIdx.x, n = blockDim.x;
  shared[mistake == Mistake::kBeyondShared ? i + 1 : i] = in[i];
  if (mistake == Mistake::kDivergent) {
    if (i < n / 2) __syncthreads();
    if (i < 1) __syncwarp();
  } else if (mistake != Mistake::kNoBarrier) {
    __syncthreads();
  }
  out[mistake == Mistake::kBeyondGlobal ? n - i : i] = shared[n - 1 - i];
}

// Copies a block's values by way of cp.async.
__global__ void copy_kernel(const int* in, int* out, Mistake mistake) {
  int* shared = &shared_memory<int>();
  const int i = 4 * threadIdx.x, n = 4 * blockDim.x;
  copy_async_16(shared + i, in + i, 16);
  commit_copies();
  if (mistake == Mistake::kNoWait) {
    wait_copies<1>();
  } else {
    wait_copies<0>();
  }
  if (mistake != Mistake::kNoBarrier) __syncthreads();
  for (int k = 0; k < 4; ++k) out[i + k] = shared[(i + k + n / 2) % n];
}

}  // namespace

cudaError_t reverse(const int* in, int* out, int n, Mistake mistake, const Launch& launch) {
  return launch_kernel("reverse", reverse_kernel, dim3(1), dim3(n), sizeof(int) * n, launch, in,
                       out, mistake);
}

cudaError_t rotate(const int* in, int* out, int n, Mistake mistake, const Launch& launch) {
  return launch_kernel("rotate", copy_kernel, dim3(1), dim3(n / 4), sizeof(int) * n, launch, in,
                       out, mistake);
}

}  // namespace earmark::cuda
