// Tiles of conv_s8's small size, once for each pair of planes.
#include "cuda/conv_rows.cuh"
#include "cuda/conv_s16.h"
#include "cuda/planes.cuh"

namespace earmark::cuda {
namespace {

using Tile = TileS8<64, 64, 32, 32>;

struct Shared {
  ConvRows<Tile> rows;
  alignas(128) Tile::Stages stages;
};

// Plane `a` of the inputs.
EARMARK_MEMBER ConvSource source_of(const ConvS16& call, int a) {
  const int channels = ceil_div(call.shape.c_in, kChunk) * kChunk;
  return {call.shape, call.in.plane(a), call.weights.input_zero + a * channels, {}};
}

__device__ __forceinline__ float output_of(const ConvS16& call, int channel, int recording,
                                           int64_t sum) {
  EpilogueS8 e = call.epilogue;
  if (call.bias.data != nullptr) e.offset = call.bias.data + recording * call.bias.stride;
  const int64_t total = sum + call.weights.initial[channel];
  const float v = real_value(e, channel, static_cast<float>(total));
  return call.table.entries == 0 ? v : table_value(call.table, v);
}

template <bool kWhole>
__global__ void __launch_bounds__(Tile::kThreads)
    conv_s16_kernel(const ConvS16 call, int tiles_across) {
  auto& shared = shared_memory<Shared>();
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) / tiles_across * Tile::kRows;
  const int channel = static_cast<int>(blockIdx.x) % tiles_across * Tile::kColumns;
  const int64_t all_rows = static_cast<int64_t>(call.out_frames.rows) * call.out.width;
  shared.rows.fill(call.shape, call.in_frames, call.in.high.width, call.out_frames, call.out.width,
                   first_row);
  __syncthreads();

  const WeightsS16& weights = call.weights;
  const int inputs = call.in.count(), steps = weights.depth / kDepth;
  const int64_t plane = static_cast<int64_t>(padded_channels(call.shape.c_out)) * weights.depth;
  const int8_t* panel = weights.weight + static_cast<int64_t>(channel) * weights.depth;
  PlaneSums<Tile> total;
  for (int product = 0; product < inputs * weights.planes; ++product) {
    const int a = product / weights.planes, b = product % weights.planes;
    ConvRowLoader<Tile, kWhole> loader(source_of(call, a), shared.rows, 0);
    Tile tile;
    tile.clear();
    tile.multiply_steps(shared.stages, panel + b * plane, weights.depth, 0, steps,
                        [&](int8_t* to, int) { loader.load(to); });
    total.add(tile, plane_factor(inputs, a, weights.planes, b), product == 0);
  }

#pragma unroll
  for (int i = 0; i < Tile::kTilesDown; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = Tile::row_of(i, half);
      if (first_row + row >= all_rows) continue;
      float* to = call.out.data + (first_row + row) * call.out.stride;
#pragma unroll
      for (int j = 0; j < Tile::kTilesAcross; ++j) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const int c = channel + Tile::column_of(j) + k;
          if (c >= call.shape.c_out) continue;
          to[c] = output_of(call, c, shared.rows.recording[row], total.sums[i][j][2 * half + k]);
        }
      }
    }
  }
}

}  // namespace

cudaError_t conv_s16(const ConvS16& call, const Launch& launch) {
  const int64_t rows = static_cast<int64_t>(call.out_frames.rows) * call.out.width;
  const int tiles_across = ceil_div(call.shape.c_out, Tile::kColumns);
  const bool whole = source_of(call, 0).whole_chunks() && call.in.low % kChunk == 0;
  return launch_kernel(
      whole ? "conv_s16/64x64" : "conv_s16/bytes",
      whole ? conv_s16_kernel<true> : conv_s16_kernel<false>,
      dim3(static_cast<unsigned>(ceil_div<int64_t>(rows, Tile::kRows) * tiles_across)),
      dim3(Tile::kThreads), sizeof(Shared), launch, call, tiles_across);
}

}  // namespace earmark::cuda
