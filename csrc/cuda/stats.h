// stats_s8 and stats_f32: mean, or mean and standard deviation, over all positions of a recording
// (docs/arithmetic.md).
#pragma once

#include "core/variance.h"
#include "cuda/launch.h"
#include "cuda/tensors.h"

namespace earmark::cuda {

struct StatsS8 {
  int channels = 0;
  Frames<const int8_t> in;
  Ragged frames;
  int zero = 0;
  const float* multiplier = nullptr;  // [padded channels]
  bool std = false;
  Variance variance;
  Vectors<float> out;  // [recordings][channels, or 2 * channels with std]
};

cudaError_t stats_s8(const StatsS8& call, const Launch& launch);

// Sums are float64 in the order of time, as the CPU's: the bits are its own.
struct StatsF32 {
  int channels = 0;
  Frames<const float> in;
  Ragged frames;
  bool std = false;
  Variance variance;
  Vectors<float> out;
};

cudaError_t stats_f32(const StatsF32& call, const Launch& launch);

}  // namespace earmark::cuda
