// A block takes some channels of one recording through all of its frames. The logits of 64 frames
// at a time lie in the registers of the matrix product, and each thread weighs its own with the
// values of the same frames and channels, copied beside the product; it keeps its sums to the end.
#include "cuda/attentive_pool_s8.h"
#include "cuda/pool_logits.cuh"
#include "cuda/ragged.cuh"

namespace earmark::cuda {
namespace {

using Tile = PoolTile;

constexpr int kTileColumns = PoolLogits::kColumns;

// Bytes of a frame's values: eight frames meet no bank twice.
constexpr int kValuePitch = Tile::kColumns + kChunk;

struct Shared {
  Tile::Stages stages;
  alignas(16) int8_t values[kStages][Tile::kRows * kValuePitch];
  PiecesInShared pieces;
  ColumnMaximum<int32_t> maximum;
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
        length_(call.frames.count(recording)),
        whole_values_(reinterpret_cast<uintptr_t>(call.values.data) % kChunk == 0 &&
                      call.values.stride % kChunk == 0),
        logits_({call.hidden}, call.hidden_channels, first_, length_,
                call.weights.weight + static_cast<int64_t>(channel) * call.weights.depth,
                call.weights.depth),
        pwl_(shared.pieces.copy(call.softmax.pwl)) {
#pragma unroll
    for (int c = 0; c < kTileColumns; ++c) {
      s0_[c] = s1_[c] = s2_[c] = 0;
      maximum_[c] = INT32_MIN;
      const int at = channel_ + PoolLogits::column_of(c);
      multiplier_[c] = call.multiplier[at];
      offset_[c] = kKind == SoftmaxFunction::Kind::kExact ? 0.0f : call.offset[at];
      initial_[c] = kKind == SoftmaxFunction::Kind::kExact ? 0 : call.initial[at];
    }
  }

  __device__ void run() {
    if constexpr (kKind == SoftmaxFunction::Kind::kExact) {
      logits_.sweep(
          shared_.stages, [](int, int) {},
          [&](const Tile& tile, int begin, int, int) { take_maximum(tile, begin); });
      shared_.maximum.share(maximum_);
    }
    logits_.sweep(
        shared_.stages, [&](int stage, int begin) { load_values(shared_.values[stage], begin); },
        [&](const Tile& tile, int begin, int, int stage) {
          take_moments(tile, begin, shared_.values[stage]);
        });
    finish();
  }

 private:
  __device__ __forceinline__ void take_maximum(const Tile& tile, int begin) {
    logits_.for_each(begin, tile.sums, [&](int c, int, int, int32_t sum) {
      maximum_[c] = sum > maximum_[c] ? sum : maximum_[c];
    });
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

  // The tile's channels of its frames. What is no value, and then no result, is 0.
  __device__ __forceinline__ void load_values(int8_t* to, int begin) {
    constexpr int kAcross = Tile::kColumns / kChunk;
    static_assert(kAcross * Tile::kRows == Tile::kThreads);
    const int row = static_cast<int>(threadIdx.x) / kAcross;
    const int column = static_cast<int>(threadIdx.x) % kAcross * kChunk;
    const int rest = call_.channels - channel_ - column;
    const int count = begin + row >= length_ || rest < 0 ? 0 : rest < kChunk ? rest : kChunk;
    const int8_t* from = call_.values.data;
    if (count != 0) from += (first_ + begin + row) * call_.values.stride + channel_ + column;
    int8_t* place = to + row * kValuePitch + column;
    if (whole_values_) {
      copy_async_16(place, from, count);
    } else {
      for (int k = 0; k < kChunk; ++k) place[k] = k < count ? from[k] : 0;
    }
  }

  __device__ __forceinline__ void take_moments(const Tile& tile, int begin, const int8_t* values) {
    logits_.for_each(begin, tile.sums, [&](int c, int, int row, int32_t sum) {
      const int q = values[row * kValuePitch + PoolLogits::column_of(c)];
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
      add_to(&shared_.moments[0][PoolLogits::column_of(c)], s0_[c]);
      add_to(&shared_.moments[1][PoolLogits::column_of(c)], s1_[c]);
      add_to(&shared_.moments[2][PoolLogits::column_of(c)], s2_[c]);
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
  const bool whole_values_;
  const PoolLogits logits_;
  const PiecewiseLinear pwl_;
  float multiplier_[kTileColumns], offset_[kTileColumns];
  int32_t initial_[kTileColumns], maximum_[kTileColumns];
  int64_t s0_[kTileColumns], s1_[kTileColumns], s2_[kTileColumns];
};

template <SoftmaxFunction::Kind kKind>
__global__ void __launch_bounds__(Tile::kThreads, 5)
    attentive_pool_s8_kernel(const AttentivePoolS8 call, int tiles) {
  auto& shared = shared_memory<Shared>();
  const int recording = static_cast<int>(blockIdx.x) / tiles;
  const int channel = static_cast<int>(blockIdx.x) % tiles * Tile::kColumns;
  Pooling<kKind>(call, shared, recording, channel).run();
}

}  // namespace

cudaError_t attentive_pool_s8(const AttentivePoolS8& call, const Launch& launch) {
  using Kind = SoftmaxFunction::Kind;
  return launch_pool<AttentivePoolS8>(
      call, launch, sizeof(Shared),
      {"attentive_pool_s8/exact", attentive_pool_s8_kernel<Kind::kExact>},
      {"attentive_pool_s8/pwl", attentive_pool_s8_kernel<Kind::kPwl>},
      {"attentive_pool_s8/table", attentive_pool_s8_kernel<Kind::kTable>});
}

}  // namespace earmark::cuda
