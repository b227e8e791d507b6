// The matrix product of gemm_s8.cuh over the rows of conv_rows.cuh. Where a layer has too few tiles
// for the device, several blocks share the taps and inputs of one: they add their int32 sums, whose
// order does not matter, in the workspace, and the last of them goes on. Where there are enough of
// the tiles of gemm_wgmma_s8.cuh and the device can, it takes those.
#include <algorithm>
#include <type_traits>

#include "cuda/conv_rows.cuh"
#include "cuda/conv_s8.h"
#include "cuda/epilogue.cuh"
#include "cuda/gemm_wgmma_s8.cuh"
#include "cuda/last_block.cuh"

namespace earmark::cuda {
namespace {

using LargeTile = TileS8<128, 128, 64, 64>;
using SmallTile = TileS8<64, 64, 32, 32>;
using WgmmaTile = WgmmaTileS8;

constexpr int kLeastSteps = 4;  // of a block that shares a tile

// How a layer is dealt out. `splits` blocks share each tile.
struct Grid {
  enum Kind { kSmall, kLarge, kWgmma } kind = kSmall;
  int64_t tiles = 0;
  int tiles_across = 1;
  int splits = 1;
};

// With tiles of that kind.
template <class Tile>
Grid grid_of(const ConvS8& call, Grid::Kind kind) {
  const int width = call.out_f32.data != nullptr ? call.out_f32.width : call.out.width;
  const int64_t rows = static_cast<int64_t>(call.out_frames.rows) * width;
  const int across = ceil_div(call.shape.c_out, Tile::kColumns);
  return {kind, ceil_div<int64_t>(rows, Tile::kRows) * across, across, 1};
}

Grid choose_grid(const ConvS8& call, bool whole, const Device& device) {
  const int depth = call.layer.weights.depth;
  if (whole && device.wgmma && depth % WgmmaTile::kStep == 0 &&
      padded_channels(call.shape.c_out) % WgmmaTile::kColumns == 0) {
    const Grid g = grid_of<WgmmaTile>(call, Grid::kWgmma);
    if (g.tiles >= device.multiprocessors) return g;
  }
  if (whole && call.shape.c_out > SmallTile::kColumns) {
    const Grid g = grid_of<LargeTile>(call, Grid::kLarge);
    if (g.tiles >= device.multiprocessors) return g;
  }
  Grid g = grid_of<SmallTile>(call, Grid::kSmall);
  if (g.tiles > 0 && g.tiles < device.multiprocessors) {
    const int64_t free = device.multiprocessors / g.tiles, most = depth / kDepth / kLeastSteps;
    g.splits = static_cast<int>(std::max<int64_t>(1, std::min(free, most)));
  }
  return g;
}

EARMARK_MEMBER ConvSource source_of(const ConvS8& call) {
  return {call.shape, call.in, call.layer.weights.input_zero, call.layer.found};
}

template <class Tile>
struct Shared {
  static constexpr int kPitch = Tile::kColumns + kChunk;  // of the int8 output

  ConvRows<Tile> rows;
  int last;  // whether this block goes on with a shared tile
  typename Tile::Stages stages;

