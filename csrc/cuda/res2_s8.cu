// A block takes `tile` frames of a recording through the chain. What a step reads stays in shared
// memory, one row a frame; a tap is another row of it, so that nothing is copied for the matrix
// product. Weights of all steps come through one pipeline, which runs on while results are rounded
// and the next chunk is added.
//
//   frames       |<- half ->|<- half ->|<--- tile --->|<- half ->|<- half ->|
//   s_1 of two steps:  all;      out_1 = s_2's:  without the outermost;      out_2:  the tile
#include "cuda/epilogue.cuh"
#include "cuda/gemm_s8.cuh"
#include "cuda/ragged.cuh"
#include "cuda/res2_s8.h"

namespace earmark::cuda {
namespace {

constexpr int kMaxHalf = 16;  // frames that a convolution reaches to one side
constexpr int kLeastTile = 8;

template <class Tile>
struct Shared {
  static constexpr int kPitch = Tile::kColumns;
  static constexpr int kPadRow = Tile::kRows + 2 * kMaxHalf;  // what zero padding reads

  alignas(128) int8_t source[(kPadRow + 1) * kPitch];
  alignas(128) int8_t next[Tile::kRows * kPitch];  // the chunk that the step behind adds
  alignas(128) int8_t weights[kStages][Tile::kColumns * kDepth];

  // Eight consecutive rows meet no bank twice, wherever they begin.
  static __device__ __forceinline__ int place(int row, int chunk) {
    if constexpr (kPitch == 128) return row * kPitch + (chunk ^ (row & 7)) * kChunk;
    return row * kPitch + (chunk ^ (row >> 1 & 3)) * kChunk;
  }
};

// Frames [begin, end) of the recording.
struct Span {
  int begin, end;
  __device__ int size() const { return end - begin; }
};

template <class Tile>
class Chain {
 public:
  __device__ __forceinline__ Chain(const Res2S8& call, const TimeTile& tile, Shared<Tile>& shared)
      : call_(call),
        tile_(tile),
        shared_(shared),
        chunks_(call.shape.c_in / kChunk),
        half_(call.shape.time.padding),
        steps_of_depth_(call.step[0].weights.depth / kDepth) {}

  __device__ void run() {
    Span source = outputs(-1);
    copy_rows(call_.step[0].in, source, shared_.source);
    fill_padding(0);
    commit_copies();
    for (int i = 0; i < kStages - 1; ++i) load_weights(i);
    copy_past();
    for (int step = 0; step < call_.steps; ++step) {
      const Span out = outputs(step);
      Tile tile;
      tile.clear();
      for (int k = 0; k < steps_of_depth_; ++k) {
        const int at = step * steps_of_depth_ + k;
        wait_copies<kStages - 2>();
        // The operands are there for all, and all are done with what is overwritten next.
        __syncthreads();
        if (k == 0 && step + 1 < call_.steps) {
          copy_rows(call_.step[step + 1].in, out, shared_.next);
        }
        load_weights(at + kStages - 1);
        multiply(tile, source, out, k, shared_.weights[at % kStages]);
      }
      wait_copies<0>();
      __syncthreads();
      round(tile, step, out);
      __syncthreads();
      hand_on(step, out);
      source = out;
    }
  }

 private:
  // Frames whose output of a step is needed; before the first step, of its input.
  __device__ __forceinline__ Span outputs(int step) const {
    const int more = (call_.steps - 1 - step) * half_;
    const int begin = tile_.begin - more, end = tile_.end + more;
    return {begin > 0 ? begin : 0, end < tile_.length ? end : tile_.length};
  }

  __device__ __forceinline__ void copy_rows(const int8_t* from, const Span& span, int8_t* to) {
    for (int i = threadIdx.x; i < span.size() * chunks_; i += Tile::kThreads) {
      const int row = i / chunks_, chunk = i % chunks_;
      const int64_t position = tile_.first + span.begin + row;
      copy_async_16(to + Shared<Tile>::place(row, chunk),
                    from + position * call_.in_stride + chunk * kChunk, kChunk);
    }
  }

