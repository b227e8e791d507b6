#include "cuda/launch.h"

namespace earmark::cuda {

thread_local const char* last_kernel = "";

cudaError_t query_device(int ordinal, Device* device) {
  device->ordinal = ordinal;
#if defined(EARMARK_CUDA_EMULATED)
  device->multiprocessors = 4;
  device->capability = 80;
  device->shared_memory = 99 << 10;
  return cudaSuccess;
#else
  int major = 0, minor = 0, shared = 0;
  const auto ask = [&](int* value, cudaDeviceAttr attribute) {
    return cudaDeviceGetAttribute(value, attribute, ordinal);
  };
  cudaError_t error = ask(&device->multiprocessors, cudaDevAttrMultiProcessorCount);
  if (error == cudaSuccess) error = ask(&major, cudaDevAttrComputeCapabilityMajor);
  if (error == cudaSuccess) error = ask(&minor, cudaDevAttrComputeCapabilityMinor);
  if (error == cudaSuccess) error = ask(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  device->capability = 10 * major + minor;
  device->shared_memory = static_cast<size_t>(shared);
#if defined(EARMARK_CUDA_SM90A)
  device->wgmma = device->capability == 90;
#endif
  return error;
#endif
}

}  // namespace earmark::cuda
