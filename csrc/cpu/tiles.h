// The register tiles of each instruction set, and how they want weights packed.
#pragma once

#include <cstddef>

namespace earmark {

// Weights of a convolution lie in panels of `panel` output channels; inside a panel, for each group
// of `depth` inputs (taps one after another, each padded to whole groups): [panel][depth].
struct Packing {
  int panel;
  int depth;
  int tile_rows;          // rows that one register tile covers
  int scratch_per_input;  // bytes of scratch for each row and (padded) input
  // Where it is not 0, all rows and panels of a call go through so many inputs before the next
  // ones: a panel's weights stay cached for all rows, and the inputs in the L2 cache for all
  // panels. On Zen 3 a depth of 3072 runs at 41 GMAC/s
  // (benchmarks/test_kernels.py), at 36 without.
  int block_depth = 0;
  int scratch_per_row = 0;  // and for each row

  // Of a row.
  constexpr size_t scratch_bytes(size_t inputs) const {
    return inputs * scratch_per_input + scratch_per_row;
  }
};

struct Tiles {
  Packing s8;
  Packing f32;
  Packing s8_paired = {};  // for weights that suit it (pack_paired.h), where there is a panel
};

inline constexpr Tiles kTilesScalar = {{16, 1, 1, 0}, {16, 1, 1, 0}};
inline constexpr Tiles kTilesAvx2 = {{16, 2, 6, 2}, {16, 1, 6, 0, 1024}, {16, 4, 4, 3, 0, 112}};
inline constexpr Tiles kTilesAvxVnni = {{16, 4, 6, 0}, {16, 1, 6, 0, 1024}};
inline constexpr Tiles kTilesAvx512Vnni = {{64, 4, 6, 0}, {32, 1, 12, 0, 1024}};

// The widest panel; per-channel arrays are padded to a multiple of it.
inline constexpr int kMaxPanel = 64;

}  // namespace earmark