  __device__ __forceinline__ void fill_padding(int step) {
    if (static_cast<int>(threadIdx.x) >= chunks_) return;
    const int chunk = threadIdx.x;
    *reinterpret_cast<int4*>(shared_.source + Shared<Tile>::place(Shared<Tile>::kPadRow, chunk)) =
        reinterpret_cast<const int4*>(call_.step[step].weights.input_zero)[chunk];
  }

  // The chunk that the chain leaves as it is.
  __device__ __forceinline__ void copy_past() {
    if (call_.copy_in == nullptr) return;
    for (int i = threadIdx.x; i < (tile_.end - tile_.begin) * chunks_; i += Tile::kThreads) {
      const int64_t position = tile_.first + tile_.begin + i / chunks_;
      const int channel = i % chunks_ * kChunk;
      *reinterpret_cast<int4*>(call_.copy_out + position * call_.out_stride + channel) =
          *reinterpret_cast<const int4*>(call_.copy_in + position * call_.in_stride + channel);
    }
  }

  // `at` counts the parts of all steps' weights.
  __device__ __forceinline__ void load_weights(int at) {
    const int step = at / steps_of_depth_;
    if (step < call_.steps) {
      const WeightsS8& w = call_.step[step].weights;
      Tile::load_weights(shared_.weights[at % kStages], w.weight, w.depth,
                         at - step * steps_of_depth_);
    }
    commit_copies();
  }

  __device__ __forceinline__ void multiply(Tile& tile, const Span& source, const Span& out, int k,
                                           const int8_t* weights) {
    const int taps = call_.shape.time.kernel;
    tile.multiply(
        [&](int row, int chunk) {
          // Rows behind the last one repeat it, bytes behind the last tap meet weights of 0.
          const int part = k * kChunks + chunk;
          int tap = part / chunks_;
          chunk = part - tap * chunks_;
          if (tap >= taps) tap = taps - 1;
          const int frame = out.begin + (row < out.size() ? row : out.size() - 1);
          const int from = call_.shape.source(call_.shape.time, frame, tap, tile_.length);
          return shared_.source +
                 Shared<Tile>::place(from < 0 ? Shared<Tile>::kPadRow : from - source.begin, chunk);
        },
        weights);
  }

  // The step's output takes the place of its input.
  __device__ __forceinline__ void round(const Tile& tile, int step, const Span& out) {
    const EpilogueS8& e = call_.step[step].epilogue;
#pragma unroll
    for (int j = 0; j < Tile::kTilesAcross; ++j) {
      const int column = Tile::column_of(j);
      if (column >= call_.shape.c_out) continue;
      const ChannelPair constants(e, column);
#pragma unroll
      for (int i = 0; i < Tile::kTilesDown; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = Tile::row_of(i, half);
          if (row >= out.size()) continue;
          const float2 v =
              constants.real_values(e, tile.sums[i][j][2 * half], tile.sums[i][j][2 * half + 1]);
          int8_t* to = shared_.source + Shared<Tile>::place(row, column / kChunk) + column % kChunk;
          to[0] = requantize_s8(v.x, e.zero_u8);
          to[1] = requantize_s8(v.y, e.zero_u8);
        }
      }
    }
  }

  // Frames of the tile go to the output; the next chunk is added to all.
  __device__ __forceinline__ void hand_on(int step, const Span& out) {
    for (int i = threadIdx.x; i < out.size() * chunks_; i += Tile::kThreads) {
      const int row = i / chunks_, chunk = i % chunks_;
      auto* place = reinterpret_cast<int4*>(shared_.source + Shared<Tile>::place(row, chunk));
      const int frame = out.begin + row;
      if (frame >= tile_.begin && frame < tile_.end) {
        const int64_t position = tile_.first + frame;
        *reinterpret_cast<int4*>(call_.step[step].out + position * call_.out_stride +
                                 chunk * kChunk) = *place;
      }
      if (step + 1 < call_.steps) add(call_.step[step + 1], row, chunk, place);
    }
    if (step + 1 < call_.steps) fill_padding(step + 1);
  }

