// The standard deviation of statistics pooling (docs/arithmetic.md, `stats_s8`). For the host and
// the device.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/quant.h"

namespace earmark {

struct Variance {
  bool unbiased = false;  // divided by T - 1; T is at least 2 then
  double least = 0.0;
  double added = 0.0;

  // Of `count` = T values, from T^2 times their population's variance.
  EARMARK_MEMBER double deviation(double scaled, int64_t count) const {
    const double n = static_cast<double>(count);
    const double variance = scaled / (n * (unbiased ? n - 1.0 : n));
    return sqrt((variance > least ? variance : least) + added);
  }
};

}  // namespace earmark
