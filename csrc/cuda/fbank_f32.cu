#include "cuda/fbank_f32.h"
#include "cuda/launch.cuh"
#include "cuda/ragged.cuh"

namespace earmark::cuda {
namespace {

using Geometry = FbankGeometry;

constexpr int kFrames = 4;    // of a block
constexpr int kThreads = 64;  // of a frame: as many as there are butterflies of radix 4, or more
static_assert(kThreads >= Geometry::kMaxFft / 4 && kThreads >= fbank::kSums, "a thread for each");

struct Complex {
  double re, im;
};

// A frame's numbers while it is transformed: in place, and then its power.
struct FrameMemory {
  Complex z[Geometry::kMaxFft];
  double power[Geometry::kMaxBins];
  double sums[fbank::kSums];
};
struct FbankMemory {
  FrameMemory frame[kFrames];
};

// A recording, and where in it a frame begins.
struct FrameSamples {
  const float* samples;
  int64_t count;
  int64_t first;
};

__device__ __forceinline__ double sample_at(const FbankTables& t, const FrameSamples& x, int n) {
  return fbank::sample_at(t.frames, x.samples, x.count, x.first + n);
}

// Part `part` of the sum of the frame's samples.
__device__ __forceinline__ double part_sum(const FbankTables& t, const FrameSamples& x, int part) {
  double sum = 0;
  for (int n = part; n < Geometry::kWindow; n += fbank::kSums) sum += sample_at(t, x, n);
  return sum;
}

// The window and butterfly j of radix 4. `sums` are read where frames are taken by themselves.
__device__ __forceinline__ void windowed_radix4(const FbankTables& t, const FrameSamples& samples,
                                                const double* sums, int j, Complex* z) {
  const int step = t.fft / 4;
  double mean = 0;
  if (t.frames.each_by_itself) {
    for (int part = 0; part < fbank::kSums; ++part) mean += sums[part];
    mean /= Geometry::kWindow;
  }
  double x[8];
#pragma unroll
  for (int q = 0; q < 8; ++q) {
    const int n = 2 * (j + step * (q / 2)) + q % 2;
    x[q] = 0;
    if (n >= Geometry::kWindow) continue;
    x[q] = sample_at(t, samples, n);
    if (t.frames.each_by_itself) {
      const double before = sample_at(t, samples, n > 0 ? n - 1 : 0);
      x[q] = fbank::emphasised(x[q], before, mean, t.frames.emphasis);
    }
    x[q] *= t.window[n];
  }
  fbank::radix4(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], t.twiddle + 6 * j);
#pragma unroll
  for (int q = 0; q < 4; ++q) z[j + step * q] = {x[2 * q], x[2 * q + 1]};
}

// Butterfly i of a later stage.
__device__ __forceinline__ void butterfly(const FbankStage& stage, int i, Complex* z) {
  const int step = stage.length / stage.radix, j = i % step;
  Complex* p = z + i / step * stage.length + j;
  if (stage.radix == 5) {
    fbank::radix5(p[0].re, p[0].im, p[step].re, p[step].im, p[2 * step].re, p[2 * step].im,
                  p[3 * step].re, p[3 * step].im, p[4 * step].re, p[4 * step].im,
                  stage.twiddle + 8 * j);
  } else if (stage.radix == 4) {
    fbank::radix4(p[0].re, p[0].im, p[step].re, p[step].im, p[2 * step].re, p[2 * step].im,
                  p[3 * step].re, p[3 * step].im, stage.twiddle + 6 * j);
  } else {
    fbank::radix2(p[0].re, p[0].im, p[1].re, p[1].im);
  }
}

// A row of threads for each frame; stages of the transform follow each other over barriers.
__global__ void fbank_f32_kernel(FbankF32 call) {
  const FbankTables& t = call.tables;
  FrameMemory& memory = shared_memory<FbankMemory>().frame[threadIdx.y];
  Complex* z = memory.z;
  const int row = blockIdx.x * kFrames + threadIdx.y;
  const int thread = threadIdx.x;
  const bool active = row < call.frames.rows;
  FrameSamples samples = {};
  if (active) {
    const int recording = recording_of(call.frames, row);
    const int64_t begin = call.starts[recording];
    const int64_t frame = row - call.frames.offsets[recording];
    samples = {call.samples + begin, call.starts[recording + 1] - begin,
               frame * t.frames.hop + t.frames.first};
  }
  if (t.frames.each_by_itself) {
    if (active && thread < fbank::kSums) memory.sums[thread] = part_sum(t, samples, thread);
    __syncthreads();
  }
  if (active && thread < t.fft / 4) windowed_radix4(t, samples, memory.sums, thread, z);
  __syncthreads();
#pragma unroll
  for (const FbankStage& stage : t.stages) {
    for (int i = thread; active && i < t.fft / stage.radix; i += kThreads) butterfly(stage, i, z);
    __syncthreads();
  }
  const int half = t.fft / 2;
  for (int k = thread; active && k <= half; k += kThreads) {
    const Complex a = z[t.order[k]];
    if (k == half) {
      memory.power[k] = fbank::middle_power(a.re, a.im);
    } else {
      const Complex b = z[t.order[k == 0 ? 0 : t.fft - k]];
      fbank::split_power(a.re, a.im, b.re, b.im, t.split[2 * k], t.split[2 * k + 1],
                         memory.power[k], memory.power[t.fft - k]);
    }
  }
  __syncthreads();
  for (int m = thread; active && m < t.n_mels; m += kThreads) {
    const double* weights = t.weights + t.first_weight[m];
    const int n = t.first_weight[m + 1] - t.first_weight[m];
    const double* bins = memory.power + t.first_bin[m];
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += weights[i] * bins[i];
    call.out[static_cast<int64_t>(row) * t.n_mels + m] = fbank::feature(t.log, sum);
  }
}

constexpr int kNormalizeThreads = 256;
constexpr int kWarps = kNormalizeThreads / 32;

struct NormalizeMemory {
  float largest[kWarps];
  double mean[kMaxMels];
  double deviation[kMaxMels];
};

// A block for each recording.
__global__ void normalize_f32_kernel(NormalizeF32 call) {
  NormalizeMemory& memory = shared_memory<NormalizeMemory>();
  const FbankNormalization& how = call.normalization;
  const int first = call.frames.offsets[blockIdx.x];
  const int rows = call.frames.offsets[blockIdx.x + 1] - first;
  float* x = call.x + static_cast<int64_t>(first) * call.n_mels;
  const int64_t size = static_cast<int64_t>(rows) * call.n_mels;
  const int thread = threadIdx.x;

  float largest = -INFINITY;
  for (int64_t i = thread; i < size; i += kNormalizeThreads) {
    largest = x[i] > largest ? x[i] : largest;
  }
  for (int bits = 16; bits > 0; bits /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, largest, bits);
    largest = other > largest ? other : largest;
  }
  if (thread % 32 == 0) memory.largest[thread / 32] = largest;
  __syncthreads();
  for (int i = 0; i < kWarps; ++i) {
    largest = memory.largest[i] > largest ? memory.largest[i] : largest;
  }
  float floor = largest - how.top;
  floor = floor > how.floor ? floor : how.floor;

