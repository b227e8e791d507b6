// The logits of attentive pooling as int32 sums in registers: the hidden frames of one recording,
// 64 at a time, times a panel of the last layer's weights; of 16-bit layers, one product of planes
// after another.
#pragma once

#include <utility>

#include "cuda/gemm_s8.cuh"
#include "cuda/pooling.cuh"

namespace earmark::cuda {

using PoolTile = TileS8<64, 32, 32, 16>;

class PoolLogits {
 public:
  // Frames [first, first + length). `weight`: a panel's, of the first plane; the next planes'
  // follow `weight_plane` bytes apart.
  __device__ __forceinline__ PoolLogits(const Planes<const int8_t>& hidden, int channels,
                                        int64_t first, int length, const int8_t* weight, int depth,
                                        int weight_planes = 1, int64_t weight_plane = 0)
      : hidden_(hidden),
        channels_(channels),
        first_(first),
        length_(length),
        weight_(weight),
        depth_(depth),
        weight_planes_(weight_planes),
        weight_plane_(weight_plane),
        whole_(reinterpret_cast<uintptr_t>(hidden.high.data) % kChunk == 0 &&
               hidden.high.stride % kChunk == 0 && hidden.low % kChunk == 0) {}

  __device__ __forceinline__ int products() const { return hidden_.count() * weight_planes_; }

  // take(sums, first frame, product, stage) for all frames, PoolTile::kRows at a time, and of those
  // for each product: plane product / weight_planes of the frames with product % weight_planes of
  // the weights. Before, load_more(stage, first frame) may copy what the last `take` of these
  // frames reads. All threads call it together, and both are called by all together.
  template <class LoadMore, class Take>
  __device__ __forceinline__ void sweep(PoolTile::Stages& stages, const LoadMore& load_more,
                                        const Take& take) const {
    const Place end = {0, 0, ceil_div(length_, PoolTile::kRows) * PoolTile::kRows};
    Place next, at;
    int next_stage = 0, stage = 0;
    const auto load = [&] {
      if (next.begin < end.begin) {
        load_rows(stages.rows[next_stage], next);
        PoolTile::load_weights(stages.weights[next_stage],
                               weight_ + next.product % weight_planes_ * weight_plane_, depth_,
                               next.step);
        const int begin = next.begin;
        advance(next);
        if (next.begin != begin) load_more(next_stage, begin);
        next_stage = (next_stage + 1) % kStages;
      }
      commit_copies();
    };
    __syncthreads();  // a sweep before this one may still be reading
    for (int i = 0; i < kStages - 1; ++i) load();
    PoolTile tile;
    tile.clear();
    while (at.begin < end.begin) {
      wait_copies<kStages - 2>();
      __syncthreads();
      load();
      const int8_t* rows = stages.rows[stage];
      tile.multiply([&](int row, int chunk) { return rows + swizzled(row, chunk); },
                    stages.weights[stage]);
      const Place done = at;
      advance(at);
      if (at.step == 0) {
        take(tile, done.begin, done.product, stage);
        tile.clear();
      }
      stage = (stage + 1) % kStages;
    }
  }