  // As add_s8.
  __device__ __forceinline__ void add(const Res2Step& step, int row, int chunk, int4* place) {
    alignas(16) int8_t x[kChunk], previous[kChunk];
    *reinterpret_cast<int4*>(x) =
        *reinterpret_cast<const int4*>(shared_.next + Shared<Tile>::place(row, chunk));
    *reinterpret_cast<int4*>(previous) = *place;
#pragma unroll
    for (int c = 0; c < kChunk; ++c) {
      const float v = static_cast<float>(x[c] - step.in_zero) * step.multiplier[chunk * kChunk + c];
      const float r =
          static_cast<float>(previous[c] - step.previous_zero) * step.residual_multiplier;
      x[c] = requantize_s8(v + r, step.sum_zero + 128);
    }
    *place = *reinterpret_cast<const int4*>(x);
  }

  const Res2S8& call_;
  const TimeTile& tile_;
  Shared<Tile>& shared_;
  const int chunks_;  // of 16 channels
  const int half_;
  const int steps_of_depth_;
};

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads) res2_s8_kernel(const Res2S8 call, int size) {
  const TimeTile tile = time_tile(call.frames, size, static_cast<int>(blockIdx.x));
  if (tile.begin >= tile.end) return;
  Chain<Tile>(call, tile, shared_memory<Shared<Tile>>()).run();
}

// Frames of a tile: what is left of its rows by the halo of the first step's output.
int tile_size(const Res2S8& call, int rows) {
  return rows - 2 * (call.steps - 1) * call.shape.time.padding;
}

template <class Tile>
cudaError_t launch_chain(const char* name, const Res2S8& call, const Launch& launch) {
  const int size = tile_size(call, Tile::kRows);
  return launch_kernel(name, res2_s8_kernel<Tile>,
                       dim3(static_cast<unsigned>(tile_bound(call.frames, size))),
                       dim3(Tile::kThreads), sizeof(Shared<Tile>), launch, call, size);
}

using Wide128 = TileS8<128, 128, 32, 64>;
using Wide64 = TileS8<64, 128, 32, 32>;
using Narrow128 = TileS8<128, 64, 32, 32>;
using Narrow64 = TileS8<64, 64, 32, 32>;

bool aligned(const int8_t* p) { return reinterpret_cast<uintptr_t>(p) % kChunk == 0; }

}  // namespace

bool supports(const Res2S8& call, const Device& device) {
  const Axis& time = call.shape.time;
  bool good = call.steps >= 1 && call.steps <= kMaxRes2Steps && call.shape.c_in % 32 == 0 &&
              call.shape.c_in <= kMaxRes2Channels && call.shape.c_in == call.shape.c_out &&
              call.shape.width.kernel == 1 && time.stride == 1 &&
              2 * time.padding == time.reach() && time.padding <= kMaxHalf &&
              tile_size(call, Wide128::kRows) >= kLeastTile && call.in_stride % kChunk == 0 &&
              call.out_stride % kChunk == 0 && aligned(call.copy_in) && aligned(call.copy_out) &&
              sizeof(Shared<Wide128>) <= device.shared_memory;
  for (int i = 0; good && i < call.steps; ++i) {
    good = aligned(call.step[i].in) && aligned(call.step[i].out);
  }
  return good;
}

cudaError_t res2_s8(const Res2S8& call, const Launch& launch) {
  if (!supports(call, *launch.device)) return cudaErrorInvalidValue;
  // Few frames: smaller tiles, for more blocks; many: larger ones, for less is computed twice.
  const bool small =
      tile_size(call, Wide64::kRows) >= kLeastTile &&
      tile_bound(call.frames, tile_size(call, Wide128::kRows)) < launch.device->multiprocessors;
  if (call.shape.c_in > Narrow128::kColumns) {
    return small ? launch_chain<Wide64>("res2_s8/64x128", call, launch)
                 : launch_chain<Wide128>("res2_s8/128x128", call, launch);
  }
  return small ? launch_chain<Narrow64>("res2_s8/64x64", call, launch)
               : launch_chain<Narrow128>("res2_s8/128x64", call, launch);
}

}  // namespace earmark::cuda
