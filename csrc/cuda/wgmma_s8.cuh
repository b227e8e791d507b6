// Matrix products of bytes by a warpgroup, four warps, with both operands in shared memory (PTX
// ISA, wgmma), one function an instruction. Only devices of sm_90 have them, in code for sm_90a.
#pragma once

#include "cuda/async_copy.cuh"

namespace earmark::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(EARMARK_CUDA_EMULATED)
inline constexpr bool kHasWgmma = true;
#else
inline constexpr bool kHasWgmma = false;
#endif

// An operand lies in rows of 128 bytes with the 128-byte swizzle: chunk c of row r is at chunk c ^
// r % 8 of it. The rows begin at a multiple of 1024 bytes, what eight of them take.
inline constexpr int kWgmmaRow = 128;
inline constexpr int kWgmmaAlign = 8 * kWgmmaRow;

// 32 bytes of each row: those from `first` on, in row 0.
__device__ __forceinline__ uint64_t wgmma_descriptor(const void* first) {
  constexpr uint64_t kSwizzle128 = 1;
  // The leading dimension's offset, bits 16 to 29, has no meaning for operands that are swizzled.
  return static_cast<uint64_t>((shared_address(first) & 0x3ffff) >> 4) | uint64_t{1} << 16 |
         static_cast<uint64_t>(kWgmmaAlign >> 4) << 32 | kSwizzle128 << 62;
}

#if !defined(EARMARK_CUDA_EMULATED)

// What this thread has written to shared memory, or copied there and waited for, the tensor cores
// see behind the next barrier.
__device__ __forceinline__ void show_to_wgmma() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Before the first product that adds to registers which something else has written.
__device__ __forceinline__ void begin_wgmma() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Ends a group of products.
__device__ __forceinline__ void commit_wgmma() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Until at most the last kPending groups are under way: the operands of the others have been read,
// and with none under way the sums are there.
template <int kPending>
__device__ __forceinline__ void wait_wgmma() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving what it does with the sums across.
__device__ __forceinline__ void pin_sums(int32_t (&d)[32][4]) {
#pragma unroll
  for (int j = 0; j < 32; ++j) {
    asm volatile("" : "+r"(d[j][0]), "+r"(d[j][1]), "+r"(d[j][2]), "+r"(d[j][3])::"memory");
  }
}

#define EARMARK_SUMS_4(j) "+r"(d[j][0]), "+r"(d[j][1]), "+r"(d[j][2]), "+r"(d[j][3])
#define EARMARK_SUMS_16(j) \
  EARMARK_SUMS_4(j), EARMARK_SUMS_4(j + 1), EARMARK_SUMS_4(j + 2), EARMARK_SUMS_4(j + 3)

// d (64 x 256, int32) += a (64 x 32) * b (32 x 256, as rows of its columns), wrapping, some time
// before the wait. Warp w, lane 4 g + j holds of d[t] row 16 w + g, columns 8 t + 2 j and 8 t + 2 j
// + 1, then row 16 w + g + 8: as mma.m16n8 has them.
__device__ __forceinline__ void multiply_add_wgmma(int32_t (&d)[32][4], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n"
      ".reg .pred add;\n"
      "setp.ne.b32 add, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, "
      "%127}, %128, %129, add;\n"
      "}\n"
      : EARMARK_SUMS_16(0), EARMARK_SUMS_16(4), EARMARK_SUMS_16(8), EARMARK_SUMS_16(12),
        EARMARK_SUMS_16(16), EARMARK_SUMS_16(20), EARMARK_SUMS_16(24), EARMARK_SUMS_16(28)
      : "l"(a), "l"(b));
}

#undef EARMARK_SUMS_16
#undef EARMARK_SUMS_4

#endif

}  // namespace earmark::cuda
