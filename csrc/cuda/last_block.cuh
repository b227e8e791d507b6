// Blocks that add to sums in the workspace; the last of them has them all.
#pragma once

#include "cuda/launch.cuh"

namespace earmark::cuda {

// Whether this block is the last of so many that come here with that counter, which is 0 again
// then. `last` is in shared memory. What the others wrote before, the last one sees.
__device__ __forceinline__ bool is_last_block(int* counter, int blocks, int* last) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    *last = atomicAdd(counter, 1) == blocks - 1;
    if (*last) *counter = 0;
  }
  __syncthreads();
  if (!*last) return false;
  __threadfence();
  return true;
}

}  // namespace earmark::cuda
