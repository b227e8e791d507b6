// Copies from global to shared memory that go on beside the computation (PTX ISA, cp.async).
#pragma once

#include <cstdint>

#include "cuda/launch.h"

#if defined(EARMARK_CUDA_EMULATED)
#include "emulation/ptx_on_cpu.h"
#else

namespace earmark::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes, the first `bytes` from memory and zeros behind; both addresses aligned to 16. Past the
// L1 cache, for a block reads each byte once.
__device__ __forceinline__ void copy_async_16(void* to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(bytes)
               : "memory");
}

// Ends a group of this thread's copies.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Until at most the last kPending groups of this thread are under way. A barrier then shows the
// block what has come.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace earmark::cuda

#endif
