#pragma once

#include "cuda/launch.h"

namespace earmark::cuda {

enum class Mistake { kNone, kNoBarrier, kDivergent, kNoWait, kBeyondShared, kBeyondGlobal };

// n values, a thread each, in reverse order; n values, four a thread, rotated by n / 2.
cudaError_t reverse(const int* in, int* out, int n, Mistake mistake, const Launch& launch);
cudaError_t rotate(const int* in, int* out, int n, Mistake mistake, const Launch& launch);

}  // namespace earmark::cuda
