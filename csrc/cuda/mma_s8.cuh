// Matrix products of bytes on the tensor cores (PTX ISA, ldmatrix and mma.m16n8k32), one function
// an instruction. All lanes of a warp call them together.
#pragma once

#include "cuda/async_copy.cuh"

#if !defined(EARMARK_CUDA_EMULATED)

namespace earmark::cuda {

// Four 8 x 16 matrices of bytes from shared memory: lane i gives the address of row i % 8 of matrix
// i / 8, and gets of each matrix bytes 4 (i % 4) .. 4 (i % 4) + 3 of row i / 4.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// acc (16 x 8, int32) += a (16 x 32) * b (32 x 8), wrapping. Lane 4 g + j holds
//   of a:    rows g and g + 8, columns 4 j .. 4 j + 3, then the same 16 columns further on;
//   of b:    column g, rows 4 j .. 4 j + 3 and 16 further on;
//   of acc:  row g, columns 2 j and 2 j + 1, then row g + 8.
__device__ __forceinline__ void multiply_add_s8(int32_t (&acc)[4], const uint32_t (&a)[4],
                                                uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(acc[0]), "+r"(acc[1]), "+r"(acc[2]), "+r"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace earmark::cuda

#endif
