// Sums of products of 16-bit numbers, from those of their planes of bytes.
#pragma once

#include "core/planes.h"
#include "cuda/gemm_s8.cuh"

namespace earmark::cuda {

template <class Tile>
struct PlaneSums {
  int64_t sums[Tile::kTilesDown][Tile::kTilesAcross][4];

  // The first product of a sum replaces what was there.
  __device__ __forceinline__ void add(const Tile& tile, int factor, bool first) {
#pragma unroll
    for (int i = 0; i < Tile::kTilesDown; ++i) {
#pragma unroll
      for (int j = 0; j < Tile::kTilesAcross; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int64_t product = static_cast<int64_t>(factor) * tile.sums[i][j][k];
          sums[i][j][k] = first ? product : sums[i][j][k] + product;
        }
      }
    }
  }
};

}  // namespace earmark::cuda
