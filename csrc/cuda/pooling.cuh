// What the kernels that pool over time have in common.
#pragma once

#include "cuda/epilogue.cuh"
#include "cuda/softmax_function.h"

namespace earmark::cuda {

inline constexpr int kMaxPieces = 256;

// A piecewise-linear function in shared memory, where a block looks it up for each logit.
struct PiecesInShared {
  float breakpoints[kMaxPieces], slopes[kMaxPieces], intercepts[kMaxPieces];

  // All threads; a barrier has to follow. Of no pieces, nothing.
  __device__ __forceinline__ PiecewiseLinear copy(const PiecewiseLinear& pwl) {
    if (pwl.slopes == nullptr) return pwl;
    for (int i = threadIdx.x; i <= pwl.count; i += blockDim.x) {
      if (i < pwl.count) breakpoints[i] = pwl.breakpoints[i];
      slopes[i] = pwl.slopes[i];
      intercepts[i] = pwl.intercepts[i];
    }
    return {breakpoints, slopes, intercepts, pwl.count, pwl.low, pwl.high};
  }
};

__device__ __forceinline__ void add_to(int64_t* sum, int64_t value) {
  // Two's complement: unsigned addition is the signed one.
  atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(value));
}

// Mean without its zero point and standard deviation, in quanta.
struct Moments {
  float mean, deviation;
};

__device__ __forceinline__ Moments weighted_moments(double s0, double s1, double s2, double zero,
                                                    double min_variance) {
  const double mean = s1 / s0;
  const double variance = s2 / s0 - mean * mean;
  return {static_cast<float>(mean - zero),
          static_cast<float>(sqrt(variance > min_variance ? variance : min_variance))};
}

}  // namespace earmark::cuda
