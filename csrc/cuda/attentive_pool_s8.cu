// A block takes some channels of one recording through all of its frames. The logits of 64 frames
// at a time lie in the registers of the matrix product, and each thread weighs its own with the
// values of the same frames and channels; it keeps its sums to the end.
#include "cuda/attentive_pool_s8.h"
#include "cuda/gemm_s8.cuh"
#include "cuda/pooling.cuh"
#include "cuda/ragged.cuh"

namespace earmark::cuda {
namespace {

using Tile = TileS8<64, 32, 32, 16>;

constexpr int kTileColumns = 2 * Tile::kTilesAcross;  // channels of a thread

struct Shared {
  Tile::Stages stages;
  PiecesInShared pieces;
  int32_t maximum[Tile::kWarpsDown][Tile::kColumns];
  int64_t moments[3][Tile::kColumns];
};

template <SoftmaxFunction::Kind kKind>
class Pooling {
 public:
  __device__ __forceinline__ Pooling(const AttentivePoolS8& call, Shared& shared, int recording,
                                     int channel)
      : call_(call),
        shared_(shared),
        recording_(recording),
        channel_(channel),
        first_(call.frames.offsets[recording]),
        length_(call.frames.offsets[recording + 1] - first_),
        depth_steps_(call.weights.depth / kDepth),
        whole_(reinterpret_cast<uintptr_t>(call.hidden.data) % kChunk == 0 &&
               call.hidden.stride % kChunk == 0),
        pwl_(shared.pieces.copy(call.softmax.pwl)) {
#pragma unroll
    for (int c = 0; c < kTileColumns; ++c) {
      s0_[c] = s1_[c] = s2_[c] = 0;
      maximum_[c] = INT32_MIN;
      const int at = channel_ + column_of(c);
      multiplier_[c] = call.multiplier[at];
      offset_[c] = kKind == SoftmaxFunction::Kind::kExact ? 0.0f : call.offset[at];
      initial_[c] = kKind == SoftmaxFunction::Kind::kExact ? 0 : call.initial[at];
    }
  }

  __device__ void run() {
    if constexpr (kKind == SoftmaxFunction::Kind::kExact) {
      sweep([&](const Tile& tile, int begin) { take_maximum(tile, begin); });
      share_maximum();
    }
    sweep([&](const Tile& tile, int begin) { take_moments(tile, begin); });
    finish();
  }

 private:
  // Channel of the tile that this thread's c-th sums belong to.
  static __device__ __forceinline__ int column_of(int c) { return Tile::column_of(c / 2) + c % 2; }

  // take(logits, first frame) for all frames, kRows at a time. One pipeline of copies.
  template <class Take>
  __device__ __forceinline__ void sweep(const Take& take) {
    const int total = ceil_div(length_, Tile::kRows) * depth_steps_;
    const auto load = [&](int at) {
      if (at < total) {
        const int begin = at / depth_steps_ * Tile::kRows, step = at % depth_steps_;
        load_rows(shared_.stages.rows[at % kStages], begin, step);
        Tile::load_weights(
            shared_.stages.weights[at % kStages],
            call_.weights.weight + static_cast<int64_t>(channel_) * call_.weights.depth,
            call_.weights.depth, step);
      }
      commit_copies();
    };
    __syncthreads();  // a sweep before this one may still be reading
    for (int i = 0; i < kStages - 1; ++i) load(i);
    Tile tile;
    tile.clear();
    for (int at = 0; at < total; ++at) {
      wait_copies<kStages - 2>();
      __syncthreads();
      load(at + kStages - 1);
      const int8_t* rows = shared_.stages.rows[at % kStages];
      tile.multiply([&](int row, int chunk) { return rows + swizzled(row, chunk); },
                    shared_.stages.weights[at % kStages]);
      if (at % depth_steps_ == depth_steps_ - 1) {
        take(tile, at / depth_steps_ * Tile::kRows);
        tile.clear();
      }
    }
  }

  // Bytes of a step of the hidden frames; nothing behind the last frame and the last channel.
  __device__ __forceinline__ void load_rows(int8_t* to, int begin, int step) {
#pragma unroll
    for (int i = 0; i < Tile::kRows * kChunks / Tile::kThreads; ++i) {
      const int index = i * Tile::kThreads + static_cast<int>(threadIdx.x);
      const int row = index / kChunks, chunk = index % kChunks;
      const int channel = step * kDepth + chunk * kChunk;
      const int rest = call_.hidden_channels - channel;
      const int count = begin + row >= length_ || rest < 0 ? 0 : rest < kChunk ? rest : kChunk;
      const int8_t* from = call_.hidden.data;
      if (count != 0) from += (first_ + begin + row) * call_.hidden.stride + channel;
      int8_t* place = to + swizzled(row, chunk);
      if (whole_) {
        copy_async_16(place, from, count);
      } else {
        for (int k = 0; k < kChunk; ++k) place[k] = k < count ? from[k] : 0;
      }
    }
  }

  // body(c-th channel of the thread, frame, sum) for this thread's logits.
  template <class Body>
  __device__ __forceinline__ void for_logits(const Tile& tile, int begin, const Body& body) {
#pragma unroll
    for (int i = 0; i < Tile::kTilesDown; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int frame = begin + Tile::row_of(i, half);
        if (frame >= length_) continue;
#pragma unroll
        for (int c = 0; c < kTileColumns; ++c) {
          body(c, frame, tile.sums[i][c / 2][2 * half + c % 2]);
        }
      }
    }
  }

  __device__ __forceinline__ void take_maximum(const Tile& tile, int begin) {
    for_logits(tile, begin, [&](int c, int, int32_t sum) {
      maximum_[c] = sum > maximum_[c] ? sum : maximum_[c];
    });
  }

