// Softmax of a tensor over one of its dimensions, exact or with another function in place of exp.
// -Inf weighs 0; NaN makes its row NaN. Where all is -Inf the exact one gives NaN, as torch, the
// others 0.
#pragma once

#include "cuda/launch.h"
#include "cuda/softmax_function.h"

namespace earmark::cuda {

enum class FloatType { kF32, kF16, kBF16 };

// A contiguous tensor as [outer][n][inner]: over its last dimension inner is 1. Computed in
// float32.
struct Softmax {
  SoftmaxFunction function;
  const float* bounds =
      nullptr;  // low and high of a piecewise-linear function, if not in `function`
  FloatType type = FloatType::kF32;
  const void* x = nullptr;
  void* out = nullptr;  // may be x
  int64_t outer = 0;
  int64_t n = 0;
  int64_t inner = 1;
};

cudaError_t softmax(const Softmax& call, const Launch& launch);

}  // namespace earmark::cuda