  // body(c-th channel of the thread, frame, row of the tile, the sum among `sums`) for this
  // thread's logits that exist. `sums`: int32 or int64, as PoolTile has them.
  template <class Sums, class Body>
  __device__ __forceinline__ void for_each(int begin, const Sums& sums, const Body& body) const {
#pragma unroll
    for (int i = 0; i < PoolTile::kTilesDown; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = PoolTile::row_of(i, half);
        if (begin + row >= length_) continue;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          body(c, begin + row, row, sums[i][c / 2][2 * half + c % 2]);
        }
      }
    }
  }

  static constexpr int kColumns = 2 * PoolTile::kTilesAcross;  // channels of a thread
  // Channel of the tile that this thread's c-th sums belong to.
  static __device__ __forceinline__ int column_of(int c) {
    return PoolTile::column_of(c / 2) + c % 2;
  }

 private:
  struct Place {
    int step = 0, product = 0, begin = 0;
  };
  __device__ __forceinline__ void advance(Place& at) const {
    if (++at.step < depth_ / kDepth) return;
    at.step = 0;
    if (++at.product < products()) return;
    at.product = 0;
    at.begin += PoolTile::kRows;
  }

  // Bytes of a step of the hidden frames; nothing behind the last frame and the last channel.
  __device__ __forceinline__ void load_rows(int8_t* to, const Place& at) const {
    const Frames<const int8_t> hidden = hidden_.plane(at.product / weight_planes_);
#pragma unroll
    for (int i = 0; i < PoolTile::kRows * kChunks / PoolTile::kThreads; ++i) {
      const int index = i * PoolTile::kThreads + static_cast<int>(threadIdx.x);
      const int row = index / kChunks, chunk = index % kChunks;
      const int channel = at.step * kDepth + chunk * kChunk;
      const int rest = channels_ - channel;
      const int count = at.begin + row >= length_ || rest < 0 ? 0 : rest < kChunk ? rest : kChunk;
      const int8_t* from = hidden.data;
      if (count != 0) from += (first_ + at.begin + row) * hidden.stride + channel;
      int8_t* place = to + swizzled(row, chunk);
      if (whole_) {
        copy_async_16(place, from, count);
      } else {
        for (int k = 0; k < kChunk; ++k) place[k] = k < count ? from[k] : 0;
      }
    }
  }

  const Planes<const int8_t> hidden_;
  const int channels_;
  const int64_t first_;
  const int length_;
  const int8_t* const weight_;
  const int depth_;
  const int weight_planes_;
  const int64_t weight_plane_;
  const bool whole_;
};

// The maximum of each channel over all threads of the block that have it, by all of them.
template <class T>
struct ColumnMaximum {
  T of_warp[PoolTile::kWarpsDown][PoolTile::kColumns];

  __device__ __forceinline__ void share(T (&maximum)[PoolLogits::kColumns]) {
    const int warp_down = static_cast<int>(threadIdx.x / 32) % PoolTile::kWarpsDown;
#pragma unroll
    for (int c = 0; c < PoolLogits::kColumns; ++c) {
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2) {
        const T other = __shfl_xor_sync(0xffffffffu, maximum[c], lanes);
        maximum[c] = other > maximum[c] ? other : maximum[c];
      }
      if (threadIdx.x % 32 < 4) of_warp[warp_down][PoolLogits::column_of(c)] = maximum[c];
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < PoolLogits::kColumns; ++c) {
#pragma unroll
      for (int w = 0; w < PoolTile::kWarpsDown; ++w) {
        const T other = of_warp[w][PoolLogits::column_of(c)];
        maximum[c] = other > maximum[c] ? other : maximum[c];
      }
    }
  }
};

template <class Call>
using PoolKernel = void (*)(Call, int tiles);

// Launches the kernel of the call's softmax. Of each: its name and itself.
template <class Call>
cudaError_t launch_pool(const Call& call, const Launch& launch, size_t shared_bytes,
                        std::pair<const char*, PoolKernel<Call>> exact,
                        std::pair<const char*, PoolKernel<Call>> pwl,
                        std::pair<const char*, PoolKernel<Call>> table) {
  using Kind = SoftmaxFunction::Kind;
  if (call.softmax.pwl.count >= kMaxPieces) return cudaErrorInvalidValue;
  const Kind kind = call.softmax.kind;
  const auto& [name, kernel] = kind == Kind::kExact ? exact : kind == Kind::kPwl ? pwl : table;
  const int tiles = ceil_div(call.channels, PoolTile::kColumns);
  return launch_kernel(name, kernel, dim3(static_cast<unsigned>(tiles) * call.frames.recordings),
                       dim3(PoolTile::kThreads), shared_bytes, launch, call, tiles);
}

}  // namespace earmark::cuda