  // Of all threads that have the channel.
  __device__ __forceinline__ void share_maximum() {
    const int warp_down = static_cast<int>(threadIdx.x / 32) % Tile::kWarpsDown;
#pragma unroll
    for (int c = 0; c < kTileColumns; ++c) {
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2) {
        const int32_t other = __shfl_xor_sync(0xffffffffu, maximum_[c], lanes);
        maximum_[c] = other > maximum_[c] ? other : maximum_[c];
      }
      if (threadIdx.x % 32 < 4) shared_.maximum[warp_down][column_of(c)] = maximum_[c];
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < kTileColumns; ++c) {
#pragma unroll
      for (int w = 0; w < Tile::kWarpsDown; ++w) {
        const int32_t other = shared_.maximum[w][column_of(c)];
        maximum_[c] = other > maximum_[c] ? other : maximum_[c];
      }
    }
  }

  __device__ __forceinline__ int32_t numerator(int c, int32_t sum) const {
    if constexpr (kKind == SoftmaxFunction::Kind::kExact) {
      // Where the sums start cancels.
      return exp_numerator(static_cast<float>(sum - maximum_[c]) * multiplier_[c]);
    } else {
      const float v = static_cast<float>(sum + initial_[c]) * multiplier_[c] + offset_[c];
      if constexpr (kKind == SoftmaxFunction::Kind::kPwl) return pwl_numerator<-1>(pwl_, v);
      return table_numerator(call_.softmax.table, v);
    }
  }

  __device__ __forceinline__ void take_moments(const Tile& tile, int begin) {
    for_logits(tile, begin, [&](int c, int frame, int32_t sum) {
      const int channel = channel_ + column_of(c);
      if (channel >= call_.channels) return;
      const int q = call_.values.data[(first_ + frame) * call_.values.stride + channel];
      const int64_t e = numerator(c, sum);
      s0_[c] += e;
      s1_[c] += e * q;
      s2_[c] += e * (q * q);
    });
  }

  __device__ __forceinline__ void finish() {
    __syncthreads();
    for (int i = threadIdx.x; i < 3 * Tile::kColumns; i += Tile::kThreads) {
      shared_.moments[i / Tile::kColumns][i % Tile::kColumns] = 0;
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < kTileColumns; ++c) {
      add_to(&shared_.moments[0][column_of(c)], s0_[c]);
      add_to(&shared_.moments[1][column_of(c)], s1_[c]);
      add_to(&shared_.moments[2][column_of(c)], s2_[c]);
    }
    __syncthreads();
    const int column = threadIdx.x, channel = channel_ + column;
    if (column >= Tile::kColumns || channel >= call_.channels) return;
    double zero = call_.value_zero, min_variance = call_.min_variance;
    float unit = 1.0f;
    if (call_.found.data != nullptr) {
      const FoundQuantization found = found_of(call_.found, recording_);
      unit = found.scale;
      zero = zero_u8(found) - 128;
      min_variance /= static_cast<double>(found.scale) * static_cast<double>(found.scale);
    } else {
      unit = call_.value_multiplier[channel];
    }
    const Moments m =
        weighted_moments(static_cast<double>(shared_.moments[0][column]),
                         static_cast<double>(shared_.moments[1][column]),
                         static_cast<double>(shared_.moments[2][column]), zero, min_variance);
    float* out = call_.out.data + recording_ * call_.out.stride + channel;
    out[0] = m.mean * unit;
    out[call_.channels] = m.deviation * unit;
  }

  const AttentivePoolS8& call_;
  Shared& shared_;
  const int recording_, channel_;
  const int64_t first_;
  const int length_;
  const int depth_steps_;
  const bool whole_;
  const PiecewiseLinear pwl_;
  float multiplier_[kTileColumns], offset_[kTileColumns];
  int32_t initial_[kTileColumns], maximum_[kTileColumns];
  int64_t s0_[kTileColumns], s1_[kTileColumns], s2_[kTileColumns];
};

template <SoftmaxFunction::Kind kKind>
__global__ void __launch_bounds__(Tile::kThreads)
    attentive_pool_s8_kernel(const AttentivePoolS8 call, int tiles) {
  auto& shared = shared_memory<Shared>();
  const int recording = static_cast<int>(blockIdx.x) / tiles;
  const int channel = static_cast<int>(blockIdx.x) % tiles * Tile::kColumns;
  Pooling<kKind>(call, shared, recording, channel).run();
}

}  // namespace

cudaError_t attentive_pool_s8(const AttentivePoolS8& call, const Launch& launch) {
  using Kind = SoftmaxFunction::Kind;
  const int tiles = ceil_div(call.channels, Tile::kColumns);
  const dim3 grid(static_cast<unsigned>(tiles) * call.frames.recordings), block(Tile::kThreads);
  switch (call.softmax.kind) {
    case Kind::kExact:
      return launch_kernel("attentive_pool_s8/exact", attentive_pool_s8_kernel<Kind::kExact>, grid,
                           block, sizeof(Shared), launch, call, tiles);
    case Kind::kPwl:
      if (call.softmax.pwl.count >= kMaxPieces) return cudaErrorInvalidValue;
      return launch_kernel("attentive_pool_s8/pwl", attentive_pool_s8_kernel<Kind::kPwl>, grid,
                           block, sizeof(Shared), launch, call, tiles);
    case Kind::kTable:
      return launch_kernel("attentive_pool_s8/table", attentive_pool_s8_kernel<Kind::kTable>, grid,
                           block, sizeof(Shared), launch, call, tiles);
  }
  return cudaErrorInvalidValue;
}

}  // namespace earmark::cuda
