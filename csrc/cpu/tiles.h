// The register tiles of each instruction set, and how they want weights packed.
#pragma once

#include <cstddef>
#include <cstdint>

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
  // The kernel multiplies q where the bytes are u = q + 128: what its sums lack by that, 128 * sum
  // w of each channel, lies before a panel's weights as int32.
  bool signed_inputs = false;

  // Of a row.
  constexpr size_t scratch_bytes(size_t inputs) const {
    return inputs * scratch_per_input + scratch_per_row;
  }
};

// Bytes before the weights of an int8 panel.
constexpr size_t panel_head(const Packing& packing) {
  return packing.signed_inputs ? sizeof(int32_t) * packing.panel : 0;
}

struct Tiles {
  Packing s8;
  Packing f32;
  Packing s8_paired = {};  // for weights that suit it (pack_paired.h), where there is a panel
};

inline constexpr Tiles kTilesScalar = {{16, 1, 1, 0}, {16, 1, 1, 0}};
inline constexpr Tiles kTilesAvx2 = {{16, 2, 6, 2}, {16, 1, 6, 0, 1024}, {16, 4, 4, 3, 0, 112}};
inline constexpr Tiles kTilesAvxVnni = {{16, 4, 6, 0}, {16, 1, 6, 0, 1024}};
inline constexpr Tiles kTilesAvx512Vnni = {{64, 4, 6, 0}, {32, 1, 12, 0, 1024}};
inline constexpr Tiles kTilesNeonDotprod = {{16, 4, 6, 0, 0, 0, true}, {8, 1, 12, 0, 1024}};
inline constexpr Tiles kTilesNeonI8mm = {{16, 8, 6, 0}, {8, 1, 12, 0, 1024}};

// The widest panel; per-channel arrays are padded to a multiple of it.
inline constexpr int kMaxPanel = 64;

}  // namespace earmark