  __device__ int8_t* output() { return stages.rows[0]; }
  static_assert(kPitch * Tile::kRows <= sizeof(stages));
};

// Adds up the sums of the blocks of a tile. Whether this one was the last, which then has them all.
template <class Tile>
__device__ bool add_splits(Tile& tile, int splits, int tiles, int index, int* last,
                           int* workspace) {
  int* counters = workspace;
  int* sums = workspace + (tiles + 31) / 32 * 32 +
              static_cast<int64_t>(index) * Tile::kSums * Tile::kThreads;
  int* mine = &tile.sums[0][0][0];
#pragma unroll
  for (int i = 0; i < Tile::kSums; ++i) {
    atomicAdd(sums + i * Tile::kThreads + threadIdx.x, mine[i]);
  }
  if (!is_last_block(counters + index, splits, last)) return false;
#pragma unroll
  for (int i = 0; i < Tile::kSums; ++i) {
    mine[i] = atomicExch(sums + i * Tile::kThreads + threadIdx.x, 0);
  }
  return true;
}

// store(row of the tile, column of the tile, v of two neighbouring channels) for all sums.
template <class Tile, class Store>
__device__ __forceinline__ void for_values(const Tile& tile, const LayerS8& layer, int channel,
                                           const int* recordings, const Store& store) {
  const bool own = layer.bias.data != nullptr || layer.found.data != nullptr;
#pragma unroll
  for (int j = 0; j < Tile::kTilesAcross; ++j) {
    const int column = Tile::column_of(j);
    const ChannelPair constants(layer.epilogue, channel + column);
#pragma unroll
    for (int i = 0; i < Tile::kTilesDown; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = Tile::row_of(i, half);
        const int32_t x = tile.sums[i][j][2 * half], y = tile.sums[i][j][2 * half + 1];
        const float2 v = own ? constants.of_recording(layer, channel + column, recordings[row])
                                   .real_values(layer.epilogue, x, y)
                             : constants.real_values(layer.epilogue, x, y);
        store(row, column, v);
      }
    }
  }
}

// Rows of bytes in shared memory -> the output, 16 bytes a thread where it is aligned.
template <class Tile>
__device__ __forceinline__ void store_rows(const int8_t* bytes, int pitch,
                                           const Frames<int8_t>& out, int64_t first_row, int rows,
                                           int channel, int channels) {
  const bool aligned =
      reinterpret_cast<uintptr_t>(out.data) % kChunk == 0 && out.stride % kChunk == 0;
  constexpr int kAcross = Tile::kColumns / kChunk;
  for (int i = threadIdx.x; i < rows * kAcross; i += Tile::kThreads) {
    const int row = i / kAcross, column = i % kAcross * kChunk;
    const int rest = channels - column;
    const int8_t* from = bytes + row * pitch + column;
    int8_t* to = out.data + (first_row + row) * out.stride + channel + column;
    if (aligned && rest >= kChunk) {
      *reinterpret_cast<int4*>(to) = *reinterpret_cast<const int4*>(from);
    } else {
      for (int k = 0; k < kChunk && k < rest; ++k) to[k] = from[k];
    }
  }
}

template <class Tile, bool kWhole>
__device__ __forceinline__ void convolve(const ConvS8& call, int tiles, int tiles_across,
                                         int splits, int* workspace) {
  auto& shared = shared_memory<Shared<Tile>>();
  const int index = static_cast<int>(blockIdx.x) / splits;
  const int split = static_cast<int>(blockIdx.x) % splits;
  const int64_t first_row = static_cast<int64_t>(index / tiles_across) * Tile::kRows;
  const int channel = index % tiles_across * Tile::kColumns;
  const int out_width = call.out_f32.data != nullptr ? call.out_f32.width : call.out.width;
  const int64_t all_rows = static_cast<int64_t>(call.out_frames.rows) * out_width;

  shared.rows.fill(call.shape, call.in_frames, call.in.width, call.out_frames, out_width,
                   first_row);
  __syncthreads();

  const WeightsS8& weights = call.layer.weights;
  const int steps = weights.depth / Tile::kStep;
  const int begin = static_cast<int>(static_cast<int64_t>(steps) * split / splits);
  const int end = static_cast<int>(static_cast<int64_t>(steps) * (split + 1) / splits);
  ConvRowLoader<Tile, kWhole> loader(source_of(call), shared.rows, begin);
  Tile tile;
  tile.clear();
  tile.multiply_steps(shared.stages, weights.weight + static_cast<int64_t>(channel) * weights.depth,
                      weights.depth, begin, end, [&](int8_t* to, int) { loader.load(to); });
  if constexpr (std::is_same_v<Tile, SmallTile>) {  // the others are never shared
    if (splits > 1 && !add_splits(tile, splits, tiles, index, &shared.last, workspace)) return;
  }

  const int rows =
      static_cast<int>(all_rows - first_row < Tile::kRows ? all_rows - first_row : Tile::kRows);
  const int channels = call.shape.c_out - channel;
  if (call.out_f32.data != nullptr) {
    for_values(tile, call.layer, channel, shared.rows.recording,
               [&](int row, int column, float2 v) {
                 if (row >= rows || column >= channels) return;
                 float* to =
                     call.out_f32.data + (first_row + row) * call.out_f32.stride + channel + column;
                 to[0] = v.x;
                 if (column + 1 < channels) to[1] = v.y;
               });
    return;
  }
  const int zero = call.layer.epilogue.zero_u8;
  int8_t* bytes = shared.output();
  const auto put = [&](int row, int column, int8_t x, int8_t y) {
    bytes[row * Shared<Tile>::kPitch + column] = x;
    bytes[row * Shared<Tile>::kPitch + column + 1] = y;
  };
  if (call.table == nullptr) {
    for_values(tile, call.layer, channel, shared.rows.recording,
               [&](int row, int column, float2 v) {
                 put(row, column, requantize_s8(v.x, zero), requantize_s8(v.y, zero));
               });
  } else {
    for_values(tile, call.layer, channel, shared.rows.recording,
               [&](int row, int column, float2 v) {
                 put(row, column, call.table[table_index(v.x, call.table_size)],
                     call.table[table_index(v.y, call.table_size)]);
               });
  }
  __syncthreads();
  store_rows<Tile>(bytes, Shared<Tile>::kPitch, call.out, first_row, rows, channel, channels);
}

template <class Tile, bool kWhole>
__global__ void __launch_bounds__(Tile::kThreads)
    conv_s8_kernel(const ConvS8 call, int tiles, int tiles_across, int splits, int* workspace) {
  if constexpr (Tile::kAvailable) {
    convolve<Tile, kWhole>(call, tiles, tiles_across, splits, workspace);
  }
}

template <class Tile, bool kWhole>
cudaError_t launch_tiles(const char* name, const ConvS8& call, const Grid& g,
                         const Launch& launch) {
  return launch_kernel(name, conv_s8_kernel<Tile, kWhole>,
                       dim3(static_cast<unsigned>(g.tiles * g.splits)), dim3(Tile::kThreads),
                       sizeof(Shared<Tile>), launch, call, static_cast<int>(g.tiles),
                       g.tiles_across, g.splits, static_cast<int*>(launch.workspace));
}

}  // namespace

