// Sums over the positions of a recording, by several blocks where there are few recordings; the
// last of them has the sums, and takes the two layers, whose vectors stay in shared memory.
#include <algorithm>

#include "cuda/dot_s8.cuh"
#include "cuda/elementwise.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/last_block.cuh"
#include "cuda/squeeze_excitation_s8.h"

namespace earmark::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kMaxParts = 16;        // blocks of a recording
constexpr int kLeastPositions = 16;  // of a block, on average

// Shared memory: int32 sums, then the quantized mean, then the quantized hidden vector, each as
// long as the weights of the layer behind it; whether this block is the last.
struct Layout {
  int sums, squeezed, hidden;
  __host__ __device__ explicit Layout(const SqueezeExcitationS8& call)
      : sums(call.reduce.depth * 4), squeezed(call.reduce.depth), hidden(call.expand.depth) {}
  __host__ __device__ int bytes() const { return sums + squeezed + hidden + 16; }
};

int parts_of(const SqueezeExcitationS8& call, const Device& device) {
  const int recordings = std::max(1, call.frames.recordings);
  const int64_t positions = static_cast<int64_t>(call.frames.rows) * call.in.width / recordings;
  const int64_t most = std::min<int64_t>(kMaxParts, device.multiprocessors / recordings);
  return static_cast<int>(std::max<int64_t>(1, std::min(most, positions / kLeastPositions)));
}

// Sums over the positions, kCount channels a thread at a time.
template <int kCount>
__device__ __forceinline__ void add_positions(const SqueezeExcitationS8& call, int64_t first,
                                              int64_t count, int32_t* sums) {
  const int groups = ceil_div(call.channels, kCount);
  // As many threads as fit go side by side through the positions.
  const int across = groups < kThreads ? groups : kThreads;
  const int down = kThreads / across;
  const int column = static_cast<int>(threadIdx.x) % across;
  const int row = static_cast<int>(threadIdx.x) / across;
  if (row >= down) return;
  for (int g = column; g < groups; g += across) {
    const int rest = call.channels - g * kCount;
    int32_t sum[kCount];
#pragma unroll
    for (int c = 0; c < kCount; ++c) sum[c] = 0;
    for (int64_t i = row; i < count; i += down) {
      Channels<int8_t, kCount> q;
      q.load(call.in.data + (first + i) * call.in.stride + g * kCount,
             rest < kCount ? rest : kCount);
#pragma unroll
      for (int c = 0; c < kCount; ++c) sum[c] += q.value[c];
    }
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      if (c < rest) atomicAdd(sums + g * kCount + c, sum[c]);
    }
  }
}

__device__ __forceinline__ int8_t quantize(const Quantization& to, int channel, float v) {
  return requantize_s8(v * to.multiplier[channel] + to.offset[channel], to.zero + 128);
}

// store(output, v) for all outputs of a layer; 8 lanes a row of weights.
template <class Store>
__device__ __forceinline__ void multiply_vector(const int8_t* vector, const WeightsS8& weights,
                                                const EpilogueS8& e, int outputs,
                                                const Store& store) {
  constexpr int kLanes = 8;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int first = static_cast<int>(threadIdx.x) / kLanes;
  // Whole warps go round together, for the sum over lanes.
  for (int base = 0; base < outputs; base += kThreads / kLanes) {
    const int output = base + first;
    int32_t sum = 0;
    if (output < outputs) {
      const int8_t* weight = weights.weight + static_cast<int64_t>(output) * weights.depth;
#pragma unroll 4
      for (int k = lane * kChunk; k < weights.depth; k += kLanes * kChunk) {
        sum = dot_16(*reinterpret_cast<const int4*>(weight + k),
                     *reinterpret_cast<const int4*>(vector + k), sum);
      }
    }
    sum = sum_of_lanes<kLanes>(sum);
    if (output < outputs && lane == 0)
      store(output, real_value(e, output, static_cast<float>(e.initial[output] + sum)));
  }
}

