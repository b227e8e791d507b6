// Products of a vector of bytes with rows of packed weights: a warp, or some lanes of one, a row.
#pragma once

#include "cuda/gemm_s8.cuh"

namespace earmark::cuda {

__device__ __forceinline__ int32_t dot_16(const int4& a, const int4& b, int32_t sum) {
  sum = __dp4a(a.x, b.x, sum);
  sum = __dp4a(a.y, b.y, sum);
  sum = __dp4a(a.z, b.z, sum);
  return __dp4a(a.w, b.w, sum);
}

// The sum of kLanes neighbouring lanes, in each of them. All lanes of the warp take part.
template <int kLanes>
__device__ __forceinline__ int32_t sum_of_lanes(int32_t sum) {
#pragma unroll
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  }
  return sum;
}

}  // namespace earmark::cuda
