// How kernels are launched, and on what.
//
// Every launcher takes raw device pointers in a struct and returns the first error of the CUDA run
// time, cudaErrorInvalidValue for a struct that contradicts itself. It neither allocates nor waits,
// so that a CUDA graph can record it.
#pragma once

#include <cstddef>

#if defined(EARMARK_CUDA_EMULATED)
#include "emulation/cuda_on_cpu.h"
#else
#include <cuda_runtime.h>
#endif

namespace earmark::cuda {

// What launchers choose their tiles by; asked for once a device.
struct Device {
  int ordinal = 0;
  int multiprocessors = 1;
  int capability = 0;        // 10 * major + minor
  size_t shared_memory = 0;  // that a block may ask for, bytes
  bool wgmma = false;        // whether it has these instructions, and this build code with them
};

cudaError_t query_device(int ordinal, Device* device);

// `workspace` is memory of the device for launches that follow each other on one stream. Before the
// first launch it is zero, and each kernel leaves it zero. Its size: the largest of the
// `workspace_bytes` of what is launched.
struct Launch {
  const Device* device = nullptr;
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
};

// "op/variant" of the last kernel that this thread launched; tests ask for it.
extern thread_local const char* last_kernel;

}  // namespace earmark::cuda
