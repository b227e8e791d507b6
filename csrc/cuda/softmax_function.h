// Which softmax: exp, a piecewise-linear function or a table in its place (core/softmax.h). Arrays
// are in device memory.
#pragma once

#include "core/softmax.h"

namespace earmark::cuda {

struct SoftmaxFunction {
  enum class Kind { kExact, kPwl, kTable };
  Kind kind = Kind::kExact;
  PiecewiseLinear pwl;
  LookupTable table;  // its scale and offset are for float32 logits
};

}  // namespace earmark::cuda
