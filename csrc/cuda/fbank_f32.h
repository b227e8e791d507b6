// fbank_f32 and normalize_f32: from waveforms to features (docs/arithmetic.md, "Front end"), with
// the CPU's bits: float64, each operation rounded on its own, sums in the order of time and of
// frequency.
#pragma once

#include "core/fbank.h"
#include "cuda/launch.h"
#include "cuda/tensors.h"

namespace earmark::cuda {

inline constexpr int kMaxMels = 400;

// Logarithms of the mel filters' energies. The tables' arrays are in device memory; `source` is not
// read.
struct FbankF32 {
  FbankTables tables;
  const float* samples = nullptr;   // of the recordings, one after another
  const int64_t* starts = nullptr;  // device memory, [recordings + 1], starts[0] = 0
  Ragged frames;
  float* out = nullptr;  // [rows][n_mels]
};

cudaError_t fbank_f32(const FbankF32& call, const Launch& launch);

// In place.
struct NormalizeF32 {
  FbankNormalization normalization;
  int n_mels = 0;  // up to kMaxMels
  Ragged frames;
  float* x = nullptr;  // [rows][n_mels]
};

cudaError_t normalize_f32(const NormalizeF32& call, const Launch& launch);

}  // namespace earmark::cuda
