#include "cuda/fbank_f32.h"
#include "cuda/launch.cuh"
#include "cuda/ragged.cuh"

namespace earmark::cuda {
namespace {

using Geometry = FbankGeometry;

constexpr int kFrames = 4;    // of a block
constexpr int kThreads = 64;  // of a frame: as many as there are butterflies of radix 4, and more

struct Complex {
  double re, im;
};

// A frame's numbers while it is transformed: in place, and then its power.
struct FrameMemory {
  Complex z[Geometry::kFft];
  double power[Geometry::kBins + 1];
};
struct FbankMemory {
  FrameMemory frame[kFrames];
};

__device__ __forceinline__ void radix5(Complex* z, int step, const double* w) {
  fbank::radix5(z[0].re, z[0].im, z[step].re, z[step].im, z[2 * step].re, z[2 * step].im,
                z[3 * step].re, z[3 * step].im, z[4 * step].re, z[4 * step].im, w);
}

// The window and butterfly j of 50 of radix 4: sample n of the frame is `window[n]` times
// the recording's sample `first + n`, or 0 beyond its ends.
__device__ __forceinline__ void windowed_radix4(const FbankTables& t, const float* samples,
                                                int64_t count, int64_t first, int j, Complex* z) {
  constexpr int kStep = Geometry::kFft / 4;
  double x[8];
#pragma unroll
  for (int q = 0; q < 8; ++q) {
    const int n = 2 * (j + kStep * (q / 2)) + q % 2;
    const int64_t s = first + n;
    x[q] = (s >= 0 && s < count ? samples[s] : 0.0f) * t.window[n];
  }
  fbank::radix4(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], t.twiddle4 + 6 * j);
#pragma unroll
  for (int q = 0; q < 4; ++q) z[j + kStep * q] = {x[2 * q], x[2 * q + 1]};
}

// A row of threads for each frame; stages of the transform follow each other over barriers.
__global__ void fbank_f32_kernel(FbankF32 call) {
  const FbankTables& t = call.tables;
  FrameMemory& memory = shared_memory<FbankMemory>().frame[threadIdx.y];
  Complex* z = memory.z;
  const int row = blockIdx.x * kFrames + threadIdx.y;
  const int thread = threadIdx.x;
  const bool active = row < call.frames.rows;
  if (active && thread < 50) {
    const int recording = recording_of(call.frames, row);
    const int64_t begin = call.starts[recording];
    const int64_t frame = row - call.frames.offsets[recording];
    windowed_radix4(t, call.samples + begin, call.starts[recording + 1] - begin,
                    frame * t.hop - Geometry::kWindow / 2, thread, z);
  }
  __syncthreads();
  if (active && thread < 40) {
    const int j = thread % 10;
    radix5(z + thread / 10 * 50 + j, 10, t.twiddle5 + 8 * j);
  }
  __syncthreads();
  if (active && thread < 40) {
    const int j = thread % 2;
    radix5(z + thread / 2 * 10 + j, 2, t.twiddle5b + 8 * j);
  }
  __syncthreads();
  for (int i = thread; active && i < Geometry::kFft / 2; i += kThreads) {
    fbank::radix2(z[2 * i].re, z[2 * i].im, z[2 * i + 1].re, z[2 * i + 1].im);
  }
  __syncthreads();
  for (int k = thread; active && k <= Geometry::kFft / 2; k += kThreads) {
    const Complex a = z[t.order[k]];
    if (k == Geometry::kFft / 2) {
      memory.power[k] = fbank::middle_power(a.re, a.im);
    } else {
      const Complex b = z[t.order[k == 0 ? 0 : Geometry::kFft - k]];
      fbank::split_power(a.re, a.im, b.re, b.im, t.split[2 * k], t.split[2 * k + 1],
                         memory.power[k], memory.power[Geometry::kFft - k]);
    }
  }
  __syncthreads();
  for (int m = thread; active && m < t.n_mels; m += kThreads) {
    const double* weights = t.weights + t.first_weight[m];
    const int n = t.first_weight[m + 1] - t.first_weight[m];
    const double* bins = memory.power + t.first_bin[m];
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += weights[i] * bins[i];
    call.out[static_cast<int64_t>(row) * t.n_mels + m] = fbank::feature(sum);
  }
}

constexpr int kNormalizeThreads = 256;
constexpr int kWarps = kNormalizeThreads / 32;

struct NormalizeMemory {
  float largest[kWarps];
  double mean[kMaxMels];
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

  float largest = fbank::kMinDecibels;
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
  float floor = largest - FbankNormalization::kTopDb;
  floor = floor > how.floor ? floor : how.floor;

  if (!how.center) {
    for (int64_t i = thread; i < size; i += kNormalizeThreads) {
      x[i] = ((x[i] > floor ? x[i] : floor) + how.offset) * how.scale;
    }
    return;
  }
  for (int m = thread; m < call.n_mels; m += kNormalizeThreads) {
    double sum = 0;
#pragma unroll 8
    for (int r = 0; r < rows; ++r) {
      const float value = x[static_cast<int64_t>(r) * call.n_mels + m];
      sum += value > floor ? value : floor;
    }
    memory.mean[m] = sum / rows;
  }
  __syncthreads();
  for (int64_t i = thread; i < size; i += kNormalizeThreads) {
    const float value = x[i] > floor ? x[i] : floor;
    x[i] = static_cast<float>(value - memory.mean[i % call.n_mels]);
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
