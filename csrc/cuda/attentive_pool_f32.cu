// A block takes 32 channels of one recording through all of its frames, 64 at a time; a thread has
// one channel of every 8th frame.
#include "cuda/attentive_pool_f32.h"
#include "cuda/launch.cuh"
#include "cuda/pooling.cuh"

namespace earmark::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChannels = 32;
constexpr int kFrames = 64;
constexpr int kInputs = 32;
constexpr int kRows = kThreads / kChannels;
constexpr int kEach = kFrames / kRows;  // frames of a thread

struct Shared {
  float hidden[kFrames][kInputs];
  float weight[kInputs][kChannels];
  PiecesInShared pieces;
  float maximum[kRows][kChannels];
  double moments[3][kRows][kChannels];
};

class Pooling {
 public:
  __device__ __forceinline__ Pooling(const AttentivePoolF32& call, Shared& shared, int recording,
                                     int channel)
      : call_(call),
        shared_(shared),
        recording_(recording),
        channel_(channel),
        column_(static_cast<int>(threadIdx.x) % kChannels),
        row_(static_cast<int>(threadIdx.x) / kChannels),
        first_(call.frames.offsets[recording]),
        length_(call.frames.count(recording)),
        pwl_(shared.pieces.copy(call.softmax.pwl)) {}

  __device__ void run() {
    if (call_.softmax.kind == SoftmaxFunction::Kind::kExact) {
      maximum_ = -__builtin_inff();
      sweep([&](int, float logit) { maximum_ = logit > maximum_ ? logit : maximum_; });
      shared_.maximum[row_][column_] = maximum_;
      __syncthreads();
      for (int r = 0; r < kRows; ++r) {
        const float other = shared_.maximum[r][column_];
        maximum_ = other > maximum_ ? other : maximum_;
      }
    }
    double s0 = 0.0, s1 = 0.0, s2 = 0.0;
    sweep([&](int frame, float logit) {
      if (channel_ + column_ >= call_.channels) return;
      const double w = numerator(logit);
      const double v =
          call_.values.data[(first_ + frame) * call_.values.stride + channel_ + column_];
      s0 += w;
      s1 += w * v;
      s2 += w * v * v;
    });
    shared_.moments[0][row_][column_] = s0;
    shared_.moments[1][row_][column_] = s1;
    shared_.moments[2][row_][column_] = s2;
    __syncthreads();
    if (row_ != 0 || channel_ + column_ >= call_.channels) return;
    for (int r = 1; r < kRows; ++r) {
      s0 += shared_.moments[0][r][column_];
      s1 += shared_.moments[1][r][column_];
      s2 += shared_.moments[2][r][column_];
    }
    const Moments m = weighted_moments(s0, s1, s2, 0.0, call_.min_variance);
    float* out = call_.out.data + recording_ * call_.out.stride + channel_ + column_;
    out[0] = m.mean;
    out[call_.channels] = m.deviation;
  }

 private:
  // take(frame, logit) for this thread's frames and channel.
  template <class Take>
  __device__ __forceinline__ void sweep(const Take& take) {
    const int outputs = padded_channels(call_.channels);
    for (int begin = 0; begin < length_; begin += kFrames) {
      float logits[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) logits[i] = 0.0f;
      for (int k = 0; k < call_.hidden_channels; k += kInputs) {
        __syncthreads();  // what is overwritten has been read
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          const int row = row_ + kRows * i;
          const bool there = begin + row < length_ && k + column_ < call_.hidden_channels;
          shared_.hidden[row][column_] =
              there ? call_.hidden.data[(first_ + begin + row) * call_.hidden.stride + k + column_]
                    : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < kInputs / kRows; ++i) {
          const int from = row_ + kRows * i;
          shared_.weight[from][column_] =
              k + from < call_.hidden_channels
                  ? call_.weight[static_cast<int64_t>(k + from) * outputs + channel_ + column_]
                  : 0.0f;
        }
        __syncthreads();
#pragma unroll 8
        for (int j = 0; j < kInputs; ++j) {
          const float w = shared_.weight[j][column_];
#pragma unroll
          for (int i = 0; i < kEach; ++i) {
            logits[i] = multiply_add(shared_.hidden[row_ + kRows * i][j], w, logits[i]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int frame = begin + row_ + kRows * i;
        if (frame < length_) take(frame, logits[i] + call_.offset[channel_ + column_]);
      }
    }
  }

  __device__ __forceinline__ float numerator(float logit) const {
    switch (call_.softmax.kind) {
      case SoftmaxFunction::Kind::kPwl:
        return pwl_f32<-1>(pwl_, logit);
      case SoftmaxFunction::Kind::kTable: {
        const LookupTable& table = call_.softmax.table;
        return table_value(table, logit * table.scale + table.offset);
      }
      default:
        return exp_f32(logit - maximum_);
    }
  }

  const AttentivePoolF32& call_;
  Shared& shared_;
  const int recording_, channel_, column_, row_;
  const int64_t first_;
  const int length_;
  const PiecewiseLinear pwl_;
  float maximum_ = 0.0f;
};

__global__ void __launch_bounds__(kThreads, 2)
    attentive_pool_f32_kernel(const AttentivePoolF32 call, int tiles) {
  const int recording = static_cast<int>(blockIdx.x) / tiles;
  const int channel = static_cast<int>(blockIdx.x) % tiles * kChannels;
  Pooling(call, shared_memory<Shared>(), recording, channel).run();
}

}  // namespace

cudaError_t attentive_pool_f32(const AttentivePoolF32& call, const Launch& launch) {
  if (call.softmax.pwl.count >= kMaxPieces) return cudaErrorInvalidValue;
  const int tiles = ceil_div(call.channels, kChannels);
  return launch_kernel("attentive_pool_f32", attentive_pool_f32_kernel,
                       dim3(static_cast<unsigned>(tiles) * call.frames.recordings), dim3(kThreads),
                       sizeof(Shared), launch, call, tiles);
}

}  // namespace earmark::cuda
