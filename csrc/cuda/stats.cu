// A block takes a few channels of one recording; its threads share out the positions.
#include "cuda/elementwise.cuh"
#include "cuda/pooling.cuh"
#include "cuda/stats.h"

namespace earmark::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kFloatThreads = 64;
constexpr int kGroups = 4;  // of channels, side by side

template <int kCount>
struct Shared {
  int64_t s1[kGroups * kCount], s2[kGroups * kCount];
};

template <int kCount>
__global__ void __launch_bounds__(kThreads) stats_s8_kernel(const StatsS8 call, int blocks) {
  auto& shared = shared_memory<Shared<kCount>>();
  const int recording = static_cast<int>(blockIdx.x) / blocks;
  const int first_channel = static_cast<int>(blockIdx.x) % blocks * kGroups * kCount;
  const int width = call.in.width;
  const int64_t first = static_cast<int64_t>(call.frames.offsets[recording]) * width;
  const int64_t count = static_cast<int64_t>(call.frames.count(recording)) * width;
  for (int i = threadIdx.x; i < kGroups * kCount; i += kThreads) shared.s1[i] = shared.s2[i] = 0;
  __syncthreads();

  const int group = static_cast<int>(threadIdx.x) % kGroups * kCount;
  const int rest = call.channels - first_channel - group;
  if (rest > 0) {
    int32_t s1[kCount];  // 2^24 positions of 128 fit
    int64_t s2[kCount];
#pragma unroll
    for (int c = 0; c < kCount; ++c) s1[c] = 0, s2[c] = 0;
    const int8_t* in = call.in.data + first * call.in.stride + first_channel + group;
    for (int64_t i = threadIdx.x / kGroups; i < count; i += kThreads / kGroups) {
      Channels<int8_t, kCount> q;
      q.load(in + i * call.in.stride, rest < kCount ? rest : kCount);
#pragma unroll
      for (int c = 0; c < kCount; ++c) {
        s1[c] += q.value[c];
        s2[c] += q.value[c] * q.value[c];
      }
    }
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      add_to(&shared.s1[group + c], s1[c]);
      add_to(&shared.s2[group + c], s2[c]);
    }
  }
  __syncthreads();

  for (int c = threadIdx.x; c < kGroups * kCount; c += kThreads) {
    const int channel = first_channel + c;
    if (channel >= call.channels) continue;
    const int64_t s1 = shared.s1[c], s2 = shared.s2[c];
    const double n = static_cast<double>(count);
    const float unit = call.multiplier[channel];
    float* out = call.out.data + recording * call.out.stride + channel;
    out[0] =
        static_cast<float>(static_cast<double>(s1) / n - static_cast<double>(call.zero)) * unit;
    if (!call.std) continue;
    const double scaled = static_cast<double>(count * s2 - s1 * s1);
    out[call.channels] = static_cast<float>(call.variance.deviation(scaled, count)) * unit;
  }
}

// One thread a channel, for the order of the sum is the order of time.
__global__ void __launch_bounds__(kFloatThreads) stats_f32_kernel(const StatsF32 call) {
  const int channel = static_cast<int>(blockIdx.x * kFloatThreads + threadIdx.x);
  const int recording = static_cast<int>(blockIdx.y);
  if (channel >= call.channels) return;
  const int64_t first = static_cast<int64_t>(call.frames.offsets[recording]) * call.in.width;
  const int64_t end = first + static_cast<int64_t>(call.frames.count(recording)) * call.in.width;
  double s1 = 0.0, s2 = 0.0;
#pragma unroll 8  // so many reads are under way at once
  for (int64_t i = first; i < end; ++i) {
    const double v = call.in.data[i * call.in.stride + channel];
    s1 += v;
    s2 += v * v;
  }
  const double n = static_cast<double>(end - first);
  float* out = call.out.data + recording * call.out.stride + channel;
  out[0] = static_cast<float>(s1 / n);
  if (!call.std) return;
  const double scaled = n * s2 - s1 * s1;
  out[call.channels] = static_cast<float>(call.variance.deviation(scaled, end - first));
}

template <int kCount>
cudaError_t launch_s8(const char* name, const StatsS8& call, const Launch& launch) {
  const int blocks = ceil_div(call.channels, kGroups * kCount);
  return launch_kernel(name, stats_s8_kernel<kCount>,
                       dim3(static_cast<unsigned>(blocks) * call.frames.recordings), dim3(kThreads),
                       sizeof(Shared<kCount>), launch, call, blocks);
}

}  // namespace

cudaError_t stats_s8(const StatsS8& call, const Launch& launch) {
  return aligned_to_vector(call.in) ? launch_s8<kVector>("stats_s8/16", call, launch)
                                    : launch_s8<1>("stats_s8/1", call, launch);
}

cudaError_t stats_f32(const StatsF32& call, const Launch& launch) {
  constexpr int kMaxBlocks = 65535;  // of a grid's second dimension
  if (call.frames.recordings > kMaxBlocks) return cudaErrorInvalidValue;
  const unsigned blocks = ceil_div(call.channels, kFloatThreads);
  return launch_kernel("stats_f32", stats_f32_kernel,
                       dim3(blocks, static_cast<unsigned>(call.frames.recordings)),
                       dim3(kFloatThreads), 0, launch, call);
}

}  // namespace earmark::cuda