cudaError_t conv_s8(const ConvS8& call, const Launch& launch) {
  if ((call.out.data == nullptr) == (call.out_f32.data == nullptr)) return cudaErrorInvalidValue;
  const bool whole = source_of(call).whole_chunks();
  const Grid g = choose_grid(call, whole, *launch.device);
  if (g.kind == Grid::kWgmma) {
    return launch_tiles<WgmmaTile, true>("conv_s8/128x256 wgmma", call, g, launch);
  }
  if (g.kind == Grid::kLarge) {
    return launch_tiles<LargeTile, true>("conv_s8/128x128", call, g, launch);
  }
  if (whole) {
    const char* name = g.splits > 1 ? "conv_s8/64x64 split" : "conv_s8/64x64";
    return launch_tiles<SmallTile, true>(name, call, g, launch);
  }
  const char* name = g.splits > 1 ? "conv_s8/bytes split" : "conv_s8/bytes";
  return launch_tiles<SmallTile, false>(name, call, g, launch);
}

size_t workspace_bytes(const ConvS8& call, const Device& device) {
  const Grid g = choose_grid(call, source_of(call).whole_chunks(), device);
  if (g.splits == 1) return 0;
  const size_t counters = ceil_div<size_t>(g.tiles, 32) * 32;
  return sizeof(int) * (counters + g.tiles * SmallTile::kSums * SmallTile::kThreads);
}

}  // namespace earmark::cuda
