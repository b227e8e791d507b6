// Launches a kernel and hands it its shared memory, on a GPU or in tests on the CPU.
#pragma once

#include "cuda/launch.h"

namespace earmark::cuda {

// The dynamic shared memory of the block, as the struct that the kernel lays it out by.
template <class T>
__device__ __forceinline__ T& shared_memory() {
#if defined(EARMARK_CUDA_EMULATED)
  return *reinterpret_cast<T*>(emulation::machine.shared.get());
#else
  extern __shared__ __align__(1024) unsigned char memory[];
  return *reinterpret_cast<T*>(memory);
#endif
}

// `name` is what `last_kernel` says then. A grid without blocks is no launch and no error.
template <class... Parameters, class... Arguments>
cudaError_t launch_kernel(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                          size_t shared_bytes, const Launch& launch,
                          const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
  last_kernel = name;
#if defined(EARMARK_CUDA_EMULATED)
  if (shared_bytes > launch.device->shared_memory) return cudaErrorInvalidValue;
  return emulation::submit(launch.stream, [=] {
    const auto body = [=] { kernel(Parameters(arguments)...); };
    return emulation::machine.run(grid, block, shared_bytes, body) ? cudaSuccess
                                                                   : cudaErrorLaunchFailure;
  });
#else
  constexpr size_t kUsual = 48 << 10;
  if (shared_bytes > kUsual) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, block, shared_bytes, launch.stream>>>(arguments...);
  return cudaGetLastError();
#endif
}

template <class T>
__host__ __device__ constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace earmark::cuda