  if (how.kind == FbankNormalization::Kind::kScale) {
    for (int64_t i = thread; i < size; i += kNormalizeThreads) {
      x[i] = ((x[i] > floor ? x[i] : floor) + how.offset) * how.scale;
    }
    return;
  }
  const bool standardized = how.kind == FbankNormalization::Kind::kStandardize;
  for (int m = thread; m < call.n_mels; m += kNormalizeThreads) {
    double sum = 0;
#pragma unroll 8
    for (int r = 0; r < rows; ++r) {
      const float value = x[static_cast<int64_t>(r) * call.n_mels + m];
      sum += value > floor ? value : floor;
    }
    const double mean = sum / rows;
    memory.mean[m] = mean;
    if (!standardized) continue;
    double squares = 0;
#pragma unroll 8
    for (int r = 0; r < rows; ++r) {
      const double distance = x[static_cast<int64_t>(r) * call.n_mels + m] - mean;
      squares += distance * distance;
    }
    memory.deviation[m] = fbank::deviation(squares, rows, how.min_deviation);
  }
  __syncthreads();
  for (int64_t i = thread; i < size; i += kNormalizeThreads) {
    const float value = x[i] > floor ? x[i] : floor;
    const int m = static_cast<int>(i % call.n_mels);
    const double distance = value - memory.mean[m];
    x[i] = static_cast<float>(standardized ? distance / memory.deviation[m] : distance);
  }
}

}  // namespace

cudaError_t fbank_f32(const FbankF32& call, const Launch& launch) {
  const int blocks = ceil_div(call.frames.rows, kFrames);
  return launch_kernel("fbank_f32", fbank_f32_kernel, dim3(blocks), dim3(kThreads, kFrames),
                       sizeof(FbankMemory), launch, call);
}

cudaError_t normalize_f32(const NormalizeF32& call, const Launch& launch) {
  if (call.n_mels > kMaxMels) return cudaErrorInvalidValue;
  return launch_kernel("normalize_f32", normalize_f32_kernel, dim3(call.frames.recordings),
                       dim3(kNormalizeThreads), sizeof(NormalizeMemory), launch, call);
}

}  // namespace earmark::cuda
