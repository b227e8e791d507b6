// Deals out the rows of an elementwise op.
#pragma once

#include <algorithm>

#include "engine/op.h"

namespace earmark {

// Calls body(first row, rows), rows counted from the range's first position, on all threads.
template <class Body>
void for_row_blocks(Walk& walk, Range range, int width, int channels, const Body& body) {
  const int rows = range.size() * width;
  // Below some 16 k elements a second thread costs more than it saves.
  const int block = std::max(1, (1 << 14) / channels);
  const int units = std::min((rows + block - 1) / block, walk.pool->threads() * 2);
  const int step = (rows + units - 1) / std::max(units, 1);
  walk.pool->parallel_for(units, [&](int unit, int) {
    const int first = unit * step;
    if (first < rows) body(first, std::min(step, rows - first));
  });
}

}  // namespace earmark