template <int kCount>
__global__ void __launch_bounds__(kThreads)
    squeeze_excitation_s8_kernel(const SqueezeExcitationS8 call, int parts, int* workspace) {
  const Layout layout(call);
  int8_t* memory = &shared_memory<int8_t>();
  auto* sums = reinterpret_cast<int32_t*>(memory);
  int8_t* squeezed = memory + layout.sums;
  int8_t* hidden = squeezed + layout.squeezed;
  const int recording = static_cast<int>(blockIdx.x) / parts;
  const int part = static_cast<int>(blockIdx.x) % parts;
  const int width = call.in.width;
  const int64_t first = static_cast<int64_t>(call.frames.offsets[recording]) * width;
  const int64_t count = static_cast<int64_t>(call.frames.count(recording)) * width;

  for (int c = threadIdx.x; c < layout.squeezed; c += kThreads) sums[c] = 0;
  __syncthreads();
  const int64_t begin = count * part / parts, end = count * (part + 1) / parts;
  add_positions<kCount>(call, first + begin, end - begin, sums);
  __syncthreads();
  if (parts > 1) {
    // Counters of the recordings, then their sums.
    int* totals = workspace + call.frames.recordings + recording * call.channels;
    for (int c = threadIdx.x; c < call.channels; c += kThreads) atomicAdd(totals + c, sums[c]);
    int* last = reinterpret_cast<int*>(hidden + layout.hidden);
    if (!is_last_block(workspace + recording, parts, last)) return;
    for (int c = threadIdx.x; c < call.channels; c += kThreads) {
      sums[c] = atomicExch(totals + c, 0);
    }
    __syncthreads();
  }
  for (int c = threadIdx.x; c < layout.squeezed; c += kThreads) {
    squeezed[c] = 0;
    if (c >= call.channels) continue;
    const double mean = static_cast<double>(sums[c]) / static_cast<double>(count);
    const float v =
        static_cast<float>(mean - static_cast<double>(call.in_zero)) * call.mean_multiplier[c];
    squeezed[c] = quantize(call.squeezed, c, v);
  }
  for (int c = threadIdx.x; c < layout.hidden; c += kThreads) hidden[c] = 0;
  __syncthreads();
  multiply_vector(squeezed, call.reduce, call.reduce_epilogue, call.hidden_channels,
                  [&](int c, float v) { hidden[c] = quantize(call.hidden, c, v); });
  __syncthreads();
  float* gate = call.gate.data + recording * call.gate.stride;
  multiply_vector(hidden, call.expand, call.expand_epilogue, call.channels, [&](int c, float v) {
    gate[c] = call.table == nullptr ? v : call.table[table_index(v, call.table_size)];
  });
}

}  // namespace

bool supports(const SqueezeExcitationS8& call, const Device& device) {
  return static_cast<size_t>(Layout(call).bytes()) <= device.shared_memory;
}

cudaError_t squeeze_excitation_s8(const SqueezeExcitationS8& call, const Launch& launch) {
  if (!supports(call, *launch.device)) return cudaErrorInvalidValue;
  const bool vectors = aligned_to_vector(call.in);
  const int parts = parts_of(call, *launch.device);
  const char* name = vectors ? "squeeze_excitation_s8/16" : "squeeze_excitation_s8/1";
  if (parts > 1)
    name = vectors ? "squeeze_excitation_s8/16 parts" : "squeeze_excitation_s8/1 parts";
  return launch_kernel(
      name, vectors ? squeeze_excitation_s8_kernel<kVector> : squeeze_excitation_s8_kernel<1>,
      dim3(static_cast<unsigned>(call.frames.recordings) * parts), dim3(kThreads),
      Layout(call).bytes(), launch, call, parts, static_cast<int*>(launch.workspace));
}

size_t workspace_bytes(const SqueezeExcitationS8& call, const Device& device) {
  if (parts_of(call, device) == 1) return 0;
  return sizeof(int) * call.frames.recordings * (size_t{1} + call.channels);
}

}  // namespace earmark::cuda
