// 16-bit numbers as planes of bytes (docs/arithmetic.md, conv_s16).
#pragma once

#include "core/quant.h"

namespace earmark {

// What a product of plane a of the inputs and plane b of the weights counts. Of two planes the
// first is the high one.
EARMARK_FN int plane_factor(int inputs, int a, int weights, int b) {
  return (a + 1 < inputs ? 256 : 1) * (b + 1 < weights ? kWeightBase : 1);
}

}  // namespace earmark
