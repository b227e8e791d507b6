// Tiles of a matrix product of bytes: rows x columns of int32 sums in the registers of a block,
// operands in shared memory in stages of kDepth bytes a row, filled by asynchronous copies while
// earlier ones are multiplied.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/mma_s8.cuh"
#include "cuda/pack_conv_s8.h"

namespace earmark::cuda {

inline constexpr int kChunk = 16;  // bytes that are copied at once
inline constexpr int kChunks = kDepth / kChunk;
inline constexpr int kStages = 4;

// Where a chunk of a row lies in a stage. Two rows fill all banks once; the chunks of each further
// pair are permuted, so that the eight rows of a matrix meet no bank twice.
__device__ __forceinline__ int swizzled(int row, int chunk) {
  return row * kDepth + ((chunk ^ (row >> 1)) & (kChunks - 1)) * kChunk;
}

// A block computes kRows x kColumns sums; each of its warps kWarpRows x kWarpColumns of them, as
// tiles of 16 x 8. Lane 4 g + j holds of a tile row g, columns 2 j and 2 j + 1, then row g + 8.
template <int kRows_, int kColumns_, int kWarpRows_, int kWarpColumns_>
struct TileS8 {
  static constexpr int kRows = kRows_;
  static constexpr int kColumns = kColumns_;
  static constexpr int kWarpsDown = kRows / kWarpRows_;
  static constexpr int kThreads = 32 * kWarpsDown * (kColumns / kWarpColumns_);
  static constexpr int kTilesDown = kWarpRows_ / 16;
  static constexpr int kTilesAcross = kWarpColumns_ / 8;
  static_assert(kTilesAcross % 2 == 0, "weights of two tiles are loaded at once");
  static constexpr bool kAvailable = true;
  static constexpr int kStep = kDepth;
  static __device__ __forceinline__ int place(int row, int chunk) { return swizzled(row, chunk); }
  static constexpr int kSums = kTilesDown * kTilesAcross * 4;  // of a thread

  struct Stages {
    alignas(128) int8_t rows[kStages][kRows * kDepth];
    alignas(128) int8_t weights[kStages][kColumns * kDepth];
  };

  int32_t sums[kTilesDown][kTilesAcross][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kTilesDown; ++i) {
#pragma unroll
      for (int j = 0; j < kTilesAcross; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) sums[i][j][k] = 0;
      }
    }
  }

  static __device__ __forceinline__ int warp_row() {
    return static_cast<int>(threadIdx.x / 32) % kWarpsDown * kWarpRows_;
  }
  static __device__ __forceinline__ int warp_column() {
    return static_cast<int>(threadIdx.x / 32) / kWarpsDown * kWarpColumns_;
  }

  // Row and first column of the two sums 2 * half and 2 * half + 1 of tile (i, j).
  static __device__ __forceinline__ int row_of(int i, int half) {
    return warp_row() + i * 16 + half * 8 + static_cast<int>(threadIdx.x % 32) / 4;
  }
  static __device__ __forceinline__ int column_of(int j) {
    return warp_column() + j * 8 + static_cast<int>(threadIdx.x % 4) * 2;
  }

  // sums += rows * weights of one stage. row_chunk(row, k): where 16 bytes of a row are, those from
  // 16 * k on.
  template <class RowChunk>
  __device__ __forceinline__ void multiply(const RowChunk& row_chunk, const int8_t* weights) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    // Matrices of a row tile: rows 0 .. 7, rows 8 .. 15, the same 16 bytes further on; of two
    // weight tiles: the first, 16 bytes further on, then the second.
    const int row = warp_row() + lane % 16;
    const int column = warp_column() + lane / 16 * 8 + lane % 8;
#pragma unroll
    for (int k = 0; k < kDepth / 32; ++k) {
      uint32_t a[kTilesDown][4];
      uint32_t b[kTilesAcross / 2][4];
#pragma unroll
      for (int i = 0; i < kTilesDown; ++i) {
        load_matrices(a[i], row_chunk(row + i * 16, 2 * k + lane / 16));
      }
#pragma unroll
      for (int j = 0; j < kTilesAcross / 2; ++j) {
        load_matrices(b[j], weights + swizzled(column + j * 16, 2 * k + lane / 8 % 2));
      }
#pragma unroll
      for (int i = 0; i < kTilesDown; ++i) {
#pragma unroll
        for (int j = 0; j < kTilesAcross; ++j) {
          multiply_add_s8(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
      }
    }
  }

  // Columns [0, kColumns) of a panel of packed weights, bytes of one step.
  static __device__ __forceinline__ void load_weights(int8_t* to, const int8_t* weight, int depth,
                                                      int step) {
#pragma unroll
    for (int i = 0; i < kColumns * kChunks / kThreads; ++i) {
      const int index = i * kThreads + static_cast<int>(threadIdx.x);
      const int column = index / kChunks, chunk = index % kChunks;
      copy_async_16(to + swizzled(column, chunk),
                    weight + static_cast<int64_t>(column) * depth + step * kDepth + chunk * kChunk,
                    kChunk);
    }
  }

  // sums += rows * weights over steps [begin, end). load_rows(stage memory, step) copies what a
  // thread has to; steps come in order. All copies are done at the end, and all threads have read.
  template <class LoadRows>
  __device__ __forceinline__ void multiply_steps(Stages& stages, const int8_t* weight, int depth,
                                                 int begin, int end, const LoadRows& load_rows) {
    const auto load = [&](int step) {
      if (step < end) {
        const int stage = (step - begin) % kStages;
        load_rows(stages.rows[stage], step);
        load_weights(stages.weights[stage], weight, depth, step);
      }
      commit_copies();  // an empty group keeps the count
    };
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) load(begin + i);
    for (int step = begin; step < end; ++step) {
      wait_copies<kStages - 2>();
      // The step's operands are there for all, and all have multiplied the stage that is loaded
      // next.
      __syncthreads();
      load(step + kStages - 1);
      const int stage = (step - begin) % kStages;
      const int8_t* rows = stages.rows[stage];
      multiply([&](int row, int chunk) { return rows + swizzled(row, chunk); },
               stages.weights[stage]);
    }
    __syncthreads();
  }
};

}  // namespace earmark::cuda
