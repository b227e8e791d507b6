// As attentive_pool_s8.cu, with one difference: the sums' order is the order of time. The block
// leaves the numerators of 64 frames in shared memory; then a warp for each of the three moments
// adds them up, a lane a channel.
#include "cuda/attentive_pool_s16.h"
#include "cuda/planes.cuh"
#include "cuda/pool_logits.cuh"

namespace earmark::cuda {
namespace {

using Tile = PoolTile;

constexpr int kTileColumns = PoolLogits::kColumns;
static_assert(Tile::kColumns == 32 && Tile::kThreads >= 3 * 32, "a warp takes a moment");

struct Shared {
  Tile::Stages stages;
  PiecesInShared pieces;
  ColumnMaximum<float> maximum;
  int32_t numerators[Tile::kRows][Tile::kColumns + 1];
  double moments[3][Tile::kColumns];
};

template <SoftmaxFunction::Kind kKind>
class Pooling {
 public:
  __device__ __forceinline__ Pooling(const AttentivePoolS16& call, Shared& shared, int recording,
                                     int channel)
      : call_(call),
        shared_(shared),
        recording_(recording),
        channel_(channel),
        first_(call.frames.offsets[recording]),
        length_(call.frames.count(recording)),
        logits_(call.hidden, call.hidden_channels, first_, length_,
                call.weights.weight + static_cast<int64_t>(channel) * call.weights.depth,
                call.weights.depth, call.weights.planes,
                static_cast<int64_t>(padded_channels(call.channels)) * call.weights.depth),
        pwl_(shared.pieces.copy(call.softmax.pwl)) {
#pragma unroll
    for (int c = 0; c < kTileColumns; ++c) {
      const int at = channel_ + PoolLogits::column_of(c);
      maximum_[c] = -__builtin_inff();
      multiplier_[c] = call.multiplier[at];
      offset_[c] = call.offset[at];
      initial_[c] = call.weights.initial[at];
    }
  }

  __device__ void run() {
    if constexpr (kKind == SoftmaxFunction::Kind::kExact) {
      sweep([&](int begin) {
        logits_.for_each(begin, total_.sums, [&](int c, int, int, int64_t sum) {
          const float v = logit(c, sum);
          maximum_[c] = v > maximum_[c] ? v : maximum_[c];
        });
      });
      shared_.maximum.share(maximum_);
    }
    sweep([&](int begin) {
      logits_.for_each(begin, total_.sums, [&](int c, int, int row, int64_t sum) {
        shared_.numerators[row][PoolLogits::column_of(c)] = numerator(c, logit(c, sum));
      });
      // Those before have been read: a barrier of the sweep lies between.
      __syncthreads();
      add_moments(begin);
    });
    finish();
  }

 private:
  // take(first frame) with the sums of the products in total_.
  template <class Take>
  __device__ __forceinline__ void sweep(const Take& take) {
    const auto add = [&](const Tile& tile, int begin, int product, int) {
      const int a = product / call_.weights.planes, b = product % call_.weights.planes;
      total_.add(tile, plane_factor(call_.hidden.count(), a, call_.weights.planes, b),
                 product == 0);
      if (product == logits_.products() - 1) take(begin);
    };
    logits_.sweep(shared_.stages, [](int, int) {}, add);
  }

  __device__ __forceinline__ float logit(int c, int64_t sum) const {
    return scaled_sum(static_cast<float>(sum + initial_[c]), multiplier_[c], offset_[c], false);
  }

  __device__ __forceinline__ int32_t numerator(int c, float v) const {
    if constexpr (kKind == SoftmaxFunction::Kind::kExact) return exp_numerator(v - maximum_[c]);
    if constexpr (kKind == SoftmaxFunction::Kind::kPwl) return pwl_numerator<-1>(pwl_, v);
    return table_numerator(call_.softmax.table, v);
  }

  // Sums of e, e * x and (e * x) * x over the frames from `begin` on.
  __device__ __forceinline__ void add_moments(int begin) {
    const int moment = static_cast<int>(threadIdx.x / 32), column = threadIdx.x % 32;
    if (moment >= 3 || channel_ + column >= call_.channels) return;
    const int rows = length_ - begin < Tile::kRows ? length_ - begin : Tile::kRows;
    const float* x = call_.values.data + (first_ + begin) * call_.values.stride + channel_ + column;
#pragma unroll 8
    for (int row = 0; row < rows; ++row) {
      const double v = x[row * call_.values.stride];
      double term = shared_.numerators[row][column];
      if (moment >= 1) term *= v;
      if (moment == 2) term *= v;
      moment_ += term;
    }
  }

  __device__ __forceinline__ void finish() {
    const int moment = static_cast<int>(threadIdx.x / 32), column = threadIdx.x % 32;
    if (moment < 3) shared_.moments[moment][column] = moment_;
    __syncthreads();
    if (moment != 0 || channel_ + column >= call_.channels) return;
    const Moments m = weighted_moments(shared_.moments[0][column], shared_.moments[1][column],
                                       shared_.moments[2][column], 0.0, call_.min_variance);
    float* out = call_.out.data + recording_ * call_.out.stride + channel_ + column;
    out[0] = m.mean;
    out[call_.channels] = m.deviation;
  }

  const AttentivePoolS16& call_;
  Shared& shared_;
  const int recording_, channel_;
  const int64_t first_;
  const int length_;
  const PoolLogits logits_;
  const PiecewiseLinear pwl_;
  PlaneSums<Tile> total_;
  float multiplier_[kTileColumns], offset_[kTileColumns], maximum_[kTileColumns];
  int64_t initial_[kTileColumns];
  double moment_ = 0.0;  // that this thread's warp takes, of its lane's channel
};

template <SoftmaxFunction::Kind kKind>
__global__ void __launch_bounds__(Tile::kThreads, 3)
    attentive_pool_s16_kernel(const AttentivePoolS16 call, int tiles) {
  auto& shared = shared_memory<Shared>();
  const int recording = static_cast<int>(blockIdx.x) / tiles;
  const int channel = static_cast<int>(blockIdx.x) % tiles * Tile::kColumns;
  Pooling<kKind>(call, shared, recording, channel).run();
}

}  // namespace

cudaError_t attentive_pool_s16(const AttentivePoolS16& call, const Launch& launch) {
  using Kind = SoftmaxFunction::Kind;
  return launch_pool<AttentivePoolS16>(
      call, launch, sizeof(Shared),
      {"attentive_pool_s16/exact", attentive_pool_s16_kernel<Kind::kExact>},
      {"attentive_pool_s16/pwl", attentive_pool_s16_kernel<Kind::kPwl>},
      {"attentive_pool_s16/table", attentive_pool_s16_kernel<Kind::kTable>});
}

}  // namespace earmark::cuda
