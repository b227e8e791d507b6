// Loops over register tiles, unrolled by the language and not by the optimiser: GCC 12 keeps an
// array of accumulators on the stack, and the tile runs at half speed, wherever an index into it is
// still a variable when it splits arrays into registers
// (#pragma GCC unroll comes too late).
#pragma once

#include "core/quant.h"

namespace earmark {

template <int kValue>
struct Index {
  static constexpr int value = kValue;
};

template <int kBegin, int kEnd, class Body>
EARMARK_FN void unroll_from(const Body& body) {
  if constexpr (kBegin < kEnd) {
    body(Index<kBegin>{});
    unroll_from<kBegin + 1, kEnd>(body);
  }
}

// body(Index<0>{}), ... body(Index<kCount - 1>{}); write the body as EARMARK_UNROLLED(i) { ...
// i.value ... }.
template <int kCount, class Body>
EARMARK_FN void unroll(const Body& body) {
  unroll_from<0, kCount>(body);
}

// body(Index<n>{}) for 1 <= n <= kMax; nothing for 0.
template <int kMax, class Body>
EARMARK_FN void with_index(int n, const Body& body) {
  if constexpr (kMax > 0) {
    if (n == kMax) {
      body(Index<kMax>{});
    } else {
      with_index<kMax - 1>(n, body);
    }
  }
}

}  // namespace earmark

#define EARMARK_UNROLLED(name) [&](auto name) __attribute__((always_inline))
