// A tile as those of gemm_s8.cuh for large layers on sm_90a: each of two warpgroups multiplies 64
// rows with all 256 columns, straight from shared memory.
#pragma once

#include "cuda/gemm_s8.cuh"
#include "cuda/wgmma_s8.cuh"

namespace earmark::cuda {

struct WgmmaTileS8 {
  static constexpr int kRows = 128;
  static constexpr int kColumns = 256;
  static constexpr int kThreads = 256;
  static constexpr int kTilesDown = 1;
  static constexpr int kTilesAcross = kColumns / 8;
  static constexpr int kSums = kTilesDown * kTilesAcross * 4;
  static constexpr bool kAvailable = kHasWgmma;
  static constexpr int kStep = kWgmmaRow;
  static __device__ __forceinline__ int place(int row, int chunk) {
    return row * kStep + (chunk ^ row % 8) * kChunk;
  }

  struct Stages {
    alignas(kWgmmaAlign) int8_t rows[kStages][kRows * kStep];
    alignas(kWgmmaAlign) int8_t weights[kStages][kColumns * kStep];
  };

  int32_t sums[kTilesDown][kTilesAcross][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int j = 0; j < kTilesAcross; ++j) {
#pragma unroll
      for (int k = 0; k < 4; ++k) sums[0][j][k] = 0;
    }
  }

  static __device__ __forceinline__ int row_of(int, int half) {
    return static_cast<int>(threadIdx.x) / 32 * 16 + half * 8 +
           static_cast<int>(threadIdx.x) % 32 / 4;
  }
  static __device__ __forceinline__ int column_of(int j) {
    return j * 8 + static_cast<int>(threadIdx.x) % 4 * 2;
  }

  static __device__ __forceinline__ void load_weights(int8_t* to, const int8_t* weight, int depth,
                                                      int step) {
    constexpr int kChunksOfRow = kStep / kChunk;
#pragma unroll
    for (int i = 0; i < kColumns * kChunksOfRow / kThreads; ++i) {
      const int index = i * kThreads + static_cast<int>(threadIdx.x);
      const int column = index / kChunksOfRow, chunk = index % kChunksOfRow;
      copy_async_16(to + place(column, chunk),
                    weight + static_cast<int64_t>(column) * depth + step * kStep + chunk * kChunk,
                    kChunk);
    }
  }

  // As TileS8 has it. The products of a step go on while the next one's are begun, hence one step
  // less is loaded ahead: a stage is free when the products of two steps before are done.
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
    const int first_row = static_cast<int>(threadIdx.x) / 128 * 64;
#pragma unroll
    for (int i = 0; i < kStages - 2; ++i) load(begin + i);
    pin_sums(sums[0]);
    for (int step = begin; step < end; ++step) {
      wait_copies<kStages - 3>();
      show_to_wgmma();
      __syncthreads();
      const int stage = (step - begin) % kStages;
      const int8_t* rows = stages.rows[stage] + first_row * kStep;
      begin_wgmma();
#pragma unroll
      for (int k = 0; k < kStep; k += 32) {
        multiply_add_wgmma(sums[0], wgmma_descriptor(rows + k),
                           wgmma_descriptor(stages.weights[stage] + k));
      }
      commit_wgmma();
      load(step + kStages - 2);
      wait_wgmma<1>();
    }
    wait_wgmma<0>();
    pin_sums(sums[0]);
    __syncthreads();
  }
};

}  // namespace earmark::cuda
