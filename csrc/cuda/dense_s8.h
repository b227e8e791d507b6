// dense_s8: int8 vectors -> float32 or int8 vectors (docs/arithmetic.md).
#pragma once

#include "cuda/conv_s8.h"

namespace earmark::cuda {

// Rows of `in` are aligned to 16 bytes and readable up to weights.depth bytes; what lies behind the
// inputs does not matter. Outputs: float32 `out_f32`, v or table[index(v)], or int8 `out`.
struct DenseS8 {
  int inputs = 0;
  int outputs = 0;
  LayerS8 layer;
  const float* table = nullptr;
  int table_size = 0;
  Vectors<const int8_t> in;
  Vectors<int8_t> out;
  Vectors<float> out_f32;
  int recordings = 0;
};

cudaError_t dense_s8(const DenseS8& call, const Launch& launch);

}  // namespace earmark::cuda
