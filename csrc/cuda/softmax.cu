// A block takes some neighbouring columns of one [n][inner] matrix; its threads of a column share
// out the n values, which they read once for their maximum, once for their sum and once to write.
#include "cuda/launch.cuh"
#include "cuda/softmax.h"
#if !defined(EARMARK_CUDA_EMULATED)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace earmark::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_f32(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void store(float* to, float x) { *to = x; }
__device__ __forceinline__ void store(__half* to, float x) { *to = __float2half(x); }
__device__ __forceinline__ void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16(x); }

// combine() over the threads of a column, in the same order for each of them.
template <class Combine>
__device__ __forceinline__ float over_column(float* shared, float value, const Combine& combine) {
  const int across = static_cast<int>(blockDim.x);
  const int thread = static_cast<int>(threadIdx.y) * across + static_cast<int>(threadIdx.x);
  __syncthreads();
  shared[thread] = value;
  for (int down = static_cast<int>(blockDim.y) / 2; down > 0; down /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.y) < down) {
      shared[thread] = combine(shared[thread], shared[thread + down * across]);
    }
  }
  __syncthreads();
  return shared[threadIdx.x];
}

template <class T>
__global__ void __launch_bounds__(kThreads) softmax_kernel(const Softmax call, int64_t blocks) {
  auto& shared = shared_memory<float[kThreads]>();
  using Kind = SoftmaxFunction::Kind;
  SoftmaxFunction function = call.function;
  if (call.bounds != nullptr) {
    function.pwl.low = call.bounds[0];
    function.pwl.high = call.bounds[1];
  }
  const int64_t column = blockIdx.x % blocks * blockDim.x + threadIdx.x;
  const int64_t first = blockIdx.x / blocks * call.n * call.inner + column;
  const bool there = column < call.inner;
  const auto* x = static_cast<const T*>(call.x) + first;
  auto* out = static_cast<T*>(call.out) + first;
  const int64_t n = there ? call.n : 0;

  float maximum = -__builtin_inff();
  if (function.kind == Kind::kExact) {
    for (int64_t i = threadIdx.y; i < n; i += blockDim.y) {
      const float v = to_f32(x[i * call.inner]);
      maximum = v > maximum ? v : maximum;  // NaN is passed over; exp brings it to light
    }
    maximum = over_column(shared, maximum, [](float a, float b) { return a > b ? a : b; });
  }
  const auto numerator = [&](float v) {
    if (function.kind == Kind::kExact) return exp_f32(v - maximum);
    if (v != v) return v;
    if (v == -__builtin_inff()) return 0.0f;
    if (function.kind == Kind::kPwl) return pwl_f32<-1>(function.pwl, v);
    return table_value(function.table, v * function.table.scale + function.table.offset);
  };
  float sum = 0.0f;
  for (int64_t i = threadIdx.y; i < n; i += blockDim.y) sum += numerator(to_f32(x[i * call.inner]));
  sum = over_column(shared, sum, [](float a, float b) { return a + b; });
  const float nothing = function.kind == Kind::kExact ? __builtin_nanf("") : 0.0f;
  const float share = sum == 0.0f ? nothing : 1.0f / sum;
  for (int64_t i = threadIdx.y; i < n; i += blockDim.y) {
    store(out + i * call.inner, numerator(to_f32(x[i * call.inner])) * share);
  }
}

template <class T>
cudaError_t launch_softmax(const char* name, const Softmax& call, const Launch& launch) {
  unsigned across = 1;
  while (across < 32 && across < call.inner) across *= 2;
  const int64_t blocks = ceil_div<int64_t>(call.inner, across);
  if (blocks * call.outer >= int64_t{1} << 31) return cudaErrorInvalidValue;
  return launch_kernel(name, softmax_kernel<T>, dim3(static_cast<unsigned>(blocks * call.outer)),
                       dim3(across, kThreads / across), sizeof(float[kThreads]), launch, call,
                       blocks);
}

}  // namespace

cudaError_t softmax(const Softmax& call, const Launch& launch) {
  switch (call.type) {
    case FloatType::kF32:
      return launch_softmax<float>("softmax/f32", call, launch);
    case FloatType::kF16:
      return launch_softmax<__half>("softmax/f16", call, launch);
    case FloatType::kBF16:
      return launch_softmax<__nv_bfloat16>("softmax/bf16", call, launch);
  }
  return cudaErrorInvalidValue;
}

}  // namespace earmark::cuda
